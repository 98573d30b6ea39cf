// The blocks of G^T diag(w) G of each splat, where G is the derivative of a picture by the
// parameters of its splats: sums over pixels of products of derivatives by what a splat is on the
// image plane, and from there to its parameters.
#include "common/levels.h"
#include "splats/rows.h"
#include "splats/slots.h"
#include "splats/splat_math.h"
#include "splats/walk.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Where a slot has the sums of X^i Y^j; those along both directions of the mixed ones lie side by
// side.
constexpr int NOWHERE = -1;
constexpr int FORM[5][5] = {{3, 7, 11, 15, 19},
                            {2, 6, 10, 14, NOWHERE},
                            {1, 5, 9, NOWHERE, NOWHERE},
                            {0, 4, NOWHERE, NOWHERE, NOWHERE},
                            {20, NOWHERE, NOWHERE, NOWHERE, NOWHERE}};
constexpr int SHOWN = 21;
constexpr int MIXED[3][3] = {{24, 28, 16}, {26, 30, NOWHERE}, {12, NOWHERE, NOWHERE}};

// The pixels of one block. Those beyond the image have neither light nor weight.
struct alignas(64) BlockPixels {
    float left[BLOCK * BLOCK];       // transmittance before the current splat
    float behind[3][BLOCK * BLOCK];  // the mean colour of what that light meets
    float weights[3][BLOCK * BLOCK];
};

template <bool IS_MIXED>
struct TileCurvature {
    static constexpr int NUMBERS = IS_MIXED ? ALL_PRODUCTS : PLAIN_PRODUCTS;
    const Curvature &b;
    BlockPixels blocks[BLOCKS * BLOCKS];

    explicit TileCurvature(const Curvature &curvature) : b(curvature) {}
    float *left(int block) { return blocks[block].left; }
    void fetch(uint32_t record) {
        if (IS_MIXED) __builtin_prefetch(b.turns + record);
    }
    void read(int x0, int y0) {
        read_image(b.image, x0, y0, &BlockPixels::behind);
        read_image(b.weights, x0, y0, &BlockPixels::weights);
        for (int block = 0; block < BLOCKS * BLOCKS; ++block)
            for (int i = 0; i < BLOCK * BLOCK; ++i) {
                const int x = x0 + block % BLOCKS * BLOCK + i % BLOCK;
                const int y = y0 + block / BLOCKS * BLOCK + i / BLOCK;
                blocks[block].left[i] = x < b.tiles->width && y < b.tiles->height ? 1.0f : 0.0f;
            }
    }
    struct Sums;

  private:
    void read_image(const float *image, int x0, int y0,
                    float (BlockPixels::*channels)[3][BLOCK * BLOCK]);
};

// A tile of an image of three channels, block by block; a whole one by vectors.
template <bool IS_MIXED>
void TileCurvature<IS_MIXED>::read_image(const float *image, int x0, int y0,
                                         float (BlockPixels::*channels)[3][BLOCK * BLOCK]) {
    const Tiles &t = *b.tiles;
    const bool whole = x0 + TILE <= t.width && y0 + TILE <= t.height;
    for (int y = 0; y < TILE; ++y) {
        alignas(64) float row[3][TILE] = {};
        const float *pixels = image + 3 * (int64_t(y0 + y) * t.width + x0);
        if (LANES >= 8 && whole) {
            for (int x = 0; x < TILE; x += LANES) {
                Floats columns[3];
                load_dense_columns<3>(pixels + 3 * x, columns);
                for (int c = 0; c < 3; ++c) store(row[c] + x, columns[c]);
            }
        } else if (y0 + y < t.height) {
            for (int x = 0; x < TILE && x0 + x < t.width; ++x)
                for (int c = 0; c < 3; ++c) row[c][x] = pixels[3 * x + c];
        }
        for (int k = 0; k < BLOCKS; ++k)
            for (int c = 0; c < 3; ++c)
                __builtin_memcpy((blocks[y / BLOCK * BLOCKS + k].*channels)[c] + y % BLOCK * BLOCK,
                                 row[c] + k * BLOCK, 4 * BLOCK);
    }
}

