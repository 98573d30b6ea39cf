// Sums of the slots of a splat: one number from each tile that it meets, added in the order of its
// tiles. Only for *.isa.cpp files.
#pragma once

#include "splats/kernels.h"
#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// The sums of a vector of records, a column for each of a slot's numbers.
template <int NUMBERS = SLOT>
inline void sum_columns(const Record *records, int count, const float *slots, Floats *out) {
    constexpr int PARTS = (NUMBERS + LANES - 1) / LANES;
    Floats rows[PARTS][LANES] = {};
    for (int i = 0; i < count; ++i) {
        Floats total[PARTS] = {};
        const float *slot = slots + int64_t(records[i].first) * NUMBERS;
        for (uint32_t s = 0; s < records[i].count; ++s, slot += NUMBERS)
#pragma GCC unroll 8
            for (int v = 0; v < PARTS; ++v) {
                const float *part = slot + v * LANES;
                const int here = NUMBERS - v * LANES;
                total[v] += here < LANES ? load_first(part, here) : load(part);
            }
        for (int v = 0; v < PARTS; ++v) rows[v][i] = total[v];
    }
    for (Floats *part : rows) transpose(part);
    for (int k = 0; k < NUMBERS; ++k) out[k] = rows[k / LANES][k % LANES];
}

// The loss by the centre (2), the conic (3) and the opacity of a footprint, from the moments that
// start a slot: log(alpha) = log(opacity) - (xx dx^2 + yy dy^2) / 2 - xy dx dy, d = pixel - centre.
template <typename T>
inline void through_alpha(const T *moments, T xx, T xy, T yy, T opacity, T out[6]) {
    out[0] = xx * moments[1] + xy * moments[3];
    out[1] = xy * moments[1] + yy * moments[3];
    out[2] = -0.5f * moments[2];
    out[3] = -moments[4];
    out[4] = -0.5f * moments[5];
    out[5] = moments[0] / opacity;
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
