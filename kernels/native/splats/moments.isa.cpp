// Moments of blended features where chance drops splats, and the gradients of them.
//
// A walk from the nearest splat on notes the alphas of a block until it is finished. A sweep from
// the back then follows the recursion of the moments (kernels/splats/protocol.py), which adds
// numbers that are never negative and so loses no small variance. The notes of a block stay in the
// cache.
#include "common/levels.h"
#include "splats/walk.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int PIXELS = BLOCK * BLOCK;

// Probabilities that a splat is there, and that it is missing.
struct Odds {
    Floats keep, drop;
};

inline Odds odds_of(const Moments &m) { return {fill(m.keep), fill(m.drop)}; }

// How one splat changes the moments of the splats behind it:
//   variance = factor variance + spread d^2, mean = mean + kept d, d = feature - mean.
struct Step {
    Floats kept, spread, through, factor;
};

inline Step step_of(const Odds &odds, Floats alpha) {
    Step s;
    s.kept = alpha * odds.keep;
    s.spread = s.kept * (alpha * odds.drop);
    s.through = 1.0f - s.kept;
    // 1 - 2 p alpha + p alpha^2, written without a difference of nearly equal numbers.
    s.factor = s.through * s.through + s.spread;
    return s;
}

// Notes, for each block, the splats that reach it, with their alphas there; and where shares are
// wanted, the product of the variance's factors in front of them.
template <bool SHARES>
struct Notes {
    Odds odds;
    size_t capacity;  // of the list of a block
    uint32_t *places;
    float *alphas, *fronts;
    Floats front[HELD][VECTORS];
    uint32_t items[HELD] = {};
    bool counts[HELD] = {};

    Notes(const Moments &m, const Tape &tape)
        : odds(odds_of(m)),
          capacity(tape.items),
          places(tape.entries),
          alphas(tape.alphas),
          fronts(tape.fronts) {
        for (auto &block : front)
            for (Floats &product : block) product = fill(1.0f);
    }
    [[gnu::always_inline]] Floats take(int k, int v, const Ellipse &, const Touch &at) {
        const size_t note = (k * capacity + items[k]) * PIXELS + v * LANES;
        const Floats alpha = at.alpha();
        store(alphas + note, alpha);
        if (SHARES) {
            store(fronts + note, front[k][v]);
            front[k][v] = front[k][v] * step_of(odds, alpha).factor;
        }
        counts[k] |= any(at.hit);
        return at.left - alpha * odds.keep * at.left;
    }
    // If no pixel counts the splat, the next one overwrites its note.
    [[gnu::always_inline]] void leave(int k, uint32_t n) {
        places[k * capacity + items[k]] = n;
        items[k] += counts[k];
        counts[k] = false;
    }
};

// A vector of one block, and where its notes are.
struct Strip {
    const Entry *entries;  // of the tile
    int x, y;              // its first pixel
    uint32_t items;
    const uint32_t *places;
    const float *alphas, *fronts;  // of the first item

    const Entry &entry(uint32_t i) const { return entries[places[i]]; }
};

inline Strip strip_of(const Place &place, const Tape &tape, uint32_t items, int k, int v) {
    const size_t first = size_t(k) * tape.items, at = first * PIXELS + v * LANES;
    return {place.entries,
            place.x + k * BLOCK,
            place.y + v * ROWS,
            items,
            tape.entries + first,
            tape.alphas + at,
            tape.fronts ? tape.fronts + at : nullptr};
}

// The state of a strip during a sweep: the origin, and mean and variance of what lies behind.
template <int CHANNELS>
struct State {
    Floats origin[CHANNELS], mean[CHANNELS], variance[CHANNELS];
};

template <int CHANNELS>
inline State<CHANNELS> start_of(const Moments &m, const Strip &s) {
    State<CHANNELS> state;
    read<CHANNELS>(*m.tiles, m.origin, {m.stride, m.offset}, s.x, s.y, state.origin);
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

// Writes the shares of a tile's entries: sums over the lanes, of many entries at once, which is
// cheaper.
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
    const Entry *entries = t.entries + t.begin[tile];
    const uint32_t count = t.begin[tile + 1] - t.begin[tile];
    if (SHARES) __builtin_memset(tape.shares, 0, 4 * LANES * (size_t(count) + SHARES_AT_ONCE));
    for_each_place(t, tile, count, [&](const Place &place) {
        Notes<SHARES> notes(m, tape);
        Floats left[HELD][VECTORS];
        walk_blocks(t, place, notes, left);
        for (int k = 0; k < HELD; ++k)
            for (int v = 0; v < VECTORS; ++v) {
                const Strip s = strip_of(place, tape, notes.items[k], k, v);
                State<CHANNELS> state = start_of<CHANNELS>(m, s);
                sweep<CHANNELS, SHARES, ORIGIN>(m, s, tape, state);
                const Channels channels = {m.stride, m.offset};
                write<CHANNELS>(t, m.mean, channels, s.x, s.y, state.mean);
                write<CHANNELS>(t, m.variance, channels, s.x, s.y, state.variance);
                if (m.transmittance) write<1>(t, m.transmittance, {1, 0}, s.x, s.y, &left[k][v]);
            }
    });
    if (SHARES) store_shares(m, entries, count, tape);
}

// The same sweep, which also notes mean and variance behind each splat. There is room for PIXELS
// floats of each; a strip uses one for each of its lanes.
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

// The gradients by mean and variance of a splat together with what lies behind it, and the gradient
// by the transmittance times the transmittance.
template <int CHANNELS>
struct Pull {
    Floats mean[CHANNELS], variance[CHANNELS], light;
};

template <int CHANNELS>
inline Pull<CHANNELS> pull_of(const MomentsGradient &g, const Strip &s, Floats left) {
    Pull<CHANNELS> pull;
    const Tiles &t = *g.moments.tiles;
    const Channels channels = {g.moments.stride, g.moments.offset};
    Floats light;
    read<CHANNELS>(t, g.mean, channels, s.x, s.y, pull.mean);
    read<CHANNELS>(t, g.variance, channels, s.x, s.y, pull.variance);
    read<1>(t, g.transmittance, {1, 0}, s.x, s.y, &light);
    pull.light = light * left;
    return pull;
}

// Adds the gradients of one splat to its slot, from the front to the back. `pull` comes as the
// gradient by the moments from this splat on and leaves as that by the moments behind it.
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
    // Alphas that the bound holds are the largest one to within rounding.
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
    const Entry *entries = t.entries + t.begin[tile];
    const uint32_t count = t.begin[tile + 1] - t.begin[tile];
    for (uint32_t n = 0; n < count; ++n)
        __builtin_memset(g.slots + int64_t(entries[n].slot) * SLOT, 0, 4 * SLOT);
    for_each_place(t, tile, count, [&](const Place &place) {
        Notes<false> notes(m, tape);
        Floats left[HELD][VECTORS];
        walk_blocks(t, place, notes, left);
        for (int k = 0; k < HELD; ++k)
            for (int v = 0; v < VECTORS; ++v)
                strip_backward<CHANNELS>(g, strip_of(place, tape, notes.items[k], k, v), left[k][v],
                                         tape);
    });
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
