#include "raster.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
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

struct Chunk {
    int count;         // records, of CHUNK places
    uint32_t slots;    // the first of the chunk's slots
    Cells cells{};

    Chunk() { cells.reserve = [](Cells &c, uint32_t capacity) {
        void *data = std::realloc(c.data, capacity * sizeof(Cell));
        if (!data) throw std::bad_alloc();
        c.data = static_cast<Cell *>(data);
        c.capacity = capacity;
    }; }
    ~Chunk() { std::free(cells.data); }
    Chunk(Chunk &&other) noexcept : count(other.count), slots(other.slots), cells(other.cells) {
        other.cells.data = nullptr;
    }
    Chunk &operator=(Chunk &&) = delete;
};

}  // namespace

struct Workspace {
    std::vector<Chunk> chunks;
    Buffer<KeyIndex> keys, spare;
    Buffer<Record> record;
    Buffer<uint32_t> depths, begin, counts, next, used;
    Buffer<float> half_heights;
    Buffer<int32_t> scratch;
    Buffer<Entry> entries;
    Buffer<float> slots, image, transmittance, gradient;
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
    r.opacity = f.opacities[n];
    r.index = int32_t(n);
    return r;
}

}  // namespace

TileLists::TileLists(const FootprintRows &f, int width, int height, int threads)
    : splats_(f.splats), work_(take_workspace()) {
    tiles_.width = width;
    tiles_.height = height;
    tiles_.threads = threads;
    prepare([&f](int64_t from, int64_t to, const Collected &out) {
        int count = 0;
        for (int64_t n = from; n < to; ++n) {
            if (!(f.extents[2 * n] > 0)) continue;
            out.records[count] = record_of(f, n);
            out.depths[count] = std::bit_cast<uint32_t>(f.depths[n]);
            out.half_heights[count++] = f.extents[2 * n + 1];
        }
        return count;
    });
}

TileLists::TileLists(const Project &p, const Harmonics &h)
    : splats_(p.splats), work_(take_workspace()) {
    tiles_.width = p.view.width;
    tiles_.height = p.view.height;
    tiles_.threads = p.threads;
    prepare([&](int64_t from, int64_t to, const Collected &out) {
        return kernels().collect(p, h, from, to, out);
    });
}

TileLists::~TileLists() {
    const std::lock_guard lock(pool_mutex);
    if (pool.size() < POOL) pool.push_back(std::move(work_));
}

// Runs task(chunk, thread) for every chunk; an exception is passed on when all have ended.
template <typename Task>
void TileLists::for_each_chunk(const Task &task) {
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) num_threads(tiles_.threads) if (chunks_ > 4)
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
        try {
            task(chunk, omp_get_thread_num());
        } catch (...) {
#pragma omp critical(lumigraph_failure)
            failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

// Keeps the splats that are seen, and lists and counts the tiles that each meets.
void TileLists::prepare(const Collect &collect) {
    const double start = omp_get_wtime();
    tiles_.columns = (tiles_.width + TILE - 1) / TILE;
    tiles_.rows = (tiles_.height + TILE - 1) / TILE;
    chunks_ = (splats_ + CHUNK - 1) / CHUNK;
    Workspace &w = *work_;
    if (int64_t(w.chunks.size()) < chunks_) w.chunks.resize(chunks_);
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    const int64_t spans = 4 * LANES_MAX * (tiles_.columns + tiles_.rows);
    const Collected all = {w.record.resize(splats_), w.depths.resize(splats_),
                           w.half_heights.resize(splats_)};
    uint32_t *counts = w.counts.resize(tiles_.threads * tiles);
    int32_t *scratch = w.scratch.resize(tiles_.threads * spans);
    std::memset(counts, 0, sizeof(uint32_t) * tiles_.threads * tiles);
    tiles_.record = all.records;
    for_each_chunk([&](int64_t n, int thread) {
        Chunk &chunk = w.chunks[n];
        const int64_t from = n * CHUNK, to = std::min(splats_, from + CHUNK);
        const Collected out = {all.records + from, all.depths + from, all.half_heights + from};
        chunk.count = collect(from, to, out);
        chunk.cells.count = 0;
        kernels().list_cells(tiles_, out, chunk.count, chunk.cells, counts + thread * tiles,
                             scratch + thread * spans);
    });
    prepared_ = omp_get_wtime() - start;
    sort_into_tiles();
    listed_ = omp_get_wtime() - start - prepared_;
}

// Sorts the records once by depth and deals their cells out to the tiles in that order.
void TileLists::sort_into_tiles() {
    Workspace &w = *work_;
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    KeyIndex *keys = w.keys.resize(splats_), *spare = w.spare.resize(splats_);
    uint64_t total = 0;
    for (int64_t n = 0; n < chunks_; ++n) {
        Chunk &chunk = w.chunks[n];
        chunk.slots = uint32_t(total);
        total += chunk.cells.count;
        for (int64_t i = n * CHUNK; i < n * CHUNK + chunk.count; ++i)
            keys[records_++] = {w.depths.data()[i], uint32_t(i)};
    }
    if (total > UINT32_MAX)
        throw std::length_error("the splats cover " + std::to_string(total) +
                                " tiles, more than 4 billion: render a smaller image");
    entries_ = int64_t(total);
    sort_by_key(keys, spare, records_);

    uint32_t *begin = w.begin.resize(tiles + 1), *next = w.next.resize(tiles);
    const uint32_t *counts = w.counts.data();
    uint32_t sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        begin[tile] = next[tile] = sum;
        for (int thread = 0; thread < tiles_.threads; ++thread)
            sum += counts[thread * tiles + tile];
    }
    begin[tiles] = sum;
    tiles_.begin = begin;
    tiles_.entries = w.entries.resize(total);
    tiles_.used = w.used.resize(tiles);

    // Every thread deals to tiles of its own, about as many entries as the others.
    const int parts = records_ > 1 << 11 ? tiles_.threads : 1;
    const auto first_tile = [&](int part) {
        const uint32_t target = uint32_t(total * part / parts);
        return uint32_t(part == parts ? tiles
                                      : std::lower_bound(begin, begin + tiles, target) - begin);
    };
#pragma omp parallel for schedule(static, 1) num_threads(parts)
    for (int part = 0; part < parts; ++part) {
        const uint32_t low = first_tile(part), high = first_tile(part + 1);
        for (int64_t i = 0; i < records_; ++i) {
            if (i + 8 < records_) __builtin_prefetch(tiles_.record + keys[i + 8].index);
            const uint32_t index = keys[i].index;
            const Record &r = tiles_.record[index];
            const Chunk &chunk = w.chunks[index / CHUNK];
            for (uint32_t k = r.first; k < r.first + r.count; ++k) {
                const Cell cell = chunk.cells.data[k];
                if (cell.tile < low || cell.tile >= high) continue;
                tiles_.entries[next[cell.tile]++] = {index, chunk.slots + k, cell.from, cell.to};
            }
        }
    }
}

