// Losses between images: structural similarity and absolute difference, and their gradients.
//
// Sums are taken row by row and added up by the caller in the order of the rows, so that they do
// not depend on the number of threads.
#include <math.h>

#include "levels.h"
#include "scalar.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int RADIUS = 5;
constexpr float C1 = 0.01f * 0.01f, C2 = 0.03f * 0.03f;
// Half of the 11-tap Gaussian window of sigma 1.5, from the middle out.
constexpr float WINDOW[RADIUS + 1] = {0.26601172f, 0.21300554f, 0.10936069f,
                                      0.03600077f, 0.00759876f, 0.00102838f};

constexpr int BLOCK = 480;            // floats of a row at a time: five blurred rows stay in L1
constexpr int MAX_HALO = RADIUS * 4;  // channels at most 4

struct Block {
    int from, to;     // floats of the row that are wanted
    int left, right;  // with the halo that the horizontal blur reads, inside the row
};

inline Block block_of(int index, int row_floats, int halo) {
    const int from = index * BLOCK;
    const int to = from + BLOCK < row_floats ? from + BLOCK : row_floats;
    return {from, to, from - halo > 0 ? from - halo : 0,
            to + halo < row_floats ? to + halo : row_floats};
}

// A vertically blurred stretch of a row with zeros on both sides where the image ends.
struct Stretch {
    float storage[BLOCK + 2 * MAX_HALO + 16];
};

// Blurs a stretch along its row: out[j] for the block's floats.
inline void blur_along(const Stretch &in, int halo, int step, int count, float *out) {
    const float *p = in.storage + halo;
    for (int j = 0; j < count; ++j) {
        float value = WINDOW[0] * p[j];
        for (int k = 1; k <= RADIUS; ++k) value += WINDOW[k] * (p[j - k * step] + p[j + k * step]);
        out[j] = value;
    }
}

inline void clear_edges(Stretch &s, const Block &b, int halo) {
    for (int j = 0; j < b.left - (b.from - halo); ++j) s.storage[j] = 0;
    for (int j = b.right - (b.from - halo); j < b.to - b.from + 2 * halo; ++j) s.storage[j] = 0;
}

// The five moments of x and y blurred down the columns, for one row.
inline void blur_moments_down(const Ssim &s, int y, const Block &b, int halo, Stretch *out) {
    const int width = s.width * s.channels, count = b.right - b.left;
    const int shift = b.left - (b.from - halo);
    float *mean_x = out[0].storage + shift, *mean_y = out[1].storage + shift;
    float *xx = out[2].storage + shift, *yy = out[3].storage + shift;
    float *xy = out[4].storage + shift;
    for (int q = 0; q < 5; ++q) {
        clear_edges(out[q], b, halo);
        __builtin_memset(out[q].storage + shift, 0, 4 * count);
    }
    for (int k = -RADIUS; k <= RADIUS; ++k) {
        if (y + k < 0 || y + k >= s.height) continue;
        const float w = WINDOW[k < 0 ? -k : k];
        const float *a = s.image + int64_t(y + k) * width + b.left;
        const float *t = s.target + int64_t(y + k) * width + b.left;
#pragma omp simd
        for (int j = 0; j < count; ++j) {
            const float wa = w * a[j], wt = w * t[j];
            mean_x[j] += wa;
            mean_y[j] += wt;
            xx[j] += wa * a[j];
            yy[j] += wt * t[j];
            xy[j] += wa * t[j];
        }
    }
}