// Sums over the blocks of a row. Y is the same in four lanes, which are a row of pixels of a block.
// The four lanes hold the sums of the form times X^3, X^2, X and 1, and the mixed sums times 1 and
// X, in both directions.
struct RowSums {
    Floats y, form, mixed;
};

// Sums over a tile, four numbers of a slot to a vector; and those without Y.
struct TileSums {
    Floats form[4], highest, form4, shown[3], mixed[2], mixed2[2];
};

template <bool IS_MIXED>
inline void add_row(const RowSums &row, TileSums &sums) {
    const Floats y = row.y, yy = y * y;
    sums.form[0] += row.form;
    sums.form[1] += row.form * y;
    sums.form[2] += row.form * yy;
    sums.form[3] += row.form * (yy * y);
    if (!IS_MIXED) {
        sums.highest += row.form * (yy * yy);
        return;
    }
    sums.mixed[0] += row.mixed;
    sums.mixed[1] += row.mixed * y;
    const Mask first = above(fill(1.5f), lane_x());
    sums.highest += choose(first, row.mixed, row.form * yy) * yy;
}

template <bool IS_MIXED>
inline void store_sums(const TileSums &sums, float *slot) {
    const Floats *shown = sums.shown;
    for (int k = 0; k < 4; ++k) store_four(slot + 4 * k, sums.form[k]);
    store_four(slot + 16, sums.highest);
    store_four(slot + 20, sum_fours(sums.form4, shown[0], shown[1], shown[2]));
    if (!IS_MIXED) return;
    // These take the places of X^3 Y^3 and X^2 Y^3, which no block needs.
    const Floats mixed2 = sum_fours(sums.mixed2[0], sums.mixed2[1], Floats{}, Floats{});
    store_four(slot + 12, choose(above(fill(1.5f), lane_x()), mixed2, sums.form[3]));
    for (int k = 0; k < 2; ++k) store_four(slot + 24 + 4 * k, sums.mixed[k]);
}

// One splat's sums over the tile. The sums of each row are added up after the last row, so that
// fewer numbers are in registers during the walk.
template <bool IS_MIXED>
struct TileCurvature<IS_MIXED>::Sums {
    static_assert(BLOCK == 4);
    BlockPixels *blocks;
    const Turn *turn;
    float lean;  // X is dx and as much of dy as sets the ellipse upright
    TileSums sums{};
    RowSums rows[BLOCKS * VECTORS];
    int count = 0;
    Floats shift{}, form[4] = {}, mixed[2][2] = {};  // of this row

    Sums(TileCurvature &g, uint32_t record, const Ellipse &splat)
        : blocks(g.blocks),
          turn(IS_MIXED ? g.b.turns + record : nullptr),
          lean(splat.r.xy / (2 * splat.r.xx)) {}

