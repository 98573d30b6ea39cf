// Vectors of the instruction set this file is compiled for, and the few operations that the
// compiler's own vector types lack. Only for *.isa.cpp files.
#pragma once

#include <math.h>

#include <cstdint>
#include <utility>

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
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));

inline Floats load(const float *p) {
    Floats v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float *p, Floats v) { __builtin_memcpy(p, &v, sizeof v); }
// The first `count` lanes, fewer than all; the others are zero, and not touched.
inline Floats load_first(const float *p, int count) {
#if defined(__AVX512F__)
    return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
#else
    Floats v{};
    __builtin_memcpy(&v, p, 4 * count);
    return v;
#endif
}
inline void store_first(float *p, Floats v, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), v);
#else
    __builtin_memcpy(p, &v, 4 * count);
#endif
}
// Lanes from p + OFFSET on; p lies where vectors are aligned. A load across two cache lines costs
// more than joining the vectors on both sides, which the neighbouring offsets have loaded already.
template <int OFFSET>
inline Floats load_shifted(const float *p) {
#if defined(__AVX512F__)
    constexpr int block = OFFSET >= 0 ? OFFSET / 16 : -((15 - OFFSET) / 16);
    constexpr int shift = OFFSET - 16 * block;
    if constexpr (shift == 0)
        return load(p + OFFSET);
    else
        return Floats(_mm512_alignr_epi32(__m512i(load(p + 16 * block + 16)),
                                          __m512i(load(p + 16 * block)), shift));
#else
    return load(p + OFFSET);
#endif
}
inline Floats fill(float x) { return Floats{} + x; }
inline Floats iota() {
    Floats v;
    for (int i = 0; i < LANES; ++i) v[i] = float(i);
    return v;
}
// The sums over the lanes of each of four vectors times four, eight or sixteen lanes: COUNT of
// them, a multiple of four. Folding several at once takes a third of the work of one by one.
#if defined(__AVX512F__)
template <int COUNT>
inline void store_totals(const Floats *v, float *out) {
    // Vectors q, q + 4, q + 8 and q + 12 go to the quarters of one, then those lane by lane.
    const auto at = [v](int q) { return q < COUNT ? __m512(v[q]) : _mm512_setzero_ps(); };
    const auto halves = [](__m512 a, __m512 b) {
        return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    };
    __m512 u[4];
    for (int i = 0; i < 4; ++i) {
        const __m512 low = halves(at(i), at(i + 4));
        const __m512 high = COUNT > 8 ? halves(at(i + 8), at(i + 12)) : _mm512_setzero_ps();
        u[i] = _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88),
                             _mm512_shuffle_f32x4(low, high, 0xdd));
    }
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(u[0], u[1]), _mm512_unpackhi_ps(u[0], u[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(u[2], u[3]), _mm512_unpackhi_ps(u[2], u[3]));
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    const __m512 sums = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                                      _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    // What a masked store has written is slow to load again at once, as few sums often are.
    if constexpr (COUNT == 4)
        _mm_storeu_ps(out, _mm512_castps512_ps128(sums));
    else
        _mm512_mask_storeu_ps(out, __mmask16((1u << COUNT) - 1), sums);
}
#else
template <int COUNT>
inline void store_totals(const Floats *v, float *out) {
    for (int q = 0; q < COUNT; q += 4) {
#if defined(__AVX2__)
        const __m256 s =
            _mm256_hadd_ps(_mm256_hadd_ps(v[q], v[q + 1]), _mm256_hadd_ps(v[q + 2], v[q + 3]));
        _mm_storeu_ps(out + q, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
#elif defined(__x86_64__)
        _mm_storeu_ps(out + q,
                      _mm_hadd_ps(_mm_hadd_ps(v[q], v[q + 1]), _mm_hadd_ps(v[q + 2], v[q + 3])));
#else
        const auto pairs = [](Floats a, Floats b) {
            return vpaddq_f32((float32x4_t)a, (float32x4_t)b);
        };
        vst1q_f32(out + q, vpaddq_f32(pairs(v[q], v[q + 1]), pairs(v[q + 2], v[q + 3])));
#endif
    }
}
#endif
inline float total(Floats v) {
    const Floats four[4] = {v};
    float sums[4];
    store_totals<4>(four, sums);
    return sums[0];
}

// In each run of four lanes, the sums over these lanes of each of four vectors.
inline Floats sum_fours(Floats a, Floats b, Floats c, Floats d) {
#if defined(__AVX512F__)
    const __m512d x =
        _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d y =
        _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
#elif defined(__AVX2__)
    return _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
#elif defined(__x86_64__)
    return _mm_hadd_ps(_mm_hadd_ps(a, b), _mm_hadd_ps(c, d));
#else
    const auto pairs = [](float32x4_t u, float32x4_t v) { return vpaddq_f32(u, v); };
    return (Floats)pairs(pairs((float32x4_t)a, (float32x4_t)b),
                         pairs((float32x4_t)c, (float32x4_t)d));
#endif
}
// Four sums: of the first lanes of all runs of four, of the second, and so on.
inline void store_four(float *out, Floats v) {
#if defined(__AVX512F__)
    const __m256 s = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
#elif defined(__AVX2__)
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)));
#else
    store(out, v);
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
inline Floats choose(Mask m, Floats a, Floats b) { return _mm512_mask_mov_ps(b, m, a); }
inline uint32_t bits(Mask m) { return m; }
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats root(Floats a) { return _mm512_sqrt_ps(a); }
inline Floats rounded_down(Floats a) { return _mm512_floor_ps(a); }
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
inline Floats choose(Mask m, Floats a, Floats b) { return (Floats)choose(m, (Ints)a, (Ints)b); }
inline Floats absolute(Floats a) { return (Floats)((Ints)a & 0x7fffffff); }

