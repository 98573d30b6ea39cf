// The table of native kernels: one per instruction set, all with this shape.
//
// Pointers are to contiguous float32 rows, one row a splat or a pixel, unless said. `threads`
// is how many to use; no result depends on it.
#pragma once

#include <cstdint>

#include "common/dispatch.h"

namespace lumigraph {

// A pinhole camera in OpenCV axes; matrix holds the upper three rows of world-to-camera.
struct View {
    float matrix[12];
    float fx, fy, cx, cy;
    float near_plane;
    int width, height;
};

// Constants of the image model; kernels/splats/protocol.py gives their meaning.
constexpr float BLUR = 0.3f;
constexpr float ALPHA_MIN = 1.0f / 255.0f;
constexpr float LOG2_ALPHA_MIN = -7.9943534f;
constexpr float ALPHA_MAX = 0.99f;
constexpr float TRANSMITTANCE_MIN = 1e-4f;

// The parameters of splats, in this order everywhere.
constexpr int PARAMETERS = 6;
enum { MEANS, QUATERNIONS, LOG_SCALES, OPACITY_LOGITS, BASE, REST_OF_HARMONICS };

// Splats, and how a view looks at them.
struct Scene {
    int64_t splats;
    const float *means, *quaternions, *log_scales, *opacity_logits;  // rows of 3, 4, 3, 1
    const float *base, *rest;                                        // rows of 3, 3 * rest_count
    int rest_count;  // harmonics above degree 0 that a splat has
    int degree;      // the highest to use
    View view;
    float position[3];  // of the camera
    bool antialiased;
    int threads;
};

constexpr float LOG2E = 1.44269504f;
// From a conic to the quadratic form of log2(alpha).
constexpr float FORM = -0.5f * LOG2E, MIXED_FORM = -LOG2E;
constexpr int TILE = 16;  // pixels along a tile's side
constexpr int BLOCK = 4;  // pixels along the side of a block; a tile has 4 by 4, from left to right
                          // and from top to bottom
constexpr int BLOCKS = TILE / BLOCK;          // along a tile's side
constexpr int LIST_SCRATCH = 10 * LANES_MAX;  // numbers for each row of tiles
constexpr int CHUNK = 512;  // splats that are prepared together; those seen are kept together

// A splat that is seen, as the blending loops want it: one cache line, in the order of the splats.
struct alignas(64) Record {
    float x, y;                     // centre; the centre of the first pixel is 0 here
    float xx, xy, yy;               // the quadratic form of log2(alpha), negated conic halves
    float log_opacity;              // log2
    float half_width, half_height;  // of the box around alpha >= ALPHA_MIN
    float features[4];              // of the group of channels being blended
    float opacity;
    int32_t index;          // of the splat in the caller's order
    uint32_t first, count;  // of its cells, within its chunk
};

// A tile that a splat meets, and the tile's blocks in which it does, a bit each.
struct Cell {
    uint32_t tile, blocks;
};

// The cells of a chunk, which grow while they are listed.
struct Cells {
    Cell *data;
    uint32_t count, capacity;
    void (*reserve)(Cells &, uint32_t capacity);
};

// One splat in one tile: how far it is, where its record is, where its gradient goes, its blocks.
struct Entry {
    uint32_t depth;  // its bits, which sort as depths do
    uint32_t record, slot, blocks;
};
constexpr int AHEAD = 16;  // entries whose records are fetched before they are needed

// Another thread's wish that a picture be given up, and whether it was heeded: once so, always so,
// lest what was left undone be taken for done.
struct Stop {
    const uint8_t *asked;  // one byte, not 0 if so; or null
    bool heeded = false;

