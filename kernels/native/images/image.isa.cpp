// The photometric loss between an image and a photo, (1 - w) L1 + w (1 - SSIM), and its gradient,
// in one pass over both.
//
// The image is cut into blocks of fixed size. A block is walked from top to bottom with rings of
// the last rows, which stay in the cache: of both inputs, and of the derivatives of the structural
// similarity, which the gradient blurs once more. Sums are taken block by block and added up in
// their order, so that they do not depend on the number of threads.
#include "common/levels.h"
#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int RADIUS = 5, TAPS = 2 * RADIUS + 1;
constexpr float C1 = 0.01f * 0.01f, C2 = 0.03f * 0.03f;
// The 11-tap Gaussian window of sigma 1.5.
constexpr float WINDOW[TAPS] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f,
                                0.21300554f, 0.26601172f, 0.21300554f, 0.10936069f,
                                0.03600077f, 0.00759876f, 0.00102838f};

constexpr int ROWS = LANES == 16 ? 4 : 2;  // done together, so that a row is read less often
constexpr int RING = 16;                   // rows kept: a power of two, and TAPS + ROWS - 1 or more

// Floats that a blur along a row reaches to each side, rounded up to whole vectors.
template <int CHANNELS>
constexpr int HALO = (RADIUS * CHANNELS + LANES_MAX - 1) / LANES_MAX * LANES_MAX;
constexpr int WIDE = LOSS_WIDTH + 4 * HALO<4>;  // floats of a row with the halos of both blurs

// The last rows of something. Each is held twice, RING apart, so that any TAPS + ROWS - 1 rows in
// a row are one after another in memory.
struct Ring {
    alignas(64) float rows[2 * RING][WIDE];

    float *at(int y) { return rows[y & (RING - 1)]; }
    const float *at(int y) const { return rows[y & (RING - 1)]; }
    const float *above(int y) const { return rows[(y - RADIUS) & (RING - 1)]; }
    void repeat(int y) { __builtin_memcpy(at(y) + RING * WIDE, at(y), 4 * WIDE); }
    void clear(int y) { __builtin_memset(at(y), 0, 4 * WIDE); }
};

struct Rings {
    Ring image, target;
    Ring maps[3];  // derivatives of the similarity by the blurred x, x^2 and xy
};

// One block of the image. Column j of a ring is float `left + j` of the image's row.
struct Block {
    int from, to, top, bottom;  // floats of a row and rows that are wanted
    int left, width;            // what the rings hold
    int row_floats;
};

template <int CHANNELS>
inline Block block_at(const Loss &l, int across, int down) {
    Block b;
    b.row_floats = l.width * l.channels;
    b.from = across * LOSS_WIDTH;
    b.to = b.from + LOSS_WIDTH < b.row_floats ? b.from + LOSS_WIDTH : b.row_floats;
    b.top = down * LOSS_HEIGHT;
    b.bottom = b.top + LOSS_HEIGHT < l.height ? b.top + LOSS_HEIGHT : l.height;
    b.left = b.from - 2 * HALO<CHANNELS>;
    b.width = b.to - b.from + 4 * HALO<CHANNELS>;
    return b;
}

template <typename T>
inline void copy_row(const T *row, float scale, const Block &b, float *out) {
    const int first = b.left < 0 ? -b.left : 0;
    const int end = b.row_floats - b.left < b.width ? b.row_floats - b.left : b.width;
    for (int j = 0; j < first; ++j) out[j] = 0;
    for (int j = first; j < end; ++j) out[j] = float(row[b.left + j]) * scale;
    for (int j = end; j < WIDE; ++j) out[j] = 0;
}

template <int CHANNELS, int K = 1>
inline Floats neighbours_along(const float *in) {
    const Floats sum =
        (load_shifted<-K * CHANNELS>(in) + load_shifted<K * CHANNELS>(in)) * WINDOW[RADIUS + K];
    if constexpr (K < RADIUS)
        return sum + neighbours_along<CHANNELS, K + 1>(in);
    else
        return sum;
}

// A row blurred along itself, at a vector.
template <int CHANNELS>
inline Floats blurred_along(const float *in) {
    return load(in) * WINDOW[RADIUS] + neighbours_along<CHANNELS>(in);
}

// What SSIM compares, blurred down the columns: x, y, x^2 + y^2 and xy of ROWS rows from y on.
using Moments = float[4][ROWS][WIDE];

