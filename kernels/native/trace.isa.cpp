// One instruction set's ray tracer of the built-in scene: a register of rays at a time.
#include "trace.h"

#include "trace_paint.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int TILE = 16;  // pixels; each tile is worked by one thread
constexpr int BLOCK_X = LANES < 4 ? LANES : 4, BLOCK_Y = LANES / BLOCK_X;
constexpr float NEAR = 1e-3f;
constexpr float LIFT = 5e-4f;  // secondary rays start this far from the surface
constexpr float BUSY = 0.06f;  // a pixel whose first samples differ by more gets them all

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

// What holds the shapes as something flat sees them, the image or the plane across the sunlight:
// a box, and a strip along the shape, which is far narrower where the shape is a slanting rod.
struct Bounds {
    alignas(64) float low_x[MAX_SHAPES], high_x[MAX_SHAPES], low_y[MAX_SHAPES], high_y[MAX_SHAPES];
    alignas(64) float across_x[MAX_SHAPES], across_y[MAX_SHAPES];  // the strip's normal
    alignas(64) float low[MAX_SHAPES], high[MAX_SHAPES];           // along that normal
    alignas(64) float reach[MAX_SHAPES];                           // along the third axis
};

// Balls around the shapes.
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

struct Hits {
    F t;
    I shape;
};

// Points whose hull holds the shape: the corners of one box, or of one at each end of a rod.
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

// Bounds the i-th shape by the places its hull is seen at.
void bound(Bounds &b, int i, const float *x, const float *y, const float *reach, int n) {
    b.low_x[i] = least(x, n), b.high_x[i] = most(x, n);
    b.low_y[i] = least(y, n), b.high_y[i] = most(y, n);
    b.reach[i] = most(reach, n);
    const float dx = n > 8 ? x[8] - x[0] : 0, dy = n > 8 ? y[8] - y[0] : 0;
    const float length = __builtin_sqrtf(dx * dx + dy * dy);
    b.across_x[i] = length > 0 ? -dy / length : 0.70710678f;
    b.across_y[i] = length > 0 ? dx / length : 0.70710678f;
    float at[16];
    for (int j = 0; j < n; ++j) at[j] = b.across_x[i] * x[j] + b.across_y[i] * y[j];
    b.low[i] = least(at, n), b.high[i] = most(at, n);
}

// Makes the i-th shape one that is always met, or never.
void bound_trivially(Bounds &b, int i, bool met) {
    const float low = met ? -FAR : FAR;
    b.low_x[i] = b.low_y[i] = b.low[i] = low;
    b.high_x[i] = b.high_y[i] = b.high[i] = b.reach[i] = -low;
    b.across_x[i] = b.across_y[i] = 0;
}

float dot3(const float *a, const float *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

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

void bound_screen(Scene &scene, const TraceCamera &c) {
    for (int i = 0; i < MAX_SHAPES; ++i) {
        bound_trivially(scene.screen, i, false);
        if (i >= scene.count) continue;
        float points[16][3], x[16], y[16], z[16];
        const int n = hull(scene.shapes[i], points);
        for (int j = 0; j < n; ++j) {
            z[j] = dot3(c.rotation + 6, points[j]) + c.translation[2];
            x[j] =
                (dot3(c.rotation, points[j]) + c.translation[0]) / z[j] * c.focal[0] + c.center[0];
            y[j] = (dot3(c.rotation + 3, points[j]) + c.translation[1]) / z[j] * c.focal[1] +
                   c.center[1];
        }
        if (least(z, n) < 0.05f)
            bound_trivially(scene.screen, i, most(z, n) > 0);
        else
            bound(scene.screen, i, x, y, z, n);
    }
}

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

// The shapes whose bounds meet a box and reach beyond a plane.
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
        const F nx = at(b.across_x), ny = at(b.across_y);
        const F middle = nx * x + ny * y, half = absolute(nx) * half_x + absolute(ny) * half_y;
        meets &= (at(b.low) <= middle + half) & (at(b.high) >= middle - half);
        for (int lane = 0; lane < LANES; ++lane)
            if (meets[lane] && i + lane < count) list[n++] = int16_t(i + lane);
    }
    return n;
}