#if defined(__AVX2__)
inline bool any(Mask m) { return _mm256_movemask_ps((__m256)m) != 0; }
inline uint32_t bits(Mask m) { return uint32_t(_mm256_movemask_ps((__m256)m)); }
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats root(Floats a) { return _mm256_sqrt_ps(a); }
inline Floats rounded_down(Floats a) { return _mm256_floor_ps(a); }
inline Floats reciprocal(Floats a) {
    const Floats r = _mm256_rcp_ps(a);
    return r * (2.0f - a * r);
}
#elif defined(__x86_64__)
inline bool any(Mask m) { return _mm_movemask_ps((__m128)m) != 0; }
inline uint32_t bits(Mask m) { return uint32_t(_mm_movemask_ps((__m128)m)); }
inline Floats smaller(Floats a, Floats b) { return _mm_min_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm_max_ps(a, b); }
inline Floats root(Floats a) { return _mm_sqrt_ps(a); }
inline Floats rounded_down(Floats a) { return _mm_floor_ps(a); }
inline Floats reciprocal(Floats a) {
    const Floats r = _mm_rcp_ps(a);
    return r * (2.0f - a * r);
}
#else
inline bool any(Mask m) { return vmaxvq_u32((uint32x4_t)m) != 0; }
inline uint32_t bits(Mask m) {
    const uint32x4_t place = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32((uint32x4_t)m, place));
}
// As on x86: a NaN in either gives the second.
inline Floats smaller(Floats a, Floats b) { return choose(a < b, a, b); }
inline Floats larger(Floats a, Floats b) { return choose(a > b, a, b); }
inline Floats root(Floats a) { return (Floats)vsqrtq_f32((float32x4_t)a); }
inline Floats rounded_down(Floats a) { return (Floats)vrndmq_f32((float32x4_t)a); }
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
    // Beyond that range the exponent overflows, which only unsigned numbers may.
    return (Floats)((Bits)p + ((Bits)shifted << 23));
}

// e^x to 7e-6 relative, at least 2^-126 and at most 2^127; NaN for NaN.
inline Floats exp_fast(Floats x) {
    constexpr float LOG2E = 1.44269504f;
    const Floats exponent = smaller(fill(127.0f), larger(fill(-126.0f), x * LOG2E));
    return exp2_fast(exponent) + (exponent - exponent);
}

