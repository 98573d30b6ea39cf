// Python bindings of the splat kernels: check shapes, drop the GIL, call.
#include <nanobind/stl/unique_ptr.h>

#include "splats/arguments.h"
#include "splats/raster.h"

using namespace nanobind::literals;

namespace lumigraph {
namespace {

void project(const In &means, const In &quaternions, const In &log_scales, const In &opacity_logits,
             const ViewNumbers &view, Size size, bool antialiased, const Out &centers,
             const Out &conics, const Out &opacities, const Out &depths, const Out &extents,
             int threads) {
    Project p = project_arguments(means, quaternions, log_scales, opacity_logits, view, size,
                                  antialiased, threads);
    p.centers = checked(centers, "centers", {p.splats, 2});
    p.conics = checked(conics, "conics", {p.splats, 3});
    p.opacities = checked(opacities, "opacities", {p.splats});
    p.depths = checked(depths, "depths", {p.splats});
    p.extents = checked(extents, "extents", {p.splats, 2});
    nb::gil_scoped_release release;
    kernels().project(p);
}

void project_backward(const In &means, const In &quaternions, const In &log_scales,
                      const In &opacity_logits, const ViewNumbers &view, Size size,
                      bool antialiased, const Out &extents, const std::array<In, 4> &gradients,
                      const std::array<Out, 4> &out, int threads) {
    Project p = project_arguments(means, quaternions, log_scales, opacity_logits, view, size,
                                  antialiased, threads);
    const int64_t n = p.splats;
    p.extents = checked(extents, "extents", {n, 2});
    ProjectGradient g{};
    g.centers = checked(gradients[0], "gradient of centers", {n, 2});
    g.conics = checked(gradients[1], "gradient of conics", {n, 3});
    g.opacities = checked(gradients[2], "gradient of opacities", {n});
    g.depths = checked(gradients[3], "gradient of depths", {n});
    g.means = checked(out[0], "means", {n, 3});
    g.quaternions = checked(out[1], "quaternions", {n, 4});
    g.log_scales = checked(out[2], "log_scales", {n, 3});
    g.opacity_logits = checked(out[3], "opacity_logits", {n});
    nb::gil_scoped_release release;
    kernels().project_backward(p, g);
}

void harmonics(const In &means, const In &base, const In &rest, std::array<float, 3> position,
               int degree, const std::optional<MaskIn> &visible, const Out &colors, int threads) {
    const Harmonics h =
        harmonics_arguments(means, base, rest, position, degree, visible, colors, threads);
    nb::gil_scoped_release release;
    kernels().harmonics(h);
}

void harmonics_backward(const In &means, const In &base, const In &rest,
                        std::array<float, 3> position, int degree,
                        const std::optional<MaskIn> &visible, const Out &colors, const In &gradient,
                        const std::array<Out, 3> &out, int threads) {
    const Harmonics h =
        harmonics_arguments(means, base, rest, position, degree, visible, colors, threads);
    HarmonicsGradient g{};
    g.colors = checked(gradient, "gradient of colors", {h.splats, 3});
    g.means = checked(out[0], "means", {h.splats, 3});
    g.base = checked(out[1], "base", {h.splats, 3});
    g.rest = checked(out[2], "rest", {h.splats, h.rest_count, 3});
    nb::gil_scoped_release release;
    kernels().harmonics_backward(h, g);
}

std::unique_ptr<TileLists> tile_lists(const In &centers, const In &conics, const In &opacities,
                                      const In &depths, const In &extents, Size size, int threads) {
    const int64_t n = centers.ndim() ? centers.shape(0) : 0;
    const FootprintRows rows{n,
                             checked(centers, "means", {n, 2}),
                             checked(conics, "conics", {n, 3}),
                             checked(opacities, "opacities", {n}),
                             checked(depths, "depths", {n}),
                             checked(extents, "extents", {n, 2})};
    check_count(n);
    check_size(size);
    nb::gil_scoped_release release;
    return std::make_unique<TileLists>(rows, size[0], size[1], threads);
}

void blend(TileLists &lists, const In &features, const std::vector<float> &background,
           const Out &image, const Out &transmittance,
           const std::optional<Array<int32_t>> &median) {
    const int64_t channels = image.ndim() == 3 ? image.shape(2) : 0;
    if (channels < 1) throw nb::value_error("features must have at least one channel");
    const int64_t height = transmittance.ndim() ? transmittance.shape(0) : 0;
    const int64_t width = transmittance.ndim() > 1 ? transmittance.shape(1) : 0;
    if (width != lists.width() || height != lists.height())
        throw nb::value_error("the image must have the size that the tile lists were made for");
    const float *f = checked(features, "features", {lists.splats(), channels});
    const float *behind = background_of(background, channels);
    float *out = checked(image, "image", {height, width, channels});
    float *left = checked(transmittance, "transmittance", {height, width});
    int32_t *index = checked(median, "median", {height, width});
    nb::gil_scoped_release release;
    lists.blend(f, int(channels), behind, out, left, index);
}

void blend_backward(TileLists &lists, const In &features, const In &conics, const In &image,
                    const In &transmittance, const In &image_gradient,
                    const In &transmittance_gradient, const std::array<Out, 4> &out,
                    const std::optional<Out> &absolute) {
    const int64_t n = lists.splats(), height = lists.height(), width = lists.width();
    const int64_t channels = image.ndim() == 3 ? image.shape(2) : 0;
    const float *f = checked(features, "features", {n, channels});
    const float *c = checked(conics, "conics", {n, 3});
    const float *colors = checked(image, "image", {height, width, channels});
    const float *left = checked(transmittance, "transmittance", {height, width});
    TileLists::Gradients g{};
    g.image = checked(image_gradient, "gradient of image", {height, width, channels});
    g.transmittance = checked(transmittance_gradient, "gradient of transmittance", {height, width});
    g.centers = checked(out[0], "means", {n, 2});
    g.conics = checked(out[1], "conics", {n, 3});
    g.opacities = checked(out[2], "opacities", {n});
    g.features = checked(out[3], "features", {n, channels});
    g.absolute_centers = checked(absolute, "absolute_gradients", {n, 2});
    if (absolute && channels > 4)
        throw nb::value_error("absolute_gradients needs features of at most 4 channels");
    nb::gil_scoped_release release;
    lists.blend_backward(f, c, int(channels), colors, left, g);
}

}  // namespace

void bind_splats(nb::module_ &m) {
    m.def("footprints", &project, "means"_a.noconvert(), "quaternions"_a.noconvert(),
          "log_scales"_a.noconvert(), "opacity_logits"_a.noconvert(), "view"_a, "size"_a,
          "antialiased"_a, "centers"_a.noconvert(), "conics"_a.noconvert(),
          "opacities"_a.noconvert(), "depths"_a.noconvert(), "extents"_a.noconvert(), "threads"_a);
    m.def("project_backward", &project_backward, "means"_a.noconvert(), "quaternions"_a.noconvert(),
          "log_scales"_a.noconvert(), "opacity_logits"_a.noconvert(), "view"_a, "size"_a,
          "antialiased"_a, "extents"_a.noconvert(), "gradients"_a.noconvert(), "out"_a.noconvert(),
          "threads"_a);
    m.def("harmonics", &harmonics, "means"_a.noconvert(), "base"_a.noconvert(),
          "rest"_a.noconvert(), "position"_a, "degree"_a, "visible"_a.noconvert().none(),
          "colors"_a.noconvert(), "threads"_a);
    m.def("harmonics_backward", &harmonics_backward, "means"_a.noconvert(), "base"_a.noconvert(),
          "rest"_a.noconvert(), "position"_a, "degree"_a, "visible"_a.noconvert().none(),
          "colors"_a.noconvert(), "gradient"_a.noconvert(), "out"_a.noconvert(), "threads"_a);
    nb::class_<TileLists>(m, "TileLists", "The splats that each tile of an image shows.")
        .def_prop_ro("entries", &TileLists::entries, "Pairs of a splat and a tile it touches.")
        .def_prop_ro("records", &TileLists::records, "Splats that are seen.");
    m.def("tile_lists", &tile_lists, "means"_a.noconvert(), "conics"_a.noconvert(),
          "opacities"_a.noconvert(), "depths"_a.noconvert(), "extents"_a.noconvert(), "size"_a,
          "threads"_a);
    m.def("blend", &blend, "lists"_a, "features"_a.noconvert(), "background"_a,
          "image"_a.noconvert(), "transmittance"_a.noconvert(), "median"_a.noconvert().none());
    m.def("blend_backward", &blend_backward, "lists"_a, "features"_a.noconvert(),
          "conics"_a.noconvert(), "image"_a.noconvert(), "transmittance"_a.noconvert(),
          "image_gradient"_a.noconvert(), "transmittance_gradient"_a.noconvert(),
          "out"_a.noconvert(), "absolute"_a.noconvert().none());
}

}  // namespace lumigraph
