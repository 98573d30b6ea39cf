// Splats to footprints on the image plane and to the colours they show, and back.
#include "common/levels.h"
#include "splats/splat_math.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// The next splats of a loop.
inline Group group_at(int64_t from, int64_t end) {
    Group g;
    g.count = end - from < LANES ? int(end - from) : LANES;
    for (int i = 0; i < LANES; ++i) g.index[i] = from + i;
    return g;
}

inline int64_t groups_of(int64_t splats) { return (splats + LANES - 1) / LANES; }

// Writes columns to consecutive rows.
template <int COLUMNS>
inline void store_rows(const Floats *columns, const Group &g, float *rows, int64_t stride) {
    alignas(64) float values[COLUMNS][LANES];
    for (int c = 0; c < COLUMNS; ++c) store(values[c], columns[c]);
    float *out = rows + g.index[0] * stride;
    for (int i = 0; i < g.count; ++i)
        for (int c = 0; c < COLUMNS; ++c) out[i * stride + c] = values[c][i];
}

inline void project_group(const Project &p, const Group &g) {
    const Seen s = see(p.view, p.antialiased, load_shape(p, g.index, g.count));
    const Footprint f = footprint_of(p.view, s);
    const Floats center[2] = {keep(f.visible, f.center_x), keep(f.visible, f.center_y)};
    const Floats conic[3] = {keep(f.visible, f.conic_xx), keep(f.visible, f.conic_xy),
                             keep(f.visible, f.conic_yy)};
    const Floats opacity = keep(f.visible, f.opacity), depth = keep(f.visible, s.z);
    const Floats extent[2] = {keep(f.visible, f.extent_x), keep(f.visible, f.extent_y)};
    store_rows<2>(center, g, p.centers, 2);
    store_rows<3>(conic, g, p.conics, 3);
    store_rows<1>(&opacity, g, p.opacities, 1);
    store_rows<1>(&depth, g, p.depths, 1);
    store_rows<2>(extent, g, p.extents, 2);
}

inline void project_group_backward(const Project &p, const ProjectGradient &g, const Group &group) {
    Floats extent[2], center[2], conic[3];
    FootprintGradient d;
    load_columns<2>(p.extents, group.index, group.count, 2, extent);
    const Mask visible = above(extent[0], Floats{});
    ShapeGradient out{};
    if (any(visible)) {
        load_columns<2>(g.centers, group.index, group.count, 2, center);
        load_columns<3>(g.conics, group.index, group.count, 3, conic);
        load_columns<1>(g.opacities, group.index, group.count, 1, &d.opacity);
        load_columns<1>(g.depths, group.index, group.count, 1, &d.depth);
        d.center_x = center[0], d.center_y = center[1];
        d.conic_xx = conic[0], d.conic_xy = conic[1], d.conic_yy = conic[2];
        const Seen s = see(p.view, p.antialiased, load_shape(p, group.index, group.count));
        out = through_projection(p.view, s, through_conic(p.antialiased, s, d), d.opacity);
        for (Floats &x : out.mean) x = keep(visible, x);
        for (Floats &x : out.quaternion) x = keep(visible, x);
        for (Floats &x : out.log_scale) x = keep(visible, x);
        out.opacity_logit = keep(visible, out.opacity_logit);
    }
    store_rows<3>(out.mean, group, g.means, 3);
    store_rows<4>(out.quaternion, group, g.quaternions, 4);
    store_rows<3>(out.log_scale, group, g.log_scales, 3);
    store_rows<1>(&out.opacity_logit, group, g.opacity_logits, 1);
}

// Lanes of splats that are to be seen; all where there is no list.
inline Mask wanted(const Harmonics &h, const Group &g) {
    alignas(64) float flags[LANES] = {};
    for (int i = 0; i < g.count; ++i) flags[i] = !h.visible || h.visible[g.index[i]] ? 1.0f : 0.0f;
    return above(load(flags), Floats{});
}

