// Tile lists of one view: built once, used by the blending of both directions.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "splats/kernels.h"

namespace lumigraph {

// Memory that a view needs; given back to a pool, so that a training step allocates nothing.
struct Workspace;

// Runs task(0) to task(count - 1) on some threads; an exception is passed on when all have ended.
using Task = std::function<void(int64_t)>;
void for_each(int64_t count, int threads, const Task &task);

// The same for stretches of rows, task(from, to). Waking a thread takes as long as some hundred.
constexpr int64_t STRETCH = 256;
void for_each_stretch(int64_t rows, int threads, const std::function<void(int64_t, int64_t)> &task);

class TileLists {
  public:
    // The lists of a scene in view, with its colours. They are unfinished if the stop was heeded.
    TileLists(const Scene &scene, Stop *stop);
    // The lists of rows, for an image of this size.
    TileLists(const RecordRows &rows, int width, int height, int threads);
    // The lists of a part of another's image, with their own bound of alpha. The rows are those of
    // the other lists.
    TileLists(TileLists &whole, const Window &window, float alpha_max);
    ~TileLists();
    TileLists(const TileLists &) = delete;
    TileLists &operator=(const TileLists &) = delete;

    // Blends `channels` features of each row; median may be null. Null features are the colours.
    void blend(const float *features, int channels, const float *background, float *image,
               float *transmittance, int32_t *median, Stop *stop = nullptr);

    // Writes a row for each splat in view, and the indices of the splats. Rows may be null.
    void write_rows(float *numbers, int32_t *index);

    struct Backward {
        const float *features;               // that were blended; or null
        int channels;                        // as were blended
        const float *image, *transmittance;  // as blend made them
        const float *by_image;               // of the loss by these
        const float *by_transmittance;       // or null
        bool absolute;                       // also sum the absolute gradients of the centres
        float *rows;                         // out, [rows, ROW]
        float *by_features;                  // out, [rows, channels]; null where there are none
        int32_t *index;                      // out, of the splats; or null. [rows]
    };
    void backward(const Backward &b);

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
                 const MomentImages &images, Stop *stop = nullptr);
    struct MomentsBackward {
        const float *features;  // as were blended; or null
        int channels;
        const float *by_mean, *by_variance, *by_transmittance;
        float *rows, *by_features;  // as in `Backward`
    };
    void moments_backward(const Chance &chance, const MomentsBackward &b);

    // Products with the derivative G of the picture that blend made of the colours of a scene: G v,
    // written to an image, and the blocks of G^T diag(w) G, added to rows.
    void jvp(const Scene &scene, const float *const *direction, const float *background,
             float *image);
    void blocks(const Scene &scene, const float *image, const float *weights, const BlockRows &out);

    int64_t bytes() const;  // of memory
    int width() const { return tiles_.width; }
    int height() const { return tiles_.height; }
    int64_t entries() const { return entries_; }
    int64_t rows() const { return rows_; }
    double prepared() const { return prepared_; }  // seconds
    double listed() const { return listed_; }

  private:
    using Collect = std::function<int(int64_t from, int64_t to, const Collected &)>;
    void prepare(const Collect &collect);
    void sort_into_tiles();
    void set_features(const float *features, int stride, int offset, int channels);
    int64_t row_of(int64_t chunk, int64_t i) const;
    void use(const float *features, int stride, int offset, int channels);
    void use_colors();
    void for_each_chunk(const Task &task);
    void sum_rows(const float *slots, int channels, int stride, int offset, float *rows,
                  float *by_features, int32_t *index);
    Tape tape_of(int64_t tile, int channels, bool shares);
    int64_t first_chunk(int64_t part) const { return chunks_ * part / parts_; }

    Tiles tiles_{};
    bool has_places_ = false;  // rows of records are written down; else they follow one another
    bool has_colors_ = true;   // in the records, in place of other features
    int64_t splats_, chunks_ = 0, parts_ = 0, records_ = 0, rows_ = 0, entries_ = 0;
    std::unique_ptr<Workspace> work_;
    double prepared_ = 0, listed_ = 0;  // seconds
};

}  // namespace lumigraph
