// Vectors of the instruction set this file is compiled for, and the few operations that the
// compiler's own vector types lack. Only for *.isa.cpp files.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

inline Floats load(const float *p) {
    Floats v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float *p, Floats v) { __builtin_memcpy(p, &v, sizeof v); }
inline Floats fill(float x) { return Floats{} + x; }
inline Floats iota() {
    Floats v;
    for (int i = 0; i < LANES; ++i) v[i] = float(i);
    return v;
}
inline float total(Floats v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(v);
#else
    // Halves are folded onto each other: the same order on every run.
    float parts[LANES];
    store(parts, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
    return parts[0];
#endif
}

#if defined(__AVX512F__)

typedef __mmask16 Mask;
inline Mask at_least(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline Mask above(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline bool any(Mask m) { return m != 0; }
inline Mask both(Mask a, Mask b) { return a & b; }
inline Mask first_only(Mask a, Mask b) { return a & Mask(~b); }
inline Floats keep(Mask m, Floats a) { return _mm512_maskz_mov_ps(m, a); }
inline Ints choose(Mask m, Ints a, Ints b) {
    return Ints(_mm512_mask_mov_epi32((__m512i)b, m, (__m512i)a));
}
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats reciprocal(Floats a) {
    const Floats r = _mm512_rcp14_ps(a);
    return r * (2.0f - a * r);
}
inline Floats absolute(Floats a) { return _mm512_abs_ps(a); }

#else

typedef Ints Mask;
inline Mask at_least(Floats a, Floats b) { return a >= b; }
inline Mask above(Floats a, Floats b) { return a > b; }
inline Mask both(Mask a, Mask b) { return a & b; }
inline Mask first_only(Mask a, Mask b) { return a & ~b; }
inline Floats keep(Mask m, Floats a) { return (Floats)((Ints)a & m); }
inline Ints choose(Mask m, Ints a, Ints b) { return (a & m) | (b & ~m); }
inline Floats absolute(Floats a) { return (Floats)((Ints)a & 0x7fffffff); }

#if defined(__AVX2__)
inline bool any(Mask m) { return _mm256_movemask_ps((__m256)m) != 0; }
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats reciprocal(Floats a) {
    const Floats r = _mm256_rcp_ps(a);
    return r * (2.0f - a * r);
}
#elif defined(__x86_64__)
inline bool any(Mask m) { return _mm_movemask_ps((__m128)m) != 0; }
inline Floats smaller(Floats a, Floats b) { return _mm_min_ps(a, b); }
inline Floats reciprocal(Floats a) {
    const Floats r = _mm_rcp_ps(a);
    return r * (2.0f - a * r);
}
#else
inline bool any(Mask m) { return vmaxvq_u32((uint32x4_t)m) != 0; }
inline Floats smaller(Floats a, Floats b) {
    return (Floats)vminq_f32((float32x4_t)a, (float32x4_t)b);
}
inline Floats reciprocal(Floats a) { return 1.0f / a; }
#endif

#endif

// 2^x to 3e-6 relative (a minimax polynomial of degree 4 on [-1/2, 1/2]), for -126 < x < 127;
// garbage beyond, which callers mask away.
inline Floats exp2_fast(Floats x) {
    const Floats magic = fill(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Floats shifted = x + magic;
    const Floats f = x - (shifted - magic);
    Floats p = fill(0.009570101f);
    p = p * f + 0.055917863f;
    p = p * f + 0.24024744f;
    p = p * f + 0.69312179f;
    p = p * f + 0.99999928f;
    return (Floats)((Ints)p + ((Ints)shifted << 23));
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
