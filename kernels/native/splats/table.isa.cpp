// One instruction set's table of kernels.
#include "common/levels.h"

namespace lumigraph::LUMIGRAPH_ISA {

extern const Kernels kernels;
const Kernels kernels = {
    .collect = collect,
    .list_cells = list_cells,
    .blend = blend,
    .blend_backward = blend_backward,
    .moments = moments,
    .moments_backward = moments_backward,
    .records_of_rows = records_of_rows,
    .sum_rows = sum_rows,
    .update = update,
    .add_gradient = add_gradient,
    .view_gradient = view_gradient,
    .tangents = tangents,
    .blend_tangents = blend_tangents,
    .turns = turns,
    .curvature = curvature,
    .add_blocks = add_blocks,
};

}  // namespace lumigraph::LUMIGRAPH_ISA
