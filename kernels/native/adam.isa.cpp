// Adam (arXiv 1412.6980, algorithm 1) in one pass over memory.
#include <math.h>

#include "levels.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

inline void step(const Adam &a, int64_t from, int64_t to) {
    float *p = a.parameter, *m = a.first, *v = a.second;
    const float *g = a.gradient;
    const float keep1 = 1 - a.beta1, keep2 = 1 - a.beta2;
#pragma omp simd
    for (int64_t i = from; i < to; ++i) {
        m[i] += keep1 * (g[i] - m[i]);
        v[i] += keep2 * (g[i] * g[i] - v[i]);
        p[i] -= a.rate * m[i] / (sqrtf(v[i]) * a.root_scale + a.epsilon);
    }
}

}  // namespace

void adam(const Adam &a) {
    const int64_t count = a.rows * a.columns;
    if (!a.use) {
#pragma omp parallel for schedule(static) num_threads(a.threads) if (count > 1 << 14)
        for (int64_t block = 0; block < (count + 4095) / 4096; ++block)
            step(a, block * 4096, block * 4096 + 4096 < count ? block * 4096 + 4096 : count);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(a.threads) if (count > 1 << 14)
    for (int64_t row = 0; row < a.rows; ++row)
        if (a.use[row]) step(a, row * a.columns, (row + 1) * a.columns);
}

}  // namespace lumigraph::LUMIGRAPH_ISA
