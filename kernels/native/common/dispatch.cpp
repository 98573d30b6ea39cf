// Chooses the instruction set: once by default, again when a test asks for one.
#include "common/dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lumigraph {

// Each instruction set has its tables in a namespace of its own.
#define X(level)                             \
    namespace level {                        \
    extern const Kernels kernels;            \
    extern const ImageKernels image_kernels; \
    extern const TraceKernels trace_kernels; \
    }
LUMIGRAPH_LEVELS
#undef X

namespace {

struct Level {
    std::string_view name;
    const Kernels *kernels;
    const ImageKernels *image_kernels;
    const TraceKernels *trace_kernels;
};

// Slowest first, as CMake listed them.
#define X(level) {#level, &level::kernels, &level::image_kernels, &level::trace_kernels},
constexpr Level levels[] = {LUMIGRAPH_LEVELS};
#undef X

// Whether this processor and its operating system have what CMake compiled a level for. Features by
// name: not every compiler knows the levels of x86-64 here.
bool supported(std::string_view level) {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi2");
    if (level == "avx2") return avx2;
    if (level == "avx512")
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#endif
    return level == "baseline";
}

const Level &find(const char *wanted) {
    const Level *best = nullptr;
    for (const Level &level : levels) {
        if (!supported(level.name)) continue;
        best = &level;
        if (wanted && level.name == wanted) return level;
    }
    if (wanted)
        throw std::invalid_argument("instruction set " + std::string(wanted) +
                                    " is not available here; the best is " +
                                    std::string(best->name));
    return *best;
}

const Level *&active() {
    static const Level *level = &find(std::getenv("LUMIGRAPH_ISA"));
    return level;
}

}  // namespace

const Kernels &kernels() { return *active()->kernels; }
const ImageKernels &image_kernels() { return *active()->image_kernels; }
const TraceKernels &trace_kernels() { return *active()->trace_kernels; }
const char *active_level() { return active()->name.data(); }
void select_level(const char *name) { active() = &find(name); }

const char *const *available_levels() {
    static const char *names[8] = {};
    int n = 0;
    for (const Level &level : levels)
        if (supported(level.name)) names[n++] = level.name.data();
    return names;
}

}  // namespace lumigraph
