// The instruction set in use, and its table of each room's kernels.
#pragma once

namespace lumigraph {

constexpr int LANES_MAX = 16;  // floats in a register, of any instruction set

struct Kernels;       // splats/kernels.h
struct ImageKernels;  // images/images.h
struct TraceKernels;  // tracer/tracer.h

// The tables of the instruction set in use: at first the fastest that this processor can run, or
// what LUMIGRAPH_ISA in the environment names.
const Kernels &kernels();
const ImageKernels &image_kernels();
const TraceKernels &trace_kernels();

const char *active_level();
void select_level(const char *name);    // for tests and benchmarks
const char *const *available_levels();  // slowest first, ends with null

}  // namespace lumigraph
