// Which tiles a splat touches, and which of their blocks: exactly those that its ellipse of
// alpha >= ALPHA_MIN meets, not all of its box's. A vector holds as many splats as it has lanes.
#include <limits.h>

#include "levels.h"
#include "simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int ACROSS = TILE / BLOCK;  // blocks along a tile's side

// Ellipses, and what their spans need: at a height dy from the centre they reach from
// lean dy - sqrt(a - b dy^2) to lean dy + sqrt(a - b dy^2).
struct Ellipses {
    Floats x, y, half_width, half_height;
    Floats tilt;  // dy of the rightmost point; the leftmost has -tilt
    Floats lean, a, b;
};

inline Ellipses ellipses_of(const Record *records, int count) {
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
    e.x = load(columns[0]), e.y = load(columns[1]);
    e.half_width = load(columns[6]), e.half_height = load(columns[7]);
    e.tilt = -xy / yy * e.half_width;
    e.lean = -xy * by_xx;
    e.a = level * by_xx;
    e.b = (xx * yy - xy * xy) * by_xx * by_xx;
    return e;
}

// From where to where along x the parts of ellipses within BLOCK rows of pixels from `first` on
// reach. Rounding errs to the larger span.
inline void span_in_strip(const Ellipses &e, Floats first, Floats &left, Floats &right) {
    const Floats low = larger(first - e.y, -e.half_height);
    const Floats high = smaller(first + float(BLOCK - 1) - e.y, e.half_height);
    const Floats at_right = smaller(larger(e.tilt, low), high);
    const Floats at_left = smaller(larger(-e.tilt, low), high);
    const Floats up = root(larger(e.a - e.b * at_right * at_right, Floats{}));
    const Floats down = root(larger(e.a - e.b * at_left * at_left, Floats{}));
    right = e.x + smaller(e.lean * at_right + up + 0.01f, e.half_width);
    left = e.x + larger(e.lean * at_left - down - 0.01f, -e.half_width);
}

// Pixels of centres not below, or not above, a place; `end` or -1 where they leave the image.
inline Floats first_pixel(Floats place, int end) {
    return smaller(larger(-rounded_down(-place), Floats{}), fill(float(end)));
}
inline Floats last_pixel(Floats place, int end) {
    return smaller(larger(rounded_down(place), fill(-1.0f)), fill(float(end - 1)));
}
inline Floats block_of(Floats pixel) { return rounded_down(pixel * (1.0f / BLOCK)); }

// For the k-th strip of blocks of each lane's splat, its first and last block; none if these are
// the wrong way round.
struct Spans {
    int32_t *left, *right;  // [strips, LANES]
    int32_t first[LANES], count[LANES];
};

inline void store_ints(int32_t *p, Floats v) {
    const Ints whole = __builtin_convertvector(v, Ints);
    __builtin_memcpy(p, &whole, sizeof whole);
}

inline void find_spans(const Ellipses &e, int width, int height, Spans &s) {
    const Floats first = block_of(first_pixel(e.y - e.half_height, height));
    const Floats last = block_of(last_pixel(e.y + e.half_height, height));
    int32_t ends[LANES];
    store_ints(s.first, first);
    store_ints(ends, last);
    int most = 0;
    for (int i = 0; i < LANES; ++i) {
        s.count[i] = ends[i] - s.first[i] + 1;
        most = s.count[i] > most ? s.count[i] : most;
    }
    for (int k = 0; k < most; ++k) {
        Floats left, right;
        span_in_strip(e, (first + float(k)) * float(BLOCK), left, right);
        const Floats from = first_pixel(left, width), to = last_pixel(right, width);
        const Floats block = block_of(from);
        store_ints(s.left + k * LANES, block);
        store_ints(s.right + k * LANES, choose(above(from, to), block - 1.0f, block_of(to)));
    }
}

// The bits of blocks `left` to `right` of a row of blocks of a tile that begins at block `start`.
inline uint32_t bits_between(int left, int right, int start) {
    int from = left - start, to = right - start + 1;
    from = from < 0 ? 0 : from > ACROSS ? ACROSS : from;
    to = to < 0 ? 0 : to > ACROSS ? ACROSS : to;
    return ((1u << to) - 1) & ~((1u << from) - 1);
}

// Appends the cells of one record, lane i of the spans.
inline void append_cells(const Tiles &t, Record &r, int i, const Spans &spans, Cells &cells,
                         uint32_t *counts) {
    r.first = cells.count;
    const int first = spans.first[i], end = first + spans.count[i];
    for (int row = first / ACROSS; row * ACROSS < end; ++row) {
        int left[ACROSS], right[ACROSS], leftmost = INT_MAX, rightmost = -1;
        for (int s = 0; s < ACROSS; ++s) {
            const int strip = row * ACROSS + s, at = (strip - first) * LANES + i;
            const bool inside = strip >= first && strip < end;
            left[s] = inside ? spans.left[at] : INT_MAX / 2;
            right[s] = inside ? spans.right[at] : -1;
            if (left[s] > right[s]) continue;
            leftmost = left[s] < leftmost ? left[s] : leftmost;
            rightmost = right[s] > rightmost ? right[s] : rightmost;
        }
        if (rightmost < 0) continue;
        if (cells.count + uint32_t(t.columns) > cells.capacity)
            cells.reserve(cells, 2 * cells.capacity + uint32_t(t.columns));
        for (int column = leftmost / ACROSS; column <= rightmost / ACROSS; ++column) {
            uint32_t blocks = 0;
            for (int s = 0; s < ACROSS; ++s)
                blocks |= bits_between(left[s], right[s], column * ACROSS) << (s * ACROSS);
            if (!blocks) continue;
            const uint32_t tile = uint32_t(row * t.columns + column);
            cells.data[cells.count++] = {tile, blocks};
            ++counts[tile];
        }
    }
    r.count = cells.count - r.first;
}

}  // namespace

void list_cells(const Tiles &t, const Collected &c, int count, Cells &cells, uint32_t *counts,
                int32_t *scratch) {
    Spans spans;
    spans.left = scratch, spans.right = scratch + ACROSS * t.rows * LANES;
    for (int from = 0; from < count; from += LANES) {
        const int here = count - from < LANES ? count - from : LANES;
        find_spans(ellipses_of(c.records + from, here), t.width, t.height, spans);
        for (int i = 0; i < here; ++i)
            append_cells(t, c.records[from + i], i, spans, cells, counts);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
