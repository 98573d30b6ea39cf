// Adding columns of numbers, one splat a lane, to rows of the caller's tensors. Only for *.isa.cpp
// files.
#pragma once

#include "common/simd.h"
#include "splats/splat_math.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Writes columns to rows of COLUMNS numbers.
template <int COLUMNS>
inline void put_rows(const Floats *columns, const Group &g, float *rows) {
    if constexpr (COLUMNS < LANES / 2) {
        alignas(64) float values[COLUMNS][LANES];
        for (int c = 0; c < COLUMNS; ++c) store(values[c], columns[c]);
        for (int i = 0; i < g.count; ++i)
            for (int c = 0; c < COLUMNS; ++c) rows[g.index[i] * COLUMNS + c] = values[c][i];
        return;
    }
#pragma GCC unroll 8
    for (int from = 0; from < COLUMNS; from += LANES) {
        const int here = COLUMNS - from < LANES ? COLUMNS - from : LANES;
        Floats block[LANES] = {};
        for (int c = 0; c < here; ++c) block[c] = columns[from + c];
        transpose(block);
        for (int i = 0; i < g.count; ++i)
            store_first(rows + g.index[i] * COLUMNS + from, block[i], here);
    }
}

template <int COLUMNS>
inline void add_rows(const Floats *columns, const Group &g, float *rows, int64_t stride) {
    if constexpr (COLUMNS < LANES / 2) {
        alignas(64) float values[COLUMNS][LANES];
        for (int c = 0; c < COLUMNS; ++c) store(values[c], columns[c]);
        for (int i = 0; i < g.count; ++i)
            for (int c = 0; c < COLUMNS; ++c) rows[g.index[i] * stride + c] += values[c][i];
        return;
    }
#pragma GCC unroll 8
    for (int from = 0; from < COLUMNS; from += LANES) {
        const int here = COLUMNS - from < LANES ? COLUMNS - from : LANES;
        Floats block[LANES] = {};
        for (int c = 0; c < here; ++c) block[c] = columns[from + c];
        transpose(block);
        for (int i = 0; i < g.count; ++i) {
            float *row = rows + g.index[i] * stride + from;
            if (here == LANES)
                store(row, load(row) + block[i]);
            else
                store_first(row, load_first(row, here) + block[i], here);
        }
    }
}

// The same for `used` harmonics above degree 0.
inline void add_harmonics(int used, const Floats *columns, const Group &g, float *rows,
                          int64_t stride) {
    switch (used) {
        case 3: return add_rows<9>(columns, g, rows, stride);
        case 8: return add_rows<24>(columns, g, rows, stride);
        case 15: return add_rows<45>(columns, g, rows, stride);
    }
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
