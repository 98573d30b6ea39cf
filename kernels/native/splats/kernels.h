// The table of native kernels: one per instruction set, all with this shape.
//
// Pointers lead to contiguous float32 rows, one row for each splat or pixel, unless a comment says
// otherwise. `threads` is the number of threads; no result depends on it.
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

// Constants of the image model, as kernels/splats/types.py explains them.
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
    int rest_count;  // stored harmonics above degree 0 of a splat
    int degree;      // the highest degree in use
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
constexpr int CHUNK = 512;                    // splats that are prepared together

// A splat in view, as the blending loops read it: one cache line, in the order of the splats.
struct alignas(64) Record {
    float x, y;                     // centre; the centre of the first pixel is 0 here
    float xx, xy, yy;               // the quadratic form of log2(alpha), negated conic halves
    float log_opacity;              // log2
    float half_width, half_height;  // of the box around alpha >= ALPHA_MIN
    float features[4];              // of the channels that are blended now
    float opacity;
    int32_t index;          // of the splat in the caller's order
    uint32_t first, count;  // of its cells, within its chunk
};

// A tile that a splat meets, and a bit for each of the tile's blocks that it meets.
struct Cell {
    uint32_t tile, blocks;
};

// The cells of a chunk. Listing them makes the array grow.
struct Cells {
    Cell *data;
    uint32_t count, capacity;
    void (*reserve)(Cells &, uint32_t capacity);
};

// One splat in one tile: its depth, its record, the slot of its gradient, and its blocks.
struct Entry {
    uint32_t depth;  // the bits of the float, which sort like depths
    uint32_t record, slot, blocks;
};
constexpr int AHEAD = 16;  // the record of the entry this far ahead is prefetched

// A request by another thread to give up a picture. Once a tile has been skipped, `heeded` stays
// true, so that an unfinished picture never counts as finished.
struct Stop {
    const uint8_t *asked;  // one byte, not 0 to give up; or null
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
    Record *record;         // CHUNK places for each chunk, filled from the first on
    const uint32_t *begin;  // [tiles + 1], each tile's entries, nearest first
    Entry *entries;         // AHEAD unused entries follow the last one
    uint32_t *used;         // [tiles], entries up to the last that reached an unfinished pixel
    int threads;
    float alpha_max;  // upper bound of every alpha
    Stop *stop;       // checked before each tile is blended; or null
};

// A row holds the numbers that blending reads of a splat: centre 2, conic 3, opacity 1, colour 3,
// depth 1, half size of its box 2. A row of a gradient has sums of absolute gradients of the centre
// in the last two places.
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

