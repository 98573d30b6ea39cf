// Splats to footprints on the image plane, and back. The formulas are those of
// reference.py's project; the gradients follow them line by line, last line first.
#include <math.h>

#include "levels.h"
#include "scalar.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

struct Vec {
    float x, y, z;
};
inline Vec operator+(Vec a, Vec b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vec operator-(Vec a, Vec b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vec operator*(float s, Vec a) { return {s * a.x, s * a.y, s * a.z}; }
inline float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vec cross(Vec a, Vec b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Everything about one splat in one view that both directions need.
struct Splat {
    float z, inverse_z, slope_x, slope_y;  // slopes x/z and y/z, clamped to the field of view
    bool clamped_x, clamped_y;
    float x, y;                // in the camera's frame
    float w, i, j, k, length;  // unit quaternion, and its length before
    Vec rotation[3];           // rows of the splat's rotation
    Vec scales;
    Vec axes[3];       // rows of W R S
    Vec row_x, row_y;  // of J W R S
    float xx, xy, yy, sharp, determinant;
    float opacity, filter;  // sigmoid, and what the filter makes of it
};

struct Limits {
    float left, right, top, bottom;  // slopes that the affine approximation may use
};

inline Limits limits_of(const View &v) {
    const float margin_x = 0.15f * v.width / v.fx, margin_y = 0.15f * v.height / v.fy;
    return {-v.cx / v.fx - margin_x, (v.width - v.cx) / v.fx + margin_x, -v.cy / v.fy - margin_y,
            (v.height - v.cy) / v.fy + margin_y};
}

// False if the splat is not in front of the camera.
inline bool see(const Project &p, const Limits &limits, int64_t n, Splat &s) {
    const float *m = p.view.matrix, *mean = p.means + 3 * n, *q = p.quaternions + 4 * n;
    s.z = m[8] * mean[0] + m[9] * mean[1] + m[10] * mean[2] + m[11];
    if (!(s.z >= p.view.near_plane)) return false;
    s.x = m[0] * mean[0] + m[1] * mean[1] + m[2] * mean[2] + m[3];
    s.y = m[4] * mean[0] + m[5] * mean[1] + m[6] * mean[2] + m[7];

    s.inverse_z = 1.0f / s.z;
    const float slope_x = s.x * s.inverse_z, slope_y = s.y * s.inverse_z;
    s.slope_x = lesser(larger(slope_x, limits.left), limits.right);
    s.slope_y = lesser(larger(slope_y, limits.top), limits.bottom);
    s.clamped_x = s.slope_x != slope_x;
    s.clamped_y = s.slope_y != slope_y;

    s.length = sqrtf(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    const float unit = 1.0f / larger(s.length, 1e-12f);
    const float w = s.w = q[0] * unit, i = s.i = q[1] * unit;
    const float j = s.j = q[2] * unit, k = s.k = q[3] * unit;
    s.rotation[0] = {1 - 2 * (j * j + k * k), 2 * (i * j - w * k), 2 * (i * k + w * j)};
    s.rotation[1] = {2 * (i * j + w * k), 1 - 2 * (i * i + k * k), 2 * (j * k - w * i)};
    s.rotation[2] = {2 * (i * k - w * j), 2 * (j * k + w * i), 1 - 2 * (i * i + j * j)};
    const float *l = p.log_scales + 3 * n;
    s.scales = {expf(l[0]), expf(l[1]), expf(l[2])};
    for (int r = 0; r < 3; ++r) {
        const Vec row =
            m[4 * r] * s.rotation[0] + m[4 * r + 1] * s.rotation[1] + m[4 * r + 2] * s.rotation[2];
        s.axes[r] = {row.x * s.scales.x, row.y * s.scales.y, row.z * s.scales.z};
    }

    s.row_x = p.view.fx * s.inverse_z * (s.axes[0] - s.slope_x * s.axes[2]);
    s.row_y = p.view.fy * s.inverse_z * (s.axes[1] - s.slope_y * s.axes[2]);
    s.xx = dot(s.row_x, s.row_x) + BLUR;
    s.xy = dot(s.row_x, s.row_y);
    s.yy = dot(s.row_y, s.row_y) + BLUR;
    const Vec normal = cross(s.row_x, s.row_y);
    s.sharp = dot(normal, normal);
    s.determinant = s.sharp + BLUR * (s.xx + s.yy - BLUR);
    s.opacity = sigmoid(p.opacity_logits[n]);
    s.filter = p.antialiased ? sqrtf(larger(s.sharp / s.determinant, 1e-8f)) : 1.0f;
    return true;
}

inline void hide(const Project &p, int64_t n) {
    p.centers[2 * n] = p.centers[2 * n + 1] = 0;
    p.conics[3 * n] = p.conics[3 * n + 1] = p.conics[3 * n + 2] = 0;
    p.opacities[n] = p.depths[n] = 0;
    p.extents[2 * n] = p.extents[2 * n + 1] = 0;
}

inline void project_one(const Project &p, const Limits &limits, int64_t n) {
    Splat s;
    if (!see(p, limits, n, s)) return hide(p, n);
    const float opacity = s.opacity * s.filter;
    const float center_x = p.view.fx * s.x * s.inverse_z + p.view.cx;
    const float center_y = p.view.fy * s.y * s.inverse_z + p.view.cy;
    const float reach = 2.0f * logf(larger(opacity / ALPHA_MIN, 1.0f));
    const float extent_x = sqrtf(reach * s.xx), extent_y = sqrtf(reach * s.yy);
    // Written so that a NaN anywhere makes it false.
    const bool seen = reach > 0 && s.determinant < INFINITY && center_x + extent_x > 0 &&
                      center_x - extent_x < p.view.width && center_y + extent_y > 0 &&
                      center_y - extent_y < p.view.height;
    if (!seen) return hide(p, n);
    p.centers[2 * n] = center_x;
    p.centers[2 * n + 1] = center_y;
    const float inverse = 1.0f / s.determinant;
    p.conics[3 * n] = s.yy * inverse;
    p.conics[3 * n + 1] = -s.xy * inverse;
    p.conics[3 * n + 2] = s.xx * inverse;
    p.opacities[n] = opacity;
    p.depths[n] = s.z;
    p.extents[2 * n] = extent_x;
    p.extents[2 * n + 1] = extent_y;
}

// The gradient by the unit quaternion of a loss whose gradient by the rotation is d (rows).
inline void through_rotation(const Splat &s, const Vec d[3], float *out) {
    const float w = s.w, x = s.i, y = s.j, z = s.k;
    const float across = d[1].x + d[0].y, along = d[2].x + d[0].z, up = d[2].y + d[1].z;
    const float turn_x = d[2].y - d[1].z, turn_y = d[0].z - d[2].x, turn_z = d[1].x - d[0].y;
    float g[4] = {
        2 * (x * turn_x + y * turn_y + z * turn_z),
        2 * (-2 * x * (d[1].y + d[2].z) + y * across + z * along + w * turn_x),
        2 * (x * across - 2 * y * (d[0].x + d[2].z) + z * up + w * turn_y),
        2 * (x * along + y * up - 2 * z * (d[0].x + d[1].y) + w * turn_z),
    };
    // Through the normalisation: what points along the quaternion changes nothing.
    const float radial = g[0] * w + g[1] * x + g[2] * y + g[3] * z;
    const float unit = 1.0f / larger(s.length, 1e-12f);
    out[0] = unit * (g[0] - radial * w);
    out[1] = unit * (g[1] - radial * x);
    out[2] = unit * (g[2] - radial * y);
    out[3] = unit * (g[3] - radial * z);
}

inline void backward_one(const Project &p, const ProjectGradient &g, const Limits &limits,
                         int64_t n) {
    Splat s;
    see(p, limits, n, s);
    const float *m = p.view.matrix;

    // Conic = (yy, -xy, xx) / determinant. Through the determinant, as the forward pass goes:
    // -conic (d conic) conic says the same but cancels where a long needle is widened by the blur.
    const float a = p.conics[3 * n], b = p.conics[3 * n + 1], c = p.conics[3 * n + 2];
    const float ga = g.conics[3 * n], gb = g.conics[3 * n + 1], gc = g.conics[3 * n + 2];
    const float inverse = 1.0f / s.determinant;
    const float d_determinant = -inverse * (ga * a + gb * b + gc * c);
    float d_xx = gc * inverse + BLUR * d_determinant;
    float d_yy = ga * inverse + BLUR * d_determinant;
    const float d_xy = -gb * inverse;
    float d_sharp = d_determinant;

    // Opacity and filter.
    const float d_opacity = g.opacities[n] * s.filter;
    if (p.antialiased && s.filter > 1e-4f) {
        const float d_ratio = g.opacities[n] * s.opacity * 0.5f / s.filter;
        const float slope = -s.sharp * inverse * inverse * BLUR;
        d_sharp += d_ratio * (s.determinant - s.sharp) * inverse * inverse;
        d_xx += d_ratio * slope;
        d_yy += d_ratio * slope;
    }
    g.opacity_logits[n] = d_opacity * s.opacity * (1 - s.opacity);

    // Covariance to the rows of J W R S.
    const Vec normal = cross(s.row_x, s.row_y);
    const Vec d_row_x = 2 * d_xx * s.row_x + d_xy * s.row_y + 2 * d_sharp * cross(s.row_y, normal);
    const Vec d_row_y = 2 * d_yy * s.row_y + d_xy * s.row_x + 2 * d_sharp * cross(normal, s.row_x);
    const float by_x = p.view.fx * s.inverse_z, by_y = p.view.fy * s.inverse_z;
    const Vec d_axes[3] = {by_x * d_row_x, by_y * d_row_y,
                           -by_x * s.slope_x * d_row_x - by_y * s.slope_y * d_row_y};

    // The camera-frame mean: from the centre, the depth, and J.
    const float gx = by_x * g.centers[2 * n], gy = by_y * g.centers[2 * n + 1];
    float d_x = gx, d_y = gy;
    float d_z = g.depths[n] -
                (gx * s.x + gy * s.y + dot(d_row_x, s.row_x) + dot(d_row_y, s.row_y)) * s.inverse_z;
    const float d_slope_x = -by_x * dot(d_row_x, s.axes[2]) * s.inverse_z;
    const float d_slope_y = -by_y * dot(d_row_y, s.axes[2]) * s.inverse_z;
    if (!s.clamped_x) d_x += d_slope_x, d_z -= d_slope_x * s.slope_x;
    if (!s.clamped_y) d_y += d_slope_y, d_z -= d_slope_y * s.slope_y;
    for (int r = 0; r < 3; ++r) g.means[3 * n + r] = m[r] * d_x + m[4 + r] * d_y + m[8 + r] * d_z;

    // W R S to rotation and scales.
    Vec d_rotation[3];
    float d_scales[3] = {0, 0, 0};
    for (int r = 0; r < 3; ++r) {
        const Vec d = m[r] * d_axes[0] + m[4 + r] * d_axes[1] + m[8 + r] * d_axes[2];
        d_rotation[r] = {d.x * s.scales.x, d.y * s.scales.y, d.z * s.scales.z};
        d_scales[0] += d_rotation[r].x * s.rotation[r].x;
        d_scales[1] += d_rotation[r].y * s.rotation[r].y;
        d_scales[2] += d_rotation[r].z * s.rotation[r].z;
    }
    for (int k = 0; k < 3; ++k) g.log_scales[3 * n + k] = d_scales[k];
    through_rotation(s, d_rotation, g.quaternions + 4 * n);
}

inline void no_gradient(const ProjectGradient &g, int64_t n) {
    for (int k = 0; k < 3; ++k) g.means[3 * n + k] = g.log_scales[3 * n + k] = 0;
    for (int k = 0; k < 4; ++k) g.quaternions[4 * n + k] = 0;
    g.opacity_logits[n] = 0;
}

}  // namespace

void project(const Project &p) {
    const Limits limits = limits_of(p.view);
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.splats > 1 << 11)
    for (int64_t n = 0; n < p.splats; ++n) project_one(p, limits, n);
}

void project_backward(const Project &p, const ProjectGradient &g) {
    const Limits limits = limits_of(p.view);
#pragma omp parallel for schedule(static) num_threads(p.threads) if (p.splats > 1 << 11)
    for (int64_t n = 0; n < p.splats; ++n) {
        if (p.extents[2 * n] > 0)
            backward_one(p, g, limits, n);
        else
            no_gradient(g, n);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
