// Blending the footprints of a tile front to back, and the gradients of it.
//
// Both directions walk a tile's list from the nearest splat on. Backward keeps one number for all
// channels of a pixel, the loss that what lies behind the current splat accounts for: it starts
// as the loss's product with the finished pixel and loses each splat's part as it is passed.
#include "levels.h"
#include "simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int COLUMNS = TILE / LANES;      // vectors in a tile's row
constexpr int BAND = LANES == 16 ? 4 : 2;  // rows whose pixels are held in registers at once

// log2(alpha) of one row of pixels is ((yy dy + xy dx) dy) + (xx dx dx + log_opacity).
struct Row {
    Floats by_x, by_x_squared;
};

inline Row row_terms(const Record &r, Floats dx) {
    return {dx * r.xy, dx * dx * r.xx + r.log_opacity};
}

inline Floats log_alpha(const Row &row, const Record &r, float dy) {
    return (dy * r.yy + row.by_x) * dy + row.by_x_squared;
}

// One band of one column of vectors: all state is in registers.
template <int CHANNELS, bool MEDIAN>
inline uint32_t blend_band(const Blend &b, const Entry *entries, uint32_t count, int x, int y) {
    const Tiles &t = *b.tiles;
    Floats left[BAND], sums[CHANNELS][BAND];
    Ints median[BAND];
    for (int k = 0; k < BAND; ++k) {
        left[k] = fill(1.0f);
        median[k] = Ints{} - 1;
        for (int c = 0; c < CHANNELS; ++c) sums[c][k] = Floats{};
    }
    const Floats pixels = iota() + float(x);
    const Floats finished = fill(TRANSMITTANCE_MIN);
    const float top = float(y), first = float(x), last = float(x + LANES - 1);
    const int from = y % TILE, to = from + BAND - 1;

    uint32_t used = count;
    for (uint32_t n = 0, seen = 0; n < count; ++n) {
        __builtin_prefetch(t.record + entries[n + AHEAD].record);
        if (entries[n].from > to || entries[n].to < from) continue;
        const Record &r = t.record[entries[n].record];
        if (LANES < TILE && (r.left > last || r.right < first)) continue;
        const Row row = row_terms(r, pixels - r.x);
#pragma GCC unroll 4
        for (int k = 0; k < BAND; ++k) {
            const Floats exponent = log_alpha(row, r, top + k - r.y);
            const Mask hit =
                both(at_least(exponent, fill(LOG2_ALPHA_MIN)), above(left[k], finished));
            const Floats alpha = smaller(exp2_fast(exponent), fill(ALPHA_MAX));
            const Floats weight = keep(hit, alpha * left[k]);
            for (int c = 0; c < CHANNELS; ++c) sums[c][k] += weight * r.features[c];
            const Floats after = left[k] - weight;
            if (MEDIAN) {
                const Mask half = first_only(above(left[k], fill(0.5f)), above(after, fill(0.5f)));
                median[k] = choose(half, Ints{} + r.index, median[k]);
            }
            left[k] = after;
        }
        // A look at the pixels every few splats: often enough to stop soon, rare enough to be free.
        if ((++seen & 7) == 0) {
            bool open = false;
            for (int k = 0; k < BAND; ++k) open |= any(above(left[k], finished));
            if (!open) {
                used = n + 1;
                break;
            }
        }
    }

    const int width = t.width - x < LANES ? t.width - x : LANES;
    for (int k = 0; k < BAND && y + k < t.height; ++k) {
        const int64_t pixel = int64_t(y + k) * t.width + x;
        float value[LANES];
        int32_t index[LANES];
        for (int c = 0; c < CHANNELS; ++c) {
            const float behind = b.background ? b.background[c] : 0.0f;
            store(value, sums[c][k] + left[k] * behind);
            float *out = b.image + pixel * b.stride + b.offset + c;
            for (int i = 0; i < width; ++i) out[i * b.stride] = value[i];
        }
        if (b.transmittance) {
            store(value, left[k]);
            __builtin_memcpy(b.transmittance + pixel, value, 4 * width);
        }
        if (MEDIAN) {
            __builtin_memcpy(index, &median[k], sizeof index);
            __builtin_memcpy(b.median + pixel, index, 4 * width);
        }
    }
    return used;
}

