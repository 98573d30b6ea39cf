// The blocks of G^T diag(w) G of each splat, where G is the derivative of a picture by the
// parameters of its splats: sums over pixels of products of derivatives by what a splat is on the
// image plane, and from there to its parameters.
#include "block.h"
#include "levels.h"
#include "rows.h"
#include "slots.h"
#include "splat_math.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Where a slot has the sums of X^i Y^j; the channels of the mixed ones lie side by side.
constexpr int NOWHERE = -1;
constexpr int FORM[5][5] = {{0, 4, 8, 12, 16},
                            {1, 5, 9, 13, NOWHERE},
                            {2, 6, 10, NOWHERE, NOWHERE},
                            {3, 7, NOWHERE, NOWHERE, NOWHERE},
                            {20, NOWHERE, NOWHERE, NOWHERE, NOWHERE}};
constexpr int MIXED[3][3] = {{17, 25, 29}, {32, 36, NOWHERE}, {40, NOWHERE, NOWHERE}};
constexpr int SHOWN = 21;

// The pixels of one tile. Those beyond the image have neither light nor weight.
struct alignas(64) TilePixels {
    TileFloats left;       // transmittance before the current splat
    TileFloats behind[3];  // the colour that this and later splats account for
    TileFloats weights[3];
};

// A tile of an image of three channels, block by block; a whole one by vectors.
inline void read_tile(const Tiles &t, const float *image, int x0, int y0, TileFloats *out) {
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
        for (int c = 0; c < 3; ++c)
            for (int b = 0; b < BLOCKS; ++b)
                __builtin_memcpy(out[c][y / BLOCK * BLOCKS + b] + y % BLOCK * BLOCK,
                                 row[c] + b * BLOCK, 4 * BLOCK);
    }
}

inline void read_pixels(const Curvature &b, int x0, int y0, TilePixels &p) {
    const Tiles &t = *b.tiles;
    read_tile(t, b.image, x0, y0, p.behind);
    read_tile(t, b.weights, x0, y0, p.weights);
    for (int block = 0; block < BLOCKS * BLOCKS; ++block)
        for (int i = 0; i < BLOCK * BLOCK; ++i) {
            const int x = x0 + block % BLOCKS * BLOCK + i % BLOCK;
            const int y = y0 + block / BLOCKS * BLOCK + i / BLOCK;
            p.left[block][i] = x < t.width && y < t.height ? 1.0f : 0.0f;
        }
}

// Sums over the blocks of a row, by the power of X: Y is the same along four lanes, which are a row
// of pixels of a block.
struct RowSums {
    Floats form[4], mixed[2][3];
};

// Sums over a tile, in the order of a slot, four to a vector; and those without Y.
struct TileSums {
    Floats fours[9], form4, shown[3], mixed2[3];
};

template <bool IS_MIXED>
inline void add_row(const RowSums &row, Floats y, TileSums &sums) {
    static_assert(BLOCK == 4);
    const Floats form = sum_fours(row.form[0], row.form[1], row.form[2], row.form[3]), yy = y * y;
    sums.fours[0] += form;
    sums.fours[1] += form * y;
    sums.fours[2] += form * yy;
    sums.fours[3] += form * (yy * y);
    if (!IS_MIXED) {
        sums.fours[4] += form * (yy * yy);
        return;
    }
    const Floats *none = row.mixed[0], *one = row.mixed[1];
    const Floats first = sum_fours(row.form[0], none[0], none[1], none[2]);
    const Floats second = sum_fours(one[0], one[1], one[2], Floats{});
    const Mask leads = above(fill(0.5f), lane_x());
    sums.fours[4] += first * choose(leads, yy * yy, fill(1.0f));
    sums.fours[5] += first * y;
    sums.fours[6] += first * yy;
    sums.fours[7] += second;
    sums.fours[8] += second * y;
}

template <bool IS_MIXED>
inline void store_sums(const TileSums &sums, float *slot) {
    for (int k = 0; k < 5; ++k) store_four(slot + 4 * k, sums.fours[k]);
    const Floats *shown = sums.shown, *mixed = sums.mixed2;
    store_four(slot + 20, sum_fours(sums.form4, shown[0], shown[1], shown[2]));
    if (!IS_MIXED) return;
    for (int k = 5; k < 9; ++k) store_four(slot + 4 + 4 * k, sums.fours[k]);
    store_four(slot + 40, sum_fours(mixed[0], mixed[1], mixed[2], Floats{}));
}

