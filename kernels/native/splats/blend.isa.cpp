// Blending the splats of each tile front to back, and the gradients of it.
//
// Backward keeps one number for all channels of a pixel: the product of the loss's gradient with
// the colour that the current splat and those behind it contribute. It starts with the finished
// pixel, and each splat's part is subtracted when the walk passes it.
#include "common/levels.h"
#include "splats/walk.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Gathers the colours of pixels, and the splat by which half of their light is stopped.
template <int CHANNELS, bool MEDIAN>
struct Colors {
    Floats sums[CHANNELS][HELD][VECTORS] = {};
    Ints median[HELD][VECTORS];

    [[gnu::always_inline]] Floats take(int k, int v, const Ellipse &splat, const Touch &at) {
        const Floats weight = at.weight(), after = at.left - weight;
        for (int c = 0; c < CHANNELS; ++c) sums[c][k][v] += weight * splat.r.features[c];
        if (MEDIAN) {
            const Mask half = first_only(above(at.left, fill(0.5f)), above(after, fill(0.5f)));
            median[k][v] = choose(half, Ints{} + splat.r.index, median[k][v]);
        }
        return after;
    }
};

template <int CHANNELS, bool MEDIAN>
inline uint32_t blend_blocks(const Blend &b, const Place &place) {
    const Tiles &t = *b.tiles;
    Colors<CHANNELS, MEDIAN> colors;
    Floats left[HELD][VECTORS];
    for (int k = 0; k < HELD; ++k)
        for (int v = 0; v < VECTORS; ++v) colors.median[k][v] = Ints{} - 1;
    const uint32_t used = walk_blocks(t, place, colors, left);

    // What light is left shows the background.
    for (int k = 0; k < HELD; ++k)
        for (int v = 0; v < VECTORS; ++v) {
            const int x = place.x + k * BLOCK, y = place.y + v * ROWS;
            Floats color[CHANNELS];
            for (int c = 0; c < CHANNELS; ++c) {
                const float behind = b.background ? b.background[c] : 0.0f;
                color[c] = colors.sums[c][k][v] + left[k][v] * behind;
            }
            write<CHANNELS>(t, b.image, {b.stride, b.offset}, x, y, color);
            if (b.transmittance) write<1>(t, b.transmittance, {1, 0}, x, y, &left[k][v]);
            if (!MEDIAN) continue;
            int32_t index[LANES];
            __builtin_memcpy(index, &colors.median[k][v], sizeof index);
            for_each_pixel(t, x, y, [&](int i, int64_t pixel) { b.median[pixel] = index[i]; });
        }
    return used;
}

template <int CHANNELS, bool MEDIAN>
void blend_all(const Blend &b) {
    const Tiles &t = *b.tiles;
#pragma omp parallel for schedule(dynamic, 4) num_threads(t.threads)
    for (int tile = 0; tile < t.columns * t.rows; ++tile) {
        if (t.stop && (*t.stop)()) continue;
        uint32_t used = 0;
        for_each_place(t, tile, t.begin[tile + 1] - t.begin[tile], [&](const Place &place) {
            const uint32_t n = blend_blocks<CHANNELS, MEDIAN>(b, place);
            used = n > used ? n : used;
        });
        t.used[tile] = used;
    }
}

// The pixels of one tile on the way back, block by block. Pixels beyond the image have no gradient.
template <int CHANNELS, bool ABSOLUTE>
struct alignas(64) TileGradient {
    static constexpr int NUMBERS = SLOT;
    const BlendGradient &b;
    TileFloats transmittance;    // before the current splat
    TileFloats behind;           // the gradient times the colour of this and later splats
    TileFloats color[CHANNELS];  // gradient by the pixel's channels

    explicit TileGradient(const BlendGradient &gradient) : b(gradient) {}
    float *left(int block) { return transmittance[block]; }
    void read(int x0, int y0);
    struct Sums;
};

