// From gradients by records to those by parameters, and Adam's step, in one pass: no gradient of a
// parameter is ever in memory.
#include "images/adam.h"
#include "common/levels.h"
#include "splats/rows.h"
#include "splats/through.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr float STILL = 1e30f;      // damping of a parameter without a rate
constexpr float PIVOT_MIN = 1e-4f;  // least pivot of a matrix with ones on its diagonal

// Adam's step on rows of COLUMNS numbers; curvature may be null.
template <int COLUMNS>
inline void step_rows(const Descent &d, const Missed<Floats> &missed, int which,
                      const Floats *gradient, const float *curvature, const Group &g) {
    if (d.rates[which] == 0) return;
    const AdamRule rule = {d.beta1, d.beta2, d.epsilon, d.root_scale};
    Floats p[COLUMNS], m[COLUMNS], v[COLUMNS], curved[COLUMNS] = {};
    if (curvature) load_columns<COLUMNS>(curvature, g.index, g.count, COLUMNS, curved);
    load_columns<COLUMNS>(d.parameters[which], g.index, g.count, COLUMNS, p);
    load_columns<COLUMNS>(d.first[which], g.index, g.count, COLUMNS, m);
    load_columns<COLUMNS>(d.second[which], g.index, g.count, COLUMNS, v);
    for (int c = 0; c < COLUMNS; ++c)
        adam_step(rule, missed, d.rates[which], gradient[c], curved[c], p[c], m[c], v[c]);
    put_rows<COLUMNS>(p, g, d.parameters[which]);
    put_rows<COLUMNS>(m, g, d.first[which]);
    put_rows<COLUMNS>(v, g, d.second[which]);
}

// The place of row i and column j <= i in the block of a splat.
constexpr int at(int i, int j) { return i * (i + 1) / 2 + j; }

// Updates Adam's moments of COLUMNS numbers. Finds the pull, which is the first mean, and the
// damping, which is the root of the second mean over the rate.
template <int COLUMNS>
inline void pull_rows(const Descent &d, const Missed<Floats> &missed, int which,
                      const Floats *gradient, const Group &g, Floats *pull, Floats *damping) {
    if (d.rates[which] == 0) {
        for (int c = 0; c < COLUMNS; ++c) pull[c] = Floats{}, damping[c] = fill(STILL);
        return;
    }
    Floats m[COLUMNS], v[COLUMNS];
    load_columns<COLUMNS>(d.first[which], g.index, g.count, COLUMNS, m);
    load_columns<COLUMNS>(d.second[which], g.index, g.count, COLUMNS, v);
    const AdamRule rule = {d.beta1, d.beta2, d.epsilon, d.root_scale};
    const float over_rate = 1 / d.rates[which];
    for (int c = 0; c < COLUMNS; ++c) {
        const Floats carried = adam_means(rule, missed, gradient[c], m[c], v[c]);
        pull[c] = m[c] + carried;
        damping[c] = (root(v[c]) * d.root_scale + d.epsilon) * over_rate;
    }
    put_rows<COLUMNS>(m, g, d.first[which]);
    put_rows<COLUMNS>(v, g, d.second[which]);
}

template <int COLUMNS>
inline void move_rows(const Descent &d, int which, const Floats *step, const Group &g) {
    Floats p[COLUMNS];
    load_columns<COLUMNS>(d.parameters[which], g.index, g.count, COLUMNS, p);
    // In this order a NaN stays a NaN.
    const Floats most = fill(FARTHEST_STEP * d.rates[which]);
    for (int c = 0; c < COLUMNS; ++c) p[c] -= larger(-most, smaller(most, step[c]));
    put_rows<COLUMNS>(p, g, d.parameters[which]);
}