template <bool IS_MIXED>
inline void curve_one(const Record &r, uint32_t blocks, int x0, int y0, TilePixels &p,
                      float *slot) {
    TileSums sums{};
    const Floats finished = fill(TRANSMITTANCE_MIN);
    const Floats tile_dx = lane_x() + (float(x0) - r.x), tile_dy = lane_y() + (float(y0) - r.y);
    const float lean = r.xy / (2 * r.xx);
    for (int row = 0; row < BLOCKS; ++row, blocks >>= BLOCKS) {
        const uint32_t met = blocks & ((1u << BLOCKS) - 1);
        if (!met) continue;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            const Floats dy = tile_dy + float(row * BLOCK + v * ROWS);
            const Rows rows = rows_at(r, dy);
            const Floats shift = dy * lean;
            RowSums of{};
            bool reached = false;
            for (uint32_t bits = met; bits; bits &= bits - 1) {
                const int column = __builtin_ctz(bits), at = v * LANES;
                const int block = row * BLOCKS + column;
                const Floats dx = tile_dx + float(column * BLOCK);
                const Floats exponent = (dx * r.xx + rows.xy_dy) * dx + rows.constant;
                const Floats left = load(&p.left[block][at]);
                const Mask hit =
                    both(at_least(exponent, fill(LOG2_ALPHA_MIN)), above(left, finished));
                if (!any(hit)) continue;
                reached = true;
                const Floats unclamped = exp2_fast(exponent);
                const Floats alpha = keep(hit, smaller(unclamped, fill(ALPHA_MAX)));
                const Floats light = alpha * left, square = light * light;
                const Floats odds = alpha * reciprocal(1.0f - alpha);
                // Clamped alphas do not move with their splat.
                const Mask moves = first_only(hit, above(unclamped, fill(ALPHA_MAX)));
                const Floats x = dx + shift;
                store(&p.left[block][at], left - light);
                Floats squares{};
                for (int c = 0; c < 3; ++c) {
                    const Floats part = light * r.features[c];
                    const Floats behind = load(&p.behind[c][block][at]) - part;
                    const Floats weight = load(&p.weights[c][block][at]);
                    store(&p.behind[c][block][at], behind);
                    sums.shown[c] += weight * square;
                    const Floats q = part - odds * behind, pull = keep(moves, weight * q);
                    squares += pull * q;
                    if (!IS_MIXED) continue;
                    const Floats mixed = pull * light, along = mixed * x;
                    of.mixed[0][c] += mixed;
                    of.mixed[1][c] += along;
                    sums.mixed2[c] += along * x;
                }
                const Floats xx = x * x, by_x = squares * x, by_xx = squares * xx;
                of.form[0] += squares;
                of.form[1] += by_x;
                of.form[2] += by_xx;
                of.form[3] += by_x * xx;
                sums.form4 += by_xx * xx;
            }
            if (reached) add_row<IS_MIXED>(of, dy, sums);
        }
    }
    store_sums<IS_MIXED>(sums, slot);
}

template <bool IS_MIXED>
void curve_all(const Curvature &b) {
    constexpr int NUMBERS = IS_MIXED ? ALL_PRODUCTS : PLAIN_PRODUCTS;
    const Tiles &t = *b.tiles;
#pragma omp parallel for schedule(dynamic, 4) num_threads(t.threads)
    for (int tile = 0; tile < t.columns * t.rows; ++tile) {
        const int x = tile % t.columns * TILE, y = tile / t.columns * TILE;
        const Entry *entries = t.entries + t.begin[tile];
        const uint32_t count = t.begin[tile + 1] - t.begin[tile], used = t.used[tile];
        TilePixels pixels;
        if (used) read_pixels(b, x, y, pixels);
        for (uint32_t n = 0; n < used; ++n) {
            __builtin_prefetch(t.record + entries[n + AHEAD].record);
            fetch_slot<NUMBERS>(b.slots, entries[n + SOON]);
            const Entry &entry = entries[n];
            curve_one<IS_MIXED>(t.record[entry.record], entry.blocks, x, y, pixels,
                                b.slots + int64_t(entry.slot) * NUMBERS);
        }
        // The rest lie behind finished pixels.
        for (uint32_t n = used; n < count; ++n)
            __builtin_memset(b.slots + int64_t(entries[n].slot) * NUMBERS, 0, 4 * NUMBERS);
    }
}

// How ln(alpha) depends on the geometry: a row for each of the monomials 1, Y, Y^2, X, X Y, X^2.
constexpr int MONOMIALS = 6;
constexpr int POWER_X[MONOMIALS] = {0, 0, 0, 1, 1, 2}, POWER_Y[MONOMIALS] = {0, 1, 2, 0, 1, 0};
struct Lens {
    Floats by[MONOMIALS][GEOMETRY];
};

