// Python bindings of splats in view, of their pictures and of steps: check shapes, drop the GIL,
// call.
#include <nanobind/stl/unique_ptr.h>

#include "splats/arguments.h"
#include "splats/raster.h"

using namespace nanobind::literals;

namespace lumigraph {
namespace {

using Rest = std::optional<In>;  // a tensor that may be missing
using Asked = std::optional<Array<const uint8_t>>;

RecordRows rows_of(const In &numbers, const Array<const int32_t> &index) {
    const int64_t count = numbers.ndim() ? numbers.shape(0) : 0;
    check_count(count);
    return {count, checked(numbers, "rows", {count, ROW}), checked(index, "index", {count})};
}

constexpr const char *NAMES[PARAMETERS] = {"means",          "quaternions", "log_scales",
                                           "opacity_logits", "base",        "rest"};

// The data of an array of the same shape as a parameter.
template <typename T>
T *like(const Array<T> &array, const char *what, const Out &parameter, int which) {
    bool same = array.ndim() == parameter.ndim();
    for (size_t axis = 0; same && axis < parameter.ndim(); ++axis)
        same = array.shape(axis) == parameter.shape(axis);
    if (!same)
        throw nb::value_error(
            (std::string("the ") + what + " of " + NAMES[which] + " must have its shape").c_str());
    return array.data();
}

template <typename Arrays>
auto each_like(const Arrays &arrays, const char *what, const Rows &parameters) {
    std::array<decltype(arrays[0].data()), PARAMETERS> rows;
    for (int i = 0; i < PARAMETERS; ++i) rows[i] = like(arrays[i], what, parameters[i], i);
    return rows;
}

// Splats in view, with the lists of the tiles they meet. It holds on to the parameters, if any.
class Records {
  public:
    Records(std::unique_ptr<TileLists> lists, std::optional<Rows> parameters, const Scene &scene)
        : lists_(std::move(lists)), parameters_(std::move(parameters)), scene_(scene) {}

    std::unique_ptr<Records> part(std::array<int, 4> window, float alpha_max) {
        const Window w = {window[0], window[1], window[2], window[3]};
        check_size({w.width, w.height});
        nb::gil_scoped_release release;
        return std::make_unique<Records>(std::make_unique<TileLists>(*lists_, w, alpha_max),
                                         parameters_, scene_);
    }

    void write(const std::optional<Out> &numbers, const Array<int32_t> &index) {
        float *rows = checked(numbers, "rows", {lists_->rows(), ROW});
        int32_t *places = checked(index, "index", {lists_->rows()});
        nb::gil_scoped_release release;
        lists_->write_rows(rows, places);
    }

    // Whether the picture was finished: false where a stop was heeded.
    bool blend(const Rest &features, const std::vector<float> &background, const Out &image,
               const Out &transmittance, const std::optional<Array<int32_t>> &median,
               const Asked &asked) {
        const int channels = channels_of(image);
        const float *f = features_of(features, channels);
        const float *behind = background_of(background, channels);
        float *left = checked(transmittance, "transmittance", {height(), width()});
        int32_t *halfway = checked(median, "median", {height(), width()});
        Stop stop{checked(asked, "stop", {1})};
        nb::gil_scoped_release release;
        lists_->blend(f, channels, behind, image.data(), left, halfway, &stop);
        return !stop.heeded;
    }

    void backward(const Rest &features, const In &image, const In &transmittance,
                  const In &by_image, const Rest &by_transmittance, bool absolute, const Out &rows,
                  const std::optional<Out> &by_features,
                  const std::optional<Array<int32_t>> &index) {
        TileLists::Backward b{};
        b.channels = channels_of(image);
        b.features = features_of(features, b.channels);
        b.image = image.data();
        b.transmittance = checked(transmittance, "transmittance", {height(), width()});
        b.by_image = checked(by_image, "gradient", {height(), width(), b.channels});
        b.by_transmittance =
            checked(by_transmittance, "gradient of transmittance", {height(), width()});
        b.absolute = absolute;
        if (absolute && b.channels > 4)
            throw nb::value_error("absolute gradients are found of at most 4 channels");
        b.rows = checked(rows, "rows", {lists_->rows(), ROW});
        b.by_features = by_features_of(features, by_features, b.channels);
        b.index = checked(index, "index", {lists_->rows()});
        nb::gil_scoped_release release;
        lists_->backward(b);
    }