template <int CHANNELS, bool MEDIAN>
void blend_all(const Blend &b) {
    const Tiles &t = *b.tiles;
#pragma omp parallel for schedule(dynamic, 4) num_threads(t.threads)
    for (int tile = 0; tile < t.columns * t.rows; ++tile) {
        const int x = tile % t.columns * TILE, y = tile / t.columns * TILE;
        const Entry *entries = t.entries + t.begin[tile];
        const uint32_t count = t.begin[tile + 1] - t.begin[tile];
        uint32_t used = 0;
        for (int band = 0; band < TILE && y + band < t.height; band += BAND)
            for (int column = 0; column < TILE && x + column < t.width; column += LANES) {
                const uint32_t n =
                    blend_band<CHANNELS, MEDIAN>(b, entries, count, x + column, y + band);
                used = n > used ? n : used;
            }
        t.used[tile] = used;
    }
}

// The pixels of one tile on the way back. Pixels beyond the image have no gradient.
template <int CHANNELS>
struct alignas(64) TilePixels {
    float left[TILE][TILE];             // transmittance before the current splat
    float behind[TILE][TILE];           // the loss that this and later splats account for
    float color[CHANNELS][TILE][TILE];  // gradient by the pixel's channels
};

template <int CHANNELS>
void read_pixels(const BlendGradient &b, int x0, int y0, TilePixels<CHANNELS> &p) {
    const Tiles &t = *b.tiles;
    for (int y = 0; y < TILE; ++y)
        for (int x = 0; x < TILE; ++x) {
            const bool inside = x0 + x < t.width && y0 + y < t.height;
            const int64_t pixel = inside ? int64_t(y0 + y) * t.width + x0 + x : 0;
            float behind = 0;
            for (int c = 0; c < CHANNELS; ++c) {
                const int64_t at = pixel * b.stride + b.offset + c;
                p.color[c][y][x] = inside ? b.image_gradient[at] : 0.0f;
                behind += p.color[c][y][x] * b.image[at];
            }
            if (inside && b.transmittance_gradient)
                behind += b.transmittance_gradient[pixel] * b.transmittance[pixel];
            p.left[y][x] = inside ? 1.0f : 0.0f;
            p.behind[y][x] = behind;
        }
}

template <int CHANNELS, bool ABSOLUTE>
inline void blend_one_backward(const Record &r, const Entry &entry, int x0, int y0,
                               TilePixels<CHANNELS> &p, float *slot) {
    // Sums over the tile, in the slot's order. First moments of q = alpha d loss / d alpha: q times
    // 1, dx, dx^2, dy, dx dy and dy^2. Along a column of vectors dx is constant, so only those by
    // dy need products there. Then the channels, then the absolute gradients.
    Floats sums[SLOT] = {};
    const Floats finished = fill(TRANSMITTANCE_MIN);
    constexpr float LN2 = 0.69314718f;
    for (int column = 0; column < COLUMNS; ++column) {
        const int x = column * LANES;
        if (LANES < TILE && (r.left > x0 + x + LANES - 1 || r.right < x0 + x)) continue;
        const Floats dx = iota() + float(x0 + x) - r.x;
        const Row row = row_terms(r, dx);
        const Floats pull_x = 2.0f * r.xx * dx;
        Floats sum{}, sum_y{}, sum_yy{};
        Floats dy = fill(float(y0 + entry.from) - r.y);
        for (int y = entry.from; y <= entry.to; ++y, dy += 1.0f) {
            const Floats half = dy * r.yy + row.by_x;
            const Floats exponent = half * dy + row.by_x_squared;
            const Floats left = load(&p.left[y][x]);
            const Mask hit = both(at_least(exponent, fill(LOG2_ALPHA_MIN)), above(left, finished));
            if (!any(hit)) continue;
            const Floats unclamped = exp2_fast(exponent);
            const Floats alpha = keep(hit, smaller(unclamped, fill(ALPHA_MAX)));
            const Floats weight = alpha * left;
            Floats product{};
            for (int c = 0; c < CHANNELS; ++c) {
                const Floats gradient = load(&p.color[c][y][x]);
                product += gradient * r.features[c];
                sums[6 + c] += weight * gradient;
            }
            const Floats behind = load(&p.behind[y][x]) - weight * product;
            store(&p.behind[y][x], behind);
            store(&p.left[y][x], left - weight);
            // Clamped alphas do not move with their splat.
            const Mask moves = first_only(hit, above(unclamped, fill(ALPHA_MAX)));
            const Floats q =
                keep(moves, alpha * (left * product - behind * reciprocal(1.0f - alpha)));
            const Floats qy = q * dy;
            sum += q;
            sum_y += qy;
            sum_yy += qy * dy;
            if (ABSOLUTE) {
                // d log(alpha) / d mean is minus the derivative of the form by (dx, dy).
                const Floats length = absolute(q);
                sums[10] += length * absolute(dy * r.xy + pull_x);
                sums[11] += length * absolute(dy * r.yy + half);
            }
        }
        const Floats sum_x = sum * dx;
        sums[0] += sum;
        sums[1] += sum_x;
        sums[2] += sum_x * dx;
        sums[3] += sum_y;
        sums[4] += sum_y * dx;
        sums[5] += sum_yy;
    }
    if (ABSOLUTE) sums[10] *= LN2, sums[11] *= LN2;
    store_totals<SLOT>(sums, slot);
}