template <int CHANNELS, bool ABSOLUTE>
void TileGradient<CHANNELS, ABSOLUTE>::read(int x0, int y0) {
    const Tiles &t = *b.tiles;
    for (int y = 0; y < TILE; ++y)
        for (int x = 0; x < TILE; ++x) {
            const int block = y / BLOCK * BLOCKS + x / BLOCK, i = y % BLOCK * BLOCK + x % BLOCK;
            const bool inside = x0 + x < t.width && y0 + y < t.height;
            const int64_t pixel = inside ? int64_t(y0 + y) * t.width + x0 + x : 0;
            float loss = 0;
            for (int c = 0; c < CHANNELS; ++c) {
                const int64_t at = pixel * b.stride + b.offset + c;
                color[c][block][i] = inside ? b.image_gradient[at] : 0.0f;
                loss += color[c][block][i] * b.image[at];
            }
            if (inside && b.transmittance_gradient)
                loss += b.transmittance_gradient[pixel] * b.transmittance[pixel];
            transmittance[block][i] = inside ? 1.0f : 0.0f;
            behind[block][i] = loss;
        }
}

// Sums over the tile, in the slot's order. First moments of q = alpha d loss / d alpha: q times 1,
// dx, dx^2, dy, dx dy and dy^2. Then the channels, then the absolute gradients.
template <int CHANNELS, bool ABSOLUTE>
struct TileGradient<CHANNELS, ABSOLUTE>::Sums {
    TileGradient &p;
    Floats sums[SLOT] = {};

    Sums(TileGradient &pixels, uint32_t, const Ellipse &) : p(pixels) {}

    [[gnu::always_inline]] Floats take(int block, int at, const Ellipse &splat,
                                       const Touch &touch) {
        const Record &r = splat.r;
        const Floats alpha = touch.alpha(), weight = alpha * touch.left;
        Floats product{};
        for (int c = 0; c < CHANNELS; ++c) {
            const Floats gradient = load(&p.color[c][block][at]);
            product += gradient * r.features[c];
            sums[6 + c] += weight * gradient;
        }
        const Floats before = load(&p.behind[block][at]);
        const Floats behind = before - weight * product;
        store(&p.behind[block][at], behind);
        // q is alpha (left product - behind / (1 - alpha)), and before - behind is alpha left
        // product.
        const Floats q = keep(touch.moves(splat), before - behind * reciprocal(1.0f - alpha));
        const Floats dx = touch.dx, dy = splat.dy, qx = q * dx, qy = q * dy;
        sums[0] += q;
        sums[1] += qx;
        sums[2] += qx * dx;
        sums[3] += qy;
        sums[4] += qx * dy;
        sums[5] += qy * dy;
        if (ABSOLUTE) {
            // d log(alpha) / d mean is minus the derivative of the form by (dx, dy).
            const Floats length = absolute(q);
            sums[10] += length * absolute(dx * (2.0f * r.xx) + splat.xy_dy);
            sums[11] += length * absolute(dx * r.xy + dy * (2.0f * r.yy));
        }
        return touch.left - weight;
    }
    void finish(float *slot) {
        constexpr float LN2 = 0.69314718f;
        if (ABSOLUTE) sums[10] *= LN2, sums[11] *= LN2;
        store_totals<SLOT>(sums, slot);
    }
};

template <int CHANNELS, bool ABSOLUTE>
void backward_all(const BlendGradient &b) {
    const Tiles &t = *b.tiles;
#pragma omp parallel for schedule(dynamic, 4) num_threads(t.threads)
    for (int tile = 0; tile < t.columns * t.rows; ++tile) {
        TileGradient<CHANNELS, ABSOLUTE> gradient(b);
        walk_tile(t, tile, gradient, b.slots);
    }
}

}  // namespace

void blend(const Blend &b) {
    switch (b.channels * 2 + (b.median != nullptr)) {
        case 2: return blend_all<1, false>(b);
        case 3: return blend_all<1, true>(b);
        case 4: return blend_all<2, false>(b);
        case 5: return blend_all<2, true>(b);
        case 6: return blend_all<3, false>(b);
        case 7: return blend_all<3, true>(b);
        case 8: return blend_all<4, false>(b);
        case 9: return blend_all<4, true>(b);
    }
}

void blend_backward(const BlendGradient &b) {
    switch (b.channels * 2 + b.absolute) {
        case 2: return backward_all<1, false>(b);
        case 3: return backward_all<1, true>(b);
        case 4: return backward_all<2, false>(b);
        case 5: return backward_all<2, true>(b);
        case 6: return backward_all<3, false>(b);
        case 7: return backward_all<3, true>(b);
        case 8: return backward_all<4, false>(b);
        case 9: return backward_all<4, true>(b);
    }
}

}  // namespace lumigraph::LUMIGRAPH_ISA
