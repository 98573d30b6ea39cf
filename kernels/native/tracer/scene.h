// The scene with bounds of its shapes, and the search for the shapes that rays meet.
//
// Only for *.isa.cpp files.
#pragma once

#include "tracer/paint.h"
#include "tracer/shapes.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr float NEAR = 1e-3f;  // hits nearer to a ray's origin do not count

struct Light {
    float sun[3];  // direction towards it, of length one
    float sun_color[3], sky[3], bounce[3];
    float zenith[3], horizon[3], cloud[3], glow[3];
};
static_assert(sizeof(Light) == LIGHT_SIZE * sizeof(float));

struct Puff {
    float direction[3], width, height, weight;
};
static_assert(sizeof(Puff) == PUFF_SIZE * sizeof(float));

// Bounds of the shapes' projections to a plane: the image, or the plane across the sunlight. Each
// has a box and a strip along the shape, which is far narrower around a slanting rod.
struct Bounds {
    alignas(64) float low_x[MAX_SHAPES], high_x[MAX_SHAPES], low_y[MAX_SHAPES], high_y[MAX_SHAPES];
    alignas(64) float across_x[MAX_SHAPES], across_y[MAX_SHAPES];  // the strip's normal
    alignas(64) float low[MAX_SHAPES], high[MAX_SHAPES];           // along that normal
    alignas(64) float from[MAX_SHAPES], reach[MAX_SHAPES];         // least and most depth
};

// Bounding spheres of the shapes.
struct Balls {
    alignas(64) float x[MAX_SHAPES], y[MAX_SHAPES], z[MAX_SHAPES], radius[MAX_SHAPES];
};

struct Scene {
    const Shape *shapes;
    const Material *materials;
    const Puff *puffs;
    const Light *light;
    int count, puff_count;
    float across[3], along[3];  // two directions that span the plane across the sunlight
    Bounds shadows, screen;
    Balls balls;
};

// The first hit of each ray: its distance and its shape, FAR and -1 if there is none.
struct Hits {
    F t;
    I shape;
};

// Points with a convex hull that contains the shape: the corners of a box, or of a box at each end
// of a rod. Returns their number.
int hull(const Shape &s, float points[16][3]) {
    const Kind kind = kind_of(s);
    const bool rod = kind == ROD, solid = kind == BOX || kind == ELLIPSOID;
    const bool stands = kind == FRUSTUM || kind == SHELL;
    // A turned box reaches further; anything round about z is as wide as its wider end.
    const float turned = __builtin_fabsf(s.cos) + __builtin_fabsf(s.sin);
    const float side = solid ? turned * __builtin_fmaxf(s.size[0], s.size[1])
                       : rod ? s.radius
                             : __builtin_fmaxf(s.radius, s.top);
    const float down = rod ? side : solid ? s.size[2] : 0;
    const float up = stands ? s.size[2] : down;
    for (int i = 0; i < (rod ? 16 : 8); ++i) {
        const float along = i < 8 ? 0 : s.top;
        points[i][0] = s.center[0] + s.size[0] * along + (i & 1 ? side : -side);
        points[i][1] = s.center[1] + s.size[1] * along + (i & 2 ? side : -side);
        points[i][2] = s.center[2] + s.size[2] * along + (i & 4 ? up : -down);
    }
    return rod ? 16 : 8;
}

float least(const float *values, int n) {
    float best = FAR;
    for (int i = 0; i < n; ++i) best = __builtin_fminf(best, values[i]);
    return best;
}

float most(const float *values, int n) {
    float best = -FAR;
    for (int i = 0; i < n; ++i) best = __builtin_fmaxf(best, values[i]);
    return best;
}

// Bounds the i-th shape by the projections of its hull's points, `n` places (x, y) with depths.
void bound(Bounds &b, int i, const float *x, const float *y, const float *reach, int n) {
    b.low_x[i] = least(x, n), b.high_x[i] = most(x, n);
    b.low_y[i] = least(y, n), b.high_y[i] = most(y, n);
    b.from[i] = least(reach, n), b.reach[i] = most(reach, n);
    const float dx = n > 8 ? x[8] - x[0] : 0, dy = n > 8 ? y[8] - y[0] : 0;
    const float length = __builtin_sqrtf(dx * dx + dy * dy);
    b.across_x[i] = length > 0 ? -dy / length : 0.70710678f;
    b.across_y[i] = length > 0 ? dx / length : 0.70710678f;
    float at[16];
    for (int j = 0; j < n; ++j) at[j] = b.across_x[i] * x[j] + b.across_y[i] * y[j];
    b.low[i] = least(at, n), b.high[i] = most(at, n);
}

// Gives the i-th shape bounds that every box meets, or none.
void bound_trivially(Bounds &b, int i, bool met) {
    const float low = met ? -FAR : FAR;
    b.low_x[i] = b.low_y[i] = b.low[i] = low;
    b.high_x[i] = b.high_y[i] = b.high[i] = b.reach[i] = -low;
    b.from[i] = 0;
    b.across_x[i] = b.across_y[i] = 0;
}

