// The table of native kernels: one per instruction set, all with this shape.
#pragma once

#include <cstdint>

namespace lumigraph {

struct Kernels {
    int lanes;  // floats in one vector register
};

#define X(level) namespace level { extern const Kernels kernels; }
#ifdef LUMIGRAPH_LEVELS
LUMIGRAPH_LEVELS
#endif
#undef X

// The fastest table this processor can run, chosen once. LUMIGRAPH_ISA=baseline in
// the environment forces a lower one; select_level changes it, for tests and benchmarks.
const Kernels &kernels();
const char *active_level();
void select_level(const char *name);
const char *const *available_levels();  // slowest first, ends with null

}  // namespace lumigraph