template <int CHANNELS, bool ABSOLUTE>
void backward_all(const BlendGradient &b) {
    const Tiles &t = *b.tiles;
#pragma omp parallel for schedule(dynamic, 4) num_threads(t.threads)
    for (int tile = 0; tile < t.columns * t.rows; ++tile) {
        const int x = tile % t.columns * TILE, y = tile / t.columns * TILE;
        const Entry *entries = t.entries + t.begin[tile];
        const uint32_t count = t.begin[tile + 1] - t.begin[tile], used = t.used[tile];
        TilePixels<CHANNELS> pixels;
        if (used) read_pixels<CHANNELS>(b, x, y, pixels);
        for (uint32_t n = 0; n < used; ++n) {
            __builtin_prefetch(t.record + entries[n + AHEAD].record);
            blend_one_backward<CHANNELS, ABSOLUTE>(t.record[entries[n].record], entries[n], x, y,
                                                   pixels,
                                                   b.slots + int64_t(entries[n].slot) * SLOT);
        }
        // The rest lie behind finished pixels.
        for (uint32_t n = used; n < count; ++n)
            __builtin_memset(b.slots + int64_t(entries[n].slot) * SLOT, 0, 4 * SLOT);
    }
}

template <int CHANNELS>
void gather_all(const GatherGradient &g) {
    for (int64_t i = 0; i < g.count; ++i) {
        const Record &r = g.records[i];
        const float *slot = g.slots + int64_t(r.first) * SLOT;
        float total[SLOT] = {};
        for (uint32_t s = 0; s < r.count; ++s, slot += SLOT)
            for (int k = 0; k < SLOT; ++k) total[k] += slot[k];
        const int64_t n = r.index;
        for (int c = 0; c < CHANNELS; ++c) g.features[n * g.stride + g.offset + c] = total[6 + c];

        // log(alpha) = log(opacity) - (xx dx^2 + yy dy^2) / 2 - xy dx dy, d = pixel - centre.
        const float xx = g.conics[3 * n], xy = g.conics[3 * n + 1], yy = g.conics[3 * n + 2];
        const float geometry[6] = {xx * total[1] + xy * total[3],
                                   xy * total[1] + yy * total[3],
                                   -0.5f * total[2],
                                   -total[4],
                                   -0.5f * total[5],
                                   total[0] / r.opacity};
        float *out[6] = {g.centers + 2 * n,
                         g.centers + 2 * n + 1,
                         g.conic_gradients + 3 * n,
                         g.conic_gradients + 3 * n + 1,
                         g.conic_gradients + 3 * n + 2,
                         g.opacities + n};
        for (int k = 0; k < 6; ++k) *out[k] = g.add ? *out[k] + geometry[k] : geometry[k];
        if (g.absolute_centers) {
            g.absolute_centers[2 * n] += total[10];
            g.absolute_centers[2 * n + 1] += total[11];
        }
    }
}

}  // namespace

void blend(const Blend &b) {
    switch (b.channels * 2 + (b.median != nullptr)) {
        case 2: return blend_all<1, false>(b);
        case 3: return blend_all<1, true>(b);
        case 4: return blend_all<2, false>(b);
        case 5: return blend_all<2, true>(b);
        case 6: return blend_all<3, false>(b);
        case 7: return blend_all<3, true>(b);
        case 8: return blend_all<4, false>(b);
        case 9: return blend_all<4, true>(b);
    }
}

void blend_backward(const BlendGradient &b) {
    switch (b.channels * 2 + b.absolute) {
        case 2: return backward_all<1, false>(b);
        case 3: return backward_all<1, true>(b);
        case 4: return backward_all<2, false>(b);
        case 5: return backward_all<2, true>(b);
        case 6: return backward_all<3, false>(b);
        case 7: return backward_all<3, true>(b);
        case 8: return backward_all<4, false>(b);
        case 9: return backward_all<4, true>(b);
    }
}

void gather(const GatherGradient &g) {
    switch (g.channels) {
        case 1: return gather_all<1>(g);
        case 2: return gather_all<2>(g);
        case 3: return gather_all<3>(g);
        case 4: return gather_all<4>(g);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
