#include "splats/raster.h"

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
#include <utility>

#include "images/images.h"
#include <vector>

#include "splats/workspace.h"

namespace lumigraph {
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

void insert_by_depth(Entry *entries, uint32_t count) {
    for (uint32_t i = 1; i < count; ++i) {
        const Entry entry = entries[i];
        uint32_t k = i;
        for (; k > 0 && entries[k - 1].depth > entry.depth; --k) entries[k] = entries[k - 1];
        entries[k] = entry;
    }
}

// Sorts a tile's entries by depth, stably. The bits of positive floats sort as integers. Some
// hundred entries are all but sorted by the 16 bits in which their depths differ most, and cost
// less to finish one by one than by more passes of a radix sort, whose bins are as many as they.
void sort_by_depth(Entry *entries, Entry *spare, uint32_t count) {
    constexpr uint32_t FEW = 24, SOME = 2048;
    if (count <= FEW) return insert_by_depth(entries, count);
    uint32_t low = entries[0].depth, high = low;
    for (uint32_t i = 1; i < count; ++i) {
        low = std::min(low, entries[i].depth);
        high = std::max(high, entries[i].depth);
    }
    const int width = std::bit_width(high - low);
    constexpr int DIGIT = 8, BINS = 1 << DIGIT;
    const int first = count <= SOME ? std::max(0, width - 2 * DIGIT) : 0;
    Entry *from = entries, *to = spare;
    for (int shift = first; shift < width; shift += DIGIT) {
        const auto bin_of = [=](const Entry &e) { return (e.depth - low) >> shift & (BINS - 1); };
        uint32_t bins[BINS] = {}, sum = 0;
        for (uint32_t i = 0; i < count; ++i) ++bins[bin_of(from[i])];
        for (uint32_t &bin : bins) sum += std::exchange(bin, sum);
        for (uint32_t i = 0; i < count; ++i) to[bins[bin_of(from[i])]++] = from[i];
        std::swap(from, to);
    }
    if (from != entries) std::memcpy(entries, from, count * sizeof(Entry));
    if (first > 0) insert_by_depth(entries, count);
}

Record record_of(const FootprintRows &f, int64_t n) {
    const float *conic = f.conics + 3 * n;
    Record r{};
    r.x = f.centers[2 * n] - 0.5f;
    r.y = f.centers[2 * n + 1] - 0.5f;
    r.xx = -0.5f * LOG2E * conic[0];
    r.xy = -LOG2E * conic[1];
    r.yy = -0.5f * LOG2E * conic[2];
    r.log_opacity = std::log2(f.opacities[n]);
    r.half_width = f.extents[2 * n];
    r.half_height = f.extents[2 * n + 1];
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
    tiles_.alpha_max = ALPHA_MAX;
    prepare([&f](int64_t from, int64_t to, const Collected &out) {
        int count = 0;
        for (int64_t n = from; n < to; ++n) {
            if (!(f.extents[2 * n] > 0)) continue;
            out.records[count] = record_of(f, n);
            out.depths[count++] = std::bit_cast<uint32_t>(f.depths[n]);
        }
        return count;
    });
}

TileLists::TileLists(const Project &p, const Harmonics &h, Stop *stop)
    : splats_(p.splats), work_(take_workspace()) {
    tiles_.stop = stop;
    tiles_.width = p.view.width;
    tiles_.height = p.view.height;
    tiles_.threads = p.threads;
    tiles_.alpha_max = ALPHA_MAX;
    prepare([&](int64_t from, int64_t to, const Collected &out) {
        return kernels().collect(p, h, from, to, out);
    });
}

TileLists::~TileLists() {
    const std::lock_guard lock(pool_mutex);
    if (pool.size() < POOL) pool.push_back(std::move(work_));
}

// Runs task(0) to task(count - 1); an exception is passed on when all have ended.
void TileLists::for_each(int64_t count, const Task &task) {
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) num_threads(tiles_.threads) if (count > 1)
    for (int64_t i = 0; i < count; ++i) {
        try {
            task(i);
        } catch (...) {
#pragma omp critical(lumigraph_failure)
            failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

void TileLists::for_each_chunk(const Task &task) {
    // A few chunks at a time: waking a thread takes as long as one.
    constexpr int64_t STRETCH = 4;
    for_each((chunks_ + STRETCH - 1) / STRETCH, [&](int64_t stretch) {
        const int64_t from = stretch * STRETCH, to = std::min(chunks_, from + STRETCH);
        for (int64_t chunk = from; chunk < to; ++chunk) task(chunk);
    });
}

// Keeps the splats that are seen, and lists and counts the tiles that each meets.
void TileLists::prepare(const Collect &collect) {
    const double start = omp_get_wtime();
    tiles_.columns = (tiles_.width + TILE - 1) / TILE;
    tiles_.rows = (tiles_.height + TILE - 1) / TILE;
    chunks_ = (splats_ + CHUNK - 1) / CHUNK;
    // Stretches of chunks that are counted apart, so that each can be dealt out by itself: some
    // for each thread, since what is seen lies unevenly.
    parts_ = std::min<int64_t>(chunks_, tiles_.threads > 1 ? 4 * tiles_.threads : 1);
    Workspace &w = *work_;
    if (int64_t(w.chunks.size()) < chunks_) w.chunks.resize(chunks_);
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    const int64_t spans = LIST_SCRATCH * tiles_.rows;
    const Collected all = {w.record.resize(splats_), w.depths.resize(splats_)};
    uint32_t *counts = w.counts.resize(parts_ * tiles);
    int32_t *scratch = w.scratch.resize(parts_ * spans);
    tiles_.record = all.records;
    for_each(parts_, [&](int64_t part) {
        std::memset(counts + part * tiles, 0, sizeof(uint32_t) * tiles);
        for (int64_t n = first_chunk(part); n < first_chunk(part + 1); ++n) {
            if (tiles_.stop && (*tiles_.stop)()) return;
            Chunk &chunk = w.chunks[n];
            const int64_t from = n * CHUNK, to = std::min(splats_, from + CHUNK);
            const Collected out = {all.records + from, all.depths + from};
            chunk.count = collect(from, to, out);
            chunk.cells.count = 0;
            kernels().list_cells(tiles_, out, chunk.count, chunk.cells, counts + part * tiles,
                                 scratch + part * spans);
        }
    });
    prepared_ = omp_get_wtime() - start;
    if (tiles_.stop && (*tiles_.stop)()) return;
    sort_into_tiles();
    listed_ = omp_get_wtime() - start - prepared_;
}

// Deals the cells out to their tiles and sorts each tile by depth. The result does not depend on
// who does what: it is sorted, and equal depths keep the order of the splats. Only where each part
// begins in each tile is summed up by one thread, in a twentieth of the time.
void TileLists::sort_into_tiles() {
    Workspace &w = *work_;
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    uint64_t total = 0;
    for (int64_t n = 0; n < chunks_; ++n) {
        w.chunks[n].slots = uint32_t(total);
        total += w.chunks[n].cells.count;
        records_ += w.chunks[n].count;
    }
    if (total > UINT32_MAX)
        throw std::length_error("the splats cover " + std::to_string(total) +
                                " tiles, more than 4 billion: render a smaller image");
    entries_ = int64_t(total);

    uint32_t *begin = w.begin.resize(tiles + 1), *next = w.counts.data();
    uint32_t sum = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        begin[tile] = sum;
        for (int64_t part = 0; part < parts_; ++part)
            sum += std::exchange(next[part * tiles + tile], sum);
    }
    begin[tiles] = sum;
    uint32_t most = 0;
    for (int64_t tile = 0; tile < tiles; ++tile)
        most = std::max(most, begin[tile + 1] - begin[tile]);
    Entry *entries = w.entries.resize(total + AHEAD);
    // One for each thread, small enough to stay in its cache.
    Entry *spares = w.spares.resize(int64_t(most) * tiles_.threads);
    std::memset(entries + total, 0, AHEAD * sizeof(Entry));
    tiles_.begin = begin;
    tiles_.entries = entries;
    tiles_.used = w.used.resize(tiles);
    std::fill_n(tiles_.used, tiles, 0u);

    const uint32_t *depths = w.depths.data();
    for_each(parts_, [&](int64_t part) {
        uint32_t *place = next + part * tiles;
        for (int64_t n = first_chunk(part); n < first_chunk(part + 1); ++n) {
            const Chunk &chunk = w.chunks[n];
            const Cell *cell = chunk.cells.data;
            uint32_t slot = chunk.slots;
            for (int64_t i = n * CHUNK; i < n * CHUNK + chunk.count; ++i) {
                const uint32_t depth = depths[i], count = tiles_.record[i].count;
                for (uint32_t k = 0; k < count; ++k, ++cell, ++slot)
                    entries[place[cell->tile]++] = {depth, uint32_t(i), slot, cell->blocks};
            }
        }
    });
    for_each(tiles_.rows, [&](int64_t row) {
        Entry *spare = spares + int64_t(most) * omp_get_thread_num();
        for (int64_t tile = row * tiles_.columns; tile < (row + 1) * tiles_.columns; ++tile)
            sort_by_depth(entries + begin[tile], spare, begin[tile + 1] - begin[tile]);
    });
}

void TileLists::set_features(const float *features, int stride, int offset, int channels) {
    for_each_chunk([&](int64_t chunk) {
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
        for_each_chunk([&](int64_t n) {
            const Chunk &chunk = work_->chunks[n];
            kernels().gather({tiles_.record + n * CHUNK, chunk.count,
                              slots + int64_t(chunk.slots) * SLOT, group, channels, offset, conics,
                              offset > 0, g.centers, g.conics, g.opacities, g.features,
                              g.absolute_centers});
        });
    }
}

double TileLists::descend(const Descent &d, const Target &target, StageSeconds &seconds) {
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
    loss.right = tiles_.width, loss.bottom = tiles_.height, loss.pixels = pixels;
    loss.ssim_weight = target.ssim_weight;
    loss.gradient = gradient, loss.threads = tiles_.threads;
    const double result = loss_of(loss);
    lap(LOSS);
    kernels().blend_backward({&tiles_, CHANNELS, CHANNELS, 0, image, transmittance, gradient,
                              nullptr, slots, d.pull != nullptr});
    lap(BLEND_BACKWARD);
    for_each_chunk([&](int64_t n) {
        const Chunk &chunk = work_->chunks[n];
        kernels().descend(d, tiles_.record + n * CHUNK, chunk.count,
                          slots + int64_t(chunk.slots) * SLOT);
    });
    lap(DESCEND);
    return result;
}

}  // namespace lumigraph
