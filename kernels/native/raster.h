// Tile lists of one view: built once, used by the blending of both directions.
#pragma once

#include <memory>

#include "kernels.h"

namespace lumigraph {

struct FootprintRows {
    int64_t splats;
    const float *centers, *conics, *opacities, *depths, *extents;  // rows of 2, 3, 1, 1, 2
};

// Memory that a view needs; given back to a pool, so that a training step allocates nothing.
struct Workspace;

class TileLists {
  public:
    TileLists(const FootprintRows &footprints, int width, int height, int threads);
    ~TileLists();
    TileLists(const TileLists &) = delete;
    TileLists &operator=(const TileLists &) = delete;

    // Blends `channels` features of each splat; median may be null.
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

    int64_t splats() const { return splats_; }
    int width() const { return tiles_.width; }
    int height() const { return tiles_.height; }
    int64_t entries() const { return entries_; }
    int64_t records() const { return tiles_.records; }

  private:
    void collect(const FootprintRows &footprints);
    void sort_into_tiles();
    void set_features(const float *features, int stride, int offset, int channels);

    Tiles tiles_{};
    int64_t splats_, entries_ = 0;
    std::unique_ptr<Workspace> work_;
};

}  // namespace lumigraph