    bool moments(const Rest &features, const std::vector<float> &background,
                 std::array<float, 2> chances, const Rest &origin, const Out &mean,
                 const Out &variance, const Out &transmittance, const std::optional<Out> &shares,
                 const Asked &asked) {
        const int channels = channels_of(mean);
        const float *f = features_of(features, channels);
        const TileLists::Chance chance = chance_of(background, chances, origin, channels);
        const TileLists::MomentImages out = {
            mean.data(), checked(variance, "variance", {height(), width(), channels}),
            checked(transmittance, "transmittance", {height(), width()}),
            checked(shares, "shares", {-1})};
        Stop stop{checked(asked, "stop", {1})};
        nb::gil_scoped_release release;
        lists_->moments(f, channels, chance, out, &stop);
        return !stop.heeded;
    }

    void moments_backward(const Rest &features, const std::vector<float> &background,
                          std::array<float, 2> chances, const Rest &origin,
                          const std::array<In, 3> &gradients, const Out &rows,
                          const std::optional<Out> &by_features) {
        const int channels = channels_of(gradients[0]);
        const TileLists::Chance chance = chance_of(background, chances, origin, channels);
        const TileLists::MomentsBackward b = {
            features_of(features, channels),
            channels,
            gradients[0].data(),
            checked(gradients[1], "gradient of variance", {height(), width(), channels}),
            checked(gradients[2], "gradient of transmittance", {height(), width()}),
            checked(rows, "rows", {lists_->rows(), ROW}),
            by_features_of(features, by_features, channels)};
        nb::gil_scoped_release release;
        lists_->moments_backward(chance, b);
    }

    void jvp(const std::array<In, PARAMETERS> &direction, const std::vector<float> &background,
             const Out &image) {
        const auto rows = each_like(direction, "direction", parameters());
        const float *behind = background_of(background, 3);
        float *out = checked(image, "image", {height(), width(), 3});
        nb::gil_scoped_release release;
        lists_->jvp(scene_, rows.data(), behind, out);
    }

    void blocks(const In &image, const In &weights, const std::array<Out, 3> &out) {
        const Rows &p = parameters();
        const BlockRows rows = {checked(out[0], "geometry", {scene_.splats, LOWER}),
                                like(out[1], "blocks", p[4], 4), like(out[2], "blocks", p[5], 5)};
        const float *w = checked(weights, "weights", {height(), width(), 3});
        const float *colors = checked(image, "image", {height(), width(), 3});
        nb::gil_scoped_release release;
        lists_->blocks(scene_, colors, w, rows);
    }

    int64_t rows() const { return lists_->rows(); }
    int64_t entries() const { return lists_->entries(); }
    int64_t bytes() const { return lists_->bytes(); }
    std::array<double, 2> seconds() const { return {lists_->prepared(), lists_->listed()}; }

  private:
    int width() const { return lists_->width(); }
    int height() const { return lists_->height(); }

    const Rows &parameters() const {
        if (!parameters_) throw nb::value_error("these records were made without their splats");
        return *parameters_;
    }

    template <typename T>
    int channels_of(const Array<T> &image) const {
        checked(image, "image", {height(), width(), -1});
        if (image.shape(2) < 1) throw nb::value_error("features must have at least one channel");
        return int(image.shape(2));
    }

    const float *features_of(const Rest &features, int channels) const {
        if (!features && channels != 3)
            throw nb::value_error("colours have 3 channels: give features for others");
        return checked(features, "features", {lists_->rows(), channels});
    }

    float *by_features_of(const Rest &features, const std::optional<Out> &by, int channels) const {
        if (by.has_value() != features.has_value())
            throw nb::value_error("give room for the gradient of the features where there are any");
        return checked(by, "gradient of features", {lists_->rows(), channels});
    }

    TileLists::Chance chance_of(const std::vector<float> &background, std::array<float, 2> chances,
                                const Rest &origin, int channels) const {
        return {chances[0], chances[1], background_of(background, channels),
                checked(origin, "origin", {height(), width(), channels})};
    }

