// Blending the footprints of a tile front to back, and the gradients of it.
//
// Both directions walk a tile's list from the nearest splat on. Backward keeps one number for all
// channels of a pixel, the loss that what lies behind the current splat accounts for: it starts
// as the loss's product with the finished pixel and loses each splat's part as it is passed.
#include "splats/block.h"
#include "common/levels.h"
#include "splats/slots.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Some blocks side by side, with the first pixel at (x, y) and the first bit at `shift`: all state
// is in registers.
template <int CHANNELS, bool MEDIAN>
inline uint32_t blend_blocks(const Blend &b, const Entry *entries, uint32_t count, int x, int y,
                             int shift) {
    const Tiles &t = *b.tiles;
    Floats left[HELD][VECTORS], sums[CHANNELS][HELD][VECTORS];
    Ints median[HELD][VECTORS];
    for (int k = 0; k < HELD; ++k)
        for (int v = 0; v < VECTORS; ++v) {
            // Blocks beyond the image are finished: else they would keep the others at work.
            left[k][v] = fill(x + k * BLOCK < t.width ? 1.0f : 0.0f);
            median[k][v] = Ints{} - 1;
            for (int c = 0; c < CHANNELS; ++c) sums[c][k][v] = Floats{};
        }
    const Floats finished = fill(TRANSMITTANCE_MIN);
    const float highest = highest_exponent(t);
    const Floats pixels_x = lane_x() + float(t.left + x), pixels_y = lane_y() + float(t.top + y);

    uint32_t used = count;
    for (uint32_t n = 0, seen = 0; n < count; ++n) {
        __builtin_prefetch(t.record + entries[n + AHEAD].record);
        const uint32_t met = entries[n].blocks >> shift & ((1u << HELD) - 1);
        if (!met) continue;
        const Record &r = t.record[entries[n].record];
        const Floats first_dx = pixels_x - r.x, first_dy = pixels_y - r.y;
        const Floats bound = bound_of(r, highest);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            const Rows rows = rows_at(r, first_dy + float(v * ROWS));
#pragma GCC unroll 4
            for (int k = 0; k < HELD; ++k) {
                if (HELD > 1 && !(met >> k & 1)) continue;
                const Floats dx = first_dx + float(k * BLOCK);
                const Floats exponent =
                    smaller(bound, (dx * r.xx + rows.xy_dy) * dx + rows.constant);
                const Mask hit =
                    both(at_least(exponent, fill(LOG2_ALPHA_MIN)), above(left[k][v], finished));
                const Floats weight = keep(hit, exp2_fast(exponent) * left[k][v]);
                for (int c = 0; c < CHANNELS; ++c) sums[c][k][v] += weight * r.features[c];
                const Floats after = left[k][v] - weight;
                if (MEDIAN) {
                    const Mask half =
                        first_only(above(left[k][v], fill(0.5f)), above(after, fill(0.5f)));
                    median[k][v] = choose(half, Ints{} + r.index, median[k][v]);
                }
                left[k][v] = after;
            }
        }
        // A look at the pixels every few splats: often enough to stop soon, rare enough to be free.
        if ((++seen & 7) == 0) {
            bool open = false;
            for (int k = 0; k < HELD; ++k)
                for (int v = 0; v < VECTORS; ++v) open |= any(above(left[k][v], finished));
            if (!open) {
                used = n + 1;
                break;
            }
        }
    }

    for (int k = 0; k < HELD; ++k)
        for (int v = 0; v < VECTORS; ++v) {
            float values[CHANNELS][LANES], through[LANES];
            int32_t index[LANES];
            for (int c = 0; c < CHANNELS; ++c) {
                const float behind = b.background ? b.background[c] : 0.0f;
                store(values[c], sums[c][k][v] + left[k][v] * behind);
            }
            store(through, left[k][v]);
            __builtin_memcpy(index, &median[k][v], sizeof index);
            for (int row = 0; row < ROWS; ++row) {
                const int at_y = y + v * ROWS + row, at_x = x + k * BLOCK;
                const int width = t.width - at_x < BLOCK ? t.width - at_x : BLOCK;
                if (at_y >= t.height || width <= 0) continue;
                const int64_t pixel = int64_t(at_y) * t.width + at_x;
                float *out = b.image + pixel * b.stride + b.offset;
                for (int i = 0; i < width; ++i, out += b.stride)
                    for (int c = 0; c < CHANNELS; ++c) out[c] = values[c][row * BLOCK + i];
                if (b.transmittance)
                    __builtin_memcpy(b.transmittance + pixel, through + row * BLOCK, 4 * width);
                if (MEDIAN) __builtin_memcpy(b.median + pixel, index + row * BLOCK, 4 * width);
            }
        }
    return used;
}

template <int CHANNELS, bool MEDIAN>
void blend_all(const Blend &b) {
    const Tiles &t = *b.tiles;
#pragma omp parallel for schedule(dynamic, 4) num_threads(t.threads)
    for (int tile = 0; tile < t.columns * t.rows; ++tile) {
        if (t.stop && (*t.stop)()) continue;
        const int x = tile % t.columns * TILE, y = tile / t.columns * TILE;
        const Entry *entries = t.entries + t.begin[tile];
        const uint32_t count = t.begin[tile + 1] - t.begin[tile];
        uint32_t used = 0;
        for (int block = 0; block < BLOCKS * BLOCKS; block += HELD) {
            const int at_x = x + block % BLOCKS * BLOCK, at_y = y + block / BLOCKS * BLOCK;
            if (at_x >= t.width || at_y >= t.height) continue;
            const uint32_t n = blend_blocks<CHANNELS, MEDIAN>(b, entries, count, at_x, at_y, block);
            used = n > used ? n : used;
        }
        t.used[tile] = used;
    }
}

