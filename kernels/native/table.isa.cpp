// One instruction set's table of kernels.
#include "kernels.h"

namespace lumigraph::LUMIGRAPH_ISA {
extern const Kernels kernels;
const Kernels kernels = {4};
}  // namespace lumigraph::LUMIGRAPH_ISA
