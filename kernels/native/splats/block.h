// Blocks of pixels as vectors, and the splats' alphas in them. Only for *.isa.cpp files.
#pragma once

#include "splats/kernels.h"
#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// A block of 4 by 4 pixels is VECTORS vectors, each a few rows of it. Small splats meet few blocks
// and large ones waste none, which rows as long as a vector would.
constexpr int VECTORS = BLOCK * BLOCK / LANES;
constexpr int ROWS = LANES / BLOCK;             // of a block in a vector
constexpr int HELD = LANES == 16 ? BLOCKS : 1;  // blocks side by side that registers can hold

// Slots lie anywhere in memory. The walk fetches each some entries early, so that stores into it do
// not wait.
constexpr int SOON = 4;
template <int NUMBERS>
inline void fetch_slot(const float *slots, const Entry &entry) {
    const float *slot = slots + int64_t(entry.slot) * NUMBERS;
    for (int k = 0; k < NUMBERS; k += 16) __builtin_prefetch(slot + k, 1);
}

// The column and the row of each lane's pixel within the block.
inline Floats lane_x() {
    Floats v;
    for (int i = 0; i < LANES; ++i) v[i] = float(i % BLOCK);
    return v;
}
inline Floats lane_y() {
    Floats v;
    for (int i = 0; i < LANES; ++i) v[i] = float(i / BLOCK);
    return v;
}

// One number for each pixel of a tile, block by block.
using TileFloats = float[BLOCKS * BLOCKS][BLOCK * BLOCK];

// The exponent for which exp2_fast gives the largest alpha, to within rounding.
inline float highest_exponent(const Tiles &t) {
    const Floats wanted = fill(t.alpha_max), exponent = log2_fast(wanted);
    return (exponent + log2_fast(wanted / exp2_fast(exponent)))[0];
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