Hits nearest(const Scene &scene, const Rays &rays, const int16_t *list, int count) {
    Hits best = {fill(FAR), I{} - 1};
    for (int k = 0; k < count; ++k) {
        const int i = list ? list[k] : k;
        const F t = hit(scene.shapes[i], rays, NEAR);
        const I closer = t < best.t;
        best.t = closer ? t : best.t;
        best.shape = closer ? I{} + i : best.shape;
    }
    return best;
}

float lowest(F x, I lanes) {
    float best = FAR;
    for (int i = 0; i < LANES; ++i)
        if (lanes[i] && x[i] < best) best = x[i];
    return best;
}

// The mean over some lanes, of which there is at least one.
float mean(F x, I lanes) {
    float sum = 0, count = 0;
    for (int i = 0; i < LANES; ++i)
        if (lanes[i]) sum += x[i], count += 1;
    return sum / count;
}

// The shapes that a bundle of rays with directions of length one may meet: those whose ball
// touches the cone that holds the bundle.
int near_bundle(const Scene &scene, const Rays &rays, I lanes, int16_t *list) {
    const float o[3] = {mean(rays.origin.x, lanes), mean(rays.origin.y, lanes),
                        mean(rays.origin.z, lanes)};
    const float d[3] = {mean(rays.direction.x, lanes), mean(rays.direction.y, lanes),
                        mean(rays.direction.z, lanes)};
    const Vec off = rays.origin - vec(o), aside = rays.direction - vec(d);
    const float start = -lowest(-sqrt(dot(off, off)), lanes);
    const float spread = -lowest(-sqrt(dot(aside, aside)), lanes);
    const float length = dot3(d, d);
    int n = 0;
    for (int i = 0; i < scene.count; i += LANES) {
        const auto at = [i](const float *values) { return *(const F *)(values + i); };
        const Vec v = Vec{at(scene.balls.x), at(scene.balls.y), at(scene.balls.z)} - vec(o);
        const F square = dot(v, v), radius = at(scene.balls.radius) + start;
        const F reach = radius + (sqrt(square) + radius) * spread;
        // Distance from the ball's centre to the mean ray's line, and whether it lies ahead.
        const F along = max(dot(v, vec(d)), fill(0)) * (1 / length);
        const Vec gap = v - vec(d) * along;
        const I meets = (dot(gap, gap) <= reach * reach) & (reach >= 0);
        if (!any(meets)) continue;
        for (int lane = 0; lane < LANES; ++lane)
            if (meets[lane] && i + lane < scene.count) list[n++] = int16_t(i + lane);
    }
    return n;
}

// Which of the points the sun does not reach.
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

// The colour of the sky in a direction of length one.
Vec sky(const Scene &scene, Vec d) {
    const Light &light = *scene.light;
    const F rise = clamp(1.0f - d.z), rise2 = rise * rise;
    Vec color = mix(vec(light.zenith), vec(light.horizon), rise2 * rise2);
    F cover = fill(0);
    for (int i = 0; i < scene.puff_count; ++i) {
        const Puff &p = scene.puffs[i];
        const F x = d.x - p.direction[0], y = d.y - p.direction[1], z = d.z - p.direction[2];
        const F near = max(1.0f - (x * x + y * y) * (1 / (p.width * p.width)) -
                               z * z * (1 / (p.height * p.height)),
                           fill(0));
        cover += near * near * p.weight;
    }
    color = mix(color, vec(light.cloud), min(cover, fill(1)));
    const F toward = max(dot(d, vec(light.sun)), fill(0)), glow = toward * toward * toward;
    return color + vec(light.glow) * (glow * glow);
}

