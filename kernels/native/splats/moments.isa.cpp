// Moments of blended features where chance drops splats, and the gradients of them.
//
// A walk from the nearest splat on finds the alphas of a block and where it is finished, and notes
// them; a sweep from the back then follows the recursion of `rasterize_moments`, which adds what is
// never negative and so loses no small variance. What is noted of a block stays in the cache.
#include "splats/block.h"
#include "common/levels.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int PIXELS = BLOCK * BLOCK;

// Probabilities that a splat is there, and that it is missing.
struct Odds {
    Floats keep, drop;
};

inline Odds odds_of(const Moments &m) { return {fill(m.keep), fill(m.drop)}; }

// What one splat does to the moments of what is behind it:
//   variance = factor variance + spread d^2, mean = mean + kept d, d = feature - mean.
struct Step {
    Floats kept, spread, through, factor;
};

inline Step step_of(const Odds &odds, Floats alpha) {
    Step s;
    s.kept = alpha * odds.keep;
    s.spread = s.kept * (alpha * odds.drop);
    s.through = 1.0f - s.kept;
    // 1 - 2 p alpha + p alpha^2 without a difference of what may be alike.
    s.factor = s.through * s.through + s.spread;
    return s;
}

// A few rows of pixels of a block, as many as make a vector, the first at (x, y).
template <typename Task>
inline void for_each_pixel(const Tiles &t, int x, int y, const Task &task) {
    const int width = t.width - x < BLOCK ? t.width - x : BLOCK;
    const int height = t.height - y < ROWS ? t.height - y : ROWS;
    for (int row = 0; row < height; ++row) {
        const int64_t pixel = int64_t(y + row) * t.width + x;
        for (int i = 0; i < width; ++i) task(row * BLOCK + i, pixel + i);
    }
}

// A group's channels of an image; zeros beyond it, and where there is none.
template <int CHANNELS>
inline void read(const Moments &m, const float *image, int x, int y, Floats *out) {
    float values[CHANNELS][LANES] = {};
    if (image)
        for_each_pixel(*m.tiles, x, y, [&](int i, int64_t pixel) {
            const float *from = image + pixel * m.stride + m.offset;
            for (int c = 0; c < CHANNELS; ++c) values[c][i] = from[c];
        });
    for (int c = 0; c < CHANNELS; ++c) out[c] = load(values[c]);
}

template <int CHANNELS>
inline void write(const Moments &m, float *image, int x, int y, const Floats *in) {
    float values[CHANNELS][LANES];
    for (int c = 0; c < CHANNELS; ++c) store(values[c], in[c]);
    for_each_pixel(*m.tiles, x, y, [&](int i, int64_t pixel) {
        float *to = image + pixel * m.stride + m.offset;
        for (int c = 0; c < CHANNELS; ++c) to[c] = values[c][i];
    });
}

// Some blocks side by side after the walk.
struct Walked {
    Floats left[HELD][VECTORS];  // expected transmittance
    uint32_t items[HELD];        // noted in the list of each
};

