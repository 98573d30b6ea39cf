// The table of native kernels: one per instruction set, all with this shape.
//
// Pointers are to contiguous float32 rows, one row a splat or a pixel, unless said. `threads`
// is how many to use; no result depends on it.
#pragma once

#include <cstdint>

namespace lumigraph {

// A pinhole camera in OpenCV axes; matrix holds the upper three rows of world-to-camera.
struct View {
    float matrix[12];
    float fx, fy, cx, cy;
    float near_plane;
    int width, height;
};

// Constants of the image model; kernels/backend.py gives their meaning.
constexpr float BLUR = 0.3f;
constexpr float ALPHA_MIN = 1.0f / 255.0f;
constexpr float LOG2_ALPHA_MIN = -7.9943534f;
constexpr float ALPHA_MAX = 0.99f;
constexpr float TRANSMITTANCE_MIN = 1e-4f;

struct Project {
    int64_t splats;
    const float *means, *quaternions, *log_scales, *opacity_logits;  // rows of 3, 4, 3, 1
    View view;
    bool antialiased;
    // Out, or in for the backward pass: rows of 2, 3, 1, 1, 2.
    float *centers, *conics, *opacities, *depths, *extents;
    int threads;
};

struct ProjectGradient {
    const float *centers, *conics, *opacities, *depths;        // in: gradients of the outputs
    float *means, *quaternions, *log_scales, *opacity_logits;  // out
};

struct Harmonics {
    int64_t splats;
    const float *means, *base, *rest;  // rows of 3, 3, 3 * rest_count
    int rest_count;                    // coefficients of higher degree a splat has
    int degree;                        // the highest to use
    float position[3];                 // of the camera
    const bool *visible;               // or null: all
    float *colors;                     // rows of 3; out, or in for the backward pass
    int threads;
};

struct HarmonicsGradient {
    const float *colors;         // in
    float *means, *base, *rest;  // out; every row is written
};

constexpr int TILE = 16;  // pixels along a tile's side

// A splat as the blending loops want it: one cache line, in depth order.
struct alignas(64) Record {
    float x, y;                      // centre; the centre of the first pixel is 0 here
    float xx, xy, yy;                // the quadratic form of log2(alpha), negated conic halves
    float log_opacity;               // log2
    float left, right, top, bottom;  // the box where alpha >= ALPHA_MIN
    float features[4];               // of the group of channels being blended
    float opacity;
    int32_t index;  // of the splat in the caller's order
};

// One splat in one tile: where its record is, and where its gradient goes.
struct Entry {
    uint32_t record, slot;
};

struct Tiles {
    int width, height, columns, rows;
    int64_t records;
    Record *record;         // [records], nearest first
    const uint32_t *first;  // [records + 1], slot of each record's first tile
    const uint32_t *begin;  // [tiles + 1], each tile's entries
    Entry *entries;
    uint32_t *used;  // [tiles], entries that reached an unfinished pixel
    int threads;
};

struct Blend {
    const Tiles *tiles;
    int channels;             // in this group: 1 to 4
    int stride, offset;       // channels of the image, and the first of this group
    const float *background;  // [channels], or null
    float *image;             // [height, width, stride]
    float *transmittance;     // [height, width]; null when an earlier group wrote it
    int32_t *median;          // [height, width]; may be null
};

constexpr int SLOT = 12;  // floats of a slot: six moments, four channels, two absolute sums

struct BlendGradient {
    const Tiles *tiles;
    int channels, stride, offset;
    const float *image, *transmittance;   // from the forward pass, background included
    const float *image_gradient;          // [height, width, stride]
    const float *transmittance_gradient;  // [height, width], or null in later groups
    float *slots;                         // [entries, SLOT]
    bool absolute;                        // also sum the absolute gradients of the mean
};

struct GatherGradient {
    const Tiles *tiles;
    int channels, stride, offset;
    const float *slots;
    const float *conics;                           // rows of 3
    bool add;                                      // to what an earlier group wrote
    float *centers, *conic_gradients, *opacities;  // out, rows of 2, 3, 1
    float *features;                               // out, rows of stride
    float *absolute_centers;                       // added to, rows of 2; or null
};

struct Ssim {
    int height, width, channels;
    const float *image, *target;
    float *map_mean, *map_square, *map_product;  // derivatives by the three blurred terms, or null
    double *row_sums;                            // [height]
    int threads;
};

struct SsimGradient {
    int height, width, channels;
    const float *image, *target;
    const float *map_mean, *map_square, *map_product;
    float scale;
    float *gradient;
    int threads;
};

struct Adam {
    int64_t rows, columns;
    float *parameter, *first, *second;
    const float *gradient;
    const bool *use;  // which rows, or null: all
    float beta1, beta2, epsilon;
    float rate;        // learning rate over the first mean's bias correction
    float root_scale;  // one over the root of the second mean's bias correction
    int threads;
};

struct Kernels {
    void (*project)(const Project &);
    void (*project_backward)(const Project &, const ProjectGradient &);
    void (*harmonics)(const Harmonics &);
    void (*harmonics_backward)(const Harmonics &, const HarmonicsGradient &);

    // Tiles each record touches; and then the tile lists. counts is [chunks, tiles].
    void (*count_tiles)(const Tiles &, int64_t from, int64_t to, uint32_t *touched,
                        uint32_t *counts);
    void (*fill_tiles)(const Tiles &, int64_t from, int64_t to, uint32_t *next);
    void (*blend)(const Blend &);
    void (*blend_backward)(const BlendGradient &);
    void (*gather)(const GatherGradient &);

    void (*ssim)(const Ssim &);
    void (*ssim_backward)(const SsimGradient &);
    void (*l1)(const float *image, const float *target, int64_t rows, int64_t columns,
               double *row_sums, int threads);
    void (*l1_backward)(const float *image, const float *target, int64_t count, float scale,
                        float *gradient, int threads);
    void (*adam)(const Adam &);
};

#define X(level) \
    namespace level { extern const Kernels kernels; }
#ifdef LUMIGRAPH_LEVELS
LUMIGRAPH_LEVELS
#endif
#undef X

// The fastest table this processor can run, chosen once. LUMIGRAPH_ISA=baseline in
// the environment forces a lower one; select_level changes it, for tests and benchmarks.
const Kernels &kernels();
const char *active_level();
void select_level(const char *name);
const char *const *available_levels();  // slowest first, ends with null

}  // namespace lumigraph
