// The tiles that a splat meets, and their blocks: exactly those that its ellipse of alpha >=
// ALPHA_MIN meets, not all that its box meets. A vector holds one splat in each lane.
#include "common/levels.h"
#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int ACROSS = TILE / BLOCK;  // blocks along a tile's side

// Ellipses, and the numbers that give their spans: at a height dy from the centre they reach from
// lean dy - sqrt(a - b dy^2) to lean dy + sqrt(a - b dy^2).
struct Ellipses {
    Floats x, y, half_width, half_height;
    Floats tilt;  // dy of the rightmost point; the leftmost has -tilt
    Floats lean, a, b;
};

inline Ellipses ellipses_of(const Tiles &t, const Record *records, int count) {
    alignas(64) float columns[8][LANES];
    for (int i = 0; i < LANES; ++i) {
        const Record &r = records[i < count ? i : 0];
        columns[0][i] = r.x, columns[1][i] = r.y;
        // The record's form is that of log2(alpha): turned back to one with a positive sign.
        columns[2][i] = -r.xx, columns[3][i] = -0.5f * r.xy, columns[4][i] = -r.yy;
        columns[5][i] = r.log_opacity - LOG2_ALPHA_MIN;
        columns[6][i] = r.half_width, columns[7][i] = r.half_height;
    }
    const Floats xx = load(columns[2]), xy = load(columns[3]), yy = load(columns[4]);
    const Floats level = load(columns[5]), by_xx = 1.0f / xx;
    Ellipses e;
    e.x = load(columns[0]) - float(t.left), e.y = load(columns[1]) - float(t.top);
    e.half_width = load(columns[6]), e.half_height = load(columns[7]);
    e.tilt = -xy / yy * e.half_width;
    e.lean = -xy * by_xx;
    e.a = level * by_xx;
    e.b = (xx * yy - xy * xy) * by_xx * by_xx;
    return e;
}

// The span along x of the parts of ellipses within BLOCK rows of pixels from `first` on. Returns
// which ellipses have such a part. Rounding makes spans larger, never smaller.
inline Mask span_in_strip(const Ellipses &e, Floats first, Floats &left, Floats &right) {
    const Floats low = larger(first - e.y, -e.half_height);
    const Floats high = smaller(first + float(BLOCK - 1) - e.y, e.half_height);
    const Floats at_right = smaller(larger(e.tilt, low), high);
    const Floats at_left = smaller(larger(-e.tilt, low), high);
    const Floats up = root(larger(e.a - e.b * at_right * at_right, Floats{}));
    const Floats down = root(larger(e.a - e.b * at_left * at_left, Floats{}));
    right = e.x + smaller(e.lean * at_right + up + 0.01f, e.half_width);
    left = e.x + larger(e.lean * at_left - down - 0.01f, -e.half_width);
    return at_least(high, low);
}

// The first pixel with its centre not below a place, and the last with its centre not above; `end`
// or -1 beyond the image.
inline Floats first_pixel(Floats place, int end) {
    return smaller(larger(-rounded_down(-place), Floats{}), fill(float(end)));
}
inline Floats last_pixel(Floats place, int end) {
    return smaller(larger(rounded_down(place), fill(-1.0f)), fill(float(end - 1)));
}
inline Floats block_of(Floats pixel) { return rounded_down(pixel * (1.0f / BLOCK)); }

// For each lane's splat, the blocks of an image that it meets, a row of tiles after the other.
struct Spans {
    int32_t first[LANES], end[LANES];  // rows of tiles
    int32_t column[LANES];             // the first column of tiles
    // Where the splat meets at most PAIR columns: the blocks of both tiles, [rows, PAIR, LANES].
    uint32_t narrow;  // a bit for each lane of which that is true
    int32_t *blocks;
    // The first and last block of each strip of blocks, NOWHERE and -1 where it meets none. Only
    // found where a lane is not narrow. [rows, ACROSS, LANES]
    int32_t *left, *right;
};
constexpr int PAIR = 2, NOWHERE = 1 << 29;

inline void store_ints(int32_t *p, Floats v) {
    const Ints whole = __builtin_convertvector(v, Ints);
    __builtin_memcpy(p, &whole, sizeof whole);
}

// 2 to the power of small whole numbers.
inline Floats power_of_two(Floats whole) {
    return (Floats)((__builtin_convertvector(whole, Ints) + 127) << 23);
}

inline void find_spans(const Ellipses &e, int width, int height, Spans &s) {
    const Floats first = rounded_down(first_pixel(e.y - e.half_height, height) * (1.0f / TILE));
    const Floats last = rounded_down(last_pixel(e.y + e.half_height, height) * (1.0f / TILE));
    const Floats column = rounded_down(first_pixel(e.x - e.half_width, width) * (1.0f / TILE));
    const Floats far = rounded_down(last_pixel(e.x + e.half_width, width) * (1.0f / TILE));
    store_ints(s.first, first), store_ints(s.end, last + 1.0f), store_ints(s.column, column);
    s.narrow = bits(above(column + float(PAIR), far));
    const bool all_narrow = s.narrow == (1u << LANES) - 1;
    int most = 0;
    for (int i = 0; i < LANES; ++i) {
        const int rows = s.end[i] - s.first[i];
        most = rows > most ? rows : most;
    }
    for (int row = 0; row < most; ++row) {
        Floats blocks[PAIR] = {};
        for (int k = 0; k < ACROSS; ++k) {
            const Floats top = (first + float(row)) * float(TILE) + float(k * BLOCK);
            Floats left, right;
            const Mask meets = span_in_strip(e, top, left, right);
            const Floats from = first_pixel(left, width), to = last_pixel(right, width);
            const Mask some = both(meets, at_least(to, from));
            const Floats from_block = block_of(from), to_block = block_of(to);
            // Bits `from` to `to` of the strip, those of the left tile first: at most 2^8, and
            // 2^16 with the strips before it, which floats hold exactly.
            const Floats start = column * float(ACROSS);
            const Floats strip = keep(
                some, power_of_two(to_block - start + 1.0f) - power_of_two(from_block - start));
            const Floats in_right = rounded_down(strip * (1.0f / (1 << ACROSS)));
            const float place = float(1 << (k * ACROSS));
            blocks[0] += place * (strip - in_right * float(1 << ACROSS));
            blocks[1] += place * in_right;
            if (all_narrow) continue;
            const int at = (row * ACROSS + k) * LANES;
            store_ints(s.left + at, choose(some, from_block, fill(float(NOWHERE))));
            store_ints(s.right + at, choose(some, to_block, fill(-1.0f)));
        }
        for (int c = 0; c < PAIR; ++c) store_ints(s.blocks + (row * PAIR + c) * LANES, blocks[c]);
    }
}

