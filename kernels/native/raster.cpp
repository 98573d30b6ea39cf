#include "raster.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace lumigraph {
namespace {

constexpr int GROUP = 4;  // channels that the kernels blend in one pass

// An array that keeps its memory when it shrinks and is not cleared when it grows.
template <typename T>
class Buffer {
  public:
    T *resize(size_t count) {
        if (count > capacity_) {
            std::free(data_);
            capacity_ = count + count / 4;
            const size_t bytes = (capacity_ * sizeof(T) + 63) / 64 * 64;
            data_ = static_cast<T *>(std::aligned_alloc(64, bytes));
            if (!data_) {
                capacity_ = 0;
                throw std::bad_alloc();
            }
        }
        return data_;
    }
    T *data() { return data_; }
    Buffer() = default;
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

  private:
    T *data_ = nullptr;
    size_t capacity_ = 0;
};

struct KeyIndex {
    uint32_t key, index;
};

}  // namespace

struct Workspace {
    Buffer<KeyIndex> keys, spare;
    Buffer<Record> record;
    Buffer<uint32_t> first, begin, counts, used;
    Buffer<Entry> entries;
    Buffer<float> slots;
};

namespace {

// A view in training and one being shown are alive at once; more would be hoarding.
constexpr size_t POOL = 2;
std::mutex pool_mutex;
std::vector<std::unique_ptr<Workspace>> pool;

std::unique_ptr<Workspace> take_workspace() {
    const std::lock_guard lock(pool_mutex);
    if (pool.empty()) return std::make_unique<Workspace>();
    auto work = std::move(pool.back());
    pool.pop_back();
    return work;
}

// Stable, by 11 bits at a time: depths are positive, so their bits sort as integers.
void sort_by_key(KeyIndex *&keys, KeyIndex *&spare, int64_t count) {
    constexpr int BITS = 11, BINS = 1 << BITS;
    static thread_local uint32_t bins[3][BINS];
    std::memset(bins, 0, sizeof bins);
    for (int64_t i = 0; i < count; ++i)
        for (int pass = 0; pass < 3; ++pass)
            ++bins[pass][keys[i].key >> (pass * BITS) & (BINS - 1)];
    for (int pass = 0; pass < 3; ++pass) {
        uint32_t sum = 0;
        for (uint32_t &bin : bins[pass]) {
            const uint32_t here = bin;
            bin = sum;
            sum += here;
        }
        for (int64_t i = 0; i < count; ++i)
            spare[bins[pass][keys[i].key >> (pass * BITS) & (BINS - 1)]++] = keys[i];
        std::swap(keys, spare);
    }
}

Record record_of(const FootprintRows &f, int64_t n) {
    constexpr float LOG2E = 1.44269504f;
    const float *conic = f.conics + 3 * n;
    Record r{};
    r.x = f.centers[2 * n] - 0.5f;
    r.y = f.centers[2 * n + 1] - 0.5f;
    r.xx = -0.5f * LOG2E * conic[0];
    r.xy = -LOG2E * conic[1];
    r.yy = -0.5f * LOG2E * conic[2];
    r.log_opacity = std::log2(f.opacities[n]);
    r.left = r.x - f.extents[2 * n];
    r.right = r.x + f.extents[2 * n];
    r.top = r.y - f.extents[2 * n + 1];
    r.bottom = r.y + f.extents[2 * n + 1];
    r.opacity = f.opacities[n];
    r.index = int32_t(n);
    return r;
}

}  // namespace

TileLists::TileLists(const FootprintRows &footprints, int width, int height, int threads)
    : splats_(footprints.splats), work_(take_workspace()) {
    tiles_.width = width;
    tiles_.height = height;
    tiles_.columns = (width + TILE - 1) / TILE;
    tiles_.rows = (height + TILE - 1) / TILE;
    tiles_.threads = threads;
    collect(footprints);
    sort_into_tiles();
}

TileLists::~TileLists() {
    const std::lock_guard lock(pool_mutex);
    if (pool.size() < POOL) pool.push_back(std::move(work_));
}

