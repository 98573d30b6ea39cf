// Which tiles a splat touches: exactly those that its ellipse of alpha >= ALPHA_MIN meets, not
// all of its box's.
#include <math.h>

#include "levels.h"
#include "scalar.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// The ellipse xx dx^2 + 2 xy dx dy + yy dy^2 <= level, with what its spans need.
struct Ellipse {
    float x, y, half_width, half_height;
    float tilt;  // dy of the rightmost point; the leftmost has -tilt
    float lean;  // dx of the middle of a row's span, per dy
    float a, b;  // a row's half span is sqrt(a - b dy^2)
    float left, right;
};

inline Ellipse ellipse_of(const Record &r) {
    // The record's form is that of log2(alpha): turn it back to one with a positive sign.
    const float xx = -r.xx, xy = -0.5f * r.xy, yy = -r.yy;
    const float level = r.log_opacity - LOG2_ALPHA_MIN;
    const float inverse = 1.0f / xx, determinant = xx * yy - xy * xy;
    Ellipse e;
    e.x = r.x, e.y = r.y;
    e.half_width = r.right - r.x;
    e.half_height = r.bottom - r.y;
    e.lean = -xy * inverse;
    e.tilt = -xy / yy * e.half_width;
    e.a = level * inverse;
    e.b = determinant * inverse * inverse;
    e.left = r.left, e.right = r.right;
    return e;
}

struct Span {
    int from, to;  // columns of tiles, to excluded
};

inline int clamp_tile(float pixel, int tiles) {
    // Clamped as a float first: a huge value has no int.
    const float tile = floorf(pixel * (1.0f / TILE));
    return int(clamped(tile, -1.0f, float(tiles)));
}

// The tiles that the ellipse meets in one row of tiles. Rounding errs to the larger span.
inline Span span_in_row(const Ellipse &e, int row, int columns) {
    const float low = larger(row * TILE - e.y, -e.half_height);
    const float high = lesser(row * TILE + (TILE - 1) - e.y, e.half_height);
    const float dy_right = clamped(e.tilt, low, high), dy_left = clamped(-e.tilt, low, high);
    const float half_right = sqrtf(larger(e.a - e.b * dy_right * dy_right, 0.0f));
    const float half_left = sqrtf(larger(e.a - e.b * dy_left * dy_left, 0.0f));
    const float right = lesser(e.x + e.lean * dy_right + half_right + 0.01f, e.right);
    const float left = larger(e.x + e.lean * dy_left - half_left - 0.01f, e.left);
    const int from = clamp_tile(ceilf(left), columns);
    const int to = clamp_tile(floorf(right), columns) + 1;
    return {from < 0 ? 0 : from, to > columns ? columns : to};
}

inline Span rows_of(const Record &r, int rows) {
    const int from = clamp_tile(ceilf(r.top), rows), to = clamp_tile(floorf(r.bottom), rows) + 1;
    return {from < 0 ? 0 : from, to > rows ? rows : to};
}

}  // namespace

void count_tiles(const Tiles &t, int64_t from, int64_t to, uint32_t *touched, uint32_t *counts) {
    for (int64_t i = from; i < to; ++i) {
        const Ellipse e = ellipse_of(t.record[i]);
        const Span rows = rows_of(t.record[i], t.rows);
        uint32_t total = 0;
        for (int row = rows.from; row < rows.to; ++row) {
            const Span span = span_in_row(e, row, t.columns);
            for (int column = span.from; column < span.to; ++column)
                ++counts[row * t.columns + column];
            total += span.to > span.from ? span.to - span.from : 0;
        }
        touched[i] = total;
    }
}

void fill_tiles(const Tiles &t, int64_t from, int64_t to, uint32_t *next) {
    for (int64_t i = from; i < to; ++i) {
        const Ellipse e = ellipse_of(t.record[i]);
        const Span rows = rows_of(t.record[i], t.rows);
        uint32_t slot = t.first[i];
        for (int row = rows.from; row < rows.to; ++row) {
            const Span span = span_in_row(e, row, t.columns);
            for (int column = span.from; column < span.to; ++column)
                t.entries[next[row * t.columns + column]++] = {uint32_t(i), slot++};
        }
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