// Output of `collect`: the records and depths of the splats of a chunk that are in view.
struct Collected {
    Record *records;
    uint32_t *depths;  // the bits of the floats, which sort like depths
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

constexpr int SHARES_AT_ONCE = 16;  // entries with lanes that are summed together

// Notes of one thread about the tile it works on: for each block of a row of blocks, a list of the
// entries that reach it, nearest first.
struct Tape {
    uint32_t items;     // capacity of each list: the number of the tile's entries
    uint32_t *entries;  // [BLOCKS, items], places in the tile's list
    float *alphas;      // [BLOCKS, items, BLOCK * BLOCK], zero where the entry does not count
    float *fronts;      // the same, the variance's factors in front of it; if shares are wanted
    float *behind;      // [items, 2 * channels, BLOCK * BLOCK]; on the way back
    float *shares;      // [items + SHARES_AT_ONCE, lanes], of the tile; if they are wanted
};

// Moments of blended features where each splat is missing by chance: see `SplatBackend.moments` in
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

// The derivative of a record along a direction of the parameters: that of ln(alpha) as a polynomial
// in dx and dy, with coefficients in the order of a slot's moments, and that of the features.
struct alignas(64) Tangent {
    float form[6], features[3];
};

struct BlendTangents {
    const Tiles *tiles;
    const Tangent *tangents;  // in the order of the records
    const float *background;  // [3], or null
    float *image;             // [height, width, 3]
};

// The derivatives of a record's colours by its mean, along two unit vectors at right angles to each
// other and to the line from the camera to the splat. Along that line colours do not change.
struct alignas(32) Turn {
    float by[2][3];
};

// Sums over pixels of w g g^T for one entry, where g is the derivative by the splat's footprint.
// With q the derivative of a colour by ln(alpha) and light = alpha times the transmittance before:
//   the sums of w q^2 X^i Y^j over the channels, i + j <= 4,
//   for each channel that of w light^2,
//   and where colours turn, for both directions those of w q light turn X^i Y^j over the channels,
//   i + j <= 2.
// X = dx + (xy / xx) dy of the conic and Y = dy: in these the ellipse is upright, so that squares
// of the form's terms do not cancel, as they would for a long and slanting splat. They lie in a
// slot as they are found: see curvature.isa.cpp.
constexpr int PLAIN_PRODUCTS = 24, ALL_PRODUCTS = 32;  // floats of a slot, without and with turns

struct Curvature {
    const Tiles *tiles;
    const float *image, *weights;  // [height, width, 3]; the image is what blend made
    const Turn *turns;             // in the order of the records; null if no colour turns
    float *slots;                  // [entries, PLAIN_PRODUCTS or ALL_PRODUCTS]
};

// The rows that the blocks of G^T diag(w) G are added to, one for each splat.
constexpr int GEOMETRY = 11, LOWER = GEOMETRY * (GEOMETRY + 1) / 2;
struct BlockRows {
    float *geometry, *base, *rest;  // rows of LOWER, 3, 3 * rest_count
};

// The relative increase of a block's diagonal, and the longest step in rates, as types.py explains
// them.
constexpr float BLOCK_DAMPING = 1e-3f, FARTHEST_STEP = 3.0f;

// The parameters of a scene with Adam's moments, in the order of PARAMETERS.
struct Descent {
    Scene scene;  // its parameters are those below
    float *parameters[PARAMETERS], *first[PARAMETERS], *second[PARAMETERS];
    BlockRows curvature;      // second derivatives that damp the steps; or null pointers
    float rates[PARAMETERS];  // divided by the bias correction of the first mean; 0: no step
    float beta1, beta2, epsilon, root_scale;
    int32_t *last, step;  // the last step of each splat, or null; and the number of this step
    float *pull, *views;  // sums for density control, a number for each splat; or null
    float opacity_penalty, scale_penalty;  // the cost of an opacity, and of a standard deviation
};

constexpr int VIEW_NUMBERS = 16;  // matrix 12, focal lengths 2, principal point 2

struct Kernels {
    // Projects and shades the splats from `from` to `to`, at most a chunk. Returns how many are in
    // view.
    int (*collect)(const Scene &, int64_t from, int64_t to, const Collected &);
    // Lists the tiles that records meet, and adds to the counts of the tiles. scratch holds
    // LIST_SCRATCH numbers for each row of tiles.
    void (*list_cells)(const Tiles &, const Collected &, int count, Cells &, uint32_t *counts,
                       int32_t *scratch);
    void (*blend)(const Blend &);
    void (*blend_backward)(const BlendGradient &);
    void (*moments)(const Moments &, int tile, const Tape &);
    void (*moments_backward)(const MomentsGradient &, int tile, const Tape &);
    // Turns rows back into records; all of them are in view.
    void (*records_of_rows)(const RecordRows &, int64_t from, int64_t to, const Collected &);
    // Sums the slots of one chunk's records to rows of gradients.
    void (*sum_rows)(const RowSums &);
    // Moves the splats of some rows along the gradients in them.
    void (*update)(const Descent &, const RecordRows &, int64_t from, int64_t to);
    // Takes gradients of some rows back to the parameters, and adds them to rows like those.
    void (*add_gradient)(const Scene &, const RecordRows &, int64_t from, int64_t to,
                         float *const *out);
    // Takes gradients of some rows back to the numbers of the view. [VIEW_NUMBERS]
    void (*view_gradient)(const Scene &, const RecordRows &, int64_t from, int64_t to, double *out);

    // The derivative of one chunk's records along a direction, given as rows like the parameters'.
    void (*tangents)(const Scene &, const float *const *direction, const Record *records, int count,
                     Tangent *out);
    void (*blend_tangents)(const BlendTangents &);
    // The derivative of the colours of one chunk's records by the direction they are seen from.
    void (*turns)(const Scene &, const Record *records, int count, Turn *out);
    void (*curvature)(const Curvature &);
    // Makes blocks of the products in the slots of one chunk's records, and adds them to rows.
    void (*add_blocks)(const Scene &, const Record *records, const Turn *turns, int count,
                       const float *slots, const BlockRows &out);
};

}  // namespace lumigraph
