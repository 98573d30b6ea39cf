// What the slots of a record say of its splat: one sum over its cells, in their order. Only for
// *.isa.cpp files.
#pragma once

#include "kernels.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

inline void sum_slots(const Record &r, const float *slots, float total[SLOT]) {
    const float *slot = slots + int64_t(r.first) * SLOT;
    for (int k = 0; k < SLOT; ++k) total[k] = 0;
    for (uint32_t s = 0; s < r.count; ++s, slot += SLOT)
        for (int k = 0; k < SLOT; ++k) total[k] += slot[k];
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
