// Python bindings of the moments over dropped splats: check shapes, drop the GIL, call.
#include "splats/arguments.h"
#include "splats/raster.h"

using namespace nanobind::literals;

namespace lumigraph {
namespace {

// Probabilities that a splat is there, and that it is missing.
using Chances = std::array<float, 2>;

void moments(TileLists &lists, const In &features, const std::vector<float> &background,
             const Chances &chances, const std::optional<In> &origin, const Out &mean,
             const Out &variance, const Out &transmittance, const std::optional<Out> &shares) {
    const int64_t n = lists.splats(), height = lists.height(), width = lists.width();
    const int64_t channels = mean.ndim() == 3 ? mean.shape(2) : 0;
    if (channels < 1) throw nb::value_error("features must have at least one channel");
    const float *f = checked(features, "features", {n, channels});
    const TileLists::Chance chance = {chances[0], chances[1], background_of(background, channels),
                                      checked(origin, "origin", {height, width, channels})};
    const TileLists::MomentImages images = {
        checked(mean, "mean", {height, width, channels}),
        checked(variance, "variance", {height, width, channels}),
        checked(transmittance, "transmittance", {height, width}), checked(shares, "shares", {n})};
    nb::gil_scoped_release release;
    lists.moments(f, int(channels), chance, images);
}

void moments_backward(TileLists &lists, const In &features, const In &conics,
                      const std::vector<float> &background, const Chances &chances,
                      const std::optional<In> &origin, const std::array<In, 3> &gradients,
                      const std::array<Out, 4> &out) {
    const int64_t n = lists.splats(), height = lists.height(), width = lists.width();
    const int64_t channels = features.ndim() == 2 ? features.shape(1) : 0;
    const float *f = checked(features, "features", {n, channels});
    const float *c = checked(conics, "conics", {n, 3});
    const TileLists::Chance chance = {chances[0], chances[1], background_of(background, channels),
                                      checked(origin, "origin", {height, width, channels})};
    const TileLists::MomentGradients g = {
        checked(gradients[0], "gradient of mean", {height, width, channels}),
        checked(gradients[1], "gradient of variance", {height, width, channels}),
        checked(gradients[2], "gradient of transmittance", {height, width}),
        checked(out[0], "means", {n, 2}),
        checked(out[1], "conics", {n, 3}),
        checked(out[2], "opacities", {n}),
        checked(out[3], "features", {n, channels})};
    nb::gil_scoped_release release;
    lists.moments_backward(f, c, int(channels), chance, g);
}

}  // namespace

void bind_moments(nb::module_ &m) {
    m.def("moments", &moments, "lists"_a, "features"_a.noconvert(), "background"_a, "chances"_a,
          "origin"_a.noconvert().none(), "mean"_a.noconvert(), "variance"_a.noconvert(),
          "transmittance"_a.noconvert(), "shares"_a.noconvert().none());
    m.def("moments_backward", &moments_backward, "lists"_a, "features"_a.noconvert(),
          "conics"_a.noconvert(), "background"_a, "chances"_a, "origin"_a.noconvert().none(),
          "gradients"_a.noconvert(), "out"_a.noconvert());
}

}  // namespace lumigraph