    std::unique_ptr<TileLists> lists_;
    std::optional<Rows> parameters_;
    Scene scene_;
};

// Returns null if the stop was heeded.
std::unique_ptr<Records> project(const Rows &parameters, const ViewNumbers &view, Size size,
                                 bool antialiased, std::array<float, 3> position, int degree,
                                 const Asked &asked, int threads) {
    const Scene scene = scene_of(parameters, view, size, antialiased, position, degree, threads);
    Stop stop{checked(asked, "stop", {1})};
    nb::gil_scoped_release release;
    auto lists = std::make_unique<TileLists>(scene, &stop);
    if (stop.heeded) return nullptr;
    return std::make_unique<Records>(std::move(lists), parameters, scene);
}

std::unique_ptr<Records> records(const In &numbers, const Array<const int32_t> &index, Size size,
                                 int threads) {
    const RecordRows rows = rows_of(numbers, index);
    check_size(size);
    nb::gil_scoped_release release;
    return std::make_unique<Records>(std::make_unique<TileLists>(rows, size[0], size[1], threads),
                                     std::nullopt, Scene{});
}

void update(const Rows &parameters, const Rows &first, const Rows &second, const ViewNumbers &view,
            Size size, bool antialiased, std::array<float, 3> position, int degree,
            const In &numbers, const Array<const int32_t> &index,
            const std::array<float, PARAMETERS> &rates, std::array<float, 3> betas_epsilon,
            float root_scale, int step, const std::optional<Array<int32_t>> &last,
            const std::optional<std::array<Out, 2>> &pull,
            const std::optional<std::array<Out, 3>> &curvature, std::array<float, 2> penalty,
            int threads) {
    Descent d{};
    d.scene = scene_of(parameters, view, size, antialiased, position, degree, threads);
    const int64_t splats = d.scene.splats;
    const auto means = each_like(first, "moments", parameters);
    const auto squares = each_like(second, "moments", parameters);
    for (int i = 0; i < PARAMETERS; ++i) {
        d.parameters[i] = parameters[i].data(), d.first[i] = means[i], d.second[i] = squares[i];
        d.rates[i] = rates[i];
    }
    d.beta1 = betas_epsilon[0], d.beta2 = betas_epsilon[1], d.epsilon = betas_epsilon[2];
    d.root_scale = root_scale, d.step = step;
    d.last = checked(last, "last", {splats});
    if (pull) {
        d.pull = checked((*pull)[0], "pull[0]", {splats});
        d.views = checked((*pull)[1], "pull[1]", {splats});
    }
    if (curvature)
        d.curvature = {
            checked((*curvature)[0], "geometry of the curvature", {splats, LOWER}),
            checked((*curvature)[1], "base of the curvature", {splats, 3}),
            checked((*curvature)[2], "rest of the curvature", {splats, d.scene.rest_count, 3})};
    d.opacity_penalty = penalty[0], d.scale_penalty = penalty[1];
    const RecordRows rows = rows_of(numbers, index);
    nb::gil_scoped_release release;
    check_index(rows, splats);
    for_each_stretch(rows.count, threads,
                     [&](int64_t from, int64_t to) { kernels().update(d, rows, from, to); });
}

void add_gradient(const Rows &parameters, const ViewNumbers &view, Size size, bool antialiased,
                  std::array<float, 3> position, int degree, const In &numbers,
                  const Array<const int32_t> &index, const Rows &out, int threads) {
    const Scene scene = scene_of(parameters, view, size, antialiased, position, degree, threads);
    const auto sums = each_like(out, "gradient", parameters);
    const RecordRows rows = rows_of(numbers, index);
    nb::gil_scoped_release release;
    check_index(rows, scene.splats);
    for_each_stretch(rows.count, threads, [&](int64_t from, int64_t to) {
        kernels().add_gradient(scene, rows, from, to, sums.data());
    });
}

std::array<double, VIEW_NUMBERS> view_gradient(const Rows &parameters, const ViewNumbers &view,
                                               Size size, bool antialiased,
                                               std::array<float, 3> position, int degree,
                                               const In &numbers, const Array<const int32_t> &index,
                                               int threads) {
    const Scene scene = scene_of(parameters, view, size, antialiased, position, degree, threads);
    const RecordRows rows = rows_of(numbers, index);
    nb::gil_scoped_release release;
    check_index(rows, scene.splats);
    // A sum for each stretch, and then of these in their order: the same for any number of threads.
    std::vector<std::array<double, VIEW_NUMBERS>> parts(rows.count / STRETCH + 1);
    for_each_stretch(rows.count, threads, [&](int64_t from, int64_t to) {
        kernels().view_gradient(scene, rows, from, to, parts[from / STRETCH].data());
    });
    std::array<double, VIEW_NUMBERS> sums{};
    for (const auto &part : parts)
        for (int k = 0; k < VIEW_NUMBERS; ++k) sums[k] += part[k];
    return sums;
}

}  // namespace

void bind_records(nb::module_ &m) {
    nb::class_<Records>(m, "Records", "Splats in view, and the lists of the tiles they meet.")
        .def("part", &Records::part, "window"_a, "alpha_max"_a,
             "A part of the image: left, top, width, height.")
        .def("write", &Records::write, "rows"_a.noconvert().none(), "index"_a.noconvert())
        .def("blend", &Records::blend, "features"_a.noconvert().none(), "background"_a,
             "image"_a.noconvert(), "transmittance"_a.noconvert(), "median"_a.noconvert().none(),
             "stop"_a.noconvert().none())
        .def("backward", &Records::backward, "features"_a.noconvert().none(), "image"_a.noconvert(),
             "transmittance"_a.noconvert(), "by_image"_a.noconvert(),
             "by_transmittance"_a.noconvert().none(), "absolute"_a, "rows"_a.noconvert(),
             "by_features"_a.noconvert().none(), "index"_a.noconvert().none())
        .def("moments", &Records::moments, "features"_a.noconvert().none(), "background"_a,
             "chances"_a, "origin"_a.noconvert().none(), "mean"_a.noconvert(),
             "variance"_a.noconvert(), "transmittance"_a.noconvert(), "shares"_a.noconvert().none(),
             "stop"_a.noconvert().none())
        .def("moments_backward", &Records::moments_backward, "features"_a.noconvert().none(),
             "background"_a, "chances"_a, "origin"_a.noconvert().none(), "gradients"_a.noconvert(),
             "rows"_a.noconvert(), "by_features"_a.noconvert().none())
        .def("jvp", &Records::jvp, "direction"_a.noconvert(), "background"_a, "image"_a.noconvert())
        .def("blocks", &Records::blocks, "image"_a.noconvert(), "weights"_a.noconvert(),
             "out"_a.noconvert())
        .def_prop_ro("rows", &Records::rows, "Splats in view.")
        .def_prop_ro("entries", &Records::entries, "Pairs of a splat and a tile it meets.")
        .def_prop_ro("bytes", &Records::bytes, "Memory beside the parameters.")
        .def_prop_ro("seconds", &Records::seconds, "To prepare the splats, and to list them.");
    m.def("project", &project, "parameters"_a.noconvert(), "view"_a, "size"_a, "antialiased"_a,
          "position"_a, "degree"_a, "stop"_a.noconvert().none(), "threads"_a);
    m.def("records", &records, "rows"_a.noconvert(), "index"_a.noconvert(), "size"_a, "threads"_a);
    m.def("update", &update, "parameters"_a.noconvert(), "first"_a.noconvert(),
          "second"_a.noconvert(), "view"_a, "size"_a, "antialiased"_a, "position"_a, "degree"_a,
          "rows"_a.noconvert(), "index"_a.noconvert(), "rates"_a, "betas_epsilon"_a, "root_scale"_a,
          "step"_a, "last"_a.noconvert().none(), "pull"_a.noconvert().none(),
          "curvature"_a.noconvert().none(), "penalty"_a, "threads"_a);
    m.def("add_gradient", &add_gradient, "parameters"_a.noconvert(), "view"_a, "size"_a,
          "antialiased"_a, "position"_a, "degree"_a, "rows"_a.noconvert(), "index"_a.noconvert(),
          "out"_a.noconvert(), "threads"_a);
    m.def("view_gradient", &view_gradient, "parameters"_a.noconvert(), "view"_a, "size"_a,
          "antialiased"_a, "position"_a, "degree"_a, "rows"_a.noconvert(), "index"_a.noconvert(),
          "threads"_a);
}

}  // namespace lumigraph
