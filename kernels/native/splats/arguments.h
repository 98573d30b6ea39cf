// Arguments that several bindings take: views, splats and backgrounds, checked.
#pragma once

#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <vector>

#include "common/arrays.h"
#include "splats/kernels.h"

namespace lumigraph {

// Matrix rows, focal lengths, principal point, near plane; and the image's size.
using ViewNumbers = std::array<float, 17>;
using Size = std::array<int, 2>;

// Far more than any image has, and few enough that no count of tiles, cells or bytes overflows.
constexpr int64_t SIDE_MOST = 1 << 16, PIXELS_MOST = 1 << 28, SPLATS_MOST = 1 << 30;

inline void check_size(Size size) {
    if (size[0] < 1 || size[1] < 1) throw nb::value_error("the image must have pixels");
    if (size[0] > SIDE_MOST || size[1] > SIDE_MOST || int64_t(size[0]) * size[1] > PIXELS_MOST)
        throw nb::value_error(
            "the image is larger than 65,536 pixels along a side or 268 million "
            "in all: render a smaller one");
}

inline void check_count(int64_t splats) {
    if (splats > SPLATS_MOST) throw nb::value_error("more than a billion splats");
}

inline void check_index(const RecordRows &rows, int64_t splats) {
    for (int64_t n = 0; n < rows.count; ++n)
        if (rows.index[n] < 0 || rows.index[n] >= splats)
            throw std::invalid_argument("index must be that of splats, from 0 to their number");
}

inline View view_of(const ViewNumbers &v, Size size) {
    check_size(size);
    View view;
    for (int i = 0; i < 12; ++i) view.matrix[i] = v[i];
    view.fx = v[12], view.fy = v[13], view.cx = v[14], view.cy = v[15], view.near_plane = v[16];
    view.width = size[0], view.height = size[1];
    return view;
}

inline const float *background_of(const std::vector<float> &background, int64_t channels) {
    if (background.empty()) return nullptr;
    if (int64_t(background.size()) != channels)
        throw nb::value_error("background must have one value for each channel");
    return background.data();
}

// Parameters of a scene, or one of Adam's moments of them, in the order of kernels.h.
using Rows = std::array<Out, PARAMETERS>;

// A scene as a view looks at it.
inline Scene scene_of(const Rows &p, const ViewNumbers &view, Size size, bool antialiased,
                      std::array<float, 3> position, int degree, int threads) {
    const int64_t n = p[0].ndim() ? p[0].shape(0) : 0;
    check_count(n);
    Scene s{};
    s.splats = n;
    s.means = checked(p[MEANS], "means", {n, 3});
    s.quaternions = checked(p[QUATERNIONS], "quaternions", {n, 4});
    s.log_scales = checked(p[LOG_SCALES], "log_scales", {n, 3});
    s.opacity_logits = checked(p[OPACITY_LOGITS], "opacity_logits", {n});
    s.base = checked(p[BASE], "base", {n, 3});
    s.rest = checked(p[REST_OF_HARMONICS], "rest", {n, -1, 3});
    s.rest_count = int(p[REST_OF_HARMONICS].shape(1));
    s.degree = degree;
    if (degree < 0 || degree > 3 || (degree + 1) * (degree + 1) - 1 > s.rest_count)
        throw nb::value_error("degree must be 0 to 3, and rest must have (degree+1)^2-1 columns");
    s.view = view_of(view, size);
    for (int i = 0; i < 3; ++i) s.position[i] = position[i];
    s.antialiased = antialiased;
    s.threads = threads;
    return s;
}

}  // namespace lumigraph
