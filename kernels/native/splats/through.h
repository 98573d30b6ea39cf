// From gradients by records to those by the parameters of their splats, for a vector of splats.
// Only for *.isa.cpp files.
#pragma once

#include "splats/splat_math.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

// The splats of some rows, from place `from` on.
inline Group group_of(const RecordRows &rows, int64_t from, int count) {
    Group g;
    g.count = count;
    for (int i = 0; i < LANES; ++i) g.index[i] = rows.index[from + (i < count ? i : 0)];
    return g;
}

// A vector of splats projected to a view, and their harmonics.
struct Looked {
    Group group;
    Shape shape;
    Seen seen;
    Direction direction;
    Coefficients coefficients;
    Floats basis[REST];
};

inline Looked look_at(const Scene &scene, const Group &g) {
    Looked l;
    l.group = g;
    l.shape = load_shape(scene, g.index, g.count);
    l.seen = see(scene.view, scene.antialiased, l.shape);
    const int used = rest_of(scene.degree);
    load_coefficients(scene.base, scene.rest, used, scene.rest_count, g.index, g.count,
                      l.coefficients);
    if (used) {
        l.direction = direction_to(l.shape.mean, scene.position);
        basis_at(scene.degree, l.direction, l.basis);
    }
    return l;
}

// The gradient by splats: by their shape, by their colour before it is held at 0, and by their mean
// through the direction that colours are seen from.
struct SplatGradient {
    CovarianceGradient footprint;
    ShapeGradient shape;
    Floats color[3], side[3], absolute[2];
};

inline SplatGradient through_splats(const Scene &scene, const Looked &l, const RecordRows &rows,
                                    int64_t from) {
    SplatGradient out;
    Floats by[ROW];
    int64_t place[LANES];
    for (int i = 0; i < LANES; ++i) place[i] = from + i;
    load_columns<ROW>(rows.numbers, place, l.group.count, ROW, by);

    // Projection: from the centre, the conic, the opacity and the depth to the shape.
    const FootprintGradient footprint = {by[0], by[1], by[2], by[3], by[4], by[5], by[9]};
    out.footprint = through_conic(scene.antialiased, l.seen, footprint);
    out.shape = through_projection(scene.view, l.seen, out.footprint, by[5]);
    out.absolute[0] = by[10], out.absolute[1] = by[11];

    // Harmonics. A colour that is held at 0 does not change.
    const int used = rest_of(scene.degree);
    Floats shown[3], along[REST];
    color_of(used, l.basis, l.coefficients, shown);
    for (int c = 0; c < 3; ++c) {
        out.color[c] = keep(above(shown[c], Floats{}), by[6 + c]);
        out.side[c] = Floats{};
    }
    if (used) {
        for (int k = 0; k < used; ++k) {
            const Floats *row = l.coefficients.rest[k];
            along[k] = out.color[0] * row[0] + out.color[1] * row[1] + out.color[2] * row[2];
        }
        through_direction(scene.degree, l.direction, along, out.side);
        for (int c = 0; c < 3; ++c) out.shape.mean[c] += out.side[c];
    }
    return out;
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
