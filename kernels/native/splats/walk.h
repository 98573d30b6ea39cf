// The two walks over a tile's list of splats, nearest first. This file alone decides which pixels a
// splat counts for and how much light it stops there. A gatherer, a type with the functions that
// each walk names, collects colours, gradients or other sums on the way. Only for *.isa.cpp files.
#pragma once

#include "splats/block.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// A splat as an ellipse: log2(alpha) is (xx dx + xy dy) dx + (yy dy dy + log_opacity), at most log2
// of the opacity and of the largest alpha of all. Rounding can make the form of a long needle
// positive although it never is. The bound then limits the value and leaves the derivative as it
// is.
struct Ellipse {
    const Record &r;
    float highest;
    Floats bound, dy{}, xy_dy{}, constant{};

    Ellipse(const Record &record, float of_all)
        : r(record),
          highest(of_all),
          bound(fill(r.log_opacity < highest ? r.log_opacity : highest)) {}
    void at_row(Floats y) {
        dy = y;
        xy_dy = dy * r.xy;
        constant = dy * r.yy * dy + r.log_opacity;
    }
    Floats exponent(Floats dx) const { return smaller(bound, (dx * r.xx + xy_dy) * dx + constant); }
};

// A splat at a vector of pixels.
struct Touch {
    Mask hit;  // the pixels that count it: it is seen there, and light comes to it
    Floats dx, exponent, left;

    Floats alpha() const { return keep(hit, exp2_fast(exponent)); }
    // The light that the splat stops, without alpha itself: one operation fewer.
    Floats weight() const { return keep(hit, exp2_fast(exponent) * left); }
    // The pixels at which alpha moves with the splat: the largest alpha does not.
    template <typename Splat>
    Mask moves(const Splat &splat) const {
        return first_only(hit, at_least(exponent, fill(splat.highest)));
    }
};

template <typename Splat>
inline Touch touch(const Splat &splat, Floats dx, Floats left) {
    const Floats exponent = splat.exponent(dx);
    const Mask hit =
        both(at_least(exponent, fill(LOG2_ALPHA_MIN)), above(left, fill(TRANSMITTANCE_MIN)));
    return {hit, dx, exponent, left};
}

// The entries of a tile, and HELD of its blocks side by side: their first pixel, and their first
// bit in an entry's `blocks`.
struct Place {
    const Entry *entries;
    uint32_t count;
    int x, y, shift;
};

template <typename Task>
inline void for_each_place(const Tiles &t, int tile, uint32_t count, const Task &task) {
    const int x = tile % t.columns * TILE, y = tile / t.columns * TILE;
    for (int block = 0; block < BLOCKS * BLOCKS; block += HELD) {
        const int at_x = x + block % BLOCKS * BLOCK, at_y = y + block / BLOCKS * BLOCK;
        if (at_x < t.width && at_y < t.height)
            task(Place{t.entries + t.begin[tile], count, at_x, at_y, block});
    }
}

// Whether any pixel of these blocks is unfinished.
inline bool is_open(const Floats left[HELD][VECTORS]) {
    bool open = false;
    for (int k = 0; k < HELD; ++k)
        for (int v = 0; v < VECTORS; ++v) open |= any(above(left[k][v], fill(TRANSMITTANCE_MIN)));
    return open;
}

// Walks the list for a few blocks side by side. All of their state is in registers. Returns how
// many entries were looked at. `left` is the transmittance. The gatherer may have
//   fetch(record)         to have what else it needs of a splat on its way,
//   meet(record)          at each splat, at_row(splat) in each row of vectors, and
//   leave(k, n)           behind the last vector of block k, for entry n,
// and has take(k, v, splat, touch), which returns the transmittance behind the splat.
template <typename Splat = Ellipse, typename Gatherer>
[[gnu::always_inline]] inline uint32_t walk_blocks(const Tiles &t, const Place &place, Gatherer &g,
                                                   Floats left[HELD][VECTORS]) {
    const Entry *const entries = place.entries;
    const Record *const records = t.record;
    const float highest = highest_exponent(t);
    const Floats pixels_x = lane_x() + float(t.left + place.x);
    const Floats pixels_y = lane_y() + float(t.top + place.y);
    // Pixels beyond the image start as finished, so that they collect nothing and the walk can
    // stop.
    for (int k = 0; k < HELD; ++k)
        for (int v = 0; v < VECTORS; ++v) {
            const Mask inside = both(above(fill(float(t.left + t.width - k * BLOCK)), pixels_x),
                                     above(fill(float(t.top + t.height - v * ROWS)), pixels_y));
            left[k][v] = keep(inside, fill(1.0f));
        }

    for (uint32_t n = 0, seen = 0; n < place.count; ++n) {
        __builtin_prefetch(records + entries[n + AHEAD].record);
        if constexpr (requires { g.fetch(n); }) g.fetch(entries[n + AHEAD].record);
        // Skip a splat that meets none of these blocks.
        const uint32_t met = entries[n].blocks >> place.shift & ((1u << HELD) - 1);
        if (!met) continue;
        if constexpr (requires { g.meet(n); }) g.meet(entries[n].record);
        Splat splat(records[entries[n].record], highest);
        const Floats first_dx = pixels_x - splat.r.x, first_dy = pixels_y - splat.r.y;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            splat.at_row(first_dy + float(v * ROWS));
            if constexpr (requires { g.at_row(splat); }) g.at_row(splat);
#pragma GCC unroll 4
            for (int k = 0; k < HELD; ++k) {
                if (HELD > 1 && !(met >> k & 1)) continue;
                const Touch at = touch(splat, first_dx + float(k * BLOCK), left[k][v]);
                left[k][v] = g.take(k, v, splat, at);
                if constexpr (requires { g.leave(k, n); })
                    if (v == VECTORS - 1) g.leave(k, n);
            }
        }
        // Early stop: every eighth splat, see whether all pixels are finished.
        if ((++seen & 7) == 0 && !is_open(left)) return n + 1;
    }
    return place.count;
}