template <bool SHARES>
inline void walk(const Moments &m, const Entry *entries, uint32_t count, int x, int y, int shift,
                 const Tape &tape, Walked &walked) {
    const Tiles &t = *m.tiles;
    // Copies, which no store can change.
    const Odds odds = odds_of(m);
    const Record *const records = t.record;
    const size_t capacity = tape.items;
    uint32_t *const places = tape.entries;
    float *const alphas = tape.alphas, *const fronts = tape.fronts;
    const Floats finished = fill(TRANSMITTANCE_MIN);
    const float highest = highest_exponent(t);
    const Floats pixels_x = lane_x() + float(t.left + x), pixels_y = lane_y() + float(t.top + y);
    Floats left[HELD][VECTORS], front[HELD][VECTORS];
    uint32_t items[HELD] = {};
    for (int k = 0; k < HELD; ++k)
        for (int v = 0; v < VECTORS; ++v) {
            // Pixels beyond the image are finished: they have no share, and keep none at work.
            const Mask inside = both(above(fill(float(t.left + t.width - k * BLOCK)), pixels_x),
                                     above(fill(float(t.top + t.height - v * ROWS)), pixels_y));
            left[k][v] = keep(inside, fill(1.0f));
            front[k][v] = fill(1.0f);
        }

    for (uint32_t n = 0, seen = 0; n < count; ++n) {
        __builtin_prefetch(records + entries[n + AHEAD].record);
        const uint32_t met = entries[n].blocks >> shift & ((1u << HELD) - 1);
        if (!met) continue;
        const Record &r = records[entries[n].record];
        const Floats first_dx = pixels_x - r.x, first_dy = pixels_y - r.y;
        const Floats bound = bound_of(r, highest);
        Rows rows[VECTORS];
        for (int v = 0; v < VECTORS; ++v) rows[v] = rows_at(r, first_dy + float(v * ROWS));
#pragma GCC unroll 4
        for (int k = 0; k < HELD; ++k) {
            if (HELD > 1 && !(met >> k & 1)) continue;
            const Floats dx = first_dx + float(k * BLOCK);
            const size_t item = k * capacity + items[k];
            bool counts = false;
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) {
                const Floats exponent =
                    smaller(bound, (dx * r.xx + rows[v].xy_dy) * dx + rows[v].constant);
                const Mask hit =
                    both(at_least(exponent, fill(LOG2_ALPHA_MIN)), above(left[k][v], finished));
                const Floats alpha = keep(hit, exp2_fast(exponent));
                store(alphas + item * PIXELS + v * LANES, alpha);
                if (SHARES) {
                    store(fronts + item * PIXELS + v * LANES, front[k][v]);
                    const Step step = step_of(odds, alpha);
                    front[k][v] = front[k][v] * step.factor;
                }
                left[k][v] -= alpha * odds.keep * left[k][v];
                counts |= any(hit);
            }
            // Overwritten by the next one if no pixel counts it.
            places[item] = n;
            items[k] += counts;
        }
        // As in blend: a look at the pixels every few splats.
        if ((++seen & 7) == 0) {
            bool open = false;
            for (int k = 0; k < HELD; ++k)
                for (int v = 0; v < VECTORS; ++v) open |= any(above(left[k][v], finished));
            if (!open) break;
        }
    }
    for (int k = 0; k < HELD; ++k) {
        walked.items[k] = items[k];
        for (int v = 0; v < VECTORS; ++v) walked.left[k][v] = left[k][v];
    }
}

// A vector of one block, and where its notes are.
struct Strip {
    const Entry *entries;  // of the tile
    int x, y;              // its first pixel
    uint32_t items;
    const uint32_t *places;
    const float *alphas, *fronts;  // of the first item

    const Entry &entry(uint32_t i) const { return entries[places[i]]; }
};

inline Strip strip_of(const Entry *entries, int x, int y, const Tape &tape, const Walked &walked,
                      int k, int v) {
    const size_t first = size_t(k) * tape.items, at = first * PIXELS + v * LANES;
    return {entries,
            x + k * BLOCK,
            y + v * ROWS,
            walked.items[k],
            tape.entries + first,
            tape.alphas + at,
            tape.fronts ? tape.fronts + at : nullptr};
}

// What is measured of a strip: the origin, and the mean and the variance behind all splats.
template <int CHANNELS>
struct State {
    Floats origin[CHANNELS], mean[CHANNELS], variance[CHANNELS];
};

template <int CHANNELS>
inline State<CHANNELS> start_of(const Moments &m, const Strip &s) {
    State<CHANNELS> state;
    read<CHANNELS>(m, m.origin, s.x, s.y, state.origin);
    for (int c = 0; c < CHANNELS; ++c) {
        state.mean[c] = m.background ? m.background[c] - state.origin[c] : Floats{};
        state.variance[c] = Floats{};
    }
    return state;
}

template <int CHANNELS, bool SHARES, bool ORIGIN>
inline void sweep(const Moments &m, const Strip &s, const Tape &tape, State<CHANNELS> &state) {
    const Odds odds = odds_of(m);
    const Record *const records = m.tiles->record;
    float *const shares = tape.shares;
    for (uint32_t i = s.items; i-- > 0;) {
        const Record &r = records[s.entry(i).record];
        const Step step = step_of(odds, load(s.alphas + size_t(i) * PIXELS));
        Floats squares{};
#pragma GCC unroll 4
        for (int c = 0; c < CHANNELS; ++c) {
            const Floats feature = ORIGIN ? r.features[c] - state.origin[c] : fill(r.features[c]);
            const Floats d = feature - state.mean[c], square = d * d;
            if (SHARES) squares += square;
            state.variance[c] = step.factor * state.variance[c] + step.spread * square;
            state.mean[c] += step.kept * d;
        }
        if (!SHARES) continue;
        float *const share = shares + size_t(s.places[i]) * LANES;
        const Floats front = load(s.fronts + size_t(i) * PIXELS);
        store(share, load(share) + front * step.spread * squares);
    }
}

// The shares of a tile's entries: sums over the lanes, which are cheaper of many at once.
inline void store_shares(const Moments &m, const Entry *entries, uint32_t count, const Tape &tape) {
    for (uint32_t n = 0; n < count; n += SHARES_AT_ONCE) {
        Floats lanes[SHARES_AT_ONCE];
        float sums[SHARES_AT_ONCE];
        for (int k = 0; k < SHARES_AT_ONCE; ++k)
            lanes[k] = load(tape.shares + (size_t(n) + k) * LANES);
        store_totals<SHARES_AT_ONCE>(lanes, sums);
        for (int k = 0; k < SHARES_AT_ONCE && n + k < count; ++k)
            m.shares[entries[n + k].slot] = sums[k];
    }
}