struct Surface {
    Vec point, normal, albedo;
    F shine;
};

// Position, normal (towards the viewer), paint and shine of what the rays meet.
Surface surface_at(const Scene &scene, const Rays &rays, const Hits &hits, I lanes, F width) {
    Surface at = {rays.origin + rays.direction * (lanes ? hits.t : fill(0)), {}, {}, fill(0)};
    for (I left = lanes; any(left);) {
        int i = 0;
        for (int lane = 0; lane < LANES; ++lane)
            if (left[lane]) i = hits.shape[lane];
        const I same = left & (hits.shape == i);
        left &= ~same;
        const Shape &shape = scene.shapes[i];
        const Material &material = scene.materials[int(shape.material)];
        const Vec n = normal(shape, at.point);
        at.albedo = select(same, paint(shape, material, at.point, n, width), at.albedo);
        at.normal = select(same, n, at.normal);
        at.shine = same ? fill(material.shine) : at.shine;
    }
    const F facing = dot(at.normal, rays.direction);
    at.normal = select(facing > 0, at.normal * fill(-1), at.normal);
    return at;
}

Vec lit(const Scene &scene, const Surface &at, I lanes, F &sunlight) {
    const Light &light = *scene.light;
    const F slope = dot(at.normal, vec(light.sun));
    const I bright = lanes & (slope > 0);
    sunlight = fill(0);
    if (any(bright)) {
        const I dark = shadowed(scene, at.point + at.normal * fill(LIFT), bright);
        sunlight = (bright & ~dark) ? fill(1) : fill(0);
    }
    const Vec ambient = mix(vec(light.bounce), vec(light.sky), at.normal.z * 0.5f + 0.5f);
    return at.albedo * (ambient + vec(light.sun_color) * (sunlight * max(slope, fill(0))));
}

// What glossy surfaces mirror: one more bounce, weighted by Schlick's Fresnel term.
Vec mirrored(const Scene &scene, const Rays &rays, const Surface &at, I lanes, Vec color,
             F sunlight, F width) {
    const Vec d = unit(rays.direction);
    const F slope = dot(at.normal, d);
    const Vec up = unit(d - at.normal * (2.0f * slope));
    const Rays bounced = {at.point + at.normal * fill(LIFT), up};
    int16_t list[MAX_SHAPES];
    const Hits hits = nearest(scene, bounced, list, near_bundle(scene, bounced, lanes, list));
    const I met = lanes & (hits.t < FAR);
    Vec seen = sky(scene, up);
    if (any(met)) {
        const Surface second =
            surface_at(scene, bounced, hits, met, width + min(hits.t, fill(20)) * 0.02f);
        F unused;
        seen = select(met, lit(scene, second, met, unused), seen);
    }
    const F one = 1.0f - max(-slope, fill(0)), two = one * one;
    const F fresnel = at.shine + (1.0f - at.shine) * (two * two * one);
    F spark = max(dot(up, vec(scene.light->sun)), fill(0));
    for (int i = 0; i < 8; ++i) spark = spark * spark;
    seen = seen + vec(scene.light->sun_color) * (spark * sunlight * 8.0f);
    return select(lanes & (at.shine > 0), mix(color, seen, fresnel), color);
}

// The light that comes back along primary rays, whose directions have length one along z.
Vec seen(const Scene &scene, const Rays &rays, const int16_t *list, int count, float pixel,
         I &shape) {
    const Hits hits = nearest(scene, rays, list, count);
    const I met = hits.t < FAR;
    shape = hits.shape;
    Vec color = {};
    if (any(~met)) color = sky(scene, unit(rays.direction));
    if (!any(met)) return color;
    const F width = hits.t * pixel;
    const Surface at = surface_at(scene, rays, hits, met, width);
    F sunlight;
    Vec surface = lit(scene, at, met, sunlight);
    if (any(at.shine > 0))
        surface = mirrored(scene, rays, at, met & (at.shine > 0), surface, sunlight, width);
    return select(met, surface, color);
}

