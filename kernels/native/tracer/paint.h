// Patterns on the shapes' surfaces. Only for *.isa.cpp files.
//
// A pattern is laid out in rows of cells, and the colour of a point depends on its own cell alone.
// Every edge is softened over the width of a pixel, so that few rays for each pixel suffice.
#pragma once

#include "tracer/shapes.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

enum Pattern { PLAIN, DOTS, MOSAIC, BRICKS, TILES, GORES, RINGS, CHECKER };

// A row of the table of materials.
struct Material {
    float pattern;
    float size;       // height of a row
    float aspect;     // length of a cell over the height of its row
    float count;      // repetitions around the axis
    float dot;        // radius of a dot over the height of its row; half width of a joint
    float jitter;     // how far a dot may lie from its cell's middle, in heights
    float variation;  // how much cells differ in brightness
    float rare;       // the part of all cells painted with `third`
    float shine;      // mirrored at normal incidence; 0 for none at all
    float base[3], first[3], second[3], third[3];
    float from, to;  // rows outside of this range show the base only
    float twist;     // turns per unit that a mosaic's motif winds
};
static_assert(sizeof(Material) == MATERIAL_SIZE * sizeof(float));

inline Pattern pattern_of(const Material &m) { return Pattern(int(m.pattern)); }

// The place of a point on a surface: `u` runs along the rows of cells, `v` across them.
struct Chart {
    F u, v;  // v in units of length; u too if the surface is flat, else in turns
    bool flat;
};

inline F polar_radius(Vec p) { return sqrt(p.x * p.x + p.y * p.y); }

// The chart of each kind of shape: polar on the ground, longitude and latitude on an ellipsoid, the
// two axes of a face of a box, angle and height on cones.
inline Chart chart(const Shape &s, Vec point, Vec n) {
    const Vec p = point - vec(s.center);
    switch (kind_of(s)) {
        case GROUND: return {turn(p.y, p.x), polar_radius(p), false};
        case ELLIPSOID: {
            const Vec q = turned(s, p);
            const F x = q.x * (1 / s.size[0]), y = q.y * (1 / s.size[1]), z = q.z * (1 / s.size[2]);
            const F t = turn(z, sqrt(x * x + y * y));
            const F latitude = t > 0.5f ? t - 1.0f : t;
            return {turn(y, x), latitude * (6.2831853f * s.size[2]), false};
        }
        case BOX: {
            const Vec q = turned(s, p), m = turned(s, n);
            const I on_z = absolute(m.z) > 0.5f, on_y = absolute(m.y) > 0.5f;
            return {on_y | on_z ? q.x : q.y, on_z ? q.y : q.z, true};
        }
        case ROD: return {fill(0), fill(0), true};
        default: {  // the top of a frustum goes on inwards where the side ends
            const F v = absolute(n.z) > 0.999f ? s.size[2] + s.top - polar_radius(p) : p.z;
            return {turn(p.y, p.x), v, false};
        }
    }
}

// The radius of the circle that is row `v` of a round surface.
inline F row_radius(const Shape &s, F v) {
    switch (kind_of(s)) {
        case GROUND: return v;
        case ELLIPSOID:
            return cos_turn(v * (0.15915494f / s.size[2])) * (0.5f * (s.size[0] + s.size[1]));
        default: {
            const float k = (s.top - s.radius) / s.size[2];
            return v < s.size[2] ? s.radius + k * v : s.top + s.size[2] - v;
        }
    }
}

// The cell that holds a point, its middle, and the point's place in it.
struct Cell {
    I row, number;
    F u, v;    // of the middle; u in turns on round surfaces
    F du, dv;  // of the point from the middle, in units of length
    F length;  // along the row
};

// The cell at a place of the chart. On round surfaces each row holds a whole number of cells, about
// as long as the material says; every other row of bricks and dots is shifted by half a cell.
inline Cell cell_at(const Shape &s, const Material &m, const Chart &c) {
    Cell cell;
    const F row = floor(c.v * (1 / m.size));
    cell.row = whole(row);
    cell.v = (row + 0.5f) * m.size;
    cell.dv = c.v - cell.v;
    const float wanted = m.size * m.aspect;
    const F shift =
        fract(row * 0.5f) * (pattern_of(m) == BRICKS || pattern_of(m) == DOTS ? 1.0f : 0.0f);
    if (c.flat) {
        const F number = floor(c.u * (1 / wanted) + shift);
        cell.number = whole(number);
        cell.u = (number + 0.5f - shift) * wanted;
        cell.du = c.u - cell.u;
        cell.length = fill(wanted);
    } else {
        const F around = row_radius(s, cell.v) * 6.2831853f;
        const F cells = max(floor(around * (1 / wanted) + 0.5f), fill(1));
        const F at = c.u * cells + shift;
        const F number = floor(at);
        cell.number = whole(number >= cells ? number - cells : number);
        cell.u = (number + 0.5f - shift) / cells;
        cell.length = around / cells;
        cell.du = (at - number - 0.5f) * cell.length;
    }
    return cell;
}