// The x of each lane's pixel within the tile, for each column of blocks.
struct alignas(64) ColumnsX {
    float x[BLOCKS][LANES];
};
constexpr ColumnsX columns_x() {
    ColumnsX c{};
    for (int block = 0; block < BLOCKS; ++block)
        for (int i = 0; i < LANES; ++i) c.x[block][i] = float(block * BLOCK + i % BLOCK);
    return c;
}
constexpr ColumnsX COLUMNS_X = columns_x();

// Walks the list once for the whole tile, a splat in all its blocks: sums over the tile's pixels
// are in registers, the state of the pixels is in memory. Each splat writes NUMBERS sums to its
// slot. A gatherer has left(block), the transmittance of its pixels; `Sums`, made of it for each
// splat, with take(block, at, splat, touch), where `at` is the vector's place in the block, and
// finish(slot); and may have fetch, and at_row and leave_row in its sums.
template <typename Splat = Ellipse, typename Gatherer>
[[gnu::always_inline]] inline void walk_tile(const Tiles &t, int tile, Gatherer &g, float *slots) {
    constexpr int NUMBERS = Gatherer::NUMBERS;
    const int x = tile % t.columns * TILE, y = tile / t.columns * TILE;
    const Entry *const entries = t.entries + t.begin[tile];
    const uint32_t count = t.begin[tile + 1] - t.begin[tile], used = t.used[tile];
    const float highest = highest_exponent(t);
    if (used) g.read(x, y);
    for (uint32_t n = 0; n < used; ++n) {
        __builtin_prefetch(t.record + entries[n + AHEAD].record);
        if constexpr (requires { g.fetch(n); }) g.fetch(entries[n + AHEAD].record);
        fetch_slot<NUMBERS>(slots, entries[n + SOON]);
        const Entry &entry = entries[n];
        Splat splat(t.record[entry.record], highest);
        typename Gatherer::Sums sums(g, entry.record, splat);
        const float tile_x = float(t.left + x) - splat.r.x;
        const Floats tile_dy = lane_y() + (float(t.top + y) - splat.r.y);
        uint32_t blocks = entry.blocks;
        for (int row = 0; blocks; ++row, blocks >>= BLOCKS) {
            const uint32_t met = blocks & ((1u << BLOCKS) - 1);
            if (!met) continue;
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) {
                splat.at_row(tile_dy + float(row * BLOCK + v * ROWS));
                if constexpr (requires { sums.at_row(splat); }) sums.at_row(splat);
                for (uint32_t bits = met; bits; bits &= bits - 1) {
                    const int column = __builtin_ctz(bits), block = row * BLOCKS + column;
                    float *left = g.left(block) + v * LANES;
                    const Touch at = touch(splat, load(COLUMNS_X.x[column]) + tile_x, load(left));
                    if (any(at.hit)) store(left, sums.take(block, v * LANES, splat, at));
                }
                if constexpr (requires { sums.leave_row(splat); }) sums.leave_row(splat);
            }
        }
        sums.finish(slots + int64_t(entry.slot) * NUMBERS);
    }
    // The other splats lie behind finished pixels: their sums are zero.
    for (uint32_t n = used; n < count; ++n)
        __builtin_memset(slots + int64_t(entries[n].slot) * NUMBERS, 0, 4 * NUMBERS);
}

// The pixels of a vector of a block that are in the image, the first at (x, y): task(lane, pixel).
template <typename Task>
[[gnu::always_inline]] inline void for_each_pixel(const Tiles &t, int x, int y, const Task &task) {
    const int width = t.width - x < BLOCK ? t.width - x : BLOCK;
    const int height = t.height - y < ROWS ? t.height - y : ROWS;
    const auto rows = [&](int columns, int count) __attribute__((always_inline)) {
        for (int row = 0; row < count; ++row) {
            const int64_t pixel = int64_t(y + row) * t.width + x;
            for (int i = 0; i < columns; ++i) task(row * BLOCK + i, pixel + i);
        }
    };
    // Most vectors lie wholly in the image; loops of known length are faster.
    if (width == BLOCK && height == ROWS)
        rows(BLOCK, ROWS);
    else
        rows(width, height);
}

// A group of an image's channels: how many it has, and the first of the group.
struct Channels {
    int stride, offset;
};

// The group's channels at a vector; zeros beyond the image, and where there is none.
template <int CHANNELS>
inline void read(const Tiles &t, const float *image, Channels in, int x, int y, Floats *out) {
    float values[CHANNELS][LANES] = {};
    if (image)
        for_each_pixel(t, x, y, [&](int i, int64_t pixel) {
            const float *from = image + pixel * in.stride + in.offset;
            for (int c = 0; c < CHANNELS; ++c) values[c][i] = from[c];
        });
    for (int c = 0; c < CHANNELS; ++c) out[c] = load(values[c]);
}

template <int CHANNELS>
inline void write(const Tiles &t, float *image, Channels to, int x, int y, const Floats *in) {
    float values[CHANNELS][LANES];
    for (int c = 0; c < CHANNELS; ++c) store(values[c], in[c]);
    for_each_pixel(t, x, y, [&](int i, int64_t pixel) {
        float *out = image + pixel * to.stride + to.offset;
        for (int c = 0; c < CHANNELS; ++c) out[c] = values[c][i];
    });
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
