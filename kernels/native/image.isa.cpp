// The photometric loss between an image and a photo, (1 - w) L1 + w (1 - SSIM), and its gradient,
// in one pass over both.
//
// The image is cut into blocks of fixed size. A block is walked from top to bottom with rings of
// the last rows, which stay in the cache: of both inputs, and of the derivatives of the structural
// similarity, which the gradient blurs once more. Sums are taken block by block and added up in
// their order, so that they do not depend on the number of threads.
#include "levels.h"
#include "simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int RADIUS = 5, TAPS = 2 * RADIUS + 1;
constexpr float C1 = 0.01f * 0.01f, C2 = 0.03f * 0.03f;
// The 11-tap Gaussian window of sigma 1.5.
constexpr float WINDOW[TAPS] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f,
                                0.21300554f, 0.26601172f, 0.21300554f, 0.10936069f,
                                0.03600077f, 0.00759876f, 0.00102838f};

constexpr int WIDE = LOSS_WIDTH + 4 * RADIUS * 4 + 16;  // floats of a row with both halos, padded
constexpr int RING = 16;                                // rows kept, a power of two above TAPS

struct Rings {
    alignas(64) float image[RING][WIDE], target[RING][WIDE];
    alignas(64) float mean[RING][WIDE], square[RING][WIDE], product[RING][WIDE];
};

// One block of the image. Column j of a ring is float `left + j` of the image's row.
struct Block {
    int from, to, top, bottom;  // floats of a row and rows that are wanted
    int halo, left, width;      // the blur's reach, and what the rings hold
    int row_floats;
};

