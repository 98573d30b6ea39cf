// Moments over all masks of dropped splats, on the tile lists of a view.
#include <omp.h>

#include <algorithm>

#include "splats/workspace.h"

namespace lumigraph {

// The calling thread's tape for a tile; with 0 channels it has no room for the way back.
Tape TileLists::tape_of(int64_t tile, int channels, bool shares) {
    constexpr size_t PIXELS = BLOCK * BLOCK;
    TapeMemory &memory = work_->tapes[omp_get_thread_num()];
    const size_t items = tiles_.begin[tile + 1] - tiles_.begin[tile], all = BLOCKS * items;
    return {uint32_t(items),
            memory.entries.resize(all),
            memory.alphas.resize(all * PIXELS),
            shares ? memory.fronts.resize(all * PIXELS) : nullptr,
            memory.behind.resize(2 * channels * items * PIXELS),
            shares ? memory.shares.resize((items + SHARES_AT_ONCE) * LANES_MAX) : nullptr};
}

// A group of channels, without images.
static Moments group_of(const Tiles &tiles, int channels, int offset,
                        const TileLists::Chance &chance) {
    Moments m{};
    m.tiles = &tiles;
    m.keep = chance.keep, m.drop = chance.drop;
    m.channels = std::min(GROUP, channels - offset);
    m.stride = channels, m.offset = offset;
    m.background = chance.background ? chance.background + offset : nullptr;
    m.origin = chance.origin;
    return m;
}

void TileLists::moments(const float *features, int channels, const Chance &chance,
                        const MomentImages &images, Stop *stop) {
    tiles_.stop = stop;
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    work_->tapes.resize(std::max(work_->tapes.size(), size_t(tiles_.threads)));
    float *shares = images.shares ? work_->slots.resize(entries_) : nullptr;
    for (int offset = 0; offset < channels; offset += GROUP) {
        Moments m = group_of(tiles_, channels, offset, chance);
        use(features, channels, offset, m.channels);
        m.mean = images.mean, m.variance = images.variance;
        m.transmittance = offset == 0 ? images.transmittance : nullptr;
        m.shares = shares;
        for_each(tiles, tiles_.threads, [&](int64_t tile) {
            if (tiles_.stop && (*tiles_.stop)()) return;
            kernels().moments(m, int(tile), tape_of(tile, 0, shares != nullptr));
        });
        if (!shares || (tiles_.stop && (*tiles_.stop)())) continue;
        for_each_chunk([&](int64_t n) {
            const Chunk &chunk = work_->chunks[n];
            const Record *records = tiles_.record + n * CHUNK;
            for (int i = 0; i < chunk.count; ++i) {
                const float *first = shares + chunk.slots + records[i].first;
                float sum = 0;
                for (uint32_t k = 0; k < records[i].count; ++k) sum += first[k];
                images.shares[records[i].index] += sum;
            }
        });
    }
    tiles_.stop = nullptr;
}

void TileLists::moments_backward(const Chance &chance, const MomentsBackward &b) {
    const int64_t tiles = int64_t(tiles_.columns) * tiles_.rows;
    work_->tapes.resize(std::max(work_->tapes.size(), size_t(tiles_.threads)));
    Borrowed scratch;
    float *slots = scratch->slots.resize(entries_ * SLOT);
    for (int offset = 0; offset < b.channels; offset += GROUP) {
        const MomentsGradient m = {group_of(tiles_, b.channels, offset, chance), b.by_mean,
                                   b.by_variance, offset == 0 ? b.by_transmittance : nullptr,
                                   slots};
        const int group = m.moments.channels;
        use(b.features, b.channels, offset, group);
        for_each(tiles, tiles_.threads, [&](int64_t tile) {
            kernels().moments_backward(m, int(tile), tape_of(tile, group, false));
        });
        sum_rows(slots, group, b.channels, offset, b.rows, b.by_features, nullptr);
    }
}

}  // namespace lumigraph
