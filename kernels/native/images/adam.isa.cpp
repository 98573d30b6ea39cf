// One step of Adam for a tensor, in one pass over memory.
#include "images/adam.h"
#include "images/images.h"

namespace lumigraph::LUMIGRAPH_ISA {

void adam(const Adam &a) {
    const AdamRule rule = {a.beta1, a.beta2, a.epsilon, a.root_scale};
    const int64_t count = a.rows * a.columns;
    const auto step = [&](int64_t from, int64_t numbers) {
        adam_row(rule, {1.0f, 1.0f, 0.0f}, a.rate, a.gradient + from, nullptr, a.parameter + from,
                 a.first + from, a.second + from, numbers);
    };
    // All rows: blocks of fixed size.
    if (!a.use) {
        constexpr int64_t BLOCK = 4096;
#pragma omp parallel for schedule(static) num_threads(a.threads) if (count > 1 << 14)
        for (int64_t block = 0; block < (count + BLOCK - 1) / BLOCK; ++block) {
            const int64_t from = block * BLOCK;
            step(from, count - from < BLOCK ? count - from : BLOCK);
        }
        return;
    }

    // Some rows: each by itself.
#pragma omp parallel for schedule(static) num_threads(a.threads) if (count > 1 << 14)
    for (int64_t row = 0; row < a.rows; ++row)
        if (a.use[row]) step(row * a.columns, a.columns);
}

}  // namespace lumigraph::LUMIGRAPH_ISA