inline Block block_at(const Loss &l, int across, int down) {
    Block b;
    b.row_floats = l.width * l.channels;
    b.halo = RADIUS * l.channels;
    b.from = across * LOSS_WIDTH;
    b.to = b.from + LOSS_WIDTH < b.row_floats ? b.from + LOSS_WIDTH : b.row_floats;
    b.top = down * LOSS_HEIGHT;
    b.bottom = b.top + LOSS_HEIGHT < l.height ? b.top + LOSS_HEIGHT : l.height;
    b.left = b.from - 2 * b.halo;
    b.width = b.to - b.from + 4 * b.halo;
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

inline void clear(float *row) { __builtin_memset(row, 0, 4 * WIDE); }

// Blurs a row along itself: out[j] for `from` <= j, at least `count` of them.
template <int CHANNELS>
inline Floats blurred_along(const float *in) {
    Floats sum = load(in) * WINDOW[RADIUS];
    for (int k = 1; k <= RADIUS; ++k)
        sum += (load(in - k * CHANNELS) + load(in + k * CHANNELS)) * WINDOW[RADIUS + k];
    return sum;
}

// SSIM (Wang 2004, eq. 13) of one row, and its derivatives by the blurred x, x^2 and xy into the
// rings. Returns the sum over the wanted floats.
template <int CHANNELS>
float compare_row(Rings &r, const Block &b, int y, bool wanted) {
    alignas(64) float down[5][WIDE];
    const float *image[TAPS], *target[TAPS];
    for (int k = 0; k < TAPS; ++k) {
        image[k] = r.image[(y - RADIUS + k) & (RING - 1)];
        target[k] = r.target[(y - RADIUS + k) & (RING - 1)];
    }
    for (int j = 0; j < b.width; j += LANES) {
        Floats x{}, t{}, xx{}, tt{}, xt{};
#pragma GCC unroll 11
        for (int k = 0; k < TAPS; ++k) {
            const Floats a = load(image[k] + j), o = load(target[k] + j);
            const Floats wa = a * WINDOW[k], wo = o * WINDOW[k];
            x += wa, t += wo, xx += wa * a, tt += wo * o, xt += wa * o;
        }
        store(down[0] + j, x), store(down[1] + j, t), store(down[2] + j, xx);
        store(down[3] + j, tt), store(down[4] + j, xt);
    }
    constexpr int HALO = RADIUS * CHANNELS;
    const int first = b.left < 0 ? -b.left : 0;  // the first float inside the image
    const int end = b.row_floats - b.left < b.width ? b.row_floats - b.left : b.width;
    float *mean = r.mean[y & (RING - 1)], *square = r.square[y & (RING - 1)];
    float *product = r.product[y & (RING - 1)];
    const Floats lane = iota();
    Floats sum{};
    for (int j = HALO; j < b.width - HALO; j += LANES) {
        const Floats mx = blurred_along<CHANNELS>(down[0] + j);
        const Floats mt = blurred_along<CHANNELS>(down[1] + j);
        const Floats xx = blurred_along<CHANNELS>(down[2] + j);
        const Floats tt = blurred_along<CHANNELS>(down[3] + j);
        const Floats xt = blurred_along<CHANNELS>(down[4] + j);
        const Floats a1 = 2 * mx * mt + C1, a2 = 2 * (xt - mx * mt) + C2;
        const Floats b1 = mx * mx + mt * mt + C1;
        const Floats b2 = (xx - mx * mx) + (tt - mt * mt) + C2;
        const Floats r1 = 1.0f / b1, r2 = 1.0f / b2, both_r = r1 * r2, value = a1 * a2 * both_r;
        const Floats at = lane + float(j);
        const Mask inside = both(at_least(at, fill(float(first))), above(fill(float(end)), at));
        store(mean + j,
              keep(inside, 2 * mt * (a2 - a1) * both_r + 2 * mx * value * (r2 - r1)));
        store(square + j, keep(inside, -value * r2));
        store(product + j, keep(inside, 2 * a1 * both_r));
        const Mask mine = both(at_least(at, fill(float(2 * HALO))),
                               above(fill(float(b.to - b.left)), at));
        sum += keep(mine, value);
    }
    return wanted ? total(sum) : 0.0f;
}

// The absolute difference of one row, and the gradient of the whole loss there.
template <int CHANNELS>
float differentiate_row(const Loss &l, const Rings &r, const Block &b, int y, float l1_scale,
                        float ssim_scale) {
    constexpr int HALO = RADIUS * CHANNELS;
    alignas(64) float down[3][WIDE];
    const bool similar = ssim_scale != 0 && l.gradient;
    if (similar) {
        const float(*maps[3])[WIDE] = {r.mean, r.square, r.product};
        for (int q = 0; q < 3; ++q)
            for (int j = HALO; j < b.width - HALO; j += LANES) {
                Floats sum{};
#pragma GCC unroll 11
                for (int k = 0; k < TAPS; ++k)
                    sum += load(maps[q][(y - RADIUS + k) & (RING - 1)] + j) * WINDOW[k];
                store(down[q] + j, sum);
            }
    }
    const float *image = r.image[y & (RING - 1)], *target = r.target[y & (RING - 1)];
    float *out = l.gradient ? l.gradient + int64_t(y) * b.row_floats + b.left : nullptr;
    Floats sum{};
    const int end = b.to - b.left;
    for (int j = 2 * HALO; j < end; j += LANES) {
        const Floats x = load(image + j), t = load(target + j), difference = x - t;
        const int count = end - j < LANES ? end - j : LANES;
        sum += keep(above(fill(float(count)), iota()), absolute(difference));
        if (!out) continue;
        Floats gradient = choose(above(difference, Floats{}), fill(l1_scale),
                                 keep(above(Floats{}, difference), fill(-l1_scale)));
        if (similar)
            gradient += ssim_scale * (blurred_along<CHANNELS>(down[0] + j) +
                                      2 * x * blurred_along<CHANNELS>(down[1] + j) +
                                      t * blurred_along<CHANNELS>(down[2] + j));
        if (count == LANES)
            store(out + j, gradient);
        else
            store_first(out + j, gradient, count);
    }
    return total(sum);
}

template <int CHANNELS>
void loss_of_block(const Loss &l, const Block &b, Rings &r, double *sums) {
    const double count = double(l.height) * l.width * l.channels;
    const float l1_scale = float((1 - l.ssim_weight) * l.scale / count);
    const float ssim_scale = float(-l.ssim_weight * l.scale / count);
    const bool similar = l.ssim_weight != 0;
    sums[0] = sums[1] = 0;
    for (int y = b.top - 2 * RADIUS; y < b.bottom + 2 * RADIUS; ++y) {
        float *image = r.image[y & (RING - 1)], *target = r.target[y & (RING - 1)];
        if (y < 0 || y >= l.height) {
            clear(image), clear(target);
        } else {
            const int64_t at = int64_t(y) * b.row_floats;
            copy_row(l.image + at, 1.0f, b, image);
            if (l.photo)
                copy_row(l.photo + at, 1.0f / 255, b, target);
            else
                copy_row(l.target + at, 1.0f, b, target);
        }
        const int middle = y - RADIUS, last = y - 2 * RADIUS;
        if (similar && middle >= b.top - RADIUS && middle < b.bottom + RADIUS) {
            if (middle < 0 || middle >= l.height) {
                const int row = middle & (RING - 1);
                clear(r.mean[row]), clear(r.square[row]), clear(r.product[row]);
            } else {
                const bool wanted = middle >= b.top && middle < b.bottom;
                sums[1] += compare_row<CHANNELS>(r, b, middle, wanted);
            }
        }
        if (last >= b.top && last < b.bottom)
            sums[0] += differentiate_row<CHANNELS>(l, r, b, last, l1_scale, ssim_scale);
    }
}

template <int CHANNELS>
void loss_of(const Loss &l) {
    const int across = (l.width * l.channels + LOSS_WIDTH - 1) / LOSS_WIDTH;
    const int down = (l.height + LOSS_HEIGHT - 1) / LOSS_HEIGHT;
#pragma omp parallel num_threads(l.threads) if (across * down > 1)
    {
        Rings rings;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < across * down; ++i)
            loss_of_block<CHANNELS>(l, block_at(l, i % across, i / across), rings,
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
