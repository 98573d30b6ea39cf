// Intersections of rays with shapes, and normals. Only for *.isa.cpp files.
#pragma once

#include "tracer/tracer.h"
#include "tracer/vectors.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

enum Kind { GROUND, ELLIPSOID, BOX, FRUSTUM, SHELL, ROD };

// A row of the table of shapes.
struct Shape {
    float kind, material;
    float center[3];    // the base's centre of a frustum or shell, one end of a rod
    float size[3];      // half axes; z is the height of a frustum or shell; a rod's direction
    float radius, top;  // at the base and at the top; `top` is a rod's length
    float cos, sin;     // of the turn about z
};
static_assert(sizeof(Shape) == SHAPE_SIZE * sizeof(float));

inline Kind kind_of(const Shape &s) { return Kind(int(s.kind)); }

constexpr float FAR = 1e30f;

struct Rays {
    Vec origin, direction;
};

// A point or direction in a shape's own axes, and back.
inline Vec turned(const Shape &s, Vec v) {
    return {v.x * s.cos + v.y * s.sin, v.y * s.cos - v.x * s.sin, v.z};
}
inline Vec turned_back(const Shape &s, Vec v) {
    return {v.x * s.cos - v.y * s.sin, v.y * s.cos + v.x * s.sin, v.z};
}
inline Vec local(const Shape &s, Vec point) { return turned(s, point - vec(s.center)); }

// The ground is a disc: the ray meets its plane, within its radius.
inline F hit_ground(const Shape &s, const Rays &r, float near) {
    const F t = (s.center[2] - r.origin.z) / r.direction.z;
    const Vec p = r.origin + r.direction * t - vec(s.center);
    return ((t > near) & (p.x * p.x + p.y * p.y < s.radius * s.radius)) ? t : fill(FAR);
}

// A ray meets a quadric f = 0 at t0 +- sqrt(-f(t0) / a), where t0 is the ray's nearest point to the
// centre or axis and a is the coefficient of t^2. The usual b^2 - a c would cancel for thin shapes
// far away.
inline F hit_ellipsoid(const Shape &s, const Rays &r, float near) {
    const Vec scale = {fill(1 / s.size[0]), fill(1 / s.size[1]), fill(1 / s.size[2])};
    const Vec o = local(s, r.origin) * scale, d = turned(s, r.direction) * scale;
    const F inverse = 1.0f / dot(d, d), t0 = -dot(o, d) * inverse;
    const Vec p = o + d * t0;
    const F f = dot(p, p) - 1.0f;
    const F t = t0 - sqrt(max(-f * inverse, fill(0)));
    return ((f < 0) & (t > near)) ? t : fill(FAR);
}

// A box is the overlap of three slabs: the ray enters it where it has entered the last slab.
inline F hit_box(const Shape &s, const Rays &r, float near) {
    const Vec o = local(s, r.origin), d = turned(s, r.direction);
    const Vec inverse = {1.0f / d.x, 1.0f / d.y, 1.0f / d.z};
    const Vec half = vec(s.size), middle = o * inverse;
    const Vec reach = {absolute(inverse.x) * half.x, absolute(inverse.y) * half.y,
                       absolute(inverse.z) * half.z};
    const F enter = max(max(-middle.x - reach.x, -middle.y - reach.y), -middle.z - reach.z);
    const F leave = min(min(reach.x - middle.x, reach.y - middle.y), reach.z - middle.z);
    return ((enter < leave) & (enter > near)) ? enter : fill(FAR);
}

// The two points where a ray's line crosses a cone, at t = middle -+ half. The cone's radius goes
// from s.radius at z = 0 to s.top at z = s.size[2].
struct Crossing {
    F middle, half;
    I meets;  // whether there are such points
    I opens;  // whether the line is inside the cone beyond them, rather than between them
};

inline Crossing cross_cone(const Shape &s, Vec o, Vec d) {
    const float k = (s.top - s.radius) / s.size[2];
    const F rho = s.radius + k * o.z;
    const F a = d.x * d.x + d.y * d.y - k * k * d.z * d.z, inverse = 1.0f / a;
    const F middle = -(o.x * d.x + o.y * d.y - k * d.z * rho) * inverse;
    const F x = o.x + d.x * middle, y = o.y + d.y * middle, q = rho + k * d.z * middle;
    const F square = (q * q - x * x - y * y) * inverse;
    return {middle, sqrt(max(square, fill(0))), square > 0, a < 0};
}

// A shell is the side of a cone alone, seen from both sides: the nearer crossing of the right
// height.
inline F hit_shell(const Shape &s, const Rays &r, float near) {
    const Vec o = r.origin - vec(s.center), d = r.direction;
    const Crossing c = cross_cone(s, o, d);
    F t = fill(FAR);
    for (int sign = 1; sign >= -1; sign -= 2) {
        const F at = c.middle + c.half * float(sign), z = o.z + d.z * at;
        t = (c.meets & (at > near) & (z >= 0) & (z <= s.size[2])) ? at : t;
    }
    return t;
}

