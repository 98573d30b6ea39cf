// Declares, inside the namespace of one instruction set, the kernels that its table lists.
#pragma once

#include "splats/kernels.h"

namespace lumigraph::LUMIGRAPH_ISA {

int collect(const Scene &, int64_t from, int64_t to, const Collected &);
void list_cells(const Tiles &, const Collected &, int count, Cells &, uint32_t *counts,
                int32_t *scratch);
void blend(const Blend &);
void blend_backward(const BlendGradient &);
void moments(const Moments &, int tile, const Tape &);
void moments_backward(const MomentsGradient &, int tile, const Tape &);
void records_of_rows(const RecordRows &, int64_t from, int64_t to, const Collected &);
void sum_rows(const RowSums &);
void update(const Descent &, const RecordRows &, int64_t from, int64_t to);
void add_gradient(const Scene &, const RecordRows &, int64_t from, int64_t to, float *const *out);
void view_gradient(const Scene &, const RecordRows &, int64_t from, int64_t to, double *out);
void tangents(const Scene &, const float *const *direction, const Record *records, int count,
              Tangent *out);
void blend_tangents(const BlendTangents &);
void turns(const Scene &, const Record *records, int count, Turn *out);
void curvature(const Curvature &);
void add_blocks(const Scene &, const Record *records, const Turn *turns, int count,
                const float *slots, const BlockRows &out);

}  // namespace lumigraph::LUMIGRAPH_ISA
