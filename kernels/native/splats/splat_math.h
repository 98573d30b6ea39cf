// Splats to footprints on the image plane, and back, for as many splats as a vector has lanes.
// The formulas are those of reference.py's project and harmonics; the gradients follow them line by
// line, last line first. Only for *.isa.cpp files.
#pragma once

#include "splats/kernels.h"
#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

struct Vec {
    Floats x, y, z;
};
inline Vec operator+(Vec a, Vec b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vec operator-(Vec a, Vec b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vec operator*(Floats s, Vec a) { return {s * a.x, s * a.y, s * a.z}; }
inline Vec operator*(float s, Vec a) { return {s * a.x, s * a.y, s * a.z}; }
inline Floats dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vec cross(Vec a, Vec b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

// Which splats the lanes of a vector hold: rows of the caller's tensors, in ascending order.
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

// In the order of a scene's parameters.
enum { MEANS, QUATERNIONS, LOG_SCALES, OPACITY_LOGITS, BASE, REST_OF_HARMONICS };

// The parameters that say where splats are, how large and how opaque.
struct Shape {
    Floats mean[3], quaternion[4], log_scale[3], opacity_logit;
};

inline Shape load_shape(const Project &p, const int64_t *index, int count) {
    Shape s;
    load_columns<3>(p.means, index, count, 3, s.mean);
    load_columns<4>(p.quaternions, index, count, 4, s.quaternion);
    load_columns<3>(p.log_scales, index, count, 3, s.log_scale);
    load_columns<1>(p.opacity_logits, index, count, 1, &s.opacity_logit);
    return s;
}

struct Limits {
    float left, right, top, bottom;  // slopes that the affine approximation may use
};

inline Limits limits_of(const View &v) {
    const float margin_x = 0.15f * v.width / v.fx, margin_y = 0.15f * v.height / v.fy;
    return {-v.cx / v.fx - margin_x, (v.width - v.cx) / v.fx + margin_x, -v.cy / v.fy - margin_y,
            (v.height - v.cy) / v.fy + margin_y};
}

// Everything about splats in one view that both directions need. Lanes behind the camera hold
// nonsense.
struct Seen {
    Mask in_front;
    Floats z, inverse_z, slope_x, slope_y;  // slopes x/z and y/z, clamped to the field of view
    Mask free_x, free_y;                    // not clamped
    Floats x, y;                            // in the camera's frame
    Floats w, i, j, k, inverse_length;      // unit quaternion, and one over its length before
    Vec rotation[3];                        // rows of the splat's rotation
    Vec scales;
    Vec axes[3];       // rows of W R S
    Vec row_x, row_y;  // of J W R S
    Floats xx, xy, yy, sharp, determinant;
    Floats opacity, filter;  // sigmoid, and what the filter makes of it
};

inline Seen see(const View &view, bool antialiased, const Shape &p) {
    Seen s;
    const float *m = view.matrix;
    const Limits limits = limits_of(view);
    s.z = m[8] * p.mean[0] + m[9] * p.mean[1] + m[10] * p.mean[2] + m[11];
    s.in_front = at_least(s.z, fill(view.near_plane));
    s.x = m[0] * p.mean[0] + m[1] * p.mean[1] + m[2] * p.mean[2] + m[3];
    s.y = m[4] * p.mean[0] + m[5] * p.mean[1] + m[6] * p.mean[2] + m[7];

    s.inverse_z = 1.0f / s.z;
    const Floats slope_x = s.x * s.inverse_z, slope_y = s.y * s.inverse_z;
    s.slope_x = smaller(larger(slope_x, fill(limits.left)), fill(limits.right));
    s.slope_y = smaller(larger(slope_y, fill(limits.top)), fill(limits.bottom));
    s.free_x = both(at_least(slope_x, fill(limits.left)), at_least(fill(limits.right), slope_x));
    s.free_y = both(at_least(slope_y, fill(limits.top)), at_least(fill(limits.bottom), slope_y));

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

    s.row_x = (view.fx * s.inverse_z) * (s.axes[0] - s.slope_x * s.axes[2]);
    s.row_y = (view.fy * s.inverse_z) * (s.axes[1] - s.slope_y * s.axes[2]);
    s.xx = dot(s.row_x, s.row_x) + BLUR;
    s.xy = dot(s.row_x, s.row_y);
    s.yy = dot(s.row_y, s.row_y) + BLUR;
    const Vec normal = cross(s.row_x, s.row_y);
    s.sharp = dot(normal, normal);
    s.determinant = s.sharp + BLUR * (s.xx + s.yy - BLUR);
    s.opacity = 1.0f / (1.0f + exp_fast(-p.opacity_logit));
    s.filter = antialiased ? root(larger(s.sharp / s.determinant, fill(1e-8f))) : fill(1.0f);
    return s;
}

// What is drawn of splats.
struct Footprint {
    Mask visible;
    Floats center_x, center_y, conic_xx, conic_xy, conic_yy, opacity, log_opacity;
    Floats extent_x, extent_y;
};

inline Footprint footprint_of(const View &view, const Seen &s) {
    constexpr float LN2 = 0.69314718f;
    Footprint f;
    f.opacity = s.opacity * s.filter;
    f.center_x = view.fx * s.x * s.inverse_z + view.cx;
    f.center_y = view.fy * s.y * s.inverse_z + view.cy;
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
    f.visible = both(both(s.in_front, finite), both(across, down));
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
    // Through the normalisation: what points along the quaternion changes nothing.
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

// Adds what an opacity's gradient is by the filter.
inline void through_filter(const Seen &s, Floats opacity, CovarianceGradient &d) {
    const Floats inverse = 1.0f / s.determinant;
    const Floats d_ratio =
        keep(above(s.filter, fill(1e-4f)), opacity * s.opacity * 0.5f / s.filter);
    const Floats slope = -s.sharp * inverse * inverse * BLUR;
    d.sharp += d_ratio * (s.determinant - s.sharp) * inverse * inverse;
    d.xx += d_ratio * slope;
    d.yy += d_ratio * slope;
}

// The gradient by what the lens sees: the mean in the camera's frame, and the axes, rows of W R S;
// and by the lens itself, its focal lengths and its principal point.
struct PlaneGradient {
    Vec point, axes[3];
    Floats lens[4];
};

inline PlaneGradient through_plane(const View &view, const Seen &s, const CovarianceGradient &g) {
    // Covariance to the rows of J W R S.
    PlaneGradient out;
    const Vec normal = cross(s.row_x, s.row_y);
    const Vec d_row_x =
        (2 * g.xx) * s.row_x + g.xy * s.row_y + (2 * g.sharp) * cross(s.row_y, normal);
    const Vec d_row_y =
        (2 * g.yy) * s.row_y + g.xy * s.row_x + (2 * g.sharp) * cross(normal, s.row_x);
    const Floats by_x = view.fx * s.inverse_z, by_y = view.fy * s.inverse_z;
    out.axes[0] = by_x * d_row_x, out.axes[1] = by_y * d_row_y;
    out.axes[2] = (-by_x * s.slope_x) * d_row_x - (by_y * s.slope_y) * d_row_y;

    // The camera-frame mean: from the centre, the depth, and J.
    const Floats gx = by_x * g.center_x, gy = by_y * g.center_y;
    const Floats turn_x = -by_x * dot(d_row_x, s.axes[2]), turn_y = -by_y * dot(d_row_y, s.axes[2]);
    const Floats d_slope_x = keep(s.free_x, turn_x * s.inverse_z);
    const Floats d_slope_y = keep(s.free_y, turn_y * s.inverse_z);
    const Floats along_x = dot(d_row_x, s.row_x), along_y = dot(d_row_y, s.row_y);
    out.point.x = gx + d_slope_x, out.point.y = gy + d_slope_y;
    out.point.z = g.depth - (gx * s.x + gy * s.y + along_x + along_y) * s.inverse_z -
                  d_slope_x * s.slope_x - d_slope_y * s.slope_y;

    // The lens: the centre, J, and the limits of the field of view, at which slopes are held.
    const Floats held_x = (1 / view.fx) * (turn_x - keep(s.free_x, turn_x));
    const Floats held_y = (1 / view.fy) * (turn_y - keep(s.free_y, turn_y));
    out.lens[0] = g.center_x * s.x * s.inverse_z + along_x / view.fx - held_x * s.slope_x;
    out.lens[1] = g.center_y * s.y * s.inverse_z + along_y / view.fy - held_y * s.slope_y;
    out.lens[2] = g.center_x - held_x, out.lens[3] = g.center_y - held_y;
    return out;
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

// Real spherical harmonics up to degree 3 in the order and signs of 3DGS (arXiv 2308.04079);
// reference.py's harmonics_basis has the constants in closed form.
constexpr float C0 = 0.28209479f, C1 = 0.48860251f;
constexpr float C2[5] = {1.09254843f, -1.09254843f, 0.31539157f, -1.09254843f, 0.54627422f};
constexpr float C3[7] = {-0.59004359f, 2.89061144f, -0.45704580f, 0.37317633f,
                         -0.45704580f, 1.44530572f, -0.59004359f};
constexpr int REST = 15;  // coefficients above degree 0, at most

inline int rest_of(int degree) { return (degree + 1) * (degree + 1) - 1; }

// From the camera to splats.
struct Direction {
    Floats x, y, z, inverse_length;
};

inline Direction direction_to(const Floats *mean, const float *position) {
    const Floats x = mean[0] - position[0], y = mean[1] - position[1], z = mean[2] - position[2];
    const Floats inverse = 1.0f / larger(root(x * x + y * y + z * z), fill(1e-12f));
    return {x * inverse, y * inverse, z * inverse, inverse};
}

inline void basis_at(int degree, const Direction &d, Floats *b) {
    const Floats x = d.x, y = d.y, z = d.z;
    if (degree < 1) return;
    b[0] = -C1 * y, b[1] = C1 * z, b[2] = -C1 * x;
    if (degree < 2) return;
    const Floats xx = x * x, yy = y * y, zz = z * z;
    b[3] = C2[0] * x * y, b[4] = C2[1] * y * z, b[5] = C2[2] * (2 * zz - xx - yy);
    b[6] = C2[3] * x * z, b[7] = C2[4] * (xx - yy);
    if (degree < 3) return;
    b[8] = C3[0] * y * (3 * xx - yy), b[9] = C3[1] * x * y * z;
    b[10] = C3[2] * y * (4 * zz - xx - yy), b[11] = C3[3] * z * (2 * zz - 3 * xx - 3 * yy);
    b[12] = C3[4] * x * (4 * zz - xx - yy), b[13] = C3[5] * z * (xx - yy);
    b[14] = C3[6] * x * (xx - 3 * yy);
}

// The gradient by the mean of sum_k basis_k s_k: only what is across the direction turns it.
inline void through_direction(int degree, const Direction &at, const Floats *s, Floats *out) {
    const Floats x = at.x, y = at.y, z = at.z;
    Floats d[3] = {};
    if (degree >= 1) d[0] = -C1 * s[2], d[1] = -C1 * s[0], d[2] = C1 * s[1];
    if (degree >= 2) {
        d[0] += C2[0] * y * s[3] - 2 * C2[2] * x * s[5] + C2[3] * z * s[6] + 2 * C2[4] * x * s[7];
        d[1] += C2[0] * x * s[3] + C2[1] * z * s[4] - 2 * C2[2] * y * s[5] - 2 * C2[4] * y * s[7];
        d[2] += C2[1] * y * s[4] + 4 * C2[2] * z * s[5] + C2[3] * x * s[6];
    }
    if (degree >= 3) {
        const Floats xx = x * x, yy = y * y, zz = z * z;
        d[0] += C3[0] * 6 * x * y * s[8] + C3[1] * y * z * s[9] - C3[2] * 2 * x * y * s[10] -
                C3[3] * 6 * x * z * s[11] + C3[4] * (4 * zz - 3 * xx - yy) * s[12] +
                C3[5] * 2 * x * z * s[13] + C3[6] * 3 * (xx - yy) * s[14];
        d[1] += C3[0] * 3 * (xx - yy) * s[8] + C3[1] * x * z * s[9] +
                C3[2] * (4 * zz - xx - 3 * yy) * s[10] - C3[3] * 6 * y * z * s[11] -
                C3[4] * 2 * x * y * s[12] - C3[5] * 2 * y * z * s[13] - C3[6] * 6 * x * y * s[14];
        d[2] += C3[1] * x * y * s[9] + C3[2] * 8 * y * z * s[10] +
                C3[3] * 3 * (2 * zz - xx - yy) * s[11] + C3[4] * 8 * x * z * s[12] +
                C3[5] * (xx - yy) * s[13];
    }
    const Floats radial = d[0] * x + d[1] * y + d[2] * z;
    out[0] = at.inverse_length * (d[0] - radial * x);
    out[1] = at.inverse_length * (d[1] - radial * y);
    out[2] = at.inverse_length * (d[2] - radial * z);
}

// The coefficients of a vector of splats.
struct Coefficients {
    Floats base[3], rest[REST][3];
};

inline void load_coefficients(const float *base, const float *rest, int used, int stride,
                              const int64_t *index, int count, Coefficients &out) {
    load_columns<3>(base, index, count, 3, out.base);
    switch (used) {
        case 3: return load_columns<9>(rest, index, count, 3 * stride, &out.rest[0][0]);
        case 8: return load_columns<24>(rest, index, count, 3 * stride, &out.rest[0][0]);
        case 15: return load_columns<45>(rest, index, count, 3 * stride, &out.rest[0][0]);
    }
}

// Colours, before they are held at 0.
inline void color_of(int used, const Floats *basis, const Coefficients &h, Floats *color) {
    for (int c = 0; c < 3; ++c) color[c] = 0.5f + C0 * h.base[c];
    for (int k = 0; k < used; ++k)
        for (int c = 0; c < 3; ++c) color[c] += basis[k] * h.rest[k][c];
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
