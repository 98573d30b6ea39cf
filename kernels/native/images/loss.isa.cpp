// The photometric loss between an image and a photo, (1 - w) L1 + w (1 - SSIM), and its gradient,
// in one pass over both.
//
// SSIM at a pixel is a function of five blurs about it: of x, t, x^2 + t^2 and xt, with x the image
// and t its target. Its derivatives by these, blurred once more, give the gradient. The image is
// cut into blocks of fixed size. A block is worked from top to bottom, and rings in the cache hold
// the last rows of both inputs and of the derivatives. Each block has its own sum, and the sums are
// added in the blocks' order, so that the loss does not depend on the number of threads.
#include "common/simd.h"
#include "images/images.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int RADIUS = 5, TAPS = 2 * RADIUS + 1;
constexpr float C1 = 0.01f * 0.01f, C2 = 0.03f * 0.03f;
// The 11-tap Gaussian window of sigma 1.5.
constexpr float WINDOW[TAPS] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f,
                                0.21300554f, 0.26601172f, 0.21300554f, 0.10936069f,
                                0.03600077f, 0.00759876f, 0.00102838f};

constexpr int ROWS = LANES == 16 ? 4 : 2;  // worked together, so that a row is read less often
constexpr int RING = 16;                   // rows kept: a power of two, and TAPS + ROWS - 1 or more

// Floats that a blur along a row reaches to each side, rounded up to whole vectors.
template <int CHANNELS>
constexpr int HALO = (RADIUS * CHANNELS + LANES_MAX - 1) / LANES_MAX * LANES_MAX;
constexpr int WIDE = LOSS_WIDTH + 4 * HALO<4>;  // floats of a row with the halos of both blurs

// The last rows of an image. Each is stored twice, RING rows apart, so that any TAPS + ROWS - 1
// consecutive rows are consecutive in memory.
struct Ring {
    alignas(64) float rows[2 * RING][WIDE];

    float *at(int y) { return rows[y & (RING - 1)]; }
    const float *at(int y) const { return rows[y & (RING - 1)]; }
    const float *above(int y) const { return rows[(y - RADIUS) & (RING - 1)]; }
    void repeat(int y) { __builtin_memcpy(at(y) + RING * WIDE, at(y), 4 * WIDE); }
    void clear(int y) { __builtin_memset(at(y), 0, 4 * WIDE); }
};

// The mask (1 or 0) and the weights of a row of pixels, repeated for each channel of the group.
struct PixelRow {
    alignas(64) float counts[WIDE], weights[WIDE];
};

struct Rings {
    Ring image, target;
    Ring maps[3];           // derivatives of SSIM by the blurred x, x^2 and xt
    PixelRow pixels[RING];  // only used with a mask or weights
};

// One block of a group of the image's channels. A row of the group is its floats pixel by pixel;
// column j of a ring is float `left + j` of the row.
struct Block {
    int channel;                // the first of the group
    int from, to, top, bottom;  // floats of a row and rows of which the block finds the gradient
    int left, width;            // floats of a row that the rings hold
    int first, end;             // columns of the rings that are inside the image
};

template <int CHANNELS>
inline Block block_at(const Loss &l, int channel, int across, int down) {
    Block b;
    b.channel = channel;
    const int row_floats = l.width * CHANNELS;
    b.from = across * LOSS_WIDTH;
    b.to = b.from + LOSS_WIDTH < row_floats ? b.from + LOSS_WIDTH : row_floats;
    b.top = down * LOSS_HEIGHT;
    b.bottom = b.top + LOSS_HEIGHT < l.height ? b.top + LOSS_HEIGHT : l.height;
    b.left = b.from - 2 * HALO<CHANNELS>;
    b.width = b.to - b.from + 4 * HALO<CHANNELS>;
    b.first = b.left < 0 ? -b.left : 0;
    b.end = row_floats - b.left < b.width ? row_floats - b.left : b.width;
    return b;
}

// Calls f(j, pixel, channel) for the columns of a ring from `first` to `end`, which are inside the
// image, with the pixel of the row and the image's channel that column j holds.
template <int CHANNELS, typename F>
inline void for_columns(const Block &b, int first, int end, const F &f) {
    int pixel = (b.left + first) / CHANNELS, channel = (b.left + first) % CHANNELS;
    for (int j = first; j < end; ++j) {
        f(j, pixel, b.channel + channel);
        if (++channel == CHANNELS) channel = 0, ++pixel;
    }
}

