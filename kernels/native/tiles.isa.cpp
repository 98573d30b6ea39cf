// Which tiles a splat touches, and in which of their rows: exactly those that its ellipse of
// alpha >= ALPHA_MIN meets, not all of its box's. A vector holds as many splats as it has lanes.
#include "levels.h"
#include "simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Ellipses as seen along one axis u of the image: with v the other axis, the points of a given v
// reach from lean v - sqrt(a - b v^2) to lean v + sqrt(a - b v^2) around the centre.
struct Axis {
    Floats u, v, half_u, half_v;  // centres and half extents
    Floats tilt;                  // v of the point of largest u; that of the smallest has -tilt
    Floats lean, a, b;
};

// The span in u of the parts of ellipses within a strip of TILE pixels from v = `first` on.
// Rounding errs to the larger span.
inline void span_in_strip(const Axis &e, Floats first, Floats &low_u, Floats &high_u) {
    const Floats low = larger(first - e.v, -e.half_v);
    const Floats high = smaller(first + float(TILE - 1) - e.v, e.half_v);
    const Floats at_high = smaller(larger(e.tilt, low), high);
    const Floats at_low = smaller(larger(-e.tilt, low), high);
    const Floats up = root(larger(e.a - e.b * at_high * at_high, Floats{}));
    const Floats down = root(larger(e.a - e.b * at_low * at_low, Floats{}));
    high_u = e.u + smaller(e.lean * at_high + up + 0.01f, e.half_u);
    low_u = e.u + larger(e.lean * at_low - down - 0.01f, -e.half_u);
}

// Pixels of centres not below, or not above, a place; -1 or `end` where they leave the image.
inline Floats first_pixel(Floats place, int end) {
    return smaller(larger(-rounded_down(-place), Floats{}), fill(float(end)));
}
inline Floats last_pixel(Floats place, int end) {
    return smaller(larger(rounded_down(place), fill(-1.0f)), fill(float(end - 1)));
}
inline Floats tile_of(Floats pixel) { return rounded_down(pixel * (1.0f / TILE)); }

// For the k-th strip of each lane's splat, where the splat begins and ends in it.
struct Spans {
    int32_t *low, *high;  // [strips, LANES]
    int32_t first[LANES], count[LANES];
};

inline void store_ints(int32_t *p, Floats v) {
    const Ints whole = __builtin_convertvector(v, Ints);
    __builtin_memcpy(p, &whole, sizeof whole);
}

// Spans of all strips across v that the splats meet. `end_u` and `end_v` are pixels of the image.
inline void find_spans(const Axis &e, int end_u, int end_v, Spans &s) {
    const Floats first = tile_of(first_pixel(e.v - e.half_v, end_v));
    const Floats last = tile_of(last_pixel(e.v + e.half_v, end_v));
    int32_t ends[LANES];
    store_ints(s.first, first);
    store_ints(ends, last);
    int most = 0;
    for (int i = 0; i < LANES; ++i) {
        s.count[i] = ends[i] - s.first[i] + 1;
        most = s.count[i] > most ? s.count[i] : most;
    }
    for (int k = 0; k < most; ++k) {
        Floats low, high;
        span_in_strip(e, (first + float(k)) * float(TILE), low, high);
        store_ints(s.low + k * LANES, first_pixel(low, end_u));
        store_ints(s.high + k * LANES, last_pixel(high, end_u));
    }
}

// The ellipses of some records seen along x, and along y.
inline void axes_of(const Collected &c, int from, int count, Axis &x, Axis &y) {
    alignas(64) float columns[7][LANES] = {};
    for (int i = 0; i < LANES; ++i) {
        const Record &r = c.records[from + (i < count ? i : 0)];
        columns[0][i] = r.x, columns[1][i] = r.y;
        columns[2][i] = -r.xx, columns[3][i] = -0.5f * r.xy, columns[4][i] = -r.yy;
        columns[5][i] = r.log_opacity - LOG2_ALPHA_MIN;
        columns[6][i] = r.right - r.x;
    }
    alignas(64) float heights[LANES];
    for (int i = 0; i < LANES; ++i) heights[i] = c.half_heights[from + (i < count ? i : 0)];
    const Floats xx = load(columns[2]), xy = load(columns[3]), yy = load(columns[4]);
    const Floats level = load(columns[5]), determinant = xx * yy - xy * xy;
    const Floats by_xx = 1.0f / xx, by_yy = 1.0f / yy;
    x.u = y.v = load(columns[0]);
    x.v = y.u = load(columns[1]);
    x.half_u = y.half_v = load(columns[6]);
    x.half_v = y.half_u = load(heights);
    x.lean = -xy * by_xx, y.lean = -xy * by_yy;
    x.tilt = -xy * by_yy * x.half_u, y.tilt = -xy * by_xx * y.half_u;
    x.a = level * by_xx, y.a = level * by_yy;
    x.b = determinant * by_xx * by_xx, y.b = determinant * by_yy * by_yy;
}

// Appends the cells of one record: lane i of spans across rows and across columns of tiles.
inline void append_cells(const Tiles &t, Record &r, int i, const Spans &across, const Spans &down,
                         Cells &cells, uint32_t *counts) {
    r.first = cells.count;
    for (int k = 0; k < across.count[i]; ++k) {
        const int row = across.first[i] + k, y = row * TILE;
        const int left = across.low[k * LANES + i], right = across.high[k * LANES + i];
        if (left > right) continue;
        const int end = right / TILE;
        if (cells.count + uint32_t(t.columns) > cells.capacity)
            cells.reserve(cells, 2 * cells.capacity + uint32_t(t.columns));
        for (int column = left / TILE; column <= end; ++column) {
            const int at = (column - down.first[i]) * LANES + i;
            const int low = down.low[at] - y, high = down.high[at] - y;
            const int from = low > 0 ? low : 0, to = high < TILE - 1 ? high : TILE - 1;
            if (from > to) continue;
            const uint32_t tile = uint32_t(row * t.columns + column);
            cells.data[cells.count++] = {tile, uint16_t(from), uint16_t(to)};
            ++counts[tile];
        }
    }
    r.count = cells.count - r.first;
}

}  // namespace

void list_cells(const Tiles &t, const Collected &c, int count, Cells &cells, uint32_t *counts,
                int32_t *scratch) {
    Spans across, down;
    across.low = scratch, across.high = across.low + t.rows * LANES;
    down.low = across.high + t.rows * LANES, down.high = down.low + t.columns * LANES;
    for (int from = 0; from < count; from += LANES) {
        const int here = count - from < LANES ? count - from : LANES;
        Axis x, y;
        axes_of(c, from, here, x, y);
        find_spans(x, t.width, t.height, across);
        find_spans(y, t.height, t.width, down);
        for (int i = 0; i < here; ++i)
            append_cells(t, c.records[from + i], i, across, down, cells, counts);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