template <int CHANNELS, bool SHARES, bool ORIGIN>
void moments_of(const Moments &m, int tile, const Tape &tape) {
    const Tiles &t = *m.tiles;
    const int x = tile % t.columns * TILE, y = tile / t.columns * TILE;
    const Entry *entries = t.entries + t.begin[tile];
    const uint32_t count = t.begin[tile + 1] - t.begin[tile];
    if (SHARES) __builtin_memset(tape.shares, 0, 4 * LANES * (size_t(count) + SHARES_AT_ONCE));
    for (int block = 0; block < BLOCKS * BLOCKS; block += HELD) {
        const int at_x = x + block % BLOCKS * BLOCK, at_y = y + block / BLOCKS * BLOCK;
        if (at_x >= t.width || at_y >= t.height) continue;
        Walked walked;
        walk<SHARES>(m, entries, count, at_x, at_y, block, tape, walked);
        for (int k = 0; k < HELD; ++k)
            for (int v = 0; v < VECTORS; ++v) {
                const Strip s = strip_of(entries, at_x, at_y, tape, walked, k, v);
                State<CHANNELS> state = start_of<CHANNELS>(m, s);
                sweep<CHANNELS, SHARES, ORIGIN>(m, s, tape, state);
                write<CHANNELS>(m, m.mean, s.x, s.y, state.mean);
                write<CHANNELS>(m, m.variance, s.x, s.y, state.variance);
                if (!m.transmittance) continue;
                float left[LANES];
                store(left, walked.left[k][v]);
                for_each_pixel(t, s.x, s.y,
                               [&](int i, int64_t pixel) { m.transmittance[pixel] = left[i]; });
            }
    }
    if (SHARES) store_shares(m, entries, count, tape);
}

// The same sweep, which notes mean and variance behind each splat. PIXELS floats of each are kept,
// of which a strip uses as many as it has lanes.
template <int CHANNELS>
inline void sweep_and_note(const Moments &m, const Strip &s, const Tape &tape,
                           State<CHANNELS> &state) {
    const Odds odds = odds_of(m);
    for (uint32_t i = s.items; i-- > 0;) {
        const Record &r = m.tiles->record[s.entry(i).record];
        const Step step = step_of(odds, load(s.alphas + size_t(i) * PIXELS));
        float *note = tape.behind + size_t(i) * 2 * CHANNELS * PIXELS;
        for (int c = 0; c < CHANNELS; ++c) {
            store(note + (2 * c) * PIXELS, state.mean[c]);
            store(note + (2 * c + 1) * PIXELS, state.variance[c]);
            const Floats d = r.features[c] - state.origin[c] - state.mean[c];
            state.variance[c] = step.factor * state.variance[c] + step.spread * (d * d);
            state.mean[c] += step.kept * d;
        }
    }
}

// Gradients by the moments of what is at and behind a splat, and by the light times itself.
template <int CHANNELS>
struct Pull {
    Floats mean[CHANNELS], variance[CHANNELS], light;
};

template <int CHANNELS>
inline Pull<CHANNELS> pull_of(const MomentsGradient &g, const Strip &s, Floats left) {
    Pull<CHANNELS> pull;
    read<CHANNELS>(g.moments, g.mean, s.x, s.y, pull.mean);
    read<CHANNELS>(g.moments, g.variance, s.x, s.y, pull.variance);
    float light[LANES] = {};
    if (g.transmittance)
        for_each_pixel(*g.moments.tiles, s.x, s.y,
                       [&](int i, int64_t pixel) { light[i] = g.transmittance[pixel]; });
    pull.light = load(light) * left;
    return pull;
}

