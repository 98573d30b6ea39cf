// The ray tracer of the built-in scene. Rays are traced a register at a time; secondary rays find
// shadows and one mirror image. A pixel gets four samples, and eight where they differ.
#include "tracer/tracer.h"

#include "tracer/paint.h"
#include "tracer/scene.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

constexpr int TILE = 16;  // pixels along a tile's side; one thread works on a tile
constexpr int BLOCK_X = LANES < 4 ? LANES : 4, BLOCK_Y = LANES / BLOCK_X;
constexpr float LIFT = 5e-4f;  // secondary rays start this far from the surface
constexpr float BUSY = 0.06f;  // a pixel gets all samples if its first ones differ by more

// The colour of the sky in a direction of length one: a gradient from horizon to zenith, clouds,
// and the glow around the sun.
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

// Position, normal (towards the viewer), paint and shine at the hits of some lanes. Lanes that hit
// the same shape are shaded together.
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

// Lambertian shading: sunlight where no shape is in between, and ambient light from above and
// below.
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

// Adds to the colours of glossy surfaces their mirror image: one more bounce, and the sun's
// highlight, weighted by Schlick's approximation of the Fresnel term.
Vec mirrored(const Scene &scene, const Rays &rays, const Surface &at, I lanes, Vec color,
             F sunlight, F width) {
    const Vec d = unit(rays.direction);
    const F slope = dot(at.normal, d);
    const Vec up = unit(d - at.normal * (2.0f * slope));
    const Rays bounced = {at.point + at.normal * fill(LIFT), up};
    int16_t list[MAX_SHAPES];
    const Hits hits =
        nearest(scene, bounced, list, near_bundle(scene, bounced, lanes, list), nullptr);
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

// The light that comes back along primary rays. Their directions have length one along the camera's
// z axis, so that t is depth.
Vec seen(const Scene &scene, const Rays &rays, const int16_t *list, int count, float pixel,
         I &shape) {
    const Hits hits = nearest(scene, rays, list, count, scene.screen.from);
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

// The rays of a pinhole camera through points (x, y) of the image.
Rays rays_through(const TraceCamera &c, F x, F y) {
    const F u = (x - c.center[0]) * (1 / c.focal[0]), v = (y - c.center[1]) * (1 / c.focal[1]);
    const float *r = c.rotation, *t = c.translation;
    const float origin[3] = {-(r[0] * t[0] + r[3] * t[1] + r[6] * t[2]),
                             -(r[1] * t[0] + r[4] * t[1] + r[7] * t[2]),
                             -(r[2] * t[0] + r[5] * t[1] + r[8] * t[2])};
    return {vec(origin),
            {u * r[0] + v * r[3] + r[6], u * r[1] + v * r[4] + r[7], u * r[2] + v * r[5] + r[8]}};
}

// A tone curve and the display's gamma. Samples are averaged after it, as splats blend displayed
// colours, not light.
F displayed(F light) {
    const F soft = light * (1.0f + light * 0.12f) / (1.0f + light * 0.42f) * 1.10f;
    return sqrt(clamp(soft));
}

// Eight places in a pixel, of which no two share one of eight rows or columns; of the first four,
// no two share one of four rows or columns.
constexpr int SAMPLES = 8, FIRST = 4;
constexpr float PLACES[SAMPLES][2] = {{3, 13}, {5, 3},  {9, 5},   {13, 9},
                                      {1, 7},  {7, 11}, {11, 15}, {15, 1}};  // in sixteenths

// One tile of an image: sums of displayed colours, and the pixels that need more samples.
struct Work {
    const Scene *scene;
    const TraceCamera *camera;
    int left, top;
    alignas(64) float sum[3][TILE * TILE];
    uint8_t busy[TILE * TILE];
};

// Adds samples `from` to `to` of the pixels at (x, y) to `sum`. Returns the lanes with samples that
// differ by much, or by less and on two shapes.
I sample(const Work &work, F x, F y, int from, int to, Vec &sum) {
    const float pixel = 0.4f / work.camera->focal[0];
    const I all = I{} - 1;
    const Box box = {lowest(x, all), 1 - lowest(-x, all), lowest(y, all), 1 - lowest(-y, all)};
    int16_t list[MAX_SHAPES];
    const int count = meeting(work.scene->screen, work.scene->count, box, 0, list);
    sort(list, count, work.scene->screen.from);
    Vec low = {fill(2), fill(2), fill(2)}, high = {};
    I first = I{}, varies = I{};
    for (int k = from; k < to; ++k) {
        const float dx = PLACES[k][0] / 16, dy = PLACES[k][1] / 16;
        I shape;
        const Vec light = seen(*work.scene, rays_through(*work.camera, x + dx, y + dy), list, count,
                               pixel, shape);
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

// Takes the first samples of all pixels of the tile, a block of pixels in a register.
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

// Takes the other samples of the busy pixels, which are packed into full registers.
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

// Takes a picture tile by tile; no tile depends on another or on the number of threads.
void picture(const TraceScene &s, const TraceCamera &camera, uint8_t *image, int threads) {
    const Scene scene = scene_of(s, camera);
    const int across = (camera.width + TILE - 1) / TILE, down = (camera.height + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int tile = 0; tile < across * down; ++tile) {
        Work work;
        work.scene = &scene, work.camera = &camera;
        work.left = tile % across * TILE, work.top = tile / across * TILE;
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

// Finds the first surface at each pixel's centre, a row at a time.
void surfaces(const TraceScene &s, const TraceCamera &camera, float *depth, float *normals,
              int32_t *shapes, int threads) {
    const Scene scene = scene_of(s, camera);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int y = 0; y < camera.height; ++y)
        for (int x = 0; x < camera.width; x += LANES) {
            F px;
            for (int i = 0; i < LANES; ++i) px[i] = float(x + i) + 0.5f;
            const Rays rays = rays_through(camera, px, fill(float(y) + 0.5f));
            const Box box = {float(x), float(x + LANES), float(y), float(y + 1)};
            int16_t list[MAX_SHAPES];
            const int count = meeting(scene.screen, scene.count, box, 0, list);
            sort(list, count, scene.screen.from);
            const Hits hits = nearest(scene, rays, list, count, scene.screen.from);
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