inline void shade(const Harmonics &h, const Group &g) {
    const Mask visible = wanted(h, g);
    Floats color[3] = {}, mean[3], basis[REST];
    if (any(visible)) {
        const int used = rest_of(h.degree);
        Coefficients coefficients;
        load_columns<3>(h.means, g.index, g.count, 3, mean);
        load_coefficients(h.base, h.rest, used, h.rest_count, g.index, g.count, coefficients);
        basis_at(h.degree, direction_to(mean, h.position), basis);
        color_of(used, basis, coefficients, color);
        for (Floats &c : color) c = keep(visible, larger(c, Floats{}));
    }
    store_rows<3>(color, g, h.colors, 3);
}

inline void shade_backward(const Harmonics &h, const HarmonicsGradient &g, const Group &group) {
    const Mask visible = wanted(h, group);
    Floats base[3] = {}, d_mean[3] = {};
    alignas(64) float rest[3 * REST][LANES] = {};
    const int used = rest_of(h.degree);
    if (any(visible)) {
        Floats mean[3], basis[REST], along[REST], color[3], gradient[3];
        Coefficients coefficients;
        load_columns<3>(h.means, group.index, group.count, 3, mean);
        load_coefficients(h.base, h.rest, used, h.rest_count, group.index, group.count,
                          coefficients);
        load_columns<3>(h.colors, group.index, group.count, 3, color);
        load_columns<3>(g.colors, group.index, group.count, 3, gradient);
        const Direction direction = direction_to(mean, h.position);
        basis_at(h.degree, direction, basis);
        // A colour that was clamped at zero does not change.
        for (int c = 0; c < 3; ++c) {
            gradient[c] = keep(both(visible, above(color[c], Floats{})), gradient[c]);
            base[c] = C0 * gradient[c];
        }
        for (int k = 0; k < used; ++k) {
            const Floats *row = coefficients.rest[k];
            along[k] = gradient[0] * row[0] + gradient[1] * row[1] + gradient[2] * row[2];
            for (int c = 0; c < 3; ++c) store(rest[3 * k + c], basis[k] * gradient[c]);
        }
        through_direction(h.degree, direction, along, d_mean);
        for (Floats &x : d_mean) x = keep(visible, x);
    }
    store_rows<3>(d_mean, group, g.means, 3);
    store_rows<3>(base, group, g.base, 3);
    for (int i = 0; i < group.count; ++i) {
        float *out = g.rest + 3 * h.rest_count * group.index[i];
        for (int k = 0; k < 3 * used; ++k) out[k] = rest[k][i];
        for (int k = 3 * used; k < 3 * h.rest_count; ++k) out[k] = 0;
    }
}

// Below this many splats one thread is done before the others have woken.
constexpr int64_t FEW = 1 << 11;

}  // namespace

void project(const Project &p) {
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.splats > FEW)
    for (int64_t n = 0; n < groups_of(p.splats); ++n)
        project_group(p, group_at(n * LANES, p.splats));
}

void project_backward(const Project &p, const ProjectGradient &g) {
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.splats > FEW)
    for (int64_t n = 0; n < groups_of(p.splats); ++n)
        project_group_backward(p, g, group_at(n * LANES, p.splats));
}

void harmonics(const Harmonics &h) {
#pragma omp parallel for schedule(static) num_threads(h.threads) if (h.splats > FEW)
    for (int64_t n = 0; n < groups_of(h.splats); ++n) shade(h, group_at(n * LANES, h.splats));
}

void harmonics_backward(const Harmonics &h, const HarmonicsGradient &g) {
#pragma omp parallel for schedule(static) num_threads(h.threads) if (h.splats > FEW)
    for (int64_t n = 0; n < groups_of(h.splats); ++n)
        shade_backward(h, g, group_at(n * LANES, h.splats));
}

}  // namespace lumigraph::LUMIGRAPH_ISA