// Solves (block + diag(damping)) x = pull by Cholesky's method, in place of the pull. The rows are
// scaled to a diagonal of one. Rounding does no harm to a block that is nearly singular: pivots are
// at least PIVOT_MIN, and no factor is above one.
inline void solve_block(Floats *block, const Floats *damping, Floats *pull) {
    Floats scale[GEOMETRY];
    for (int i = 0; i < GEOMETRY; ++i)
        scale[i] = 1.0f / root((1 + BLOCK_DAMPING) * block[at(i, i)] + damping[i]);
    for (int i = 0; i < GEOMETRY; ++i) {
        for (int j = 0; j < i; ++j) block[at(i, j)] *= scale[i] * scale[j];
        block[at(i, i)] = fill(1.0f);
        pull[i] *= scale[i];
    }
    for (int j = 0; j < GEOMETRY; ++j) {
        Floats pivot = block[at(j, j)];
        for (int k = 0; k < j; ++k) pivot -= block[at(j, k)] * block[at(j, k)];
        const Floats over = 1.0f / root(larger(pivot, fill(PIVOT_MIN)));
        block[at(j, j)] = over;
        for (int i = j + 1; i < GEOMETRY; ++i) {
            Floats sum = block[at(i, j)];
            for (int k = 0; k < j; ++k) sum -= block[at(i, k)] * block[at(j, k)];
            block[at(i, j)] = larger(smaller(sum * over, fill(1.0f)), fill(-1.0f));
        }
    }
    for (int i = 0; i < GEOMETRY; ++i) {
        for (int k = 0; k < i; ++k) pull[i] -= block[at(i, k)] * pull[k];
        pull[i] *= block[at(i, i)];
    }
    for (int i = GEOMETRY - 1; i >= 0; --i) {
        for (int k = i + 1; k < GEOMETRY; ++k) pull[i] -= block[at(k, i)] * pull[k];
        pull[i] *= block[at(i, i)];
    }
    for (int i = 0; i < GEOMETRY; ++i) pull[i] *= scale[i];
}

// A step on the geometry by its block of curvature, with Adam's step as the damping.
inline void step_geometry(const Descent &d, const Missed<Floats> &missed,
                          const ShapeGradient &gradient, const Group &g) {
    Floats block[LOWER], pull[GEOMETRY], damping[GEOMETRY];
    load_columns<LOWER>(d.curvature.geometry, g.index, g.count, LOWER, block);
    pull_rows<3>(d, missed, MEANS, gradient.mean, g, pull, damping);
    pull_rows<4>(d, missed, QUATERNIONS, gradient.quaternion, g, pull + 3, damping + 3);
    pull_rows<3>(d, missed, LOG_SCALES, gradient.log_scale, g, pull + 7, damping + 7);
    pull_rows<1>(d, missed, OPACITY_LOGITS, &gradient.opacity_logit, g, pull + 10, damping + 10);
    solve_block(block, damping, pull);
    move_rows<3>(d, MEANS, pull, g);
    move_rows<4>(d, QUATERNIONS, pull + 3, g);
    move_rows<3>(d, LOG_SCALES, pull + 7, g);
    move_rows<1>(d, OPACITY_LOGITS, pull + 10, g);
}

// Adam's step on the harmonics above degree 0: their gradient is the basis times the colour's.
inline void step_rest(const Descent &d, const Missed<Floats> &missed, int used, const Floats *basis,
                      const Floats *color, const Group &g) {
    const AdamRule rule = {d.beta1, d.beta2, d.epsilon, d.root_scale};
    alignas(64) float bases[REST][LANES], colors[3][LANES], decays[3][LANES];
    store(decays[0], missed.decay1), store(decays[1], missed.decay2);
    store(decays[2], missed.drift);
    for (int k = 0; k < used; ++k) store(bases[k], basis[k]);
    for (int c = 0; c < 3; ++c) store(colors[c], color[c]);
    for (int i = 0; i < g.count; ++i) {
        float gradient[3 * REST];
        for (int k = 0; k < used; ++k)
            for (int c = 0; c < 3; ++c) gradient[3 * k + c] = bases[k][i] * colors[c][i];
        const int64_t at = g.index[i] * 3 * d.scene.rest_count;
        const float *curvature = d.curvature.rest;
        adam_row(rule, {decays[0][i], decays[1][i], decays[2][i]}, d.rates[REST_OF_HARMONICS],
                 gradient, curvature ? curvature + at : nullptr,
                 d.parameters[REST_OF_HARMONICS] + at, d.first[REST_OF_HARMONICS] + at,
                 d.second[REST_OF_HARMONICS] + at, 3 * used);
    }
}

