// Gradients by records: from the slots of a picture to rows, and from rows to the parameters of the
// splats and to the view.
#include "common/levels.h"
#include "splats/rows.h"
#include "splats/slots.h"
#include "splats/through.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// Sums the slots of a vector of records, and writes or adds them to the rows of the records.
inline void sum_group(const RowSums &s, int64_t from, int count) {
    const Record *records = s.records + from;
    Floats sums[SLOT], row[ROW] = {};
    sum_columns(records, count, s.slots, sums);

    // From the moments to the centre, the conic and the opacity, by the conic that the record has.
    alignas(64) float conics[4][LANES];
    for (int i = 0; i < LANES; ++i) {
        const Record &r = records[i < count ? i : 0];
        conics[0][i] = r.xx * (-2 / LOG2E), conics[1][i] = r.xy * (-1 / LOG2E);
        conics[2][i] = r.yy * (-2 / LOG2E), conics[3][i] = r.opacity;
    }
    through_alpha(sums, load(conics[0]), load(conics[1]), load(conics[2]), load(conics[3]), row);
    row[10] = sums[10], row[11] = sums[11];

    // The channels are the colours, or features in a tensor of their own.
    Group g;
    g.count = count;
    for (int i = 0; i < LANES; ++i) g.index[i] = s.places ? s.places[from + i] : s.first + from + i;
    if (!s.features) {
        for (int c = 0; c < 3; ++c) row[6 + c] = sums[6 + c];
    } else {
        alignas(64) float channels[4][LANES];
        for (int c = 0; c < s.channels; ++c) store(channels[c], sums[6 + c]);
        for (int i = 0; i < count; ++i)
            for (int c = 0; c < s.channels; ++c)
                s.features[g.index[i] * s.stride + s.offset + c] = channels[c][i];
    }
    if (s.add)
        add_rows<ROW>(row, g, s.rows, ROW);
    else
        put_rows<ROW>(row, g, s.rows);
}

// Adds the gradient by the parameters of a vector of splats to rows like those of the parameters.
inline void add_gradient_of(const Scene &scene, const RecordRows &rows, int64_t from, int count,
                            float *const *out) {
    const Looked l = look_at(scene, group_of(rows, from, count));
    const SplatGradient g = through_splats(scene, l, rows, from);
    const int used = rest_of(scene.degree);
    Floats base[3], rest[3 * REST];
    for (int c = 0; c < 3; ++c) base[c] = C0 * g.color[c];
    for (int k = 0; k < used; ++k)
        for (int c = 0; c < 3; ++c) rest[3 * k + c] = l.basis[k] * g.color[c];
    add_harmonics(used, rest, l.group, out[REST_OF_HARMONICS], 3 * scene.rest_count);
    add_rows<3>(g.shape.mean, l.group, out[MEANS], 3);
    add_rows<4>(g.shape.quaternion, l.group, out[QUATERNIONS], 4);
    add_rows<3>(g.shape.log_scale, l.group, out[LOG_SCALES], 3);
    add_rows<1>(&g.shape.opacity_logit, l.group, out[OPACITY_LOGITS], 1);
    add_rows<3>(base, l.group, out[BASE], 3);
}

// Adds the gradient by the view of a vector of splats to sums of one number a lane: the rows of the
// matrix, the focal lengths and the principal point.
inline void add_view_gradient_of(const Scene &scene, const RecordRows &rows, int64_t from,
                                 int count, Floats *sums) {
    const View &view = scene.view;
    const float *m = view.matrix;
    const Looked l = look_at(scene, group_of(rows, from, count));
    const SplatGradient g = through_splats(scene, l, rows, from);
    const Seen &s = l.seen;
    const PlaneGradient plane = through_plane(view, s, g.footprint);
    const Mask some = above(fill(float(count)), iota());
    const auto add = [&](int k, Floats x) { sums[k] += keep(some, x); };

    // The matrix turns and moves the mean, and turns the axes of the splat.
    const Floats by_point[3] = {plane.point.x, plane.point.y, plane.point.z};
    for (int r = 0; r < 3; ++r) {
        for (int k = 0; k < 3; ++k) {
            const Vec axis = {s.rotation[k].x * s.scales.x, s.rotation[k].y * s.scales.y,
                              s.rotation[k].z * s.scales.z};
            add(4 * r + k, by_point[r] * l.shape.mean[k] + dot(plane.axes[r], axis));
        }
        add(4 * r + 3, by_point[r]);
    }
    // It also gives the place of the camera, -R^T t, and so the direction that colours are seen
    // from.
    for (int r = 0; r < 3; ++r) {
        for (int k = 0; k < 3; ++k) add(4 * r + k, m[4 * r + 3] * g.side[k]);
        add(4 * r + 3, m[4 * r] * g.side[0] + m[4 * r + 1] * g.side[1] + m[4 * r + 2] * g.side[2]);
    }
    for (int k = 0; k < 4; ++k) add(12 + k, plane.lens[k]);
}

}  // namespace

void sum_rows(const RowSums &s) {
    for (int64_t n = 0; n < s.count; n += LANES)
        sum_group(s, n, s.count - n < LANES ? int(s.count - n) : LANES);
}

void add_gradient(const Scene &scene, const RecordRows &rows, int64_t from, int64_t to,
                  float *const *out) {
    for (int64_t n = from; n < to; n += LANES)
        add_gradient_of(scene, rows, n, to - n < LANES ? int(to - n) : LANES, out);
}

void view_gradient(const Scene &scene, const RecordRows &rows, int64_t from, int64_t to,
                   double *out) {
    Floats sums[VIEW_NUMBERS] = {};
    for (int64_t n = from; n < to; n += LANES)
        add_view_gradient_of(scene, rows, n, to - n < LANES ? int(to - n) : LANES, sums);
    for (int k = 0; k < VIEW_NUMBERS; ++k) out[k] = double(total(sums[k]));
}

}  // namespace lumigraph::LUMIGRAPH_ISA