// A ray from outside enters a frustum through its side or through the end that faces the ray.
inline F hit_frustum(const Shape &s, const Rays &r, float near) {
    const Vec o = r.origin - vec(s.center), d = r.direction;
    const Crossing c = cross_cone(s, o, d);
    const F side = c.opens ? c.middle + c.half : c.middle - c.half;
    const F z = o.z + d.z * side;
    const I on_side = c.meets & (side > near) & (z >= 0) & (z <= s.size[2]);
    const I rising = d.z > 0;
    const F cap = ((rising ? fill(0) : fill(s.size[2])) - o.z) / d.z;
    const F radius = rising ? fill(s.radius) : fill(s.top);
    const F x = o.x + d.x * cap, y = o.y + d.y * cap;
    const I on_cap = (cap > near) & (x * x + y * y < radius * radius);
    return on_cap ? cap : on_side ? side : fill(FAR);
}

// A rod is a cylinder without ends, which other shapes hide.
inline F hit_rod(const Shape &s, const Rays &r, float near) {
    const Vec u = vec(s.size), o = r.origin - vec(s.center), d = r.direction;
    const F along_o = dot(o, u), along_d = dot(d, u);
    const Vec across_o = o - u * along_o, across_d = d - u * along_d;
    const F inverse = 1.0f / dot(across_d, across_d), t0 = -dot(across_o, across_d) * inverse;
    const Vec p = across_o + across_d * t0;
    const F f = dot(p, p) - s.radius * s.radius;
    const F t = t0 - sqrt(max(-f * inverse, fill(0)));
    const F h = along_o + t * along_d;
    return ((f < 0) & (t > near) & (h > 0) & (h < s.top)) ? t : fill(FAR);
}

// The smallest t > near at which each ray meets the shape, or FAR.
inline F hit(const Shape &s, const Rays &r, float near) {
    switch (kind_of(s)) {
        case GROUND: return hit_ground(s, r, near);
        case ELLIPSOID: return hit_ellipsoid(s, r, near);
        case BOX: return hit_box(s, r, near);
        case FRUSTUM: return hit_frustum(s, r, near);
        case SHELL: return hit_shell(s, r, near);
        default: return hit_rod(s, r, near);
    }
}

// The outward normal of the face of a box on which a point lies, both in the box's own axes.
inline Vec box_normal(const Shape &s, Vec p) {
    const F x = absolute(p.x) / s.size[0], y = absolute(p.y) / s.size[1],
            z = absolute(p.z) / s.size[2];
    const I on_z = (z >= x) & (z >= y), on_y = ~on_z & (y >= x);
    const F zero = fill(0), one = fill(1);
    return {on_z | on_y ? zero : (p.x < 0 ? -one : one), on_y ? (p.y < 0 ? -one : one) : zero,
            on_z ? (p.z < 0 ? -one : one) : zero};
}

// The end of a frustum on which a point lies: -1 for the lower, 1 for the upper, 0 for the side.
// The point is relative to the base.
inline F frustum_end(const Shape &s, Vec p) {
    const F tolerance = fill(2e-5f);
    const F side =
        absolute(sqrt(p.x * p.x + p.y * p.y) - (s.radius + (s.top - s.radius) / s.size[2] * p.z));
    const F low = absolute(p.z), high = absolute(p.z - s.size[2]);
    return ((high < tolerance) & (high < side)) ? fill(1)
           : ((low < tolerance) & (low < side)) ? fill(-1)
                                                : fill(0);
}

// The normal of a cone's side is its gradient.
inline Vec side_normal(const Shape &s, Vec p) {
    const float k = (s.top - s.radius) / s.size[2];
    return unit({p.x, p.y, -k * (s.radius + k * p.z)});
}

// The unit outward normal at a point of the shape.
inline Vec normal(const Shape &s, Vec point) {
    const Vec p = point - vec(s.center);
    const Vec up = {fill(0), fill(0), fill(1)};
    switch (kind_of(s)) {
        case GROUND: return up;
        case ELLIPSOID: {
            const Vec q = turned(s, p);
            return turned_back(s,
                               unit({q.x / (s.size[0] * s.size[0]), q.y / (s.size[1] * s.size[1]),
                                     q.z / (s.size[2] * s.size[2])}));
        }
        case BOX: return turned_back(s, box_normal(s, turned(s, p)));
        case FRUSTUM: {
            const F end = frustum_end(s, p);
            return select(end != 0, up * end, side_normal(s, p));
        }
        case SHELL: return side_normal(s, p);
        default: {
            const Vec u = vec(s.size);
            return unit(p - u * dot(p, u));
        }
    }
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
