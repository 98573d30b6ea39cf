// Products with the derivative of a picture by the parameters of its splats, and with its
// transpose: the parts that are done splat by splat, and the blending of how splats move.
#include "common/levels.h"
#include "splats/rows.h"
#include "splats/splat_math.h"
#include "splats/walk.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// How rotations turn as their unnormalised quaternions move. Rows, as `Seen::rotation`.
inline void rotation_along(const Seen &s, const Floats *quaternion, Vec *out) {
    const Floats *q = quaternion;
    const Floats radial = q[0] * s.w + q[1] * s.i + q[2] * s.j + q[3] * s.k;
    const Floats w = s.w, i = s.i, j = s.j, k = s.k, scale = 2 * s.inverse_length;
    const Floats dw = scale * (q[0] - radial * w), di = scale * (q[1] - radial * i);
    const Floats dj = scale * (q[2] - radial * j), dk = scale * (q[3] - radial * k);
    const Floats ij = di * j + i * dj, wk = dw * k + w * dk, ik = di * k + i * dk;
    const Floats wj = dw * j + w * dj, jk = dj * k + j * dk, wi = dw * i + w * di;
    out[0] = {-2 * (j * dj + k * dk), ij - wk, ik + wj};
    out[1] = {ij + wk, -2 * (i * di + k * dk), jk - wi};
    out[2] = {ik - wj, jk + wi, -2 * (i * di + j * dj)};
}

// How footprints move as their splats do.
struct FootprintTangent {
    Floats center_x, center_y, conic_xx, conic_xy, conic_yy, log_opacity;
};

// The derivative of `see` and `footprint_of`, line by line.
inline FootprintTangent footprint_along(const View &view, bool antialiased, const Seen &s,
                                        const Footprint &f, const Shape &d) {
    const float *m = view.matrix;
    FootprintTangent out;
    const auto turned = [&](int r) {
        return m[4 * r] * d.mean[0] + m[4 * r + 1] * d.mean[1] + m[4 * r + 2] * d.mean[2];
    };
    const Vec d_point = {turned(0), turned(1), turned(2)};

    Vec rotation[3], d_axes[3], d_row_x, d_row_y;
    rotation_along(s, d.quaternion, rotation);
    for (int r = 0; r < 3; ++r) {
        const Vec row =
            m[4 * r] * rotation[0] + m[4 * r + 1] * rotation[1] + m[4 * r + 2] * rotation[2];
        d_axes[r] = {row.x * s.scales.x + s.axes[r].x * d.log_scale[0],
                     row.y * s.scales.y + s.axes[r].y * d.log_scale[1],
                     row.z * s.scales.z + s.axes[r].z * d.log_scale[2]};
    }
    Lens::along(view, s.at, s.axes, s.row_x, s.row_y, d_point, d_axes, out.center_x, out.center_y,
                d_row_x, d_row_y);

    const Floats d_xx = 2 * dot(s.row_x, d_row_x), d_yy = 2 * dot(s.row_y, d_row_y);
    const Floats d_xy = dot(s.row_x, d_row_y) + dot(d_row_x, s.row_y);
    const Vec normal = cross(s.row_x, s.row_y);
    const Floats d_sharp = 2 * dot(normal, cross(d_row_x, s.row_y) + cross(s.row_x, d_row_y));
    const Floats d_determinant = d_sharp + BLUR * (d_xx + d_yy);
    const Floats inverse = 1.0f / s.determinant;
    out.conic_xx = inverse * (d_yy - f.conic_xx * d_determinant);
    out.conic_xy = inverse * (-d_xy - f.conic_xy * d_determinant);
    out.conic_yy = inverse * (d_xx - f.conic_yy * d_determinant);

    out.log_opacity = (1 - s.opacity) * d.opacity_logit;
    if (antialiased) {
        const Floats d_ratio =
            inverse * inverse *
            ((s.determinant - s.sharp) * d_sharp - (s.sharp * BLUR) * (d_xx + d_yy));
        out.log_opacity +=
            keep(above(s.filter, fill(1e-4f)), 0.5f * d_ratio / (s.filter * s.filter));
    }
    return out;
}

inline Shape load_direction(const float *const *direction, const Group &g) {
    Shape d;
    load_columns<3>(direction[MEANS], g.index, g.count, 3, d.mean);
    load_columns<4>(direction[QUATERNIONS], g.index, g.count, 4, d.quaternion);
    load_columns<3>(direction[LOG_SCALES], g.index, g.count, 3, d.log_scale);
    load_columns<1>(direction[OPACITY_LOGITS], g.index, g.count, 1, &d.opacity_logit);
    return d;
}