float dot3(const float *a, const float *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// Bounds along the sunlight, on the plane across it. The ground casts no shadow.
void bound_shadows(Scene &scene) {
    const float *sun = scene.light->sun;
    const float flat = __builtin_sqrtf(sun[0] * sun[0] + sun[1] * sun[1]);
    const float across[3] = {-sun[1] / flat, sun[0] / flat, 0};
    for (int k = 0; k < 3; ++k) scene.across[k] = across[k];
    scene.along[0] = sun[1] * across[2] - sun[2] * across[1];
    scene.along[1] = sun[2] * across[0] - sun[0] * across[2];
    scene.along[2] = sun[0] * across[1] - sun[1] * across[0];
    for (int i = 0; i < MAX_SHAPES; ++i) {
        bound_trivially(scene.shadows, i, false);
        if (i >= scene.count || kind_of(scene.shapes[i]) == GROUND) continue;
        float points[16][3], x[16], y[16], reach[16];
        const int n = hull(scene.shapes[i], points);
        for (int j = 0; j < n; ++j) {
            x[j] = dot3(points[j], scene.across);
            y[j] = dot3(points[j], scene.along);
            reach[j] = dot3(points[j], sun);
        }
        bound(scene.shadows, i, x, y, reach, n);
    }
}

// Whether all points, given in the camera's axes, lie beyond one border of the image.
bool off_screen(const TraceCamera &c, const float points[16][3], int n) {
    const float borders[4][3] = {{-c.focal[0], 0, -c.center[0]},
                                 {c.focal[0], 0, c.center[0] - float(c.width)},
                                 {0, -c.focal[1], -c.center[1]},
                                 {0, c.focal[1], c.center[1] - float(c.height)}};
    for (const auto &border : borders) {
        bool beyond = true;
        for (int j = 0; j < n; ++j) beyond &= dot3(border, points[j]) > 0;
        if (beyond) return true;
    }
    return false;
}

// Bounds in the image. A shape that reaches behind the camera has no bounded projection: every tile
// must look at it, unless it is behind the camera or off the image as a whole.
void bound_screen(Scene &scene, const TraceCamera &c) {
    for (int i = 0; i < MAX_SHAPES; ++i) {
        bound_trivially(scene.screen, i, false);
        if (i >= scene.count) continue;
        float points[16][3], x[16], y[16], z[16];
        const int n = hull(scene.shapes[i], points);
        for (int j = 0; j < n; ++j) {
            float at[3];
            for (int k = 0; k < 3; ++k)
                at[k] = dot3(c.rotation + 3 * k, points[j]) + c.translation[k];
            for (int k = 0; k < 3; ++k) points[j][k] = at[k];
            x[j] = at[0] / at[2] * c.focal[0] + c.center[0];
            y[j] = at[1] / at[2] * c.focal[1] + c.center[1];
            z[j] = at[2];
        }
        if (least(z, n) < 0.05f)
            bound_trivially(scene.screen, i, most(z, n) > 0 && !off_screen(c, points, n));
        else
            bound(scene.screen, i, x, y, z, n);
    }
}

// Spheres around the boxes of the shapes; rows without a shape get one that no cone touches.
void bound_balls(Scene &scene) {
    for (int i = 0; i < MAX_SHAPES; ++i) {
        float points[16][3], low[3] = {FAR, FAR, FAR}, high[3] = {-FAR, -FAR, -FAR}, square = 0;
        const int n = i < scene.count ? hull(scene.shapes[i], points) : 0;
        for (int j = 0; j < n; ++j)
            for (int k = 0; k < 3; ++k) {
                low[k] = __builtin_fminf(low[k], points[j][k]);
                high[k] = __builtin_fmaxf(high[k], points[j][k]);
            }
        for (int k = 0; k < 3; ++k) square += 0.25f * (high[k] - low[k]) * (high[k] - low[k]);
        scene.balls.x[i] = 0.5f * (low[0] + high[0]);
        scene.balls.y[i] = 0.5f * (low[1] + high[1]);
        scene.balls.z[i] = 0.5f * (low[2] + high[2]);
        scene.balls.radius[i] = n ? __builtin_sqrtf(square) : -FAR;
    }
}

struct Box {
    float low_x, high_x, low_y, high_y;
};

// Lists the shapes with bounds that meet a box and reach beyond a depth, and returns their number.
int meeting(const Bounds &b, int count, const Box &box, float beyond, int16_t *list) {
    const float x = 0.5f * (box.low_x + box.high_x), half_x = 0.5f * (box.high_x - box.low_x);
    const float y = 0.5f * (box.low_y + box.high_y), half_y = 0.5f * (box.high_y - box.low_y);
    int n = 0;
    for (int i = 0; i < count; i += LANES) {
        const auto at = [i](const float *values) { return *(const F *)(values + i); };
        I meets = (at(b.low_x) <= box.high_x) & (at(b.high_x) >= box.low_x) &
                  (at(b.low_y) <= box.high_y) & (at(b.high_y) >= box.low_y) &
                  (at(b.reach) >= beyond);
        if (!any(meets)) continue;
        // The strip along the shape: both intervals along its normal must overlap.
        const F nx = at(b.across_x), ny = at(b.across_y);
        const F middle = nx * x + ny * y, half = absolute(nx) * half_x + absolute(ny) * half_y;
        meets &= (at(b.low) <= middle + half) & (at(b.high) >= middle - half);
        for (int lane = 0; lane < LANES; ++lane)
            if (meets[lane] && i + lane < count) list[n++] = int16_t(i + lane);
    }
    return n;
}

// The nearest hits with the shapes of a list. `from` holds for each shape a t before which no ray
// meets it, or is null; if it is given, the list must be sorted by it.
Hits nearest(const Scene &scene, const Rays &rays, const int16_t *list, int count,
             const float *from) {
    Hits best = {fill(FAR), I{} - 1};
    for (int k = 0; k < count; ++k) {
        const int i = list[k];
        if (from && !any(best.t > from[i])) break;
        const F t = hit(scene.shapes[i], rays, NEAR);
        const I closer = t < best.t;
        best.t = closer ? t : best.t;
        best.shape = closer ? I{} + i : best.shape;
    }
    return best;
}

// Insertion sort of a short list by its keys.
void sort(int16_t *list, int count, const float *keys) {
    for (int i = 1; i < count; ++i) {
        const int16_t moved = list[i];
        int j = i;
        for (; j > 0 && keys[list[j - 1]] > keys[moved]; --j) list[j] = list[j - 1];
        list[j] = moved;
    }
}

// The least of some lanes.
float lowest(F x, I lanes) {
    float best = FAR;
    for (int i = 0; i < LANES; ++i)
        if (lanes[i] && x[i] < best) best = x[i];
    return best;
}

// The mean of some lanes, at least one.
float mean(F x, I lanes) {
    float sum = 0, count = 0;
    for (int i = 0; i < LANES; ++i)
        if (lanes[i]) sum += x[i], count += 1;
    return sum / count;
}

// Lists the shapes that a bundle of rays may meet: those with a bounding sphere that touches the
// cone around the bundle. Directions have length one. Returns their number.
int near_bundle(const Scene &scene, const Rays &rays, I lanes, int16_t *list) {
    const float o[3] = {mean(rays.origin.x, lanes), mean(rays.origin.y, lanes),
                        mean(rays.origin.z, lanes)};
    const float d[3] = {mean(rays.direction.x, lanes), mean(rays.direction.y, lanes),
                        mean(rays.direction.z, lanes)};
    const Vec off = rays.origin - vec(o), aside = rays.direction - vec(d);
    const float start = -lowest(-sqrt(dot(off, off)), lanes);
    const float spread = -lowest(-sqrt(dot(aside, aside)), lanes);
    const float length = dot3(d, d);
    // Around the mean ray, the cone is `start` wide at its origin and widens by `spread`.
    int n = 0;
    for (int i = 0; i < scene.count; i += LANES) {
        const auto at = [i](const float *values) { return *(const F *)(values + i); };
        const Vec v = Vec{at(scene.balls.x), at(scene.balls.y), at(scene.balls.z)} - vec(o);
        const F square = dot(v, v), radius = at(scene.balls.radius) + start;
        const F reach = radius + (sqrt(square) + radius) * spread;
        // The gap between the sphere's centre and the mean ray, which begins at its origin.
        const F along = max(dot(v, vec(d)), fill(0)) * (1 / length);
        const Vec gap = v - vec(d) * along;
        const I meets = (dot(gap, gap) <= reach * reach) & (reach >= 0);
        if (!any(meets)) continue;
        for (int lane = 0; lane < LANES; ++lane)
            if (meets[lane] && i + lane < scene.count) list[n++] = int16_t(i + lane);
    }
    return n;
}

// The points, among some lanes, that lie in the shadow of a shape.
I shadowed(const Scene &scene, Vec points, I lanes) {
    const Vec sun = vec(scene.light->sun);
    const F x = dot(points, vec(scene.across)), y = dot(points, vec(scene.along)),
            w = dot(points, sun);
    const Box box = {lowest(x, lanes), -lowest(-x, lanes), lowest(y, lanes), -lowest(-y, lanes)};
    int16_t list[MAX_SHAPES];
    const int n = meeting(scene.shadows, scene.count, box, lowest(w, lanes), list);
    I dark = I{};
    for (int k = 0; k < n && any(lanes & ~dark); ++k)
        dark |= hit(scene.shapes[list[k]], {points, sun}, NEAR) < FAR;
    return dark & lanes;
}

Scene scene_of(const TraceScene &s, const TraceCamera &camera) {
    Scene scene;
    scene.shapes = (const Shape *)s.shapes;
    scene.materials = (const Material *)s.materials;
    scene.puffs = (const Puff *)s.puffs;
    scene.light = (const Light *)s.light;
    scene.count = s.shape_count;
    scene.puff_count = s.puff_count;
    bound_shadows(scene);
    bound_screen(scene, camera);
    bound_balls(scene);
    return scene;
}

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
