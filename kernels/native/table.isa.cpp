// One instruction set's table of kernels.
#include "levels.h"

namespace lumigraph::LUMIGRAPH_ISA {

extern const Kernels kernels;
const Kernels kernels = {
    .project = project,
    .project_backward = project_backward,
    .harmonics = harmonics,
    .harmonics_backward = harmonics_backward,
    .count_tiles = count_tiles,
    .fill_tiles = fill_tiles,
    .blend = blend,
    .blend_backward = blend_backward,
    .gather = gather,
    .ssim = ssim,
    .ssim_backward = ssim_backward,
    .l1 = l1,
    .l1_backward = l1_backward,
    .adam = adam,
};

}  // namespace lumigraph::LUMIGRAPH_ISA
