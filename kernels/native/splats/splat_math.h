// Splats to footprints on the image plane, and back, for as many splats as a vector has lanes.
// The formulas are those of reference.py's project and harmonics; the gradients follow them line by
// line, last line first. Only for *.isa.cpp files.
#pragma once

#include "splats/harmonics.h"
#include "splats/lens.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// The splats in the lanes of a vector: rows of the caller's tensors, in ascending order.
struct Group {
    int64_t index[LANES];
    int count;
};

// The splats of some records, and the colours they show.
inline Group group_of(const Record *records, int count, Floats *shown) {
    Group g;
    g.count = count;
    alignas(64) float colors[3][LANES];
    for (int i = 0; i < LANES; ++i) {
        const Record &r = records[i < count ? i : 0];
        g.index[i] = r.index;
        for (int c = 0; c < 3; ++c) colors[c][i] = r.features[c];
    }
    for (int c = 0; c < 3; ++c) shown[c] = load(colors[c]);
    return g;
}

// The parameters of place, size, rotation and opacity.
struct Shape {
    Floats mean[3], quaternion[4], log_scale[3], opacity_logit;
};

inline Shape load_shape(const Scene &p, const int64_t *index, int count) {
    Shape s;
    load_columns<3>(p.means, index, count, 3, s.mean);
    load_columns<4>(p.quaternions, index, count, 4, s.quaternion);
    load_columns<3>(p.log_scales, index, count, 3, s.log_scale);
    load_columns<1>(p.opacity_logits, index, count, 1, &s.opacity_logit);
    return s;
}

// Projected splats: the numbers that the forward pass and the gradients need.
struct Seen {
    Placed at;
    Floats w, i, j, k, inverse_length;  // unit quaternion, and one over its length before
    Vec rotation[3];                    // rows of the splat's rotation
    Vec scales;
    Vec axes[3];       // rows of W R S
    Vec row_x, row_y;  // of J W R S
    Floats xx, xy, yy, sharp, determinant;
    Floats opacity, filter;  // the sigmoid, and the factor of the antialiased filter
};