Rays rays_through(const TraceCamera &c, F x, F y) {
    const F u = (x - c.center[0]) * (1 / c.focal[0]), v = (y - c.center[1]) * (1 / c.focal[1]);
    const float *r = c.rotation, *t = c.translation;
    const float origin[3] = {-(r[0] * t[0] + r[3] * t[1] + r[6] * t[2]),
                             -(r[1] * t[0] + r[4] * t[1] + r[7] * t[2]),
                             -(r[2] * t[0] + r[5] * t[1] + r[8] * t[2])};
    return {vec(origin),
            {u * r[0] + v * r[3] + r[6], u * r[1] + v * r[4] + r[7], u * r[2] + v * r[5] + r[8]}};
}

// Colours are averaged as they are displayed, not as light: that is how splats blend.
F displayed(F light) {
    const F soft = light * (1.0f + light * 0.12f) / (1.0f + light * 0.42f) * 1.10f;
    return sqrt(clamp(soft));
}

// Eight places in a pixel, no two in one row or column of eight; the first four are as well
// spread over rows and columns of four.
constexpr int SAMPLES = 8, FIRST = 4;
constexpr float PLACES[SAMPLES][2] = {{3, 13}, {5, 3},  {9, 5},   {13, 9},
                                      {1, 7},  {7, 11}, {11, 15}, {15, 1}};  // in sixteenths

// One tile of an image: sums of displayed colours, and which pixels need more samples.
struct Work {
    const Scene *scene;
    const TraceCamera *camera;
    int left, top, count;
    int16_t list[MAX_SHAPES];
    alignas(64) float sum[3][TILE * TILE];
    uint8_t busy[TILE * TILE];
};

// Adds samples `from` to `to` of the pixels at (x, y) to `sum`; tells which lanes vary.
I sample(const Work &work, F x, F y, int from, int to, Vec &sum) {
    const float pixel = 0.4f / work.camera->focal[0];
    Vec low = {fill(2), fill(2), fill(2)}, high = {};
    I first = I{}, varies = I{};
    for (int k = from; k < to; ++k) {
        const float dx = PLACES[k][0] / 16, dy = PLACES[k][1] / 16;
        I shape;
        const Vec light = seen(*work.scene, rays_through(*work.camera, x + dx, y + dy), work.list,
                               work.count, pixel, shape);
        const Vec c = {displayed(light.x), displayed(light.y), displayed(light.z)};
        sum = sum + c;
        low = {min(low.x, c.x), min(low.y, c.y), min(low.z, c.z)};
        high = {max(high.x, c.x), max(high.y, c.y), max(high.z, c.z)};
        if (k == from) first = shape;
        varies |= shape != first;
    }
    const F spread = max(max(high.x - low.x, high.y - low.y), high.z - low.z);
    return (varies & (spread > 0.02f)) | (spread > BUSY);
}

void sample_all(Work &work) {
    for (int y = 0; y < TILE; y += BLOCK_Y)
        for (int x = 0; x < TILE; x += BLOCK_X) {
            F px, py;
            for (int i = 0; i < LANES; ++i) {
                px[i] = float(work.left + x + i % BLOCK_X);
                py[i] = float(work.top + y + i / BLOCK_X);
            }
            Vec sum = {};
            const I varies = sample(work, px, py, 0, FIRST, sum);
            for (int i = 0; i < LANES; ++i) {
                const int at = (y + i / BLOCK_X) * TILE + x + i % BLOCK_X;
                work.sum[0][at] = sum.x[i], work.sum[1][at] = sum.y[i], work.sum[2][at] = sum.z[i];
                work.busy[at] = varies[i] != 0;
            }
        }
}

