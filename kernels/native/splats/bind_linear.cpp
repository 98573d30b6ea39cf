// Python bindings of products with the derivative of a picture: check shapes, drop the GIL, call.
#include <nanobind/stl/unique_ptr.h>

#include "splats/arguments.h"
#include "splats/raster.h"

using namespace nanobind::literals;

namespace lumigraph {
namespace {

// A picture and what its products have in common. It holds on to the tensors it reads.
class Linearization {
  public:
    Linearization(const Rows &parameters, const Scene &scene, const std::vector<float> &background,
                  const Out &color)
        : parameters_(parameters), scene_(scene), background_(background), color_(color) {
        nb::gil_scoped_release release;
        lists_ = std::make_unique<TileLists>(scene.project, scene.harmonics);
        lists_->blend(nullptr, 3, behind(), color_.data(), nullptr, nullptr);
    }

    void jvp(const std::array<In, PARAMETERS> &direction, const Out &image) {
        const float *rows[PARAMETERS];
        for (int i = 0; i < PARAMETERS; ++i) rows[i] = like(direction[i], i);
        float *out = checked(image, "image", {lists_->height(), lists_->width(), 3});
        nb::gil_scoped_release release;
        lists_->jvp(scene_, rows, behind(), out);
    }

    void vjp(const In &weights, const Rows &out) {
        float *rows[PARAMETERS];
        for (int i = 0; i < PARAMETERS; ++i) rows[i] = like(out[i], i);
        const float *w = checked(weights, "weights", {lists_->height(), lists_->width(), 3});
        nb::gil_scoped_release release;
        lists_->vjp(scene_, color_.data(), w, rows);
    }

    void blocks(const In &weights, const std::array<Out, 3> &out) {
        const BlockRows rows = {checked(out[0], "geometry", {lists_->splats(), LOWER}),
                                like(out[1], 4), like(out[2], 5)};
        const float *w = checked(weights, "weights", {lists_->height(), lists_->width(), 3});
        nb::gil_scoped_release release;
        lists_->blocks(scene_, color_.data(), w, rows);
    }

    int64_t bytes() const { return lists_->bytes(); }

  private:
    const float *behind() const { return background_.empty() ? nullptr : background_.data(); }

    // The data of an array of the same shape as one of the parameters.
    template <typename T>
    T *like(const Array<T> &array, int which) const {
        const Out &parameter = parameters_[which];
        bool same = array.ndim() == parameter.ndim();
        for (size_t axis = 0; same && axis < parameter.ndim(); ++axis)
            same = array.shape(axis) == parameter.shape(axis);
        if (!same) throw nb::value_error("an array must have the shape of the parameters");
        return array.data();
    }

    Rows parameters_;
    Scene scene_;
    std::vector<float> background_;
    Out color_;
    std::unique_ptr<TileLists> lists_;
};

std::unique_ptr<Linearization> linearize(const Rows &parameters, const ViewNumbers &view, Size size,
                                         bool antialiased, std::array<float, 3> position,
                                         int degree, const std::vector<float> &background,
                                         const Out &color, int threads) {
    const Scene scene = {scene_project(parameters, view, size, antialiased, threads),
                         scene_harmonics(parameters, position, degree, threads)};
    background_of(background, 3);
    checked(color, "color", {size[1], size[0], 3});
    return std::make_unique<Linearization>(parameters, scene, background, color);
}

}  // namespace

void bind_linear(nb::module_ &m) {
    nb::class_<Linearization>(m, "Linearization", "A picture, and products with its derivative.")
        .def("jvp", &Linearization::jvp, "direction"_a.noconvert(), "image"_a.noconvert())
        .def("vjp", &Linearization::vjp, "weights"_a.noconvert(), "out"_a.noconvert())
        .def("blocks", &Linearization::blocks, "weights"_a.noconvert(), "out"_a.noconvert())
        .def_prop_ro("bytes", &Linearization::bytes, "What it holds beside the parameters.");
    m.def("linearize", &linearize, "parameters"_a.noconvert(), "view"_a, "size"_a, "antialiased"_a,
          "position"_a, "degree"_a, "background"_a, "color"_a.noconvert(), "threads"_a);
}

}  // namespace lumigraph