// The bits of blocks `left` to `right` of a row of blocks of a tile that begins at block `start`.
inline uint32_t bits_between(int left, int right, int start) {
    int from = left - start, to = right - start + 1;
    from = from < 0 ? 0 : from > ACROSS ? ACROSS : from;
    to = to < 0 ? 0 : to > ACROSS ? ACROSS : to;
    return ((1u << to) - 1) & ~((1u << from) - 1);
}

inline void append_cell(Cells &cells, uint32_t *counts, uint32_t tile, uint32_t blocks) {
    if (!blocks) return;
    cells.data[cells.count++] = {tile, blocks};
    ++counts[tile];
}

inline void make_room(Cells &cells, int count) {
    if (cells.count + uint32_t(count) > cells.capacity)
        cells.reserve(cells, 2 * cells.capacity + uint32_t(count));
}

// Appends the cells of a splat that meets few columns, lane i of the spans.
inline void append_narrow(const Tiles &t, int i, const Spans &spans, Cells &cells,
                          uint32_t *counts) {
    const int rows = spans.end[i] > spans.first[i] ? spans.end[i] - spans.first[i] : 0;
    make_room(cells, PAIR * rows);
    uint32_t tile = uint32_t(spans.first[i] * t.columns + spans.column[i]);
    const int32_t *blocks = spans.blocks + i;
    for (int row = 0; row < rows; ++row, tile += uint32_t(t.columns), blocks += PAIR * LANES)
        for (int c = 0; c < PAIR; ++c)
            append_cell(cells, counts, tile + c, uint32_t(blocks[c * LANES]));
}

// Appends the cells of any splat, lane i of the spans.
inline void append_wide(const Tiles &t, int i, const Spans &spans, Cells &cells, uint32_t *counts) {
    for (int row = spans.first[i]; row < spans.end[i]; ++row) {
        const int32_t *left = spans.left + (row - spans.first[i]) * ACROSS * LANES + i;
        const int32_t *right = spans.right + (left - spans.left);
        int leftmost = left[0], rightmost = right[0];
        for (int s = 1; s < ACROSS; ++s) {
            const int l = left[s * LANES], r = right[s * LANES];
            leftmost = l < leftmost ? l : leftmost;
            rightmost = r > rightmost ? r : rightmost;
        }
        if (rightmost < 0) continue;
        make_room(cells, t.columns);
        const int first = leftmost / ACROSS, last = rightmost / ACROSS;
        const uint32_t tile = uint32_t(row * t.columns);
        if (last - first >= 64 / ACROSS) {
            for (int column = first; column <= last; ++column) {
                uint32_t blocks = 0;
                for (int s = 0; s < ACROSS; ++s)
                    blocks |= bits_between(left[s * LANES], right[s * LANES], column * ACROSS)
                              << (s * ACROSS);
                append_cell(cells, counts, tile + column, blocks);
            }
            continue;
        }
        // A strip of so few tiles fits into a word, a bit for each block.
        uint64_t strips[ACROSS];
        for (int s = 0; s < ACROSS; ++s) {
            const int from = left[s * LANES] - first * ACROSS,
                      to = right[s * LANES] - first * ACROSS;
            const uint64_t some = -uint64_t(to >= from);
            strips[s] = some & (~0ull << (from & 63)) & (~0ull >> (63 - (to & 63)));
        }
        for (int column = first; column <= last; ++column) {
            uint32_t blocks = 0;
            for (int s = 0; s < ACROSS; ++s) {
                blocks |= uint32_t(strips[s] & ((1 << ACROSS) - 1)) << (s * ACROSS);
                strips[s] >>= ACROSS;
            }
            append_cell(cells, counts, tile + column, blocks);
        }
    }
}

}  // namespace

void list_cells(const Tiles &t, const Collected &c, int count, Cells &cells, uint32_t *counts,
                int32_t *scratch) {
    Spans spans;
    spans.blocks = scratch;
    spans.left = spans.blocks + PAIR * t.rows * LANES;
    spans.right = spans.left + ACROSS * t.rows * LANES;
    for (int from = 0; from < count; from += LANES) {
        const int here = count - from < LANES ? count - from : LANES;
        find_spans(ellipses_of(t, c.records + from, here), t.width, t.height, spans);
        for (int i = 0; i < here; ++i) {
            Record &r = c.records[from + i];
            r.first = cells.count;
            if (spans.narrow >> i & 1)
                append_narrow(t, i, spans, cells, counts);
            else
                append_wide(t, i, spans, cells, counts);
            r.count = cells.count - r.first;
        }
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
