// Spherical harmonics to colours, and back.
#include <math.h>

#include "levels.h"
#include "scalar.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Real spherical harmonics up to degree 3 in the order and signs of 3DGS (arXiv 2308.04079);
// reference.py's harmonics_basis has the constants in closed form.
constexpr float C0 = 0.28209479f, C1 = 0.48860251f;
constexpr float C2[5] = {1.09254843f, -1.09254843f, 0.31539157f, -1.09254843f, 0.54627422f};
constexpr float C3[7] = {-0.59004359f, 2.89061144f, -0.45704580f, 0.37317633f,
                         -0.45704580f, 1.44530572f, -0.59004359f};

inline void basis(int degree, float x, float y, float z, float *b) {
    if (degree < 1) return;
    b[0] = -C1 * y, b[1] = C1 * z, b[2] = -C1 * x;
    if (degree < 2) return;
    const float xx = x * x, yy = y * y, zz = z * z;
    b[3] = C2[0] * x * y, b[4] = C2[1] * y * z, b[5] = C2[2] * (2 * zz - xx - yy);
    b[6] = C2[3] * x * z, b[7] = C2[4] * (xx - yy);
    if (degree < 3) return;
    b[8] = C3[0] * y * (3 * xx - yy), b[9] = C3[1] * x * y * z;
    b[10] = C3[2] * y * (4 * zz - xx - yy), b[11] = C3[3] * z * (2 * zz - 3 * xx - 3 * yy);
    b[12] = C3[4] * x * (4 * zz - xx - yy), b[13] = C3[5] * z * (xx - yy);
    b[14] = C3[6] * x * (xx - 3 * yy);
}

// The gradient by the direction of sum_k basis_k s_k.
inline void basis_gradient(int degree, float x, float y, float z, const float *s, float *d) {
    d[0] = d[1] = d[2] = 0;
    if (degree < 1) return;
    d[0] = -C1 * s[2], d[1] = -C1 * s[0], d[2] = C1 * s[1];
    if (degree < 2) return;
    d[0] += C2[0] * y * s[3] - 2 * C2[2] * x * s[5] + C2[3] * z * s[6] + 2 * C2[4] * x * s[7];
    d[1] += C2[0] * x * s[3] + C2[1] * z * s[4] - 2 * C2[2] * y * s[5] - 2 * C2[4] * y * s[7];
    d[2] += C2[1] * y * s[4] + 4 * C2[2] * z * s[5] + C2[3] * x * s[6];
    if (degree < 3) return;
    const float xx = x * x, yy = y * y, zz = z * z;
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

inline int rest_of(int degree) { return (degree + 1) * (degree + 1) - 1; }

struct Direction {
    float x, y, z, inverse_length;
};

inline Direction direction_of(const Harmonics &h, int64_t n) {
    const float x = h.means[3 * n] - h.position[0], y = h.means[3 * n + 1] - h.position[1];
    const float z = h.means[3 * n + 2] - h.position[2];
    const float inverse = 1.0f / larger(sqrtf(x * x + y * y + z * z), 1e-12f);
    return {x * inverse, y * inverse, z * inverse, inverse};
}

inline void shade(const Harmonics &h, int64_t n) {
    const Direction d = direction_of(h, n);
    float b[15], color[3];
    basis(h.degree, d.x, d.y, d.z, b);
    const float *base = h.base + 3 * n, *rest = h.rest + 3 * h.rest_count * n;
    for (int c = 0; c < 3; ++c) color[c] = 0.5f + C0 * base[c];
    for (int k = 0, count = rest_of(h.degree); k < count; ++k)
        for (int c = 0; c < 3; ++c) color[c] += b[k] * rest[3 * k + c];
    for (int c = 0; c < 3; ++c) h.colors[3 * n + c] = larger(color[c], 0.0f);
}

inline void backward_one(const Harmonics &h, const HarmonicsGradient &g, int64_t n) {
    const Direction d = direction_of(h, n);
    float b[15], along[15], by_direction[3], color[3];
    basis(h.degree, d.x, d.y, d.z, b);
    // A colour that was clamped at zero does not change.
    for (int c = 0; c < 3; ++c) color[c] = h.colors[3 * n + c] > 0 ? g.colors[3 * n + c] : 0.0f;
    for (int c = 0; c < 3; ++c) g.base[3 * n + c] = C0 * color[c];
    const float *rest = h.rest + 3 * h.rest_count * n;
    float *rest_gradient = g.rest + 3 * h.rest_count * n;
    const int count = rest_of(h.degree);
    for (int k = 0; k < count; ++k) {
        along[k] = color[0] * rest[3 * k] + color[1] * rest[3 * k + 1] + color[2] * rest[3 * k + 2];
        for (int c = 0; c < 3; ++c) rest_gradient[3 * k + c] = b[k] * color[c];
    }
    for (int k = 3 * count; k < 3 * h.rest_count; ++k) rest_gradient[k] = 0;
    // Only the part across the direction turns it.
    basis_gradient(h.degree, d.x, d.y, d.z, along, by_direction);
    const float radial = by_direction[0] * d.x + by_direction[1] * d.y + by_direction[2] * d.z;
    g.means[3 * n] = d.inverse_length * (by_direction[0] - radial * d.x);
    g.means[3 * n + 1] = d.inverse_length * (by_direction[1] - radial * d.y);
    g.means[3 * n + 2] = d.inverse_length * (by_direction[2] - radial * d.z);
}

}  // namespace

void harmonics(const Harmonics &h) {
#pragma omp parallel for schedule(static) num_threads(h.threads) if (h.splats > 1 << 11)
    for (int64_t n = 0; n < h.splats; ++n) {
        if (!h.visible || h.visible[n])
            shade(h, n);
        else
            h.colors[3 * n] = h.colors[3 * n + 1] = h.colors[3 * n + 2] = 0;
    }
}

void harmonics_backward(const Harmonics &h, const HarmonicsGradient &g) {
#pragma omp parallel for schedule(static) num_threads(h.threads) if (h.splats > 1 << 11)
    for (int64_t n = 0; n < h.splats; ++n) {
        if (!h.visible || h.visible[n]) {
            backward_one(h, g, n);
            continue;
        }
        for (int c = 0; c < 3; ++c) g.means[3 * n + c] = g.base[3 * n + c] = 0;
        __builtin_memset(g.rest + 3 * h.rest_count * n, 0, 12 * h.rest_count);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