    bool operator()() {
        if (asked && __atomic_load_n(asked, __ATOMIC_RELAXED))
            __atomic_store_n(&heeded, true, __ATOMIC_RELAXED);
        return __atomic_load_n(&heeded, __ATOMIC_RELAXED);
    }
};

struct Tiles {
    int left, top;  // pixel of the whole image at which this part of it begins
    int width, height, columns, rows;
    Record *record;         // CHUNK to a chunk, of which the first are seen
    const uint32_t *begin;  // [tiles + 1], each tile's entries, nearest first
    Entry *entries;         // AHEAD more may be read, for nothing
    uint32_t *used;         // [tiles], entries that reached an unfinished pixel
    int threads;
    float alpha_max;  // what a splat stops of the light at most
    Stop *stop;       // looked at before each tile is blended; or null
};

// Numbers of a row that holds what blending reads of a splat: centre 2, conic 3, opacity 1, colour
// 3, depth 1, and the half size of its box 2. A gradient by these has the sums of the absolute
// gradients of the centre in the last two places.
constexpr int ROW = 12;
struct RecordRows {
    int64_t count;
    const float *numbers;  // [count, ROW]
    const int32_t *index;  // of the splats
};

// A part of an image, in pixels.
struct Window {
    int left, top, width, height;
};

// What `collect` finds of a chunk of splats: at most CHUNK of each.
struct Collected {
    Record *records;
    uint32_t *depths;  // their bits, which sort as the depths do
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
    float *slots;                         // [entries, SLOT], a record's cells one after another
    bool absolute;                        // also sum the absolute gradients of the mean
};

constexpr int SHARES_AT_ONCE = 16;  // whose lanes are summed together

// What a thread notes of a tile's entries in the blocks side by side that it works on: a list for
// each block, of the entries that reach it, nearest first.
struct Tape {
    uint32_t items;     // that each list can hold: as many as the tile has entries
    uint32_t *entries;  // [BLOCKS, items], places in the tile's list
    float *alphas;      // [BLOCKS, items, BLOCK * BLOCK], zero where the entry does not count
    float *fronts;      // the same, the variance's factors in front of it; if shares are wanted
    float *behind;      // [items, 2 * channels, BLOCK * BLOCK]; on the way back
    float *shares;      // [items + SHARES_AT_ONCE, lanes], of the tile; if they are wanted
};

// Moments of blended features where each splat is missing by chance: see `rasterize_moments` in
// kernels/splats/protocol.py.
struct Moments {
    const Tiles *tiles;
    float keep, drop;         // probabilities that a splat is there, and that it is missing
    int channels;             // in this group: 1 to 4
    int stride, offset;       // channels of the images, and the first of this group
    const float *background;  // [channels], or null: zeros, wherever the origin is
    const float *origin;      // [height, width, stride], or null
    float *mean, *variance;   // [height, width, stride]
    float *transmittance;     // [height, width]; null when an earlier group wrote it
    float *shares;            // [entries], by slot; or null
};

struct MomentsGradient {
    Moments moments;               // without its images
    const float *mean, *variance;  // gradients, [height, width, stride]
    const float *transmittance;    // gradient, [height, width], or null in later groups
    float *slots;                  // as in BlendGradient, without absolute sums
};

// Sums the slots of one chunk's records to rows of gradients.
struct RowSums {
    const Record *records;
    int64_t count;
    const float *slots;     // of the chunk
    int channels;           // in this group
    const int32_t *places;  // the row of each record; null: rows from `first` on
    int64_t first;
    float *rows;         // [any, ROW]
    float *features;     // [any, stride], from the channel `offset` on; null: those are the colours
    int stride, offset;  // of the features
    bool add;            // to what an earlier group wrote
};

// How a record moves along a direction of the parameters: ln(alpha) by a polynomial in dx and dy,
// whose coefficients are in the order of a slot's moments, and the features.
struct alignas(64) Tangent {
    float form[6], features[3];
};

struct BlendTangents {
    const Tiles *tiles;
    const Tangent *tangents;  // in the order of the records
    const float *background;  // [3], or null
    float *image;             // [height, width, 3]
};

// How the colours of a record change as its mean moves along each of two unit vectors, which are
// across the line from the camera to it and across each other. Along that line they do not.
struct alignas(32) Turn {
    float by[2][3];
};

// Sums over pixels of w g g^T for one entry, where g is by what the splat is on the image plane.
// With q the derivative of a colour by ln(alpha) and light = alpha times the transmittance before:
//   the sums of w q^2 X^i Y^j over the channels, i + j <= 4,
//   for each channel that of w light^2,
//   and where colours turn, for both directions those of w q light turn X^i Y^j over the channels,
//   i + j <= 2.
// X = dx + (xy / xx) dy of the conic and Y = dy: in these the ellipse is upright, so that squares
// of the form's terms do not cancel, as they would for a long and slanting splat. They lie in a
// slot as they are found: see curvature.isa.cpp.
constexpr int PLAIN_PRODUCTS = 24, ALL_PRODUCTS = 32;  // floats of a slot, without the last or with

struct Curvature {
    const Tiles *tiles;
    const float *image, *weights;  // [height, width, 3]; the image is what blend made
    const Turn *turns;             // in the order of the records; or null: no colour does
    float *slots;                  // [entries, PLAIN_PRODUCTS or ALL_PRODUCTS]
};

// Where the blocks of G^T diag(w) G are added to, a row a splat.
constexpr int GEOMETRY = 11, LOWER = GEOMETRY * (GEOMETRY + 1) / 2;
struct BlockRows {
    float *geometry, *base, *rest;  // rows of LOWER, 3, 3 * rest_count
};

// What is added to a block of curvature, in its own diagonal, and how far a step goes at most, in
// rates: as in types.py.
constexpr float BLOCK_DAMPING = 1e-3f, FARTHEST_STEP = 3.0f;

// The parameters of a scene with Adam's moments, in the order of PARAMETERS.
struct Descent {
    Scene scene;  // its parameters are those below
    float *parameters[PARAMETERS], *first[PARAMETERS], *second[PARAMETERS];
    BlockRows curvature;      // second derivatives that damp the steps; or of nulls
    float rates[PARAMETERS];  // over the first mean's bias correction; 0 leaves alone
    float beta1, beta2, epsilon, root_scale;
    int32_t *last, step;  // the step that last moved each splat, and this one; or null
    float *pull, *views;  // to add to, a number a splat; or null
    float opacity_penalty, scale_penalty;  // the cost of an opacity, and of a standard deviation
};

constexpr int VIEW_NUMBERS = 16;  // matrix 12, focal lengths 2, principal point 2

struct Kernels {
    // Finds what is seen of splats from up to to, at most a chunk, and how many that is.
    int (*collect)(const Scene &, int64_t from, int64_t to, const Collected &);
    // Lists the tiles that records meet, and counts them in counts, [tiles]. scratch holds
    // LIST_SCRATCH numbers for each row of tiles.
    void (*list_cells)(const Tiles &, const Collected &, int count, Cells &, uint32_t *counts,
                       int32_t *scratch);
    void (*blend)(const Blend &);
    void (*blend_backward)(const BlendGradient &);
    void (*moments)(const Moments &, int tile, const Tape &);
    void (*moments_backward)(const MomentsGradient &, int tile, const Tape &);
    // Makes records of rows, of which all are in view.
    void (*records_of_rows)(const RecordRows &, int64_t from, int64_t to, const Collected &);
    void (*sum_rows)(const RowSums &);
    // Moves the splats of some rows along the gradients in them.
    void (*update)(const Descent &, const RecordRows &, int64_t from, int64_t to);
    // Adds the gradient by the parameters that is behind some rows to rows like the parameters'.
    void (*add_gradient)(const Scene &, const RecordRows &, int64_t from, int64_t to,
                         float *const *out);
    // The gradient by the view that is behind some rows. [VIEW_NUMBERS]
    void (*view_gradient)(const Scene &, const RecordRows &, int64_t from, int64_t to, double *out);

    // How one chunk's records move along a direction, rows as those of the parameters.
    void (*tangents)(const Scene &, const float *const *direction, const Record *records, int count,
                     Tangent *out);
    void (*blend_tangents)(const BlendTangents &);
    // How the colours of one chunk's records turn.
    void (*turns)(const Scene &, const Record *records, int count, Turn *out);
    void (*curvature)(const Curvature &);
    // Adds the blocks that the products in the slots of one chunk's records make; turns or null.
    void (*add_blocks)(const Scene &, const Record *records, const Turn *turns, int count,
                       const float *slots, const BlockRows &out);
};

}  // namespace lumigraph