// A row of the image or its target times `scale`; zeros beyond the image.
template <int CHANNELS, typename T>
inline void copy_row(const Loss &l, const T *image, float scale, const Block &b, int y,
                     float *out) {
    const T *row = image + int64_t(y) * l.width * l.channels;
    for (int j = 0; j < b.first; ++j) out[j] = 0;
    if (l.channels == CHANNELS)
        for (int j = b.first; j < b.end; ++j) out[j] = float(row[b.left + j]) * scale;
    else
        for_columns<CHANNELS>(b, b.first, b.end, [&](int j, int pixel, int channel) {
            out[j] = float(row[int64_t(pixel) * l.channels + channel]) * scale;
        });
    for (int j = b.end; j < WIDE; ++j) out[j] = 0;
}

// The mask and the weights of a row, ones where none are given; zeros beyond the image.
template <int CHANNELS>
inline void read_pixels(const Loss &l, const Block &b, int y, PixelRow &out) {
    const bool *mask = l.mask ? l.mask + int64_t(y) * l.width : nullptr;
    const float *weight = l.weight ? l.weight + int64_t(y) * l.width : nullptr;
    __builtin_memset(&out, 0, sizeof out);
    for_columns<CHANNELS>(b, b.first, b.end, [&](int j, int pixel, int) {
        out.counts[j] = !mask || mask[pixel] ? 1 : 0;
        out.weights[j] = weight ? weight[pixel] : 1;
    });
}

// The part of a blur along a row that neighbours at distance K and more have, at a vector.
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

// x, t, x^2 + t^2 and xt blurred down the columns, in ROWS rows from y on.
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

// The columns of a ring from `first` on and before `end`.
struct Columns {
    float first, end;

    Mask operator()(int j) const {
        const Floats column = iota() + float(j);
        return both(at_least(column, fill(first)), above(fill(end), column));
    }
};

// The columns from `first` to `end` over which the loss is summed.
template <int CHANNELS>
inline Columns counted(const Loss &l, const Block &b, int first, int end) {
    const int left = l.left * CHANNELS - b.left, right = l.right * CHANNELS - b.left;
    return {float(left > first ? left : first), float(right < end ? right : end)};
}

// SSIM (Wang 2004, eq. 13) of row y, the i-th of the moments', and its derivatives into the rings,
// with the pixels' weights. Returns the weighted sum of 1 - SSIM over the block's floats.
template <int CHANNELS, bool WEIGHTED>
float compare_row(const Loss &l, Rings &r, const Block &b, int y, const Moments &down, int i) {
    constexpr int SIDE = HALO<CHANNELS>;
    const Columns counts = counted<CHANNELS>(l, b, 0, b.width);
    const Columns summed = counted<CHANNELS>(l, b, 2 * SIDE, b.to - b.left);
    float *mean = r.maps[0].at(y), *square = r.maps[1].at(y), *product = r.maps[2].at(y);
    Floats sum{};
    for (int j = SIDE; j < b.width - SIDE; j += LANES) {
        // Means, variances and covariance over the window.
        const Floats mx = blurred_along<CHANNELS>(down[0][i] + j);
        const Floats mt = blurred_along<CHANNELS>(down[1][i] + j);
        const Floats squares = blurred_along<CHANNELS>(down[2][i] + j);
        const Floats xt = blurred_along<CHANNELS>(down[3][i] + j);
        const Floats means = mx * mx + mt * mt, product_of_means = mx * mt;

        // SSIM = a1 a2 / (b1 b2), luminance times contrast and structure.
        const Floats a1 = 2 * product_of_means + C1, a2 = 2 * (xt - product_of_means) + C2;
        const Floats b1 = means + C1, b2 = squares - means + C2;
        const Floats r1 = 1.0f / b1, r2 = 1.0f / b2, both_r = r1 * r2, value = a1 * a2 * both_r;

        // Its derivatives by the blurred x, x^2 and xt, where SSIM counts.
        Floats by_mean = 2 * mt * (a2 - a1) * both_r + 2 * mx * value * (r2 - r1);
        Floats by_square = -value * r2, by_product = 2 * a1 * both_r, missing = 1 - value;
        if constexpr (WEIGHTED) {
            const Floats weight = load(r.pixels[y & (RING - 1)].weights + j);
            by_mean *= weight, by_square *= weight, by_product *= weight, missing *= weight;
        }
        const Mask here = counts(j);
        store(mean + j, keep(here, by_mean));
        store(square + j, keep(here, by_square));
        store(product + j, keep(here, by_product));
        sum += keep(summed(j), missing);
    }
    return total(sum);
}

