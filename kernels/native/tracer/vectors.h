// Vector algebra on registers: each number is a register with one ray per lane.
//
// Only for *.isa.cpp files: everything here has internal linkage.
#pragma once

#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

using F = Floats;
using I = Ints;
typedef uint32_t U __attribute__((vector_size(4 * LANES)));

#if defined(__AVX512F__)
// GCC 12 warns of uninitialised values in the unmasked intrinsics; these are the same instructions.
inline F sqrt(F x) { return _mm512_maskz_sqrt_ps(0xffff, x); }
inline F floor(F x) {
    return _mm512_maskz_roundscale_ps(0xffff, x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
inline bool any(I mask) { return _mm512_movepi32_mask((__m512i)mask) != 0; }
#elif defined(__AVX2__)
inline F sqrt(F x) { return _mm256_sqrt_ps(x); }
inline F floor(F x) { return _mm256_floor_ps(x); }
#elif defined(__x86_64__)
inline F sqrt(F x) { return _mm_sqrt_ps(x); }
inline F floor(F x) { return _mm_floor_ps(x); }
#else
inline F sqrt(F x) { return (F)vsqrtq_f32((float32x4_t)x); }
inline F floor(F x) { return (F)vrndmq_f32((float32x4_t)x); }
#endif

inline F min(F a, F b) { return a < b ? a : b; }
inline F max(F a, F b) { return a > b ? a : b; }
inline F clamp(F x) { return min(max(x, fill(0)), fill(1)); }
inline F fract(F x) { return x - floor(x); }
inline F mix(F a, F b, F t) { return a + (b - a) * t; }
inline I whole(F x) { return __builtin_convertvector(x, I); }
inline F real(I x) { return __builtin_convertvector(x, F); }

// The share of a box filter that lies inside an edge. `inside` is the distance from the edge to the
// filter's centre, positive inside; `width` is the filter's width.
inline F coverage(F inside, F width) { return clamp(inside / width + 0.5f); }

struct Vec {
    F x, y, z;
};
inline Vec operator+(Vec a, Vec b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vec operator-(Vec a, Vec b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vec operator*(Vec a, F s) { return {a.x * s, a.y * s, a.z * s}; }
inline Vec operator*(Vec a, Vec b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }
inline F dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vec unit(Vec a) { return a * (1.0f / sqrt(dot(a, a))); }
inline Vec mix(Vec a, Vec b, F t) { return a + (b - a) * t; }
inline Vec select(I m, Vec a, Vec b) { return {m ? a.x : b.x, m ? a.y : b.y, m ? a.z : b.z}; }
inline Vec vec(const float *v) { return {fill(v[0]), fill(v[1]), fill(v[2])}; }

// The angle of (x, y) in turns, from 0 to 1, with an error below 2e-6 (a polynomial for atan).
inline F turn(F y, F x) {
    const F ax = absolute(x), ay = absolute(y);
    const F z = min(ax, ay) / max(max(ax, ay), fill(1e-20f));
    const F q = z * z;
    F t = q * -0.01172120f + 0.05265332f;
    t = t * q - 0.11643287f;
    t = t * q + 0.19354346f;
    t = t * q - 0.33262347f;
    t = (t * q + 0.99997726f) * z * 0.15915494f;
    t = ay > ax ? 0.25f - t : t;
    t = x < 0 ? 0.5f - t : t;
    return y < 0 ? 1.0f - t : t;
}

// cos(2 pi turns) for -1/4 <= turns <= 1/4.
inline F cos_turn(F turns) {
    const F q = turns * turns * 39.478418f;
    return 1.0f + q * (-0.5f + q * (0.041666418f + q * (-0.0013888397f + q * 2.4760495e-5f)));
}

// A pseudo-random number in [0, 1), hashed from two whole numbers and a salt.
inline F scatter(I i, I j, uint32_t salt) {
    U h = (U)i * 0x9E3779B1u ^ ((U)j + salt) * 0x85EBCA77u;
    h = (h ^ h >> 15) * 0x2C1B3C6Du;
    h = (h ^ h >> 12) * 0x297A2D39u;
    h = h ^ h >> 15;
    return real((I)(h >> 8)) * 0x1p-24f;
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