inline void blur_moments_down(const Rings &r, const Block &b, int y, Moments &out) {
    const float *image = r.image.above(y), *target = r.target.above(y);
    for (int j = 0; j < b.width; j += LANES) {
        Floats sums[4][ROWS] = {};
#pragma GCC unroll 14
        for (int k = 0; k < TAPS + ROWS - 1; ++k) {
            const Floats x = load(image + k * WIDE + j), t = load(target + k * WIDE + j);
            const Floats squares = x * x + t * t, product = x * t;
#pragma GCC unroll 4
            for (int i = 0; i < ROWS; ++i) {
                if (k < i || k - i >= TAPS) continue;
                const float w = WINDOW[k - i];
                sums[0][i] += x * w, sums[1][i] += t * w;
                sums[2][i] += squares * w, sums[3][i] += product * w;
            }
        }
        for (int q = 0; q < 4; ++q)
            for (int i = 0; i < ROWS; ++i) store(out[q][i] + j, sums[q][i]);
    }
}

// SSIM (Wang 2004, eq. 13) of row y, the i-th of the moments', and its derivatives into the rings.
// Returns the sum over the wanted floats.
template <int CHANNELS>
float compare_row(Rings &r, const Block &b, int y, const Moments &down, int i) {
    constexpr int SIDE = HALO<CHANNELS>;
    const int first = b.left < 0 ? -b.left : 0;  // the first float inside the image
    const int end = b.row_floats - b.left < b.width ? b.row_floats - b.left : b.width;
    float *mean = r.maps[0].at(y), *square = r.maps[1].at(y), *product = r.maps[2].at(y);
    Floats sum{};
    for (int j = SIDE; j < b.width - SIDE; j += LANES) {
        const Floats mx = blurred_along<CHANNELS>(down[0][i] + j);
        const Floats mt = blurred_along<CHANNELS>(down[1][i] + j);
        const Floats squares = blurred_along<CHANNELS>(down[2][i] + j);
        const Floats xt = blurred_along<CHANNELS>(down[3][i] + j);
        const Floats means = mx * mx + mt * mt, product_of_means = mx * mt;
        const Floats a1 = 2 * product_of_means + C1, a2 = 2 * (xt - product_of_means) + C2;
        const Floats b1 = means + C1, b2 = squares - means + C2;
        const Floats r1 = 1.0f / b1, r2 = 1.0f / b2, both_r = r1 * r2, value = a1 * a2 * both_r;
        const Floats at = iota() + float(j);
        const Mask inside = both(at_least(at, fill(float(first))), above(fill(float(end)), at));
        store(mean + j, keep(inside, 2 * mt * (a2 - a1) * both_r + 2 * mx * value * (r2 - r1)));
        store(square + j, keep(inside, -value * r2));
        store(product + j, keep(inside, 2 * a1 * both_r));
        const Mask wanted =
            both(at_least(at, fill(float(2 * SIDE))), above(fill(float(b.to - b.left)), at));
        sum += keep(wanted, value);
    }
    return total(sum);
}

// The derivatives blurred down the columns, for ROWS rows from y on.
using Blurred = float[3][ROWS][WIDE];

template <int CHANNELS>
inline void blur_maps_down(const Rings &r, const Block &b, int y, Blurred &out) {
    for (int q = 0; q < 3; ++q) {
        const float *map = r.maps[q].above(y);
        for (int j = HALO<CHANNELS>; j < b.width - HALO<CHANNELS>; j += LANES) {
            Floats sums[ROWS] = {};
#pragma GCC unroll 14
            for (int k = 0; k < TAPS + ROWS - 1; ++k) {
                const Floats value = load(map + k * WIDE + j);
#pragma GCC unroll 4
                for (int i = 0; i < ROWS; ++i)
                    if (k >= i && k - i < TAPS) sums[i] += value * WINDOW[k - i];
            }
            for (int i = 0; i < ROWS; ++i) store(out[q][i] + j, sums[i]);
        }
    }
}

