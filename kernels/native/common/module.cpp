// The Python module: each bind_*.cpp adds its own functions.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "common/dispatch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace lumigraph {
void bind_records(nb::module_ &);
void bind_images(nb::module_ &);
void bind_tracer(nb::module_ &);
}  // namespace lumigraph

NB_MODULE(_native, m) {
    // A rendering that is alive at exit keeps its tile lists; that is no leak to warn of.
    nb::set_leak_warnings(false);
    m.doc() = "Native CPU kernels; call them through lumigraph.kernels.";
    m.def("active_level", &lumigraph::active_level,
          "The instruction set in use: baseline, avx2 or avx512.");
    m.def(
        "select_level", [](const std::string &name) { lumigraph::select_level(name.c_str()); },
        "name"_a, "Use another instruction set from now on; for tests and benchmarks.");
    m.def(
        "available_levels",
        [] {
            std::vector<std::string> names;
            for (const char *const *name = lumigraph::available_levels(); *name; ++name)
                names.emplace_back(*name);
            return names;
        },
        "The instruction sets this processor can run, slowest first.");
    lumigraph::bind_records(m);
    lumigraph::bind_images(m);
    lumigraph::bind_tracer(m);
}
