// Adam (arXiv 1412.6980, algorithm 1). Only for *.isa.cpp files.
#pragma once

#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

struct AdamRule {
    float beta1, beta2, epsilon;
    float root_scale;  // one over the root of the second mean's bias correction
};

// Steps in which splats had no gradient, as one multiplication each: what they leave of both means,
// and how far the first mean would have carried a parameter meanwhile, in steps of its own length.
template <typename T>
struct Missed {
    T decay1, decay2, drift;
};

// Brings both means up to a gradient, and returns what the first would have carried on meanwhile.
template <typename T>
inline Floats adam_means(const AdamRule &a, const Missed<T> &missed, Floats gradient, Floats &m,
                         Floats &v) {
    const Floats carried = missed.drift * m;
    m *= missed.decay1, v *= missed.decay2;
    m += (1 - a.beta1) * (gradient - m);
    v += (1 - a.beta2) * (gradient * gradient - v);
    return carried;
}

// Moves p along the gradient; `rate` is over the first mean's bias correction. A curvature shortens
// the step to what it would be by Newton's method, where that is the shorter one.
template <typename T>
inline void adam_step(const AdamRule &a, const Missed<T> &missed, float rate, Floats gradient,
                      Floats curvature, Floats &p, Floats &m, Floats &v) {
    const Floats carried = adam_means(a, missed, gradient, m, v);
    p -= rate * (m + carried) / (root(v) * a.root_scale + a.epsilon + rate * curvature);
}

// The same for consecutive numbers; curvature may be null.
inline void adam_row(const AdamRule &a, const Missed<float> &missed, float rate,
                     const float *gradient, const float *curvature, float *p, float *m, float *v,
                     int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        Floats parameter = load(p + i), first = load(m + i), second = load(v + i);
        const Floats curved = curvature ? load(curvature + i) : Floats{};
        adam_step(a, missed, rate, load(gradient + i), curved, parameter, first, second);
        store(p + i, parameter), store(m + i, first), store(v + i, second);
    }
    const int left = int(count - i);
    if (!left) return;
    Floats parameter = load_first(p + i, left), first = load_first(m + i, left);
    Floats second = load_first(v + i, left);
    const Floats curved = curvature ? load_first(curvature + i, left) : Floats{};
    adam_step(a, missed, rate, load_first(gradient + i, left), curved, parameter, first, second);
    store_first(p + i, parameter, left), store_first(m + i, first, left);
    store_first(v + i, second, left);
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
