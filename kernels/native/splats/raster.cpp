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

// One view in training and one that is shown are alive at once; the memory of others is freed.
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

std::mutex spare_mutex;
std::unique_ptr<Scratch> spare;

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
// less to finish one by one than by more passes of a radix sort with as many bins as entries.
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

// The number that gives exactly the product when it is multiplied by the factor, if there is one.
// So records that are made of the rows of records are the same, bit for bit.
float divided(float product, float factor) {
    const float x = product / factor;
    for (const float y : {x, std::nextafter(x, INFINITY), std::nextafter(x, -INFINITY)})
        if (y * factor == product) return y;
    return x;
}

}  // namespace

Borrowed::Borrowed() {
    const std::lock_guard lock(spare_mutex);
    scratch_ = spare ? std::move(spare) : std::make_unique<Scratch>();
}

Borrowed::~Borrowed() {
    const std::lock_guard lock(spare_mutex);
    spare = std::move(scratch_);
}

void for_each(int64_t count, int threads, const Task &task) {
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (count > 1)
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

void for_each_stretch(int64_t rows, int threads,
                      const std::function<void(int64_t, int64_t)> &task) {
    for_each((rows + STRETCH - 1) / STRETCH, threads,
             [&](int64_t i) { task(i * STRETCH, std::min(rows, (i + 1) * STRETCH)); });
}

TileLists::TileLists(const Scene &scene, Stop *stop)
    : splats_(scene.splats), work_(take_workspace()) {
    tiles_.stop = stop;
    tiles_.width = scene.view.width;
    tiles_.height = scene.view.height;
    tiles_.threads = scene.threads;
    tiles_.alpha_max = ALPHA_MAX;
    prepare([&](int64_t from, int64_t to, const Collected &out) {
        return kernels().collect(scene, from, to, out);
    });
    tiles_.stop = nullptr;
}

TileLists::TileLists(const RecordRows &rows, int width, int height, int threads)
    : splats_(rows.count), work_(take_workspace()) {
    tiles_.width = width;
    tiles_.height = height;
    tiles_.threads = threads;
    tiles_.alpha_max = ALPHA_MAX;
    prepare([&](int64_t from, int64_t to, const Collected &out) {
        kernels().records_of_rows(rows, from, to, out);
        return int(to - from);
    });
}

TileLists::TileLists(TileLists &whole, const Window &part, float alpha_max)
    : has_places_(true), splats_(whole.splats_), work_(take_workspace()) {
    whole.use_colors();
    tiles_.left = part.left;
    tiles_.top = part.top;
    tiles_.width = part.width;
    tiles_.height = part.height;
    tiles_.threads = whole.tiles_.threads;
    tiles_.alpha_max = alpha_max;
    int32_t *places = work_->places.resize(splats_);
    prepare([&](int64_t from, int64_t to, const Collected &out) {
        const Chunk &chunk = whole.work_->chunks[from / CHUNK];
        const uint32_t *depths = whole.work_->depths.data();
        int count = 0;
        for (int64_t n = from; n < from + chunk.count; ++n) {
            const Record &r = whole.tiles_.record[n];
            // The first pixel's centre is 0 in records.
            const float x = r.x + 0.5f - float(part.left), y = r.y + 0.5f - float(part.top);
            if (!(x + r.half_width > 0 && x - r.half_width < float(part.width))) continue;
            if (!(y + r.half_height > 0 && y - r.half_height < float(part.height))) continue;
            out.records[count] = r;
            out.depths[count] = depths[n];
            places[from + count++] = int32_t(whole.row_of(from / CHUNK, n - from));
        }
        (void)to;
        return count;
    });
    rows_ = whole.rows_;
}

TileLists::~TileLists() {
    const std::lock_guard lock(pool_mutex);
    if (pool.size() < POOL) pool.push_back(std::move(work_));
}

void TileLists::for_each_chunk(const Task &task) {
    // A few chunks at a time: waking a thread takes as long as one.
    constexpr int64_t SOME = 4;
    for_each((chunks_ + SOME - 1) / SOME, tiles_.threads, [&](int64_t stretch) {
        const int64_t from = stretch * SOME, to = std::min(chunks_, from + SOME);
        for (int64_t chunk = from; chunk < to; ++chunk) task(chunk);
    });
}

// Collects the splats in view, and lists and counts the tiles that each meets.
void TileLists::prepare(const Collect &collect) {
    const double start = omp_get_wtime();
    tiles_.columns = (tiles_.width + TILE - 1) / TILE;
    tiles_.rows = (tiles_.height + TILE - 1) / TILE;
    chunks_ = (splats_ + CHUNK - 1) / CHUNK;
    // Parts of chunks have counts of their own, so that each can be dealt out by itself. There are
    // several for each thread, since splats in view lie unevenly.
    parts_ = std::min<int64_t>(chunks_, tiles_.threads > 1 ? 4 * tiles_.threads : 1);
    Workspace &w = *work_;
    if (int64_t(w.chunks.size()) < chunks_) w.chunks.resize(chunks_);
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    const int64_t spans = LIST_SCRATCH * tiles_.rows;
    const Collected all = {w.record.resize(splats_), w.depths.resize(splats_)};
    uint32_t *counts = w.counts.resize(parts_ * tiles);
    int32_t *scratch = w.scratch.resize(parts_ * spans);
    tiles_.record = all.records;
    for_each(parts_, tiles_.threads, [&](int64_t part) {
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
// the threads: it is sorted, and equal depths keep the order of the splats. One thread alone sums
// up where each part begins in each tile, in a twentieth of the time.
void TileLists::sort_into_tiles() {
    Workspace &w = *work_;
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    uint64_t total = 0;
    for (int64_t n = 0; n < chunks_; ++n) {
        w.chunks[n].slots = uint32_t(total);
        w.chunks[n].first = records_;
        total += w.chunks[n].cells.count;
        records_ += w.chunks[n].count;
    }
    rows_ = records_;
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
    for_each(parts_, tiles_.threads, [&](int64_t part) {
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
    for_each(tiles_.rows, tiles_.threads, [&](int64_t row) {
        Entry *spare = spares + int64_t(most) * omp_get_thread_num();
        for (int64_t tile = row * tiles_.columns; tile < (row + 1) * tiles_.columns; ++tile)
            sort_by_depth(entries + begin[tile], spare, begin[tile + 1] - begin[tile]);
    });
}

int64_t TileLists::row_of(int64_t chunk, int64_t i) const {
    return has_places_ ? work_->places.data()[chunk * CHUNK + i] : work_->chunks[chunk].first + i;
}

// Puts features into the records, in place of the colours, which are kept.
void TileLists::set_features(const float *features, int stride, int offset, int channels) {
    float *colors = has_colors_ ? work_->colors.resize(3 * chunks_ * CHUNK) : nullptr;
    has_colors_ = false;
    for_each_chunk([&](int64_t chunk) {
        Record *records = tiles_.record + chunk * CHUNK;
        for (int i = 0; i < work_->chunks[chunk].count; ++i) {
            if (colors) std::memcpy(colors + 3 * (chunk * CHUNK + i), records[i].features, 12);
            const float *row = features + row_of(chunk, i) * stride + offset;
            for (int c = 0; c < channels; ++c) records[i].features[c] = row[c];
        }
    });
}

// Puts the colours back.
void TileLists::use_colors() {
    if (has_colors_) return;
    const float *colors = work_->colors.data();
    has_colors_ = true;
    for_each_chunk([&](int64_t chunk) {
        Record *records = tiles_.record + chunk * CHUNK;
        for (int i = 0; i < work_->chunks[chunk].count; ++i)
            std::memcpy(records[i].features, colors + 3 * (chunk * CHUNK + i), 12);
    });
}

// The channels to be blended next: some of the features, or the colours where there are none.
void TileLists::use(const float *features, int stride, int offset, int channels) {
    if (features)
        set_features(features, stride, offset, channels);
    else
        use_colors();
}

void TileLists::write_rows(float *numbers, int32_t *index) {
    use_colors();
    for_each_chunk([&](int64_t chunk) {
        const uint32_t *depths = work_->depths.data() + chunk * CHUNK;
        for (int i = 0; i < work_->chunks[chunk].count; ++i) {
            const Record &r = tiles_.record[chunk * CHUNK + i];
            index[row_of(chunk, i)] = r.index;
            if (!numbers) continue;
            float *row = numbers + row_of(chunk, i) * ROW;
            row[0] = r.x + 0.5f, row[1] = r.y + 0.5f;
            row[2] = divided(r.xx, FORM), row[3] = divided(r.xy, MIXED_FORM);
            row[4] = divided(r.yy, FORM), row[5] = r.opacity;
            for (int c = 0; c < 3; ++c) row[6 + c] = r.features[c];
            std::memcpy(row + 9, depths + i, 4);
            row[10] = r.half_width, row[11] = r.half_height;
        }
    });
}

void TileLists::blend(const float *features, int channels, const float *background, float *image,
                      float *transmittance, int32_t *median, Stop *stop) {
    tiles_.stop = stop;
    for (int offset = 0; offset < channels; offset += GROUP) {
        const int group = std::min(GROUP, channels - offset);
        use(features, channels, offset, group);
        const bool first = offset == 0;
        kernels().blend({&tiles_, group, channels, offset,
                         background ? background + offset : nullptr, image,
                         first ? transmittance : nullptr, first ? median : nullptr});
    }
    tiles_.stop = nullptr;
}

// Sums the slots of each record, in their order, to its row. Rows of records that these lists do
// not have are zeros.
void TileLists::sum_rows(const float *slots, int channels, int stride, int offset, float *rows,
                         float *by_features, int32_t *index) {
    if (has_places_ && offset == 0) {
        std::fill_n(rows, rows_ * ROW, 0.0f);
        if (by_features) std::fill_n(by_features, rows_ * stride, 0.0f);
    }
    for_each_chunk([&](int64_t n) {
        const Chunk &chunk = work_->chunks[n];
        const int32_t *places = has_places_ ? work_->places.data() + n * CHUNK : nullptr;
        kernels().sum_rows({tiles_.record + n * CHUNK, chunk.count,
                            slots + int64_t(chunk.slots) * SLOT, channels, places, chunk.first,
                            rows, by_features, stride, offset, offset > 0});
        for (int i = 0; index && i < chunk.count; ++i)
            index[row_of(n, i)] = tiles_.record[n * CHUNK + i].index;
    });
}

void TileLists::backward(const Backward &b) {
    Borrowed scratch;
    float *slots = scratch->slots.resize(entries_ * SLOT);
    for (int offset = 0; offset < b.channels; offset += GROUP) {
        const int group = std::min(GROUP, b.channels - offset);
        use(b.features, b.channels, offset, group);
        kernels().blend_backward({&tiles_, group, b.channels, offset, b.image, b.transmittance,
                                  b.by_image, offset == 0 ? b.by_transmittance : nullptr, slots,
                                  b.absolute});
        sum_rows(slots, group, b.channels, offset, b.rows, b.by_features,
                 offset == 0 ? b.index : nullptr);
    }
}

}  // namespace lumigraph
