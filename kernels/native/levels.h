// Declares, inside the namespace of one instruction set, the kernels that its table lists.
#pragma once

#include "kernels.h"

namespace lumigraph::LUMIGRAPH_ISA {

void project(const Project &);
void project_backward(const Project &, const ProjectGradient &);
void harmonics(const Harmonics &);
void harmonics_backward(const Harmonics &, const HarmonicsGradient &);
void count_tiles(const Tiles &, int64_t from, int64_t to, uint32_t *touched, uint32_t *counts);
void fill_tiles(const Tiles &, int64_t from, int64_t to, uint32_t *next);
void blend(const Blend &);
void blend_backward(const BlendGradient &);
void gather(const GatherGradient &);
void ssim(const Ssim &);
void ssim_backward(const SsimGradient &);
void l1(const float *image, const float *target, int64_t rows, int64_t columns, double *row_sums,
        int threads);
void l1_backward(const float *image, const float *target, int64_t count, float scale,
                 float *gradient, int threads);
void adam(const Adam &);

}  // namespace lumigraph::LUMIGRAPH_ISA
