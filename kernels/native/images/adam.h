// Adam (arXiv 1412.6980, algorithm 1). Only for *.isa.cpp files.
#pragma once

#include "common/simd.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

struct AdamRule {
    float beta1, beta2, epsilon;
    float root_scale;  // one over the root of the second mean's bias correction
};

// The effect of steps in which a splat had no gradient: the factors by which both means have
// decayed, and the distance that the first mean would have moved a parameter, in multiples of the
// mean.
template <typename T>
struct Missed {
    T decay1, decay2, drift;
};

// Decays both means over the missed steps and takes the gradient into them. Returns the move of the
// missed steps.
template <typename T>
inline Floats adam_means(const AdamRule &a, const Missed<T> &missed, Floats gradient, Floats &m,
                         Floats &v) {
    const Floats carried = missed.drift * m;
    m *= missed.decay1, v *= missed.decay2;
    m += (1 - a.beta1) * (gradient - m);
    v += (1 - a.beta2) * (gradient * gradient - v);
    return carried;
}

// One step of a parameter p. `rate` is divided by the first mean's bias correction already. A
// curvature shortens the step to about that of Newton's method, where this is the shorter one.
template <typename T>
inline void adam_step(const AdamRule &a, const Missed<T> &missed, float rate, Floats gradient,
                      Floats curvature, Floats &p, Floats &m, Floats &v) {
    const Floats carried = adam_means(a, missed, gradient, m, v);
    p -= rate * (m + carried) / (root(v) * a.root_scale + a.epsilon + rate * curvature);
}

// The same for consecutive parameters; curvature may be null.
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
