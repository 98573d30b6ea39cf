// The ray tracer of the built-in scene: a few analytic shapes, painted by formulas.
//
// A shape is a row of SHAPE_SIZE floats, a material a row of MATERIAL_SIZE, a cloud a row of
// PUFF_SIZE, and the light one row of LIGHT_SIZE; kernels/tracer/trace.py names the columns.
// Positions are in the scene's frame, with z up; colours are linear, and 1 is white.
#pragma once

#include <cstdint>

namespace lumigraph {

constexpr int SHAPE_SIZE = 12, MATERIAL_SIZE = 24, LIGHT_SIZE = 24, PUFF_SIZE = 6;
constexpr int SHAPE_KINDS = 6, PATTERNS = 8;
constexpr int MAX_SHAPES = 512;

struct TraceScene {
    const float *shapes;     // [shape_count, SHAPE_SIZE]
    const float *materials;  // [materials, MATERIAL_SIZE]
    const float *puffs;      // [puff_count, PUFF_SIZE]
    const float *light;      // [LIGHT_SIZE]
    int shape_count, puff_count;
};

struct TraceCamera {
    float rotation[9], translation[3];  // world to camera, OpenCV axes
    float focal[2], center[2];
    int width, height;
};

struct TraceKernels {
    // Takes an antialiased picture. image: [height, width, 3]
    void (*picture)(const TraceScene &, const TraceCamera &, uint8_t *image, int threads);
    // Finds the first surface on the ray through each pixel's centre: its distance along the
    // camera's axis, its unit normal towards the camera and its shape's row; for the sky 0, 0, -1.
    void (*surfaces)(const TraceScene &, const TraceCamera &, float *depth, float *normal,
                     int32_t *shape, int threads);
};

}  // namespace lumigraph
