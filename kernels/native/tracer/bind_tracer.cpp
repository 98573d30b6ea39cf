// Python bindings of the ray tracer: check the tables, release the GIL, call the kernel.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "common/dispatch.h"
#include "tracer/tracer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T, typename Shape>
using Array = nb::ndarray<nb::pytorch, T, Shape, nb::c_contig, nb::device::cpu>;
template <int columns>
using Rows = Array<const float, nb::shape<-1, columns>>;
template <int entries>
using Row = Array<const float, nb::shape<entries>>;
using Shapes = Rows<lumigraph::SHAPE_SIZE>;
using Materials = Rows<lumigraph::MATERIAL_SIZE>;
using Puffs = Rows<lumigraph::PUFF_SIZE>;
using Light = Row<lumigraph::LIGHT_SIZE>;
using Camera = Row<16>;  // rotation by rows, translation, focal lengths, principal point

lumigraph::TraceScene scene_of(const Shapes &shapes, const Materials &materials, const Puffs &puffs,
                               const Light &light) {
    if (shapes.shape(0) > size_t(lumigraph::MAX_SHAPES))
        throw nb::value_error("a traced scene can have at most 512 shapes");
    for (size_t i = 0; i < shapes.shape(0); ++i) {
        if (!(shapes(i, 0) >= 0 && shapes(i, 0) < lumigraph::SHAPE_KINDS))
            throw nb::value_error("the kind of a shape must be 0 to 5");
        if (!(shapes(i, 1) >= 0 && shapes(i, 1) < float(materials.shape(0))))
            throw nb::value_error("the material of a shape must be a row of the materials");
    }
    for (size_t i = 0; i < materials.shape(0); ++i)
        if (!(materials(i, 0) >= 0 && materials(i, 0) < lumigraph::PATTERNS))
            throw nb::value_error("the pattern of a material must be 0 to 7");
    return {shapes.data(), materials.data(),     puffs.data(),
            light.data(),  int(shapes.shape(0)), int(puffs.shape(0))};
}

lumigraph::TraceCamera camera_of(const Camera &camera, size_t width, size_t height) {
    lumigraph::TraceCamera out;
    for (int i = 0; i < 9; ++i) out.rotation[i] = camera(i);
    for (int i = 0; i < 3; ++i) out.translation[i] = camera(9 + i);
    for (int i = 0; i < 2; ++i) out.focal[i] = camera(12 + i), out.center[i] = camera(14 + i);
    out.width = int(width), out.height = int(height);
    return out;
}

void picture(Shapes shapes, Materials materials, Puffs puffs, Light light, Camera camera,
             Array<uint8_t, nb::shape<-1, -1, 3>> image, int threads) {
    const auto scene = scene_of(shapes, materials, puffs, light);
    const auto view = camera_of(camera, image.shape(1), image.shape(0));
    nb::gil_scoped_release release;
    lumigraph::trace_kernels().picture(scene, view, image.data(), threads);
}

void surfaces(Shapes shapes, Materials materials, Puffs puffs, Light light, Camera camera,
              Array<float, nb::shape<-1, -1>> depth, Array<float, nb::shape<-1, -1, 3>> normals,
              Array<int32_t, nb::shape<-1, -1>> ids, int threads) {
    const size_t height = depth.shape(0), width = depth.shape(1);
    if (normals.shape(0) != height || normals.shape(1) != width || ids.shape(0) != height ||
        ids.shape(1) != width)
        throw nb::value_error("depth, normals and ids must have the same height and width");
    const auto scene = scene_of(shapes, materials, puffs, light);
    const auto view = camera_of(camera, width, height);
    nb::gil_scoped_release release;
    lumigraph::trace_kernels().surfaces(scene, view, depth.data(), normals.data(), ids.data(),
                                        threads);
}

}  // namespace

namespace lumigraph {

void bind_tracer(nb::module_ &m) {
    m.def("trace_picture", &picture, "shapes"_a.noconvert(), "materials"_a.noconvert(),
          "puffs"_a.noconvert(), "light"_a.noconvert(), "camera"_a.noconvert(),
          "image"_a.noconvert(), "threads"_a, "Writes an antialiased picture to `image`.");
    m.def("trace_surfaces", &surfaces, "shapes"_a.noconvert(), "materials"_a.noconvert(),
          "puffs"_a.noconvert(), "light"_a.noconvert(), "camera"_a.noconvert(),
          "depth"_a.noconvert(), "normals"_a.noconvert(), "ids"_a.noconvert(), "threads"_a,
          "Writes depth, normal and shape at each pixel's centre to the three tensors.");
}

}  // namespace lumigraph