// How the colours of splats move, which the camera sees from another side then.
inline void color_along(const Scene &h, const float *const *direction, const Group &g,
                        const Floats *mean, const Shape &d, const Floats *shown, Floats *out) {
    const int used = rest_of(h.degree);
    Coefficients at, along;
    load_coefficients(direction[BASE], direction[REST_OF_HARMONICS], used, h.rest_count, g.index,
                      g.count, along);
    Floats basis[REST], turn[REST], by_mean[3];
    for (int c = 0; c < 3; ++c) out[c] = C0 * along.base[c];
    if (used) {
        load_coefficients(h.base, h.rest, used, h.rest_count, g.index, g.count, at);
        const struct Direction to = direction_to(mean, h.position);
        basis_at(h.degree, to, basis);
        for (int c = 0; c < 3; ++c) {
            for (int k = 0; k < used; ++k) {
                out[c] += basis[k] * along.rest[k][c];
                turn[k] = at.rest[k][c];
            }
            through_direction(h.degree, to, turn, by_mean);
            for (int i = 0; i < 3; ++i) out[c] += by_mean[i] * d.mean[i];
        }
    }
    // A colour that was clamped at zero does not change.
    for (int c = 0; c < 3; ++c) out[c] = keep(above(shown[c], Floats{}), out[c]);
}

inline void tangents_of(const Scene &scene, const float *const *direction, const Record *records,
                        int count, Tangent *out) {
    Floats shown[3], v[9];
    const Group g = group_of(records, count, shown);
    const Shape shape = load_shape(scene, g.index, count), d = load_direction(direction, g);
    const Seen s = see(scene.view, scene.antialiased, shape);
    const Footprint f = footprint_of(scene.view, s);
    const FootprintTangent t = footprint_along(scene.view, scene.antialiased, s, f, d);
    v[0] = t.log_opacity;
    v[1] = f.conic_xx * t.center_x + f.conic_xy * t.center_y;
    v[2] = -0.5f * t.conic_xx;
    v[3] = f.conic_xy * t.center_x + f.conic_yy * t.center_y;
    v[4] = -t.conic_xy;
    v[5] = -0.5f * t.conic_yy;
    color_along(scene, direction, g, shape.mean, d, shown, v + 6);
    alignas(64) float values[9][LANES];
    for (int k = 0; k < 9; ++k) store(values[k], v[k]);
    for (int i = 0; i < count; ++i) {
        for (int k = 0; k < 6; ++k) out[i].form[k] = values[k][i];
        for (int c = 0; c < 3; ++c) out[i].features[c] = values[6 + c][i];
    }
}

// Gathers how pixels change along a direction: beside the light that is left goes how it changes,
// beside each alpha how it does; of the colours only the change is summed.
struct Changes {
    const Tangent *tangents;
    Floats light[HELD][VECTORS] = {}, sums[3][HELD][VECTORS] = {};
    const Tangent *d = nullptr;
    Floats slope{}, constant{};

    void fetch(uint32_t record) { __builtin_prefetch(tangents + record); }
    void meet(uint32_t record) { d = tangents + record; }
    void at_row(const Ellipse &splat) {
        slope = splat.dy * d->form[4] + d->form[1];
        constant = splat.dy * (splat.dy * d->form[5] + d->form[3]) + d->form[0];
    }
    [[gnu::always_inline]] Floats take(int k, int v, const Ellipse &splat, const Touch &at) {
        const Floats alpha = at.alpha(), weight = alpha * at.left;
        const Floats moved = keep(at.moves(splat), (at.dx * d->form[2] + slope) * at.dx + constant);
        const Floats by = alpha * light[k][v] + weight * moved;
        for (int c = 0; c < 3; ++c)
            sums[c][k][v] += by * splat.r.features[c] + weight * d->features[c];
        light[k][v] -= by;
        return at.left - weight;
    }
};

inline void blend_blocks(const BlendTangents &b, const Place &place) {
    Changes changes{b.tangents};
    Floats left[HELD][VECTORS];
    walk_blocks(*b.tiles, place, changes, left);
    for (int k = 0; k < HELD; ++k)
        for (int v = 0; v < VECTORS; ++v) {
            Floats color[3];
            for (int c = 0; c < 3; ++c) {
                const float behind = b.background ? b.background[c] : 0.0f;
                color[c] = changes.sums[c][k][v] + changes.light[k][v] * behind;
            }
            write<3>(*b.tiles, b.image, {3, 0}, place.x + k * BLOCK, place.y + v * ROWS, color);
        }
}

}  // namespace

void tangents(const Scene &scene, const float *const *direction, const Record *records, int count,
              Tangent *out) {
    for (int n = 0; n < count; n += LANES)
        tangents_of(scene, direction, records + n, count - n < LANES ? count - n : LANES, out + n);
}

void blend_tangents(const BlendTangents &b) {
    const Tiles &t = *b.tiles;
#pragma omp parallel for schedule(dynamic, 4) num_threads(t.threads)
    for (int tile = 0; tile < t.columns * t.rows; ++tile)
        for_each_place(t, tile, t.used[tile], [&](const Place &place) { blend_blocks(b, place); });
}

}  // namespace lumigraph::LUMIGRAPH_ISA
