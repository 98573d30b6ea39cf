// The native kernels on images: the photometric loss, and Adam. One table per instruction set.
#pragma once

#include <cstdint>

#include "common/dispatch.h"

namespace lumigraph {

// The photometric loss between an image and a photo: the sum over pixels and channels of
// (1 - ssim_weight) |image - target| + ssim_weight (1 - SSIM), divided by how many there are. See
// `ImageBackend.loss` in kernels/images/protocol.py.
constexpr int LOSS_WIDTH = 480, LOSS_HEIGHT = 64;  // floats of a row, and rows, of a block
constexpr int CHANNELS_AT_ONCE = 4;                // of an image with more

struct Loss {
    int height, width, channels;
    const float *image, *target;   // [height, width, channels]; either a target or a photo is given
    const uint8_t *photo;          // a target in bytes, 255 for 1
    const bool *mask;              // [height, width]: the pixels that count; or null: all
    const float *weight;           // [height, width]: factors of the terms; or null: ones
    int left, top, right, bottom;  // the pixels over which terms are summed
    int64_t pixels;                // that the sum is divided by, times the channels
    float ssim_weight;
    float *gradient;     // by the image, [height, width, channels]; or null
    double *block_sums;  // [blocks], zero before
    int threads;

    int blocks() const {
        const int group = channels < CHANNELS_AT_ONCE ? channels : CHANNELS_AT_ONCE;
        return ((width * group + LOSS_WIDTH - 1) / LOSS_WIDTH) *
               ((height + LOSS_HEIGHT - 1) / LOSS_HEIGHT);
    }
};

struct Adam {
    int64_t rows, columns;
    float *parameter, *first, *second;
    const float *gradient;
    const bool *use;  // the rows to move, or null: all
    float beta1, beta2, epsilon;
    float rate;        // the learning rate divided by the first mean's bias correction
    float root_scale;  // one over the root of the second mean's bias correction
    int threads;
};

struct ImageKernels {
    void (*loss)(const Loss &);
    void (*adam)(const Adam &);
};

// The loss. Writes the gradient, unless that is null; sets block_sums itself.
double loss_of(Loss loss);

}  // namespace lumigraph
