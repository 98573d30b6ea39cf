// Chooses the instruction set: once by default, again when a test asks for one.
#include "splats/kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lumigraph {
namespace {

struct Level {
    std::string_view name;
    const Kernels *kernels;
};

// Slowest first, as CMake listed them.
#define X(level) {#level, &level::kernels},
constexpr Level levels[] = {LUMIGRAPH_LEVELS};
#undef X

bool supported(std::string_view level) {
#if defined(__x86_64__)
    if (level == "avx2") return __builtin_cpu_supports("x86-64-v3");
    if (level == "avx512") return __builtin_cpu_supports("x86-64-v4");
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
