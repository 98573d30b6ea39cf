// Scalar helpers that compile to single instructions; the C library's fmaxf must honour a NaN in
// either argument and becomes a call. Here a NaN in the first argument gives the second.
#pragma once

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

inline float larger(float a, float b) { return a > b ? a : b; }
inline float lesser(float a, float b) { return a < b ? a : b; }
inline float clamped(float x, float low, float high) { return larger(low, lesser(x, high)); }

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