// The derivatives of SSIM blurred down the columns, in ROWS rows from y on.
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

// Factors of the gradient's two parts.
struct Scales {
    float l1, ssim;
};

// The gradient of the loss in row y, the i-th of the blurred derivatives'. Returns the weighted sum
// of absolute differences over the block's floats.
template <int CHANNELS, bool WEIGHTED>
float differentiate_row(const Loss &l, const Rings &r, const Block &b, int y, const Blurred &down,
                        int i, Scales scales, float *out) {
    const float *image = r.image.at(y), *target = r.target.at(y);
    const PixelRow &pixels = r.pixels[y & (RING - 1)];
    const int end = b.to - b.left;
    Columns counts = counted<CHANNELS>(l, b, 0, end);
    if (y < l.top || y >= l.bottom) counts.end = 0;
    Floats sum{};
    for (int j = 2 * HALO<CHANNELS>; j < end; j += LANES) {
        // |x - t| and its derivative, the sign, where the difference counts.
        const Floats x = load(image + j), t = load(target + j), difference = keep(counts(j), x - t);
        const Floats weight = WEIGHTED ? load(pixels.weights + j) : fill(1);
        sum += weight * absolute(difference);
        if (!out) continue;
        Floats gradient = choose(above(difference, Floats{}), weight * scales.l1,
                                 keep(above(Floats{}, difference), weight * -scales.l1));

        // The derivatives of SSIM go back through the blur, which is its own adjoint.
        if (scales.ssim != 0)
            gradient += scales.ssim * (blurred_along<CHANNELS>(down[0][i] + j) +
                                       2 * x * blurred_along<CHANNELS>(down[1][i] + j) +
                                       t * blurred_along<CHANNELS>(down[2][i] + j));
        if constexpr (WEIGHTED) gradient = keep(above(load(pixels.counts + j), Floats{}), gradient);
        if (end - j >= LANES)
            store(out + j, gradient);
        else
            store_first(out + j, gradient, end - j);
    }
    return total(sum);
}

// Rows of the inputs, zeros beyond the image. Where a pixel does not count, image and target are
// made equal.
template <int CHANNELS, bool WEIGHTED>
inline void read_rows(const Loss &l, const Block &b, int from, Rings &r) {
    for (int y = from; y < from + ROWS; ++y) {
        float *image = r.image.at(y), *target = r.target.at(y);
        if (y < 0 || y >= l.height) {
            r.image.clear(y), r.target.clear(y);
        } else {
            copy_row<CHANNELS>(l, l.image, 1.0f, b, y, image);
            if (l.photo)
                copy_row<CHANNELS>(l, l.photo, 1.0f / 255, b, y, target);
            else
                copy_row<CHANNELS>(l, l.target, 1.0f, b, y, target);
            if constexpr (WEIGHTED) {
                PixelRow &pixels = r.pixels[y & (RING - 1)];
                read_pixels<CHANNELS>(l, b, y, pixels);
                for (int j = b.first; j < b.end; ++j)
                    image[j] = pixels.counts[j] != 0 ? image[j] : target[j];
            }
        }
        r.image.repeat(y), r.target.repeat(y);
    }
}

struct Scratch {
    Rings rings;
    alignas(64) Moments moments;
    alignas(64) Blurred blurred;
    alignas(64) float gradient[WIDE];
};