    [[gnu::always_inline]] void at_row(const Ellipse &splat) {
        shift = splat.dy * lean;
        for (Floats &sum : form) sum = Floats{};
        for (auto &sums : mixed)
            for (Floats &sum : sums) sum = Floats{};
    }
    [[gnu::always_inline]] Floats take(int block, int at, const Ellipse &splat,
                                       const Touch &touch) {
        BlockPixels &p = blocks[block];
        const Floats alpha = touch.alpha(), light = alpha * touch.left, square = light * light;
        const Floats odds = alpha * reciprocal(1.0f - alpha);
        // Each colour's part: what is behind the splat, how far its colour is from that, and the
        // sums by the colour itself.
        Floats squares{}, turned[2] = {};
        for (int c = 0; c < 3; ++c) {
            const Floats weight = load(p.weights[c] + at), mean = load(p.behind[c] + at);
            const Floats apart = splat.r.features[c] - mean, pull = weight * apart;
            store(p.behind[c] + at, mean - odds * apart);
            sums.shown[c] += weight * square;
            squares += pull * apart;
            if (!IS_MIXED) continue;
            for (int k = 0; k < 2; ++k) turned[k] += pull * turn->by[k][c];
        }
        // The derivative of a colour by ln(alpha) is `apart` times this.
        const Floats slope = keep(touch.moves(splat), odds * touch.left);
        const Floats x = touch.dx + shift;
        squares *= slope * slope;
        const Floats by_x = squares * x, by_xx = by_x * x, by_xxx = by_xx * x;
        form[0] += squares;
        form[1] += by_x;
        form[2] += by_xx;
        form[3] += by_xxx;
        sums.form4 += by_xxx * x;
        if (IS_MIXED)
            for (int k = 0; k < 2; ++k) {
                const Floats none = turned[k] * (slope * light), along = none * x;
                mixed[0][k] += none;
                mixed[1][k] += along;
                sums.mixed2[k] += along * x;
            }
        return touch.left - light;
    }
    [[gnu::always_inline]] void leave_row(const Ellipse &splat) {
        rows[count++] = {splat.dy, sum_fours(form[3], form[2], form[1], form[0]),
                         sum_fours(mixed[0][0], mixed[0][1], mixed[1][0], mixed[1][1])};
    }
    [[gnu::always_inline]] void finish(float *slot) {
        for (int n = 0; n < count; ++n) add_row<IS_MIXED>(rows[n], sums);
        store_sums<IS_MIXED>(sums, slot);
    }
};

template <bool IS_MIXED>
void curve_all(const Curvature &b) {
    const Tiles &t = *b.tiles;
#pragma omp parallel for schedule(dynamic, 4) num_threads(t.threads)
    for (int tile = 0; tile < t.columns * t.rows; ++tile) {
        TileCurvature<IS_MIXED> curvature(b);
        walk_tile(t, tile, curvature, b.slots);
    }
}

// How ln(alpha) depends on the geometry: a row for each of the monomials 1, Y^2, X Y, X^2, Y and X.
constexpr int MONOMIALS = 6;
constexpr int POWER_X[MONOMIALS] = {0, 0, 1, 2, 0, 1}, POWER_Y[MONOMIALS] = {0, 2, 1, 0, 1, 0};
// How many of these rows, from the first on, are not zero: all for the mean, those of the
// covariance for rotation and scales, one for the opacity.
constexpr int REACH[GEOMETRY] = {6, 6, 6, 4, 4, 4, 4, 4, 4, 4, 1};
struct LogAlpha {
    Floats by[MONOMIALS][GEOMETRY];
};

inline LogAlpha log_alpha_of(const Scene &p, const Seen &s) {
    // With C the conic, the covariance's inverse, ln(alpha) = ln(opacity) - d^T C d / 2 changes by
    // (C t).d + (C d)^T V (C d) / 2 where the centre moves by t and the covariance by V. In X and
    // Y, C d = (xx X, xx lean X + Y / v), v the covariance's second variance, and (C t).d = xx (t_x
    // + lean t_y) X + t_y / v Y: nothing here is a small difference of large numbers.
    const Floats by_yy = 1.0f / s.yy, xx = s.yy / s.determinant, lean = -s.xy * by_yy;
    const Floats half = 0.5f * xx * xx, across = xx * by_yy;
    CovarianceGradient rows[MONOMIALS] = {};
    if (p.antialiased) through_filter(s, 1.0f / (s.opacity * s.filter), rows[0]);
    rows[1].yy = 0.5f * by_yy * by_yy;
    rows[2].xy = across, rows[2].yy = across * lean;
    rows[3].xx = half, rows[3].xy = 2 * half * lean, rows[3].yy = half * lean * lean;
    rows[4].center_y = by_yy;
    rows[5].center_x = xx, rows[5].center_y = xx * lean;
    LogAlpha lens;
    for (int k = 0; k < MONOMIALS; ++k) {
        const ShapeGradient by = through_covariance(p.view, s, rows[k]);
        for (int i = 0; i < 3; ++i) lens.by[k][i] = by.mean[i];
        for (int i = 0; i < 4; ++i) lens.by[k][3 + i] = by.quaternion[i];
        for (int i = 0; i < 3; ++i) lens.by[k][7 + i] = by.log_scale[i];
        lens.by[k][10] = k == 0 ? 1.0f - s.opacity : Floats{};
    }
    return lens;
}