inline Seen see(const View &view, bool antialiased, const Shape &p) {
    // The mean in the camera's frame, and on the image plane.
    Seen s;
    const float *m = view.matrix;
    const auto turned = [&](int r) {
        return m[4 * r] * p.mean[0] + m[4 * r + 1] * p.mean[1] + m[4 * r + 2] * p.mean[2] +
               m[4 * r + 3];
    };
    s.at = Lens::place(view, turned(0), turned(1), turned(2));

    // The rotation of a quaternion of any length, and the axes W R S.
    const Floats *q = p.quaternion;
    const Floats length = root(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    s.inverse_length = 1.0f / larger(length, fill(1e-12f));
    const Floats w = s.w = q[0] * s.inverse_length, i = s.i = q[1] * s.inverse_length;
    const Floats j = s.j = q[2] * s.inverse_length, k = s.k = q[3] * s.inverse_length;
    s.rotation[0] = {1 - 2 * (j * j + k * k), 2 * (i * j - w * k), 2 * (i * k + w * j)};
    s.rotation[1] = {2 * (i * j + w * k), 1 - 2 * (i * i + k * k), 2 * (j * k - w * i)};
    s.rotation[2] = {2 * (i * k - w * j), 2 * (j * k + w * i), 1 - 2 * (i * i + j * j)};
    s.scales = {exp_fast(p.log_scale[0]), exp_fast(p.log_scale[1]), exp_fast(p.log_scale[2])};
    for (int r = 0; r < 3; ++r) {
        const Vec row =
            m[4 * r] * s.rotation[0] + m[4 * r + 1] * s.rotation[1] + m[4 * r + 2] * s.rotation[2];
        s.axes[r] = {row.x * s.scales.x, row.y * s.scales.y, row.z * s.scales.z};
    }

    // The covariance on the image plane, with blur; its determinant without blur by Cauchy-Binet.
    Lens::rows(view, s.at, s.axes, s.row_x, s.row_y);
    s.xx = dot(s.row_x, s.row_x) + BLUR;
    s.xy = dot(s.row_x, s.row_y);
    s.yy = dot(s.row_y, s.row_y) + BLUR;
    const Vec normal = cross(s.row_x, s.row_y);
    s.sharp = dot(normal, normal);
    s.determinant = s.sharp + BLUR * (s.xx + s.yy - BLUR);

    // The opacity, and the antialiased filter.
    s.opacity = 1.0f / (1.0f + exp_fast(-p.opacity_logit));
    s.filter = antialiased ? root(larger(s.sharp / s.determinant, fill(1e-8f))) : fill(1.0f);
    return s;
}

// The footprints of splats on the image plane.
struct Footprint {
    Mask visible;
    Floats center_x, center_y, conic_xx, conic_xy, conic_yy, opacity, log_opacity;
    Floats extent_x, extent_y;
};

inline Footprint footprint_of(const View &view, const Seen &s) {
    constexpr float LN2 = 0.69314718f;
    Footprint f;
    f.opacity = s.opacity * s.filter;
    f.center_x = s.at.center_x, f.center_y = s.at.center_y;
    f.log_opacity = log2_fast(larger(f.opacity, fill(1e-30f)));
    const Floats reach = 2 * LN2 * (f.log_opacity - LOG2_ALPHA_MIN);
    f.extent_x = root(larger(reach * s.xx, Floats{}));
    f.extent_y = root(larger(reach * s.yy, Floats{}));
    // Written so that a NaN anywhere makes it false.
    const Mask finite = both(above(reach, Floats{}), above(fill(INFINITY), s.determinant));
    const Mask across = both(above(f.center_x + f.extent_x, Floats{}),
                             above(fill(float(view.width)), f.center_x - f.extent_x));
    const Mask down = both(above(f.center_y + f.extent_y, Floats{}),
                           above(fill(float(view.height)), f.center_y - f.extent_y));
    f.visible = both(both(s.at.in_front, finite), both(across, down));
    const Floats inverse = 1.0f / s.determinant;
    f.conic_xx = s.yy * inverse;
    f.conic_xy = -s.xy * inverse;
    f.conic_yy = s.xx * inverse;
    return f;
}

// The gradient of a loss by footprints, and by the parameters behind them.
struct FootprintGradient {
    Floats center_x, center_y, conic_xx, conic_xy, conic_yy, opacity, depth;
};
struct ShapeGradient {
    Floats mean[3], quaternion[4], log_scale[3], opacity_logit;
};

// The gradient by the unnormalised quaternion, from that by the rotation (rows).
inline void through_rotation(const Seen &s, const Vec d[3], Floats *out) {
    const Floats w = s.w, x = s.i, y = s.j, z = s.k;
    const Floats across = d[1].x + d[0].y, along = d[2].x + d[0].z, up = d[2].y + d[1].z;
    const Floats turn_x = d[2].y - d[1].z, turn_y = d[0].z - d[2].x, turn_z = d[1].x - d[0].y;
    const Floats g[4] = {
        2 * (x * turn_x + y * turn_y + z * turn_z),
        2 * (-2 * x * (d[1].y + d[2].z) + y * across + z * along + w * turn_x),
        2 * (x * across - 2 * y * (d[0].x + d[2].z) + z * up + w * turn_y),
        2 * (x * along + y * up - 2 * z * (d[0].x + d[1].y) + w * turn_z),
    };
    // Through the normalisation: a change along the quaternion changes nothing.
    const Floats radial = g[0] * w + g[1] * x + g[2] * y + g[3] * z;
    out[0] = s.inverse_length * (g[0] - radial * w);
    out[1] = s.inverse_length * (g[1] - radial * x);
    out[2] = s.inverse_length * (g[2] - radial * y);
    out[3] = s.inverse_length * (g[3] - radial * z);
}

// The gradient by the centre, the blurred covariance, and the determinant of that without blur.
struct CovarianceGradient {
    Floats center_x, center_y, depth, xx, xy, yy, sharp;
};

// Adds the gradient of an opacity through the antialiased filter.
inline void through_filter(const Seen &s, Floats opacity, CovarianceGradient &d) {
    const Floats inverse = 1.0f / s.determinant;
    const Floats d_ratio =
        keep(above(s.filter, fill(1e-4f)), opacity * s.opacity * 0.5f / s.filter);
    const Floats slope = -s.sharp * inverse * inverse * BLUR;
    d.sharp += d_ratio * (s.determinant - s.sharp) * inverse * inverse;
    d.xx += d_ratio * slope;
    d.yy += d_ratio * slope;
}

inline PlaneGradient through_plane(const View &view, const Seen &s, const CovarianceGradient &g) {
    // Covariance to the rows of J W R S.
    const Vec normal = cross(s.row_x, s.row_y);
    const Vec by_row_x =
        (2 * g.xx) * s.row_x + g.xy * s.row_y + (2 * g.sharp) * cross(s.row_y, normal);
    const Vec by_row_y =
        (2 * g.yy) * s.row_y + g.xy * s.row_x + (2 * g.sharp) * cross(normal, s.row_x);
    return Lens::back(view, s.at, s.axes, s.row_x, s.row_y, g.center_x, g.center_y, g.depth,
                      by_row_x, by_row_y);
}

// All but the opacity logit.
inline ShapeGradient through_covariance(const View &view, const Seen &s,
                                        const CovarianceGradient &g) {
    ShapeGradient out;
    const float *m = view.matrix;
    const PlaneGradient d = through_plane(view, s, g);
    for (int r = 0; r < 3; ++r)
        out.mean[r] = m[r] * d.point.x + m[4 + r] * d.point.y + m[8 + r] * d.point.z;

    // W R S to rotation and scales.
    Vec d_rotation[3];
    for (Floats &scale : out.log_scale) scale = Floats{};
    for (int r = 0; r < 3; ++r) {
        const Vec row = m[r] * d.axes[0] + m[4 + r] * d.axes[1] + m[8 + r] * d.axes[2];
        d_rotation[r] = {row.x * s.scales.x, row.y * s.scales.y, row.z * s.scales.z};
        out.log_scale[0] += d_rotation[r].x * s.rotation[r].x;
        out.log_scale[1] += d_rotation[r].y * s.rotation[r].y;
        out.log_scale[2] += d_rotation[r].z * s.rotation[r].z;
    }
    through_rotation(s, d_rotation, out.quaternion);
    return out;
}

// From the conic and the opacity to the covariance.
inline CovarianceGradient through_conic(bool antialiased, const Seen &s,
                                        const FootprintGradient &g) {
    // Conic = (yy, -xy, xx) / determinant. Through the determinant, as the forward pass goes:
    // -conic (d conic) conic says the same but cancels where a long needle is widened by the blur.
    const Floats inverse = 1.0f / s.determinant;
    const Floats d_determinant =
        -inverse * inverse * (g.conic_xx * s.yy - g.conic_xy * s.xy + g.conic_yy * s.xx);
    CovarianceGradient d = {};
    d.center_x = g.center_x, d.center_y = g.center_y, d.depth = g.depth;
    d.xx = g.conic_yy * inverse + BLUR * d_determinant;
    d.xy = -g.conic_xy * inverse;
    d.yy = g.conic_xx * inverse + BLUR * d_determinant;
    d.sharp = d_determinant;
    if (antialiased) through_filter(s, g.opacity, d);
    return d;
}

inline ShapeGradient through_projection(const View &view, const Seen &s,
                                        const CovarianceGradient &g, Floats opacity) {
    ShapeGradient out = through_covariance(view, s, g);
    out.opacity_logit = opacity * s.filter * s.opacity * (1 - s.opacity);
    return out;
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