// The pixels of one tile on the way back, block by block. Pixels beyond the image have no gradient.
template <int CHANNELS>
struct alignas(64) TilePixels {
    TileFloats left;             // transmittance before the current splat
    TileFloats behind;           // the loss that this and later splats account for
    TileFloats color[CHANNELS];  // gradient by the pixel's channels
};

template <int CHANNELS>
void read_pixels(const BlendGradient &b, int x0, int y0, TilePixels<CHANNELS> &p) {
    const Tiles &t = *b.tiles;
    for (int y = 0; y < TILE; ++y)
        for (int x = 0; x < TILE; ++x) {
            const int block = y / BLOCK * BLOCKS + x / BLOCK, i = y % BLOCK * BLOCK + x % BLOCK;
            const bool inside = x0 + x < t.width && y0 + y < t.height;
            const int64_t pixel = inside ? int64_t(y0 + y) * t.width + x0 + x : 0;
            float behind = 0;
            for (int c = 0; c < CHANNELS; ++c) {
                const int64_t at = pixel * b.stride + b.offset + c;
                p.color[c][block][i] = inside ? b.image_gradient[at] : 0.0f;
                behind += p.color[c][block][i] * b.image[at];
            }
            if (inside && b.transmittance_gradient)
                behind += b.transmittance_gradient[pixel] * b.transmittance[pixel];
            p.left[block][i] = inside ? 1.0f : 0.0f;
            p.behind[block][i] = behind;
        }
}

template <int CHANNELS, bool ABSOLUTE>
inline void blend_one_backward(const Record &r, uint32_t blocks, int x0, int y0, float highest,
                               TilePixels<CHANNELS> &p, float *slot) {
    // Sums over the tile, in the slot's order. First moments of q = alpha d loss / d alpha: q times
    // 1, dx, dx^2, dy, dx dy and dy^2. Then the channels, then the absolute gradients.
    Floats sums[SLOT] = {};
    const Floats finished = fill(TRANSMITTANCE_MIN), bound = bound_of(r, highest);
    const Floats tile_dx = lane_x() + (float(x0) - r.x), tile_dy = lane_y() + (float(y0) - r.y);
    constexpr float LN2 = 0.69314718f;
    for (int row = 0; row < BLOCKS; ++row, blocks >>= BLOCKS) {
        uint32_t met = blocks & ((1u << BLOCKS) - 1);
        if (!met) continue;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            const Floats dy = tile_dy + float(row * BLOCK + v * ROWS);
            const Rows rows = rows_at(r, dy);
            const Floats pull_y = (2.0f * r.yy) * dy;
            for (uint32_t bits = met; bits; bits &= bits - 1) {
                const int column = __builtin_ctz(bits), at = v * LANES;
                const int block = row * BLOCKS + column;
                const Floats dx = tile_dx + float(column * BLOCK);
                const Floats half = dx * r.xx + rows.xy_dy;
                const Floats exponent = smaller(bound, half * dx + rows.constant);
                const Floats left = load(&p.left[block][at]);
                const Mask hit =
                    both(at_least(exponent, fill(LOG2_ALPHA_MIN)), above(left, finished));
                if (!any(hit)) continue;
                const Floats alpha = keep(hit, exp2_fast(exponent));
                const Floats weight = alpha * left;
                Floats product{};
                for (int c = 0; c < CHANNELS; ++c) {
                    const Floats gradient = load(&p.color[c][block][at]);
                    product += gradient * r.features[c];
                    sums[6 + c] += weight * gradient;
                }
                const Floats before = load(&p.behind[block][at]);
                const Floats behind = before - weight * product;
                store(&p.behind[block][at], behind);
                store(&p.left[block][at], left - weight);
                // q is alpha (left product - behind / (1 - alpha)), and before - behind is alpha
                // left product. The largest alphas do not move with their splat.
                const Mask moves = first_only(hit, at_least(exponent, fill(highest)));
                const Floats q = keep(moves, before - behind * reciprocal(1.0f - alpha));
                const Floats qx = q * dx, qy = q * dy;
                sums[0] += q;
                sums[1] += qx;
                sums[2] += qx * dx;
                sums[3] += qy;
                sums[4] += qx * dy;
                sums[5] += qy * dy;
                if (ABSOLUTE) {
                    // d log(alpha) / d mean is minus the derivative of the form by (dx, dy).
                    const Floats length = absolute(q);
                    sums[10] += length * absolute(dx * r.xx + half);
                    sums[11] += length * absolute(dx * r.xy + pull_y);
                }
            }
        }
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
        const float highest = highest_exponent(t);
        TilePixels<CHANNELS> pixels;
        if (used) read_pixels<CHANNELS>(b, x, y, pixels);
        for (uint32_t n = 0; n < used; ++n) {
            __builtin_prefetch(t.record + entries[n + AHEAD].record);
            fetch_slot<SLOT>(b.slots, entries[n + SOON]);
            const Entry &entry = entries[n];
            blend_one_backward<CHANNELS, ABSOLUTE>(t.record[entry.record], entry.blocks, t.left + x,
                                                   t.top + y, highest, pixels,
                                                   b.slots + int64_t(entry.slot) * SLOT);
        }
        // The rest lie behind finished pixels.
        for (uint32_t n = used; n < count; ++n)
            __builtin_memset(b.slots + int64_t(entries[n].slot) * SLOT, 0, 4 * SLOT);
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

}  // namespace lumigraph::LUMIGRAPH_ISA