// 1 or 0 by an ornament of two crossing spirals between plain rings.
inline F ornament(const Material &m, const Cell &cell) {
    const F wind = cell.v * m.twist;
    const F left = fract(cell.u * m.count + wind), right = fract(cell.u * m.count - wind);
    const I crossed = (left < 0.5f) ^ (right < 0.5f);
    const F band = fract((cell.v - m.from) * (1 / m.third[0]));
    const I ring = band < m.third[1];
    return (crossed & ~ring) ? fill(1) : fill(0);
}

// A dot at a random place in each cell, in a random colour; dots of a mosaic take the ornament's.
inline Vec dots(const Material &m, const Cell &cell, F width) {
    const F a = scatter(cell.row, cell.number, 1), b = scatter(cell.row, cell.number, 2),
            c = scatter(cell.row, cell.number, 3), pick = scatter(cell.row, cell.number, 4);
    const F x = cell.du - (a - 0.5f) * (2 * m.jitter * m.size);
    const F y = cell.dv - (b - 0.5f) * (2 * m.jitter * m.size);
    const F radius = (0.75f + 0.25f * c) * (m.dot * m.size);
    // Where pixels are larger than cells, the cover fades to the mean over a cell.
    const F mean = fill(2.4f * m.dot * m.dot / m.aspect);
    const F blur = clamp(width * (1.5f / m.size) - 0.75f);
    const F cover = mix(coverage(radius - sqrt(x * x + y * y), width), mean, blur);
    Vec paint;
    if (pattern_of(m) == MOSAIC) {
        paint = mix(vec(m.first), vec(m.second), ornament(m, cell));
    } else {
        paint = mix(vec(m.first), vec(m.second), fract(pick * 16.0f));
        paint = select(pick < m.rare, vec(m.third), paint);
    }
    paint = paint * (1.0f + (c - 0.5f) * (2 * m.variation));
    return mix(vec(m.base), paint, cover);
}

// Bricks in random mixes of two colours, a few in the third, between joints of the base colour.
inline Vec bricks(const Material &m, const Cell &cell, F width) {
    const F a = scatter(cell.row, cell.number, 5), pick = scatter(cell.row, cell.number, 6);
    Vec paint = mix(vec(m.first), vec(m.second), a);
    paint = select(pick < m.rare, vec(m.third), paint);
    const F joint = min(cell.length * 0.5f - absolute(cell.du), 0.5f * m.size - absolute(cell.dv));
    return mix(vec(m.base), paint, coverage(joint - m.dot * m.size, width));
}

// A glazed tile: a disc in a ring, and a quarter of a disc in each corner.
inline Vec tiles(const Material &m, const Cell &cell, F width) {
    const F x = absolute(cell.du), y = absolute(cell.dv), half = cell.length * 0.5f;
    const F center = sqrt(x * x + y * y);
    const F cx = half - x, cy = 0.5f * m.size - y;
    const F corner = sqrt(cx * cx + cy * cy);
    Vec paint = mix(vec(m.first), vec(m.second), coverage(0.34f * m.size - center, width));
    paint = mix(paint, vec(m.third), coverage(0.17f * m.size - center, width));
    paint = mix(paint, vec(m.second), coverage(0.25f * m.size - corner, width));
    return mix(vec(m.base), paint, coverage(min(cx, cy) - m.dot * m.size, width));
}

// 1 where fract(x) < 1/2 and 0 elsewhere, softened; `period` is the length of one repetition.
inline F stripes(F x, F period, F width) {
    return coverage((0.25f - absolute(fract(x + 0.25f) - 0.5f)) * period, width);
}

// The colour of a surface at one point, seen through a filter of the given width.
inline Vec paint(const Shape &s, const Material &m, Vec point, Vec n, F width) {
    const Pattern pattern = pattern_of(m);
    if (pattern == PLAIN || kind_of(s) == ROD) return vec(m.first);
    const Chart c = chart(s, point, n);
    Vec color;
    if (pattern <= TILES) {
        const Cell cell = cell_at(s, m, c);
        color = pattern <= MOSAIC   ? dots(m, cell, width)
                : pattern == BRICKS ? bricks(m, cell, width)
                                    : tiles(m, cell, width);
    } else {
        const F around = c.flat ? fill(m.size * m.count) : row_radius(s, c.v) * 6.2831853f;
        const F turns = c.flat ? c.u * (1 / (m.size * m.count)) : c.u;
        const F gore = stripes(turns * m.count, around * (1 / m.count), width);
        const F ring = stripes(c.v * (1 / m.size), fill(m.size), width);
        const F mixed = pattern == GORES   ? gore
                        : pattern == RINGS ? ring
                                           : gore + ring - 2.0f * gore * ring;
        color = mix(vec(m.first), vec(m.second), mixed);
    }
    // Outside of the range of rows only the base colour is seen.
    const F inside = min(c.v - m.from, m.to - c.v);
    return mix(vec(m.base), color, coverage(inside, width));
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