// The busy pixels, packed as densely as they come.
void sample_busy(Work &work) {
    int16_t queue[TILE * TILE + LANES];
    int n = 0;
    for (int i = 0; i < TILE * TILE; ++i)
        if (work.busy[i]) queue[n++] = int16_t(i);
    if (n == 0) return;
    for (int i = n; i % LANES; ++i) queue[i] = queue[n - 1];
    for (int start = 0; start < n; start += LANES) {
        F px, py;
        for (int i = 0; i < LANES; ++i) {
            px[i] = float(work.left + queue[start + i] % TILE);
            py[i] = float(work.top + queue[start + i] / TILE);
        }
        Vec sum = {};
        sample(work, px, py, FIRST, SAMPLES, sum);
        for (int i = 0; i < LANES && start + i < n; ++i) {
            const int at = queue[start + i];
            work.sum[0][at] += sum.x[i], work.sum[1][at] += sum.y[i], work.sum[2][at] += sum.z[i];
        }
    }
}

void set_up(Scene &scene, const TraceScene &s, const TraceCamera &camera) {
    scene.shapes = (const Shape *)s.shapes;
    scene.materials = (const Material *)s.materials;
    scene.puffs = (const Puff *)s.puffs;
    scene.light = (const Light *)s.light;
    scene.count = s.shape_count;
    scene.puff_count = s.puff_count;
    bound_shadows(scene);
    bound_screen(scene, camera);
    bound_balls(scene);
}

void list_shapes(Work &work) {
    const Box box = {float(work.left), float(work.left + TILE), float(work.top),
                     float(work.top + TILE)};
    work.count = meeting(work.scene->screen, work.scene->count, box, 0, work.list);
}

void picture(const TraceScene &s, const TraceCamera &camera, uint8_t *image, int threads) {
    Scene scene;
    set_up(scene, s, camera);
    const int across = (camera.width + TILE - 1) / TILE, down = (camera.height + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int tile = 0; tile < across * down; ++tile) {
        Work work;
        work.scene = &scene, work.camera = &camera;
        work.left = tile % across * TILE, work.top = tile / across * TILE;
        list_shapes(work);
        sample_all(work);
        sample_busy(work);
        for (int i = 0; i < TILE * TILE; ++i) {
            const int x = work.left + i % TILE, y = work.top + i / TILE;
            if (x >= camera.width || y >= camera.height) continue;
            const float share = 255.0f / (work.busy[i] ? SAMPLES : FIRST);
            for (int k = 0; k < 3; ++k)
                image[(int64_t(y) * camera.width + x) * 3 + k] =
                    uint8_t(work.sum[k][i] * share + 0.5f);
        }
    }
}

void surfaces(const TraceScene &s, const TraceCamera &camera, float *depth, float *normals,
              int32_t *shapes, int threads) {
    Scene scene;
    set_up(scene, s, camera);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int y = 0; y < camera.height; ++y)
        for (int x = 0; x < camera.width; x += LANES) {
            F px;
            for (int i = 0; i < LANES; ++i) px[i] = float(x + i) + 0.5f;
            const Rays rays = rays_through(camera, px, fill(float(y) + 0.5f));
            const Hits hits = nearest(scene, rays, nullptr, scene.count);
            const I met = hits.t < FAR;
            const Surface at = surface_at(scene, rays, hits, met, fill(1));
            for (int i = 0; i < LANES && x + i < camera.width; ++i) {
                const int64_t to = int64_t(y) * camera.width + x + i;
                depth[to] = met[i] ? hits.t[i] : 0;
                shapes[to] = hits.shape[i];
                normals[3 * to] = met[i] ? at.normal.x[i] : 0;
                normals[3 * to + 1] = met[i] ? at.normal.y[i] : 0;
                normals[3 * to + 2] = met[i] ? at.normal.z[i] : 0;
            }
        }
}

}  // namespace

extern const TraceKernels trace_kernels;
const TraceKernels trace_kernels = {picture, surfaces};

}  // namespace lumigraph::LUMIGRAPH_ISA
