// From splats to what the blending loops read, in one pass: projection, colours, and records of
// those that are seen, side by side.
#include "levels.h"
#include "splat_math.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Appends the visible lanes to the records; their colours come later. Returns how many.
inline int append(const Seen &s, const Footprint &f, const Harmonics &h, int64_t first,
                  const Collected &out, int at) {
    constexpr float LOG2E = 1.44269504f;
    enum { X, Y, XX, XY, YY, LOG, WIDTH, HEIGHT, OPACITY, DEPTH, COLUMNS };
    alignas(64) float v[COLUMNS][LANES];
    // The centre of the first pixel is 0 in records, and 0.5 elsewhere.
    store(v[X], f.center_x - 0.5f), store(v[Y], f.center_y - 0.5f);
    store(v[XX], -0.5f * LOG2E * f.conic_xx), store(v[XY], -LOG2E * f.conic_xy);
    store(v[YY], -0.5f * LOG2E * f.conic_yy), store(v[LOG], f.log_opacity);
    store(v[WIDTH], f.extent_x), store(v[HEIGHT], f.extent_y);
    store(v[OPACITY], f.opacity), store(v[DEPTH], s.z);
    int added = 0;
    for (uint32_t lanes = bits(f.visible); lanes; lanes &= lanes - 1) {
        const int i = __builtin_ctz(lanes), n = at + added++;
        Record &r = out.records[n];
        r.x = v[X][i], r.y = v[Y][i], r.xx = v[XX][i], r.xy = v[XY][i], r.yy = v[YY][i];
        r.log_opacity = v[LOG][i];
        r.half_width = v[WIDTH][i], r.half_height = v[HEIGHT][i];
        r.opacity = v[OPACITY][i];
        r.index = int32_t(first + i);
        const float *rest = h.rest + 3 * h.rest_count * (first + i);
        for (int k = 0; k < 3 * rest_of(h.degree); k += 16) __builtin_prefetch(rest + k);
        __builtin_memcpy(out.depths + n, &v[DEPTH][i], 4);
    }
    return added;
}

}  // namespace

int collect(const Project &p, const Harmonics &h, int64_t from, int64_t to, const Collected &out) {
    int count = 0;
    for (int64_t n = from; n < to; n += LANES) {
        const int here = to - n < LANES ? int(to - n) : LANES;
        int64_t index[LANES];
        for (int i = 0; i < LANES; ++i) index[i] = n + i;
        const Seen s = see(p.view, p.antialiased, load_shape(p, index, here));
        Footprint f = footprint_of(p.view, s);
        f.visible = both(f.visible, above(fill(float(here)), iota()));
        if (any(f.visible)) count += append(s, f, h, n, out, count);
    }
    const int used = rest_of(h.degree);
    for (int n = 0; n < count; n += LANES) {
        const int here = count - n < LANES ? count - n : LANES;
        int64_t index[LANES] = {};
        for (int i = 0; i < here; ++i) index[i] = out.records[n + i].index;
        Floats mean[3], basis[REST], color[3];
        Coefficients coefficients;
        load_columns<3>(p.means, index, here, 3, mean);
        load_coefficients(h.base, h.rest, used, h.rest_count, index, here, coefficients);
        basis_at(h.degree, direction_to(mean, h.position), basis);
        color_of(used, basis, coefficients, color);
        alignas(64) float values[3][LANES];
        for (int c = 0; c < 3; ++c) store(values[c], color[c]);
        for (int i = 0; i < here; ++i)
            for (int c = 0; c < 3; ++c) out.records[n + i].features[c] = values[c][i];
    }
    return count;
}

}  // namespace lumigraph::LUMIGRAPH_ISA