// SSIM (Wang 2004, eq. 13) of a block of one row, and its derivatives by the blurred x, x^2, xy.
inline float compare_block(const Ssim &s, int y, const Block &b, const float (*blurred)[BLOCK]) {
    const int64_t at = int64_t(y) * s.width * s.channels + b.from;
    const int count = b.to - b.from;
    float total = 0;
    const bool derive = s.map_mean != nullptr;
    float values[BLOCK], means[BLOCK], squares[BLOCK], products[BLOCK];
#pragma omp simd
    for (int j = 0; j < count; ++j) {
        const float mx = blurred[0][j], my = blurred[1][j];
        const float a1 = 2 * mx * my + C1, a2 = 2 * (blurred[4][j] - mx * my) + C2;
        const float b1 = mx * mx + my * my + C1;
        const float b2 = (blurred[2][j] - mx * mx) + (blurred[3][j] - my * my) + C2;
        const float r1 = 1.0f / b1, r2 = 1.0f / b2, value = a1 * a2 * r1 * r2;
        values[j] = value;
        means[j] = 2 * my * (a2 - a1) * r1 * r2 + 2 * mx * value * (r2 - r1);
        squares[j] = -value * r2;
        products[j] = 2 * a1 * r1 * r2;
    }
#pragma omp simd reduction(+ : total)
    for (int j = 0; j < count; ++j) total += values[j];
    if (derive) {
        __builtin_memcpy(s.map_mean + at, means, 4 * count);
        __builtin_memcpy(s.map_square + at, squares, 4 * count);
        __builtin_memcpy(s.map_product + at, products, 4 * count);
    }
    return total;
}

}  // namespace

void ssim(const Ssim &s) {
    const int row_floats = s.width * s.channels, halo = RADIUS * s.channels;
#pragma omp parallel for schedule(static) num_threads(s.threads)
    for (int y = 0; y < s.height; ++y) {
        Stretch down[5];
        float blurred[5][BLOCK];
        double sum = 0;
        for (int i = 0; i * BLOCK < row_floats; ++i) {
            const Block b = block_of(i, row_floats, halo);
            blur_moments_down(s, y, b, halo, down);
            for (int q = 0; q < 5; ++q)
                blur_along(down[q], halo, s.channels, b.to - b.from, blurred[q]);
            sum += compare_block(s, y, b, blurred);
        }
        s.row_sums[y] = sum;
    }
}

void ssim_backward(const SsimGradient &s) {
    const int row_floats = s.width * s.channels, halo = RADIUS * s.channels;
    const float *maps[3] = {s.map_mean, s.map_square, s.map_product};
#pragma omp parallel for schedule(static) num_threads(s.threads)
    for (int y = 0; y < s.height; ++y) {
        Stretch down;
        float blurred[3][BLOCK];
        for (int i = 0; i * BLOCK < row_floats; ++i) {
            const Block b = block_of(i, row_floats, halo);
            const int shift = b.left - (b.from - halo), count = b.right - b.left;
            float *out = down.storage + shift;
            for (int q = 0; q < 3; ++q) {
                clear_edges(down, b, halo);
                __builtin_memset(out, 0, 4 * count);
                for (int k = -RADIUS; k <= RADIUS; ++k) {
                    if (y + k < 0 || y + k >= s.height) continue;
                    const float w = WINDOW[k < 0 ? -k : k];
                    const float *in = maps[q] + int64_t(y + k) * row_floats + b.left;
#pragma omp simd
                    for (int j = 0; j < count; ++j) out[j] += w * in[j];
                }
                blur_along(down, halo, s.channels, b.to - b.from, blurred[q]);
            }
            const int64_t at = int64_t(y) * row_floats + b.from;
#pragma omp simd
            for (int j = 0; j < b.to - b.from; ++j)
                s.gradient[at + j] =
                    s.scale * (blurred[0][j] + 2 * s.image[at + j] * blurred[1][j] +
                               s.target[at + j] * blurred[2][j]);
        }
    }
}

void l1(const float *image, const float *target, int64_t rows, int64_t columns, double *row_sums,
        int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 16)
    for (int64_t y = 0; y < rows; ++y) {
        const float *a = image + y * columns, *b = target + y * columns;
        double sum = 0;
        // Short float sums, added up in double: exact enough for images of any width.
        for (int64_t x = 0; x < columns; x += BLOCK) {
            const int64_t end = x + BLOCK < columns ? x + BLOCK : columns;
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t i = x; i < end; ++i) part += fabsf(a[i] - b[i]);
            sum += part;
        }
        row_sums[y] = sum;
    }
}

void l1_backward(const float *image, const float *target, int64_t count, float scale,
                 float *gradient, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads) if (count > 1 << 14)
    for (int64_t i = 0; i < count; ++i) {
        const float d = image[i] - target[i];
        gradient[i] = d > 0 ? scale : d < 0 ? -scale : 0.0f;
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
