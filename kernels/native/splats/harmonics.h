// Spherical harmonics: the colours that splats show to a camera, and their derivatives. Only for
// *.isa.cpp files.
#pragma once

#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Real spherical harmonics up to degree 3 in the order and signs of 3DGS (arXiv 2308.04079);
// reference.py's harmonics_basis has the constants in closed form.
constexpr float C0 = 0.28209479f, C1 = 0.48860251f;
constexpr float C2[5] = {1.09254843f, -1.09254843f, 0.31539157f, -1.09254843f, 0.54627422f};
constexpr float C3[7] = {-0.59004359f, 2.89061144f, -0.45704580f, 0.37317633f,
                         -0.45704580f, 1.44530572f, -0.59004359f};
constexpr int REST = 15;  // coefficients above degree 0, at most

inline int rest_of(int degree) { return (degree + 1) * (degree + 1) - 1; }

// Unit vectors from the camera to splats.
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

// The gradient of sum_k basis_k s_k by the mean. The mean changes the direction only where it moves
// across it.
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