// Keeps the splats that are seen, nearest first.
void TileLists::collect(const FootprintRows &f) {
    KeyIndex *keys = work_->keys.resize(f.splats), *spare = work_->spare.resize(f.splats);
    int64_t count = 0;
    for (int64_t n = 0; n < f.splats; ++n)
        if (f.extents[2 * n] > 0)
            keys[count++] = {std::bit_cast<uint32_t>(f.depths[n]), uint32_t(n)};
    sort_by_key(keys, spare, count);
    tiles_.records = count;
    tiles_.record = work_->record.resize(count);
#pragma omp parallel for schedule(static) num_threads(tiles_.threads) if (count > 1 << 11)
    for (int64_t i = 0; i < count; ++i) tiles_.record[i] = record_of(f, keys[i].index);
}

// A counting sort into tiles that keeps the order of depth. Every thread counts a stretch of the
// records; where it may write follows from all counts, so the lists are the same for any number.
void TileLists::sort_into_tiles() {
    const int64_t records = tiles_.records, tiles = int64_t(tiles_.columns) * tiles_.rows;
    const int chunks = records > 1 << 11 ? tiles_.threads : 1;
    const auto chunk_start = [&](int chunk) { return records * chunk / chunks; };
    uint32_t *counts = work_->counts.resize(chunks * tiles);
    uint32_t *first = work_->first.resize(records + 1);
    uint32_t *begin = work_->begin.resize(tiles + 1);
    std::memset(counts, 0, sizeof(uint32_t) * chunks * tiles);
#pragma omp parallel for schedule(static, 1) num_threads(chunks)
    for (int chunk = 0; chunk < chunks; ++chunk)
        kernels().count_tiles(tiles_, chunk_start(chunk), chunk_start(chunk + 1), first + 1,
                              counts + chunk * tiles);

    uint64_t total = 0;
    first[0] = 0;
    for (int64_t i = 0; i < records; ++i) {
        total += first[i + 1];
        first[i + 1] = uint32_t(total);
    }
    if (total > UINT32_MAX)
        throw std::length_error("the splats cover " + std::to_string(total) +
                                " tiles, more than 4 billion: render a smaller image");
    uint32_t sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        begin[tile] = sum;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            uint32_t &here = counts[chunk * tiles + tile];
            const uint32_t count = here;
            here = sum;
            sum += count;
        }
    }
    begin[tiles] = sum;

    entries_ = int64_t(total);
    tiles_.first = first;
    tiles_.begin = begin;
    tiles_.entries = work_->entries.resize(total);
    tiles_.used = work_->used.resize(tiles);
#pragma omp parallel for schedule(static, 1) num_threads(chunks)
    for (int chunk = 0; chunk < chunks; ++chunk)
        kernels().fill_tiles(tiles_, chunk_start(chunk), chunk_start(chunk + 1),
                             counts + chunk * tiles);
}

void TileLists::set_features(const float *features, int stride, int offset, int channels) {
#pragma omp parallel for schedule(static) num_threads(tiles_.threads) if (tiles_.records > 1 << 11)
    for (int64_t i = 0; i < tiles_.records; ++i) {
        Record &r = tiles_.record[i];
        const float *row = features + int64_t(r.index) * stride + offset;
        for (int c = 0; c < channels; ++c) r.features[c] = row[c];
    }
}

void TileLists::blend(const float *features, int channels, const float *background, float *image,
                      float *transmittance, int32_t *median) {
    for (int offset = 0; offset < channels; offset += GROUP) {
        const int group = std::min(GROUP, channels - offset);
        set_features(features, channels, offset, group);
        const bool first = offset == 0;
        kernels().blend({&tiles_, group, channels, offset,
                         background ? background + offset : nullptr, image,
                         first ? transmittance : nullptr, first ? median : nullptr});
    }
}

void TileLists::blend_backward(const float *features, const float *conics, int channels,
                               const float *image, const float *transmittance, const Gradients &g) {
    float *slots = work_->slots.resize(entries_ * SLOT);
    const bool absolute = g.absolute_centers != nullptr;
    for (int offset = 0; offset < channels; offset += GROUP) {
        const int group = std::min(GROUP, channels - offset);
        if (channels > GROUP) set_features(features, channels, offset, group);
        kernels().blend_backward({&tiles_, group, channels, offset, image, transmittance, g.image,
                                  offset == 0 ? g.transmittance : nullptr, slots, absolute});
        kernels().gather({&tiles_, group, channels, offset, slots, conics, offset > 0, g.centers,
                          g.conics, g.opacities, g.features, g.absolute_centers});
    }
}

}  // namespace lumigraph