// The lower triangle of lens^T S lens, where S are the sums of products of monomials.
inline void form_block(const LogAlpha &lens, const Floats *sums, Floats *out) {
#pragma GCC unroll 11
    for (int q = 0; q < GEOMETRY; ++q) {
        Floats pulled[MONOMIALS] = {};
#pragma GCC unroll 6
        for (int k = 0; k < REACH[q]; ++k)
#pragma GCC unroll 6
            for (int l = 0; l < REACH[q]; ++l)
                pulled[k] +=
                    sums[FORM[POWER_X[k] + POWER_X[l]][POWER_Y[k] + POWER_Y[l]]] * lens.by[l][q];
        for (int p = q; p < GEOMETRY; ++p) {
            Floats sum{};
            for (int k = 0; k < REACH[p]; ++k) sum += pulled[k] * lens.by[k][p];
            out[p * (p + 1) / 2 + q] = sum;
        }
    }
}

// Two unit vectors across a direction and each other. Duff et al., "Building an Orthonormal Basis,
// Revisited", JCGT 6(1), 2017.
inline void across(const Direction &d, Vec out[2]) {
    const Floats sign = choose(above(Floats{}, d.z), fill(-1.0f), fill(1.0f));
    const Floats a = -1.0f / (sign + d.z), b = d.x * d.y * a;
    out[0] = {1.0f + sign * d.x * d.x * a, sign * b, -sign * d.x};
    out[1] = {b, sign + d.y * d.y * a, -d.y};
}

inline void turns_of(const Scene &scene, const Record *records, int count, Turn *out) {
    const int used = rest_of(scene.degree);
    Floats shown[3], mean[3], along[REST], by_mean[3];
    const Group g = group_of(records, count, shown);
    Coefficients coefficients;
    load_columns<3>(scene.means, g.index, count, 3, mean);
    load_coefficients(scene.base, scene.rest, used, scene.rest_count, g.index, count, coefficients);
    const Direction direction = direction_to(mean, scene.position);
    Vec ways[2];
    across(direction, ways);
    alignas(64) float values[2][3][LANES];
    for (int c = 0; c < 3; ++c) {
        for (int k = 0; k < used; ++k) along[k] = coefficients.rest[k][c];
        through_direction(scene.degree, direction, along, by_mean);
        const Vec by = {by_mean[0], by_mean[1], by_mean[2]};
        // A colour that was clamped at zero does not change.
        for (int k = 0; k < 2; ++k)
            store(values[k][c], keep(above(shown[c], Floats{}), dot(by, ways[k])));
    }
    for (int i = 0; i < count; ++i)
        for (int k = 0; k < 2; ++k)
            for (int c = 0; c < 3; ++c) out[i].by[k][c] = values[k][c][i];
}

inline void load_turns(const Turn *turns, int count, Floats out[2][3]) {
    alignas(64) float values[2][3][LANES] = {};
    for (int i = 0; i < count; ++i)
        for (int k = 0; k < 2; ++k)
            for (int c = 0; c < 3; ++c) values[k][c][i] = turns[i].by[k][c];
    for (int k = 0; k < 2; ++k)
        for (int c = 0; c < 3; ++c) out[k][c] = load(values[k][c]);
}