// The decay of the moments of each splat over the steps since it was last moved.
inline Missed<Floats> missed_by(const Descent &d, const Group &g) {
    if (!d.last) return {fill(1.0f), fill(1.0f), Floats{}};
    alignas(64) float steps[LANES] = {};
    for (int i = 0; i < g.count; ++i) {
        steps[i] = float(d.step - 1 - d.last[g.index[i]]);
        d.last[g.index[i]] = d.step;
    }
    const Floats count = larger(load(steps), Floats{});
    const Mask some = above(count, Floats{});  // else a beta of 0 would make a NaN of its logarithm
    const Floats decay1 = choose(some, exp_fast(count * logf(d.beta1)), fill(1.0f));
    const Floats decay2 = choose(some, exp_fast(count * logf(d.beta2)), fill(1.0f));
    return {decay1, decay2, (d.beta1 / (1 - d.beta1)) * (1.0f - decay1)};
}

// Adds to the sums for density control: the length of the absolute gradient, and one view.
inline void add_pull(const Descent &d, Floats absolute_x, Floats absolute_y, const Group &g) {
    const Floats x = absolute_x * (0.5f * d.scene.view.width);
    const Floats y = absolute_y * (0.5f * d.scene.view.height);
    alignas(64) float lengths[LANES];
    store(lengths, root(x * x + y * y));
    for (int i = 0; i < g.count; ++i) {
        d.pull[g.index[i]] += lengths[i];
        d.views[g.index[i]] += 1;
    }
}

// Sets the gradients of a splat to zero where one of them, or its square, is not finite: so a pixel
// that is not a number moves nothing.
inline void drop_what_is_not_finite(SplatGradient &g) {
    Floats none{};
    const auto look = [&](const Floats *numbers, int count) {
        for (int k = 0; k < count; ++k) none += numbers[k] * numbers[k] * 0.0f;
    };
    look(g.shape.mean, 3), look(g.shape.quaternion, 4), look(g.shape.log_scale, 3);
    look(&g.shape.opacity_logit, 1), look(g.color, 3), look(g.absolute, 2);
    const Mask finite = at_least(none, Floats{});
    const auto drop = [&](Floats *numbers, int count) {
        for (int k = 0; k < count; ++k) numbers[k] = keep(finite, numbers[k]);
    };
    drop(g.shape.mean, 3), drop(g.shape.quaternion, 4), drop(g.shape.log_scale, 3);
    drop(&g.shape.opacity_logit, 1), drop(g.color, 3), drop(g.absolute, 2);
}

// Adds the gradient of what opacities and scales cost by themselves.
inline void add_penalty(const Descent &d, const Seen &s, ShapeGradient &g) {
    g.opacity_logit += d.opacity_penalty * s.opacity * (1 - s.opacity);
    const Floats scales[3] = {s.scales.x, s.scales.y, s.scales.z};
    for (int k = 0; k < 3; ++k) g.log_scale[k] += d.scale_penalty * scales[k];
}

inline void update_group(const Descent &d, const RecordRows &rows, int64_t from, int count) {
    const Group g = group_of(rows, from, count);
    const Looked l = look_at(d.scene, g);
    SplatGradient by = through_splats(d.scene, l, rows, from);
    drop_what_is_not_finite(by);
    add_penalty(d, l.seen, by.shape);

    const Missed<Floats> missed = missed_by(d, g);
    const int used = rest_of(d.scene.degree);
    if (used && d.rates[REST_OF_HARMONICS] != 0) step_rest(d, missed, used, l.basis, by.color, g);
    if (d.curvature.geometry) {
        step_geometry(d, missed, by.shape, g);
    } else {
        step_rows<3>(d, missed, MEANS, by.shape.mean, nullptr, g);
        step_rows<4>(d, missed, QUATERNIONS, by.shape.quaternion, nullptr, g);
        step_rows<3>(d, missed, LOG_SCALES, by.shape.log_scale, nullptr, g);
        step_rows<1>(d, missed, OPACITY_LOGITS, &by.shape.opacity_logit, nullptr, g);
    }
    Floats base[3];
    for (int c = 0; c < 3; ++c) base[c] = C0 * by.color[c];
    step_rows<3>(d, missed, BASE, base, d.curvature.base, g);
    if (d.pull) add_pull(d, by.absolute[0], by.absolute[1], g);
}

}  // namespace

void update(const Descent &d, const RecordRows &rows, int64_t from, int64_t to) {
    for (int64_t n = from; n < to; n += LANES)
        update_group(d, rows, n, to - n < LANES ? int(to - n) : LANES);
}

}  // namespace lumigraph::LUMIGRAPH_ISA