void TileLists::set_features(const float *features, int stride, int offset, int channels) {
    for_each_chunk([&](int64_t chunk, int) {
        Record *records = tiles_.record + chunk * CHUNK;
        for (int i = 0; i < work_->chunks[chunk].count; ++i) {
            const float *row = features + int64_t(records[i].index) * stride + offset;
            for (int c = 0; c < channels; ++c) records[i].features[c] = row[c];
        }
    });
}

void TileLists::blend(const float *features, int channels, const float *background, float *image,
                      float *transmittance, int32_t *median) {
    for (int offset = 0; offset < channels; offset += GROUP) {
        const int group = std::min(GROUP, channels - offset);
        if (features) set_features(features, channels, offset, group);
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
        for_each_chunk([&](int64_t n, int) {
            const Chunk &chunk = work_->chunks[n];
            kernels().gather({tiles_.record + n * CHUNK, chunk.count,
                              slots + int64_t(chunk.slots) * SLOT, group, channels, offset, conics,
                              offset > 0, g.centers, g.conics, g.opacities, g.features,
                              g.absolute_centers});
        });
    }
}

std::array<double, 3> TileLists::descend(const Descent &d, const Target &target,
                                         StageSeconds &seconds) {
    constexpr int CHANNELS = 3;
    const int64_t pixels = int64_t(tiles_.width) * tiles_.height;
    float *image = work_->image.resize(CHANNELS * pixels);
    float *gradient = work_->gradient.resize(CHANNELS * pixels);
    float *transmittance = work_->transmittance.resize(pixels);
    float *slots = work_->slots.resize(entries_ * SLOT);
    double now = omp_get_wtime();
    const auto lap = [&](Stage stage) {
        const double start = now;
        now = omp_get_wtime();
        seconds[stage] = now - start;
    };
    seconds[PREPARE] = prepared_;
    seconds[LISTS] = listed_;
    blend(nullptr, CHANNELS, target.background, image, transmittance, nullptr);
    lap(BLEND);
    Loss loss{};
    loss.height = tiles_.height, loss.width = tiles_.width, loss.channels = CHANNELS;
    loss.image = image, loss.photo = target.photo, loss.target = target.target;
    loss.ssim_weight = target.ssim_weight, loss.scale = 1;
    loss.gradient = gradient, loss.threads = tiles_.threads;
    const std::array<double, 3> result = loss_of(loss);
    lap(LOSS);
    kernels().blend_backward({&tiles_, CHANNELS, CHANNELS, 0, image, transmittance, gradient,
                              nullptr, slots, d.pull != nullptr});
    lap(BLEND_BACKWARD);
    for_each_chunk([&](int64_t n, int) {
        const Chunk &chunk = work_->chunks[n];
        kernels().descend(d, tiles_.record + n * CHUNK, chunk.count,
                          slots + int64_t(chunk.slots) * SLOT);
    });
    lap(DESCEND);
    return result;
}

std::array<double, 3> loss_of(Loss loss) {
    std::vector<double> sums(2 * loss.blocks());
    loss.block_sums = sums.data();
    kernels().loss(loss);
    double l1 = 0, similarity = 0;
    for (int i = 0; i < loss.blocks(); ++i) l1 += sums[2 * i], similarity += sums[2 * i + 1];
    const double count = double(loss.height) * loss.width * loss.channels;
    l1 /= count, similarity /= count;
    const double weight = loss.ssim_weight;
    return {(1 - weight) * l1 + weight * (1 - similarity), l1, similarity};
}

}  // namespace lumigraph
