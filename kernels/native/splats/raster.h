// Tile lists of one view: built once, used by the blending of both directions.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "splats/kernels.h"

namespace lumigraph {

struct FootprintRows {
    int64_t splats;
    const float *centers, *conics, *opacities, *depths, *extents;  // rows of 2, 3, 1, 1, 2
};

// Memory that a view needs; given back to a pool, so that a training step allocates nothing.
struct Workspace;

// What a training step compares its image with: photo, or target where that is null.
struct Target {
    const uint8_t *photo;
    const float *target;
    const float *background;  // of the image, 3 numbers; or null for zeros
    float ssim_weight;
};

// The stages of a training step, whose seconds `TileLists::descend` tells.
enum Stage { PREPARE, LISTS, BLEND, LOSS, BLEND_BACKWARD, DESCEND, STAGES };
using StageSeconds = std::array<double, STAGES>;

class TileLists {
  public:
    TileLists(const FootprintRows &footprints, int width, int height, int threads);
    // Of a scene, with its colours: what projecting it first would give. Where a stop is heeded the
    // lists are not fit for use; `blend` heeds it too.
    TileLists(const Project &project, const Harmonics &harmonics, Stop *stop = nullptr);
    ~TileLists();
    TileLists(const TileLists &) = delete;
    TileLists &operator=(const TileLists &) = delete;

    // Blends `channels` features of each splat; median may be null. Null features are the colours
    // of the scene that the lists were made of.
    void blend(const float *features, int channels, const float *background, float *image,
               float *transmittance, int32_t *median);

    struct Gradients {
        const float *image, *transmittance;              // of the loss by what blend made
        float *centers, *conics, *opacities, *features;  // out; rows not seen are left alone
        float *absolute_centers;                         // added to; may be null
    };
    // `image` and `transmittance` are what blend made.
    void blend_backward(const float *features, const float *conics, int channels,
                        const float *image, const float *transmittance, const Gradients &gradients);

    struct Chance {
        float keep, drop;         // that a splat is there, and that it is missing
        const float *background;  // [channels], or null for zeros, wherever the origin is
        const float *origin;      // [height, width, channels], or null for zeros
    };
    struct MomentImages {
        float *mean, *variance;  // [height, width, channels]
        float *transmittance;    // [height, width]
        float *shares;           // added to, a number a splat; may be null
    };
    // Mean and variance of what blend makes where chance drops splats; features as in `blend`.
    void moments(const float *features, int channels, const Chance &chance,
                 const MomentImages &images);
    struct MomentGradients {
        const float *mean, *variance, *transmittance;    // of the loss by what moments made
        float *centers, *conics, *opacities, *features;  // out; rows not seen are left alone
    };
    void moments_backward(const float *features, const float *conics, int channels,
                          const Chance &chance, const MomentGradients &gradients);

    // One step of the scene that the lists were made of towards a photo: blends, compares, goes
    // back and moves the splats that are seen. Returns the loss.
    double descend(const Descent &descent, const Target &target, StageSeconds &seconds);

    // Products with the derivative of what blend makes of the scene that the lists were made of,
    // after it: G v, into an image; G^T u and the blocks of G^T diag(w) G, added to rows.
    void jvp(const Scene &scene, const float *const *direction, const float *background,
             float *image);
    void vjp(const Scene &scene, const float *image, const float *weights, float *const *out);
    void blocks(const Scene &scene, const float *image, const float *weights, const BlockRows &out);

    int64_t bytes() const;  // of memory
    int64_t splats() const { return splats_; }
    int width() const { return tiles_.width; }
    int height() const { return tiles_.height; }
    int64_t entries() const { return entries_; }
    int64_t records() const { return records_; }

  private:
    using Collect = std::function<int(int64_t from, int64_t to, const Collected &)>;
    void prepare(const Collect &collect);
    void sort_into_tiles();
    void set_features(const float *features, int stride, int offset, int channels);
    using Task = std::function<void(int64_t)>;
    void for_each(int64_t count, const Task &task);
    void for_each_chunk(const Task &task);
    Tape tape_of(int64_t tile, int channels, bool shares);
    int64_t first_chunk(int64_t part) const { return chunks_ * part / parts_; }

    Tiles tiles_{};
    int64_t splats_, chunks_ = 0, parts_ = 0, records_ = 0, entries_ = 0;
    std::unique_ptr<Workspace> work_;
    double prepared_ = 0, listed_ = 0;  // seconds
};

}  // namespace lumigraph