// One splat on the way from the front to the back: what it adds to its slot. `pull` is by the
// moments from it on, and becomes that by those behind it.
template <int CHANNELS>
inline void step_backward(const Odds &odds, const Record &r, const State<CHANNELS> &state,
                          Floats bound, const float *note, Floats alpha, Floats dx, Floats dy,
                          Pull<CHANNELS> &pull, float *slot) {
    const Step step = step_of(odds, alpha);
    Floats sums[SLOT] = {};
    Floats slope = -pull.light * odds.keep * reciprocal(step.through);  // d loss / d alpha
    for (int c = 0; c < CHANNELS; ++c) {
        const Floats d = r.features[c] - state.origin[c] - load(note + (2 * c) * PIXELS);
        const Floats variance = load(note + (2 * c + 1) * PIXELS);
        const Floats by_d = pull.mean[c] * step.kept + 2.0f * pull.variance[c] * step.spread * d;
        const Floats rise = odds.drop * alpha * (d * d) - (1.0f - alpha) * variance;
        slope += odds.keep * (pull.mean[c] * d + 2.0f * pull.variance[c] * rise);
        sums[6 + c] = by_d;
        pull.mean[c] -= by_d;
        pull.variance[c] *= step.factor;
    }
    // The largest alphas do not move with their splat.
    const Floats q = keep(above(bound, alpha), slope * alpha);
    const Floats qx = q * dx, qy = q * dy;
    sums[0] = q;
    sums[1] = qx;
    sums[2] = qx * dx;
    sums[3] = qy;
    sums[4] = qx * dy;
    sums[5] = qy * dy;
    float totals[SLOT];
    store_totals<SLOT>(sums, totals);
    for (int i = 0; i < SLOT; ++i) slot[i] += totals[i];
}

template <int CHANNELS>
void strip_backward(const MomentsGradient &g, const Strip &s, Floats left, const Tape &tape) {
    const Moments &m = g.moments;
    State<CHANNELS> state = start_of<CHANNELS>(m, s);
    sweep_and_note<CHANNELS>(m, s, tape, state);
    Pull<CHANNELS> pull = pull_of<CHANNELS>(g, s, left);
    const Odds odds = odds_of(m);
    // Those that are held at the largest one, which they are to rounding.
    const Floats bound = fill(m.tiles->alpha_max * (1.0f - 1e-6f));
    for (uint32_t i = 0; i < s.items; ++i) {
        const Entry &entry = s.entry(i);
        const Record &r = m.tiles->record[entry.record];
        const Floats dx = lane_x() + (float(m.tiles->left + s.x) - r.x);
        const Floats dy = lane_y() + (float(m.tiles->top + s.y) - r.y);
        step_backward<CHANNELS>(odds, r, state, bound,
                                tape.behind + size_t(i) * 2 * CHANNELS * PIXELS,
                                load(s.alphas + size_t(i) * PIXELS), dx, dy, pull,
                                g.slots + int64_t(entry.slot) * SLOT);
    }
}

template <int CHANNELS>
void backward_of(const MomentsGradient &g, int tile, const Tape &tape) {
    const Moments &m = g.moments;
    const Tiles &t = *m.tiles;
    const int x = tile % t.columns * TILE, y = tile / t.columns * TILE;
    const Entry *entries = t.entries + t.begin[tile];
    const uint32_t count = t.begin[tile + 1] - t.begin[tile];
    for (uint32_t n = 0; n < count; ++n)
        __builtin_memset(g.slots + int64_t(entries[n].slot) * SLOT, 0, 4 * SLOT);
    for (int block = 0; block < BLOCKS * BLOCKS; block += HELD) {
        const int at_x = x + block % BLOCKS * BLOCK, at_y = y + block / BLOCKS * BLOCK;
        if (at_x >= t.width || at_y >= t.height) continue;
        Walked walked;
        walk<false>(m, entries, count, at_x, at_y, block, tape, walked);
        for (int k = 0; k < HELD; ++k)
            for (int v = 0; v < VECTORS; ++v)
                strip_backward<CHANNELS>(g, strip_of(entries, at_x, at_y, tape, walked, k, v),
                                         walked.left[k][v], tape);
    }
}

template <int CHANNELS>
void moments_of_channels(const Moments &m, int tile, const Tape &tape) {
    switch ((m.shares ? 2 : 0) + (m.origin ? 1 : 0)) {
        case 0: return moments_of<CHANNELS, false, false>(m, tile, tape);
        case 1: return moments_of<CHANNELS, false, true>(m, tile, tape);
        case 2: return moments_of<CHANNELS, true, false>(m, tile, tape);
        case 3: return moments_of<CHANNELS, true, true>(m, tile, tape);
    }
}

}  // namespace

void moments(const Moments &m, int tile, const Tape &tape) {
    switch (m.channels) {
        case 1: return moments_of_channels<1>(m, tile, tape);
        case 2: return moments_of_channels<2>(m, tile, tape);
        case 3: return moments_of_channels<3>(m, tile, tape);
        case 4: return moments_of_channels<4>(m, tile, tape);
    }
}

void moments_backward(const MomentsGradient &g, int tile, const Tape &tape) {
    switch (g.moments.channels) {
        case 1: return backward_of<1>(g, tile, tape);
        case 2: return backward_of<2>(g, tile, tape);
        case 3: return backward_of<3>(g, tile, tape);
        case 4: return backward_of<4>(g, tile, tape);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