// The absolute difference of row y, the i-th of the blurred derivatives', and the gradient of the
// whole loss there.
template <int CHANNELS>
float differentiate_row(const Loss &l, const Rings &r, const Block &b, int y, const Blurred &down,
                        int i, float l1_scale, float ssim_scale) {
    const float *image = r.image.at(y), *target = r.target.at(y);
    float *out = l.gradient ? l.gradient + int64_t(y) * b.row_floats + b.left : nullptr;
    Floats sum{};
    const int end = b.to - b.left;
    for (int j = 2 * HALO<CHANNELS>; j < end; j += LANES) {
        const Floats x = load(image + j), t = load(target + j), difference = x - t;
        const int count = end - j < LANES ? end - j : LANES;
        sum += keep(above(fill(float(count)), iota()), absolute(difference));
        if (!out) continue;
        Floats gradient = choose(above(difference, Floats{}), fill(l1_scale),
                                 keep(above(Floats{}, difference), fill(-l1_scale)));
        if (ssim_scale != 0)
            gradient += ssim_scale * (blurred_along<CHANNELS>(down[0][i] + j) +
                                      2 * x * blurred_along<CHANNELS>(down[1][i] + j) +
                                      t * blurred_along<CHANNELS>(down[2][i] + j));
        if (count == LANES)
            store(out + j, gradient);
        else
            store_first(out + j, gradient, count);
    }
    return total(sum);
}

// Rows of the inputs, zeros beyond the image.
inline void read_rows(const Loss &l, const Block &b, int from, Rings &r) {
    for (int y = from; y < from + ROWS; ++y) {
        if (y < 0 || y >= l.height) {
            r.image.clear(y), r.target.clear(y);
        } else {
            const int64_t at = int64_t(y) * b.row_floats;
            copy_row(l.image + at, 1.0f, b, r.image.at(y));
            if (l.photo)
                copy_row(l.photo + at, 1.0f / 255, b, r.target.at(y));
            else
                copy_row(l.target + at, 1.0f, b, r.target.at(y));
        }
        r.image.repeat(y), r.target.repeat(y);
    }
}

struct Scratch {
    Rings rings;
    alignas(64) Moments moments;
    alignas(64) Blurred blurred;
};

template <int CHANNELS>
void loss_of_block(const Loss &l, const Block &b, Scratch &s, double *sums) {
    Rings &r = s.rings;
    const double count = double(l.height) * l.width * l.channels;
    const float l1_scale = float((1 - l.ssim_weight) * l.scale / count);
    const float ssim_scale = float(-l.ssim_weight * l.scale / count);
    sums[0] = sums[1] = 0;
    // The rows of the inputs lead; those of the similarity follow half a window behind, and those
    // of the gradient as far behind these.
    constexpr int LEAD = TAPS - 1;
    for (int y = b.top - LEAD; y < b.bottom + LEAD; y += ROWS) {
        read_rows(l, b, y, r);
        const int middle = y - RADIUS, last = y - LEAD;
        if (l.ssim_weight != 0 && middle > b.top - RADIUS - ROWS && middle < b.bottom + RADIUS) {
            blur_moments_down(r, b, middle, s.moments);
            for (int i = 0; i < ROWS; ++i) {
                const int row = middle + i;
                if (row < 0 || row >= l.height) {
                    for (Ring &map : r.maps) map.clear(row);
                } else {
                    const float sum = compare_row<CHANNELS>(r, b, row, s.moments, i);
                    if (row >= b.top && row < b.bottom) sums[1] += sum;
                }
                for (Ring &map : r.maps) map.repeat(row);
            }
        }
        if (last <= b.top - ROWS || last >= b.bottom) continue;
        if (l.ssim_weight != 0 && l.gradient) blur_maps_down<CHANNELS>(r, b, last, s.blurred);
        for (int i = 0; i < ROWS; ++i)
            if (last + i >= b.top && last + i < b.bottom)
                sums[0] += differentiate_row<CHANNELS>(l, r, b, last + i, s.blurred, i, l1_scale,
                                                       ssim_scale);
    }
}

template <int CHANNELS>
void loss_of(const Loss &l) {
    const int across = (l.width * l.channels + LOSS_WIDTH - 1) / LOSS_WIDTH;
    const int down = (l.height + LOSS_HEIGHT - 1) / LOSS_HEIGHT;
#pragma omp parallel num_threads(l.threads) if (across * down > 1)
    {
        Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < across * down; ++i)
            loss_of_block<CHANNELS>(l, block_at<CHANNELS>(l, i % across, i / across), scratch,
                                    l.block_sums + 2 * i);
    }
}

}  // namespace

void loss(const Loss &l) {
    switch (l.channels) {
        case 1: return loss_of<1>(l);
        case 2: return loss_of<2>(l);
        case 3: return loss_of<3>(l);
        case 4: return loss_of<4>(l);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
