// Python bindings of the losses and the optimizer: check shapes, drop the GIL, call.
#include <nanobind/stl/array.h>

#include <array>
#include <vector>

#include "arrays.h"
#include "kernels.h"

using namespace nanobind::literals;

namespace lumigraph {
namespace {

double mean_of(const std::vector<double> &row_sums, double count) {
    double sum = 0;
    for (double row : row_sums) sum += row;
    return sum / count;
}

struct ImageSize {
    int64_t height, width, channels;
    double count() const { return double(height) * width * channels; }
};

ImageSize size_of(const In &image) {
    if (image.ndim() != 3 || image.size() == 0 || image.shape(2) > 4)
        throw nb::value_error("image must be [height, width, channels] of 1 to 4 channels");
    return {int64_t(image.shape(0)), int64_t(image.shape(1)), int64_t(image.shape(2))};
}

using Maps = std::array<Out, 3>;

double ssim(const In &image, const In &target, const std::optional<Maps> &maps, int threads) {
    const auto [height, width, channels] = size_of(image);
    const std::initializer_list<int64_t> shape = {height, width, channels};
    std::vector<double> row_sums(height);
    Ssim s{
        int(height), int(width), int(channels), image.data(),    checked(target, "target", shape),
        nullptr,     nullptr,    nullptr,       row_sums.data(), threads};
    if (maps) {
        s.map_mean = checked((*maps)[0], "maps[0]", shape);
        s.map_square = checked((*maps)[1], "maps[1]", shape);
        s.map_product = checked((*maps)[2], "maps[2]", shape);
    }
    nb::gil_scoped_release release;
    kernels().ssim(s);
    return mean_of(row_sums, double(height) * width * channels);
}

void ssim_backward(const In &image, const In &target, const Maps &maps, float scale,
                   const Out &gradient, int threads) {
    const auto [height, width, channels] = size_of(image);
    const std::initializer_list<int64_t> shape = {height, width, channels};
    const SsimGradient s{int(height),
                         int(width),
                         int(channels),
                         image.data(),
                         checked(target, "target", shape),
                         checked(maps[0], "maps[0]", shape),
                         checked(maps[1], "maps[1]", shape),
                         checked(maps[2], "maps[2]", shape),
                         float(scale / (double(height) * width * channels)),
                         checked(gradient, "gradient", shape),
                         threads};
    nb::gil_scoped_release release;
    kernels().ssim_backward(s);
}

double l1(const In &image, const In &target, int threads) {
    const auto [height, width, channels] = size_of(image);
    const float *other = checked(target, "target", {height, width, channels});
    std::vector<double> row_sums(height);
    nb::gil_scoped_release release;
    kernels().l1(image.data(), other, height, width * channels, row_sums.data(), threads);
    return mean_of(row_sums, double(height) * width * channels);
}

void l1_backward(const In &image, const In &target, float scale, const Out &gradient, int threads) {
    const auto [height, width, channels] = size_of(image);
    const float *other = checked(target, "target", {height, width, channels});
    float *out = checked(gradient, "gradient", {height, width, channels});
    const int64_t count = height * width * channels;
    nb::gil_scoped_release release;
    kernels().l1_backward(image.data(), other, count, float(scale / double(count)), out, threads);
}

// The state's tensors may have any shape, the same for all: rows, and what is in a row.
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
    kernels().adam(a);
}

}  // namespace

void bind_image(nb::module_ &m) {
    m.def("ssim", &ssim, "image"_a.noconvert(), "target"_a.noconvert(), "maps"_a.noconvert().none(),
          "threads"_a);
    m.def("ssim_backward", &ssim_backward, "image"_a.noconvert(), "target"_a.noconvert(),
          "maps"_a.noconvert(), "scale"_a, "gradient"_a.noconvert(), "threads"_a);
    m.def("l1", &l1, "image"_a.noconvert(), "target"_a.noconvert(), "threads"_a);
    m.def("l1_backward", &l1_backward, "image"_a.noconvert(), "target"_a.noconvert(), "scale"_a,
          "gradient"_a.noconvert(), "threads"_a);
    m.def("adam", &adam, "parameter"_a.noconvert(), "gradient"_a.noconvert(), "first"_a.noconvert(),
          "second"_a.noconvert(), "betas_epsilon"_a, "rate"_a, "root_scale"_a,
          "rows"_a.noconvert().none(), "threads"_a);
}

}  // namespace lumigraph