// Adds what comes of colours that change with the mean, which the camera sees from another side.
inline void add_turning(const LogAlpha &lens, const Floats *sums, const Vec ways[2],
                        const Floats turn[2][3], Floats *out) {
    for (int k = 0; k < 2; ++k) {
        const Floats way[3] = {ways[k].x, ways[k].y, ways[k].z};
        Floats pulled[GEOMETRY];
        for (int p = 0; p < GEOMETRY; ++p) {
            pulled[p] = Floats{};
            for (int m = 0; m < REACH[p]; ++m)
                pulled[p] += sums[MIXED[POWER_X[m]][POWER_Y[m]] + k] * lens.by[m][p];
        }
        // Half of the colours' own products: the mean's with the mean are added twice.
        for (int l = 0; l < 2; ++l) {
            Floats own{};
            for (int c = 0; c < 3; ++c) own += 0.5f * sums[SHOWN + c] * turn[k][c] * turn[l][c];
            pulled[0] += own * ways[l].x;
            pulled[1] += own * ways[l].y;
            pulled[2] += own * ways[l].z;
        }
        for (int p = 0; p < GEOMETRY; ++p)
            for (int q = 0; q < 3; ++q) {
                const Floats term = way[q] * pulled[p];
                if (q <= p) out[p * (p + 1) / 2 + q] += term;
                if (p <= q) out[q * (q + 1) / 2 + p] += term;
            }
    }
}

// What is added to comes from far: it is on its way while the sums are found.
inline void fetch_rows(const BlockRows &out, const Group &g, int rest, int64_t stride) {
    for (int i = 0; i < g.count; ++i) {
        const float *geometry = out.geometry + g.index[i] * LOWER;
        for (int k = 0; k < LOWER; k += 16) __builtin_prefetch(geometry + k, 1);
        for (int k = 0; k < rest; k += 16)
            __builtin_prefetch(out.rest + g.index[i] * stride + k, 1);
    }
}

template <int NUMBERS>
inline void add_blocks_of(const Scene &scene, const Record *records, const Turn *turns, int count,
                          const float *slots, const BlockRows &out) {
    Floats shown[3], sums[NUMBERS], block[LOWER], base[3];
    const Group g = group_of(records, count, shown);
    fetch_rows(out, g, 3 * rest_of(scene.degree), 3 * scene.rest_count);
    sum_columns<NUMBERS>(records, count, slots, sums);
    const Shape shape = load_shape(scene, g.index, count);
    const LogAlpha lens = log_alpha_of(scene, see(scene.view, scene.antialiased, shape));
    form_block(lens, sums, block);

    // A colour that was clamped at zero does not change.
    for (int c = 0; c < 3; ++c) {
        sums[SHOWN + c] = keep(above(shown[c], Floats{}), sums[SHOWN + c]);
        base[c] = (C0 * C0) * sums[SHOWN + c];
    }
    if constexpr (NUMBERS == ALL_PRODUCTS) {
        const int used = rest_of(scene.degree);
        Floats basis[REST], rest[3 * REST], turn[2][3];
        Vec ways[2];
        const Direction direction = direction_to(shape.mean, scene.position);
        across(direction, ways);
        load_turns(turns, count, turn);
        add_turning(lens, sums, ways, turn, block);
        basis_at(scene.degree, direction, basis);
        for (int k = 0; k < used; ++k)
            for (int c = 0; c < 3; ++c) rest[3 * k + c] = basis[k] * basis[k] * sums[SHOWN + c];
        add_harmonics(used, rest, g, out.rest, 3 * scene.rest_count);
    }
    // What rounding made of zeros is no less.
    for (int i = 0; i < GEOMETRY; ++i) {
        Floats &x = block[i * (i + 3) / 2];
        x = larger(x, Floats{});
    }
    add_rows<LOWER>(block, g, out.geometry, LOWER);
    add_rows<3>(base, g, out.base, 3);
}

}  // namespace

void turns(const Scene &scene, const Record *records, int count, Turn *out) {
    for (int n = 0; n < count; n += LANES)
        turns_of(scene, records + n, count - n < LANES ? count - n : LANES, out + n);
}

void curvature(const Curvature &b) { return b.turns ? curve_all<true>(b) : curve_all<false>(b); }

void add_blocks(const Scene &scene, const Record *records, const Turn *turns, int count,
                const float *slots, const BlockRows &out) {
    for (int n = 0; n < count; n += LANES) {
        const int here = count - n < LANES ? count - n : LANES;
        if (turns)
            add_blocks_of<ALL_PRODUCTS>(scene, records + n, turns + n, here, slots, out);
        else
            add_blocks_of<PLAIN_PRODUCTS>(scene, records + n, nullptr, here, slots, out);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