inline Lens lens_of(const Project &p, const Seen &s) {
    // With C the conic, the covariance's inverse, ln(alpha) = ln(opacity) - d^T C d / 2 changes by
    // (C t).d + (C d)^T V (C d) / 2 where the centre moves by t and the covariance by V. In X and
    // Y, C d = (xx X, xx lean X + Y / v), v the covariance's second variance, and (C t).d = xx (t_x
    // + lean t_y) X + t_y / v Y: nothing here is a small difference of large numbers.
    const Floats by_yy = 1.0f / s.yy, xx = s.yy / s.determinant, lean = -s.xy * by_yy;
    const Floats half = 0.5f * xx * xx, across = xx * by_yy;
    CovarianceGradient rows[MONOMIALS] = {};
    if (p.antialiased) through_filter(s, 1.0f / (s.opacity * s.filter), rows[0]);
    rows[1].center_y = by_yy;
    rows[2].yy = 0.5f * by_yy * by_yy;
    rows[3].center_x = xx, rows[3].center_y = xx * lean;
    rows[4].xy = across, rows[4].yy = across * lean;
    rows[5].xx = half, rows[5].xy = 2 * half * lean, rows[5].yy = half * lean * lean;
    Lens lens;
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
inline void form_block(const Lens &lens, const Floats *sums, Floats *out) {
    for (int p = 0; p < GEOMETRY; ++p) {
        Floats pulled[MONOMIALS] = {};
#pragma GCC unroll 6
        for (int k = 0; k < MONOMIALS; ++k)
#pragma GCC unroll 6
            for (int l = 0; l < MONOMIALS; ++l)
                pulled[k] +=
                    sums[FORM[POWER_X[k] + POWER_X[l]][POWER_Y[k] + POWER_Y[l]]] * lens.by[l][p];
        for (int q = 0; q <= p; ++q) {
            Floats sum{};
#pragma GCC unroll 6
            for (int k = 0; k < MONOMIALS; ++k) sum += pulled[k] * lens.by[k][q];
            out[p * (p + 1) / 2 + q] = sum;
        }
    }
}

// Adds what comes of colours that change with the mean, which the camera sees from another side:
// `turn` is their derivative by it.
inline void add_turning(const Lens &lens, const Floats *sums, const Floats turn[3][3],
                        Floats *out) {
    for (int c = 0; c < 3; ++c) {
        for (int p = 0; p < GEOMETRY; ++p) {
            Floats pulled{};
            for (int k = 0; k < MONOMIALS; ++k)
                pulled += sums[MIXED[POWER_X[k]][POWER_Y[k]] + c] * lens.by[k][p];
            // Both terms of the mixed products where both are of the mean, and half of the
            // colours' own.
            for (int q = 0; q < 3; ++q) {
                const Floats term = turn[c][q] * pulled;
                if (q <= p) out[p * (p + 1) / 2 + q] += term;
                if (p <= q && p < 3) out[q * (q + 1) / 2 + p] += term;
            }
        }
        for (int p = 0; p < 3; ++p)
            for (int q = 0; q <= p; ++q)
                out[p * (p + 1) / 2 + q] += sums[SHOWN + c] * turn[c][p] * turn[c][q];
    }
}

template <int NUMBERS>
inline void add_blocks_of(const Scene &scene, const Record *records, int count, const float *slots,
                          const BlockRows &out) {
    const Project &p = scene.project;
    const Harmonics &h = scene.harmonics;
    Floats shown[3], sums[NUMBERS], block[LOWER], base[3];
    const Group g = group_of(records, count, shown);
    sum_columns<NUMBERS>(records, count, slots, sums);
    const Shape shape = load_shape(p, g.index, count);
    const Lens lens = lens_of(p, see(p.view, p.antialiased, shape));
    form_block(lens, sums, block);

    // A colour that was clamped at zero does not change.
    for (int c = 0; c < 3; ++c) {
        sums[SHOWN + c] = keep(above(shown[c], Floats{}), sums[SHOWN + c]);
        base[c] = (C0 * C0) * sums[SHOWN + c];
    }
    if constexpr (NUMBERS == ALL_PRODUCTS) {
        const int used = rest_of(h.degree);
        Coefficients coefficients;
        Floats basis[REST], along[REST], turn[3][3], rest[3 * REST];
        load_coefficients(h.base, h.rest, used, h.rest_count, g.index, count, coefficients);
        const Direction direction = direction_to(shape.mean, h.position);
        basis_at(h.degree, direction, basis);
        for (int c = 0; c < 3; ++c) {
            for (int k = 0; k < used; ++k) {
                along[k] = coefficients.rest[k][c];
                rest[3 * k + c] = basis[k] * basis[k] * sums[SHOWN + c];
            }
            through_direction(h.degree, direction, along, turn[c]);
            for (Floats &x : turn[c]) x = keep(above(shown[c], Floats{}), x);
        }
        add_turning(lens, sums, turn, block);
        add_harmonics(used, rest, g, out.rest, 3 * h.rest_count);
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

void curvature(const Curvature &b) { return b.mixed ? curve_all<true>(b) : curve_all<false>(b); }

void add_blocks(const Scene &scene, const Record *records, int count, const float *slots,
                const BlockRows &out) {
    for (int n = 0; n < count; n += LANES) {
        const int here = count - n < LANES ? count - n : LANES;
        if (scene.harmonics.degree > 0)
            add_blocks_of<ALL_PRODUCTS>(scene, records + n, here, slots, out);
        else
            add_blocks_of<PLAIN_PRODUCTS>(scene, records + n, here, slots, out);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
