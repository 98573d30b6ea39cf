// Python bindings of the loss and of Adam: check shapes, release the GIL, call the kernel.
#include <nanobind/stl/array.h>

#include <array>
#include <vector>

#include "common/arrays.h"
#include "images/images.h"

using namespace nanobind::literals;

namespace lumigraph {
namespace {

using Bytes = Array<const uint8_t>;

// Left, top, width and height of the part of the image that the loss is summed over, and the pixels
// that the sum is divided by.
using Inner = std::array<int64_t, 5>;

// Returns the loss. Writes its gradient, if a tensor is given for it.
double loss(const In &image, const std::optional<In> &target, const std::optional<Bytes> &photo,
            const std::optional<MaskIn> &mask, const std::optional<In> &weight,
            const std::optional<Inner> &inner, float ssim_weight,
            const std::optional<Out> &gradient, int threads) {
    if (image.ndim() != 3 || image.size() == 0)
        throw nb::value_error("image must be [height, width, channels] with at least one number");
    if (target.has_value() == photo.has_value())
        throw nb::value_error("give a target in floats or a photo in bytes");
    const int64_t height = image.shape(0), width = image.shape(1), channels = image.shape(2);
    const auto [left, top, columns, rows, pixels] =
        inner.value_or(Inner{0, 0, width, height, height * width});
    if (left < 0 || top < 0 || columns < 0 || rows < 0 || left + columns > width ||
        top + rows > height || pixels < 1)
        throw nb::value_error("inner must be a part of the image");
    Loss l{};
    l.height = int(height), l.width = int(width), l.channels = int(channels);
    l.image = image.data();
    l.target = checked(target, "target", {height, width, channels});
    l.photo = checked(photo, "photo", {height, width, channels});
    l.mask = checked(mask, "mask", {height, width});
    l.weight = checked(weight, "weight", {height, width});
    l.left = int(left), l.top = int(top);
    l.right = int(left + columns), l.bottom = int(top + rows), l.pixels = pixels;
    l.gradient = checked(gradient, "gradient", {height, width, channels});
    l.ssim_weight = ssim_weight, l.threads = threads;
    nb::gil_scoped_release release;
    return loss_of(l);
}

// All tensors have the same shape, whatever it is; its first axis counts rows.
void adam(const Out &parameter, const In &gradient, const Out &first, const Out &second,
          std::array<float, 3> betas_epsilon, float rate, float root_scale,
          const std::optional<MaskIn> &use, int threads) {
    if (gradient.size() != parameter.size() || first.size() != parameter.size() ||
        second.size() != parameter.size())
        throw nb::value_error("parameter, gradient and both moments must have the same shape");
    const int64_t rows = parameter.ndim() ? parameter.shape(0) : 1;
    const int64_t columns = rows ? int64_t(parameter.size()) / rows : 0;
    const Adam a{rows,
                 columns,
                 parameter.data(),
                 first.data(),
                 second.data(),
                 gradient.data(),
                 checked(use, "rows", {rows}),
                 betas_epsilon[0],
                 betas_epsilon[1],
                 betas_epsilon[2],
                 rate,
                 root_scale,
                 threads};
    nb::gil_scoped_release release;
    image_kernels().adam(a);
}

}  // namespace

void bind_images(nb::module_ &m) {
    m.def("loss", &loss, "image"_a.noconvert(), "target"_a.noconvert().none(),
          "photo"_a.noconvert().none(), "mask"_a.noconvert().none(), "weight"_a.noconvert().none(),
          "inner"_a.none(), "ssim_weight"_a, "gradient"_a.noconvert().none(), "threads"_a);
    m.def("adam", &adam, "parameter"_a.noconvert(), "gradient"_a.noconvert(), "first"_a.noconvert(),
          "second"_a.noconvert(), "betas_epsilon"_a, "rate"_a, "root_scale"_a,
          "rows"_a.noconvert().none(), "threads"_a);
}

}  // namespace lumigraph