// SSIM and its derivatives in ROWS rows from y on; the sum over the block.
template <int CHANNELS, bool WEIGHTED>
double compare_rows(const Loss &l, const Block &b, int y, Scratch &s) {
    double sum = 0;
    blur_moments_down(s.rings, b, y, s.moments);
    for (int i = 0; i < ROWS; ++i) {
        const int row = y + i;
        if (row < l.top || row >= l.bottom) {
            for (Ring &map : s.rings.maps) map.clear(row);
        } else {
            const float part = compare_row<CHANNELS, WEIGHTED>(l, s.rings, b, row, s.moments, i);
            if (row >= b.top && row < b.bottom) sum += part;
        }
        for (Ring &map : s.rings.maps) map.repeat(row);
    }
    return sum;
}

// The gradient in the block's rows among ROWS from y on; the sum of absolute differences.
template <int CHANNELS, bool WEIGHTED>
double differentiate_rows(const Loss &l, const Block &b, int y, Scales scales, Scratch &s) {
    double sum = 0;
    if (scales.ssim != 0 && l.gradient) blur_maps_down<CHANNELS>(s.rings, b, y, s.blurred);
    for (int i = 0; i < ROWS; ++i) {
        const int row = y + i;
        if (row < b.top || row >= b.bottom) continue;
        const bool direct = l.channels == CHANNELS;
        float *whole = l.gradient ? l.gradient + int64_t(row) * l.width * l.channels : nullptr;
        float *out = !whole ? nullptr : direct ? whole + b.left : s.gradient;
        sum += differentiate_row<CHANNELS, WEIGHTED>(l, s.rings, b, row, s.blurred, i, scales, out);
        if (whole && !direct)
            for_columns<CHANNELS>(b, 2 * HALO<CHANNELS>, b.to - b.left,
                                  [&](int j, int pixel, int channel) {
                                      whole[int64_t(pixel) * l.channels + channel] = out[j];
                                  });
    }
    return sum;
}

// The block's part of the loss, before it is divided by the number of pixels and channels. The rows
// of the inputs lead; those of SSIM follow half a window behind, and those of the gradient as far
// behind these.
template <int CHANNELS, bool WEIGHTED>
double loss_of_block(const Loss &l, const Block &b, Scratch &s) {
    constexpr int LEAD = TAPS - 1;
    const double weight = l.ssim_weight, numbers = double(l.pixels) * l.channels;
    const Scales scales = {float((1 - l.ssim_weight) / numbers), float(-weight / numbers)};
    double absolute = 0, missing = 0;
    for (int y = b.top - LEAD; y < b.bottom + LEAD; y += ROWS) {
        read_rows<CHANNELS, WEIGHTED>(l, b, y, s.rings);
        const int middle = y - RADIUS, last = y - LEAD;
        if (weight != 0 && middle > b.top - RADIUS - ROWS && middle < b.bottom + RADIUS)
            missing += compare_rows<CHANNELS, WEIGHTED>(l, b, middle, s);
        if (last > b.top - ROWS && last < b.bottom)
            absolute += differentiate_rows<CHANNELS, WEIGHTED>(l, b, last, scales, s);
    }
    return (1 - weight) * absolute + weight * missing;
}

template <int CHANNELS, bool WEIGHTED>
void loss_of(const Loss &l, int channel) {
    const int across = (l.width * CHANNELS + LOSS_WIDTH - 1) / LOSS_WIDTH;
    const int down = (l.height + LOSS_HEIGHT - 1) / LOSS_HEIGHT;
#pragma omp parallel num_threads(l.threads) if (across * down > 1)
    {
        Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < across * down; ++i) {
            const Block b = block_at<CHANNELS>(l, channel, i % across, i / across);
            l.block_sums[i] += loss_of_block<CHANNELS, WEIGHTED>(l, b, scratch);
        }
    }
}

template <bool WEIGHTED>
void loss_of_groups(const Loss &l) {
    for (int channel = 0; channel < l.channels; channel += CHANNELS_AT_ONCE) {
        switch (l.channels - channel) {
            case 1: loss_of<1, WEIGHTED>(l, channel); break;
            case 2: loss_of<2, WEIGHTED>(l, channel); break;
            case 3: loss_of<3, WEIGHTED>(l, channel); break;
            default: loss_of<CHANNELS_AT_ONCE, WEIGHTED>(l, channel);
        }
    }
}

}  // namespace

void loss(const Loss &l) {
    if (l.mask || l.weight)
        loss_of_groups<true>(l);
    else
        loss_of_groups<false>(l);
}

}  // namespace lumigraph::LUMIGRAPH_ISA
