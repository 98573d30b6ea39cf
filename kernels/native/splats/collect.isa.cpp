// From splats to the records that the blending loops read, in one pass: projection, colours, and
// the records of splats in view, side by side.
#include <cstddef>

#include "common/levels.h"
#include "splats/splat_math.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Appends the visible lanes to the records; their colours come later. Returns how many.
inline int append(const Seen &s, const Footprint &f, const Scene &scene, int64_t first,
                  const Collected &out, int at) {
    constexpr int NUMBERS = sizeof(Record) / sizeof(float);
    const Ints index = __builtin_convertvector(iota(), Ints) + int32_t(first);
    // The numbers of a record in their order, zero for those that are not known yet. The centre of
    // the first pixel is 0 in records, and 0.5 elsewhere.
    Floats v[NUMBERS] = {
        f.center_x - 0.5f, f.center_y - 0.5f, FORM * f.conic_xx, MIXED_FORM * f.conic_xy,
        FORM * f.conic_yy, f.log_opacity,     f.extent_x,        f.extent_y};
    v[12] = f.opacity, v[13] = (Floats)index;
    static_assert(offsetof(Record, opacity) == 48 && offsetof(Record, index) == 52);
#pragma GCC unroll 4
    for (int from = 0; from < NUMBERS; from += LANES) transpose(v + from);
    alignas(64) float depths[LANES];
    store(depths, s.at.z);
    int added = 0;
    for (uint32_t lanes = bits(f.visible); lanes; lanes &= lanes - 1) {
        const int i = __builtin_ctz(lanes), n = at + added++;
        float *record = &out.records[n].x;
        for (int from = 0; from < NUMBERS; from += LANES) store(record + from, v[from + i]);
        const float *rest = scene.rest + 3 * scene.rest_count * (first + i);
        for (int k = 0; k < 3 * rest_of(scene.degree); k += 16) __builtin_prefetch(rest + k, 0, 2);
        __builtin_memcpy(out.depths + n, depths + i, 4);
    }
    return added;
}

}  // namespace

int collect(const Scene &scene, int64_t from, int64_t to, const Collected &out) {
    int count = 0;
    for (int64_t n = from; n < to; n += LANES) {
        const int here = to - n < LANES ? int(to - n) : LANES;
        int64_t index[LANES];
        for (int i = 0; i < LANES; ++i) index[i] = n + i;
        const Seen s = see(scene.view, scene.antialiased, load_shape(scene, index, here));
        Footprint f = footprint_of(scene.view, s);
        f.visible = both(f.visible, above(fill(float(here)), iota()));
        if (any(f.visible)) count += append(s, f, scene, n, out, count);
    }
    const int used = rest_of(scene.degree);
    int kept = 0;
    for (int n = 0; n < count; n += LANES) {
        const int here = count - n < LANES ? count - n : LANES;
        int64_t index[LANES] = {};
        for (int i = 0; i < here; ++i) index[i] = out.records[n + i].index;
        Floats mean[3], basis[REST], color[3];
        Coefficients coefficients;
        load_columns<3>(scene.means, index, here, 3, mean);
        load_coefficients(scene.base, scene.rest, used, scene.rest_count, index, here,
                          coefficients);
        basis_at(scene.degree, direction_to(mean, scene.position), basis);
        color_of(used, basis, coefficients, color);
        // A splat with a colour that is not finite is not in view: the records after it move up.
        const Floats none = (color[0] + color[1] + color[2]) * 0.0f;
        const uint32_t finite = bits(at_least(none, Floats{}));
        alignas(64) float values[3][LANES];
        for (int c = 0; c < 3; ++c) store(values[c], larger(color[c], Floats{}));
        for (int i = 0; i < here; ++i) {
            if (!(finite >> i & 1)) continue;
            Record &r = out.records[kept];
            if (kept < n + i) r = out.records[n + i], out.depths[kept] = out.depths[n + i];
            for (int c = 0; c < 3; ++c) r.features[c] = values[c][i];
            ++kept;
        }
    }
    return kept;
}

void records_of_rows(const RecordRows &rows, int64_t from, int64_t to, const Collected &out) {
    for (int64_t n = from; n < to; n += LANES) {
        const int here = to - n < LANES ? int(to - n) : LANES;
        int64_t place[LANES];
        for (int i = 0; i < LANES; ++i) place[i] = n + i;
        Floats v[ROW];
        load_columns<ROW>(rows.numbers, place, here, ROW, v);
        alignas(64) float log_opacity[LANES];
        store(log_opacity, log2_fast(larger(v[5], fill(1e-30f))));
        for (int i = 0; i < here; ++i) {
            const float *row = rows.numbers + (n + i) * ROW;
            Record r{};
            r.x = row[0] - 0.5f, r.y = row[1] - 0.5f;
            r.xx = FORM * row[2], r.xy = MIXED_FORM * row[3], r.yy = FORM * row[4];
            r.log_opacity = log_opacity[i], r.opacity = row[5];
            for (int c = 0; c < 3; ++c) r.features[c] = row[6 + c];
            r.half_width = row[10], r.half_height = row[11];
            r.index = rows.index[n + i];
            out.records[n - from + i] = r;
            __builtin_memcpy(out.depths + (n - from + i), row + 9, 4);
        }
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