// log2 of positive normal numbers to 2e-7 or 2e-7 relative, whichever is more: the exponent, and
// 2 atanh((m - 1) / (m + 1)) of a mantissa between the roots of 1/2 and 2.
inline Floats log2_fast(Floats x) {
    const Ints raw = (Ints)x - 0x3f3504f3;  // the bits of sqrt(1/2)
    const Floats exponent = __builtin_convertvector(raw >> 23, Floats);
    const Floats mantissa = (Floats)((raw & 0x7fffff) + 0x3f3504f3);
    const Floats s = (mantissa - 1.0f) / (mantissa + 1.0f), ss = s * s;
    constexpr float SCALE = 2.88539008f;  // 2 / ln 2
    return exponent + s * (((ss * (SCALE / 7) + SCALE / 5) * ss + SCALE / 3) * ss + SCALE);
}

// Lanes of two vectors: those of b follow those of a.
template <int... FROM>
inline Floats pick(Floats a, Floats b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, FROM...);
#else
    return __builtin_shuffle(a, b, Ints{FROM...});
#endif
}
// Calls task<0, 1, ...>(), with all lanes.
template <typename Task>
inline auto with_lanes(const Task &task) {
    return [&]<int... LANE>(std::integer_sequence<int, LANE...>) {
        return task.template operator()<LANE...>();
    }(std::make_integer_sequence<int, LANES>());
}

// Swaps rows and columns of LANES vectors: of blocks of one number, of two, of four and so on.
template <int STEP = 1>
inline void transpose(Floats *rows) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) {
        if (i & STEP) continue;
        const Floats a = rows[i], b = rows[i + STEP];
        // Lanes with the bit STEP of a and those without it of b change places.
        rows[i] = with_lanes(
            [&]<int... L>() { return pick<(L & STEP ? L - STEP + LANES : L)...>(a, b); });
        rows[i + STEP] = with_lanes(
            [&]<int... L>() { return pick<(L & STEP ? L + LANES : L + STEP)...>(a, b); });
    }
    if constexpr (2 * STEP < LANES) transpose<2 * STEP>(rows);
}

// Column C of as many consecutive rows as there are lanes, which lie one after the other: what is
// in the vectors from number K on, and the rest of what was found before.
template <int COLUMNS, int C, int K = 0>
inline Floats dense_column(const float *rows, Floats before) {
    const Floats column = with_lanes([&]<int... L>() {
        return pick<((L * COLUMNS + C) / LANES == K ? (L * COLUMNS + C) % LANES + LANES : L)...>(
            before, load(rows + K * LANES));
    });
    if constexpr (K + 1 < COLUMNS)
        return dense_column<COLUMNS, C, K + 1>(rows, column);
    else
        return column;
}

template <int COLUMNS, int C = 0>
inline void load_dense_columns(const float *rows, Floats *out) {
    out[C] = dense_column<COLUMNS, C>(rows, load(rows));
    if constexpr (C + 1 < COLUMNS) load_dense_columns<COLUMNS, C + 1>(rows, out);
}

// Column c of some rows in ascending order, one row a lane; lanes without a row are zero.
template <int COLUMNS>
inline void load_columns(const float *rows, const int64_t *index, int count, int64_t stride,
                         Floats *out) {
    if constexpr (LANES >= 8 && COLUMNS <= 4)
        if (stride == COLUMNS && count == LANES && index[LANES - 1] - index[0] == LANES - 1)
            return load_dense_columns<COLUMNS>(rows + index[0] * COLUMNS, out);
    if constexpr (LANES < 8 || COLUMNS < LANES / 2) {
        alignas(64) float columns[COLUMNS][LANES] = {};
        for (int i = 0; i < count; ++i)
            for (int c = 0; c < COLUMNS; ++c) columns[c][i] = rows[index[i] * stride + c];
        for (int c = 0; c < COLUMNS; ++c) out[c] = load(columns[c]);
        return;
    }
#pragma GCC unroll 8
    for (int from = 0; from < COLUMNS; from += LANES) {
        const int here = COLUMNS - from < LANES ? COLUMNS - from : LANES;
        Floats block[LANES] = {};
        for (int i = 0; i < count; ++i) {
            const float *row = rows + index[i] * stride + from;
            block[i] = here == LANES ? load(row) : load_first(row, here);
        }
        transpose(block);
        for (int c = 0; c < here; ++c) out[from + c] = block[c];
    }
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
