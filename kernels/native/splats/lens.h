// Lenses: where points in the camera's frame appear, and the derivatives of that. Only for
// *.isa.cpp files.
//
// A lens is a struct with the four functions of `Pinhole`: `place` puts points on the image plane;
// `rows` multiplies the axes of splats by its Jacobian J; `back` and `along` are the derivatives of
// both, backward and forward. To add a lens, write its struct here, add its name to `View`, and
// make `Lens` a struct of these functions that chooses by the view. reference.py has the
// definition, where a lens is one function.
#pragma once

#include "common/simd.h"
#include "splats/kernels.h"

namespace lumigraph::LUMIGRAPH_ISA {
namespace {

struct Vec {
    Floats x, y, z;
};
inline Vec operator+(Vec a, Vec b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vec operator-(Vec a, Vec b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vec operator*(Floats s, Vec a) { return {s * a.x, s * a.y, s * a.z}; }
inline Vec operator*(float s, Vec a) { return {s * a.x, s * a.y, s * a.z}; }
inline Floats dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vec cross(Vec a, Vec b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

// Points on the image plane. Lanes behind the camera hold arbitrary numbers.
struct Placed {
    Floats x, y, z, inverse_z;  // in the camera's frame
    Mask in_front;
    Floats center_x, center_y;  // pixels
    Floats slope_x, slope_y;    // x/z and y/z clamped to the field of view, where J is taken
    Mask free_x, free_y;        // not clamped
};

// The gradient by the input of a lens, which is the mean in the camera's frame and the axes W R S,
// and by the lens itself: its focal lengths and its principal point.
struct PlaneGradient {
    Vec point, axes[3];
    Floats lens[4];
};

// Directions are clamped to a field of view wider by 15 % of the image on each side: far beside the
// image the affine approximation blows splats up.
struct Pinhole {
    static Placed place(const View &v, Floats x, Floats y, Floats z) {
        Placed p;
        const float margin_x = 0.15f * v.width / v.fx, margin_y = 0.15f * v.height / v.fy;
        const Floats left = fill(-v.cx / v.fx - margin_x), top = fill(-v.cy / v.fy - margin_y);
        const Floats right = fill((v.width - v.cx) / v.fx + margin_x);
        const Floats bottom = fill((v.height - v.cy) / v.fy + margin_y);
        p.x = x, p.y = y, p.z = z, p.inverse_z = 1.0f / z;
        p.in_front = at_least(z, fill(v.near_plane));
        p.center_x = v.fx * x * p.inverse_z + v.cx, p.center_y = v.fy * y * p.inverse_z + v.cy;
        const Floats slope_x = x * p.inverse_z, slope_y = y * p.inverse_z;
        p.slope_x = smaller(larger(slope_x, left), right);
        p.slope_y = smaller(larger(slope_y, top), bottom);
        p.free_x = both(at_least(slope_x, left), at_least(right, slope_x));
        p.free_y = both(at_least(slope_y, top), at_least(bottom, slope_y));
        return p;
    }

    static void rows(const View &v, const Placed &p, const Vec axes[3], Vec &row_x, Vec &row_y) {
        row_x = (v.fx * p.inverse_z) * (axes[0] - p.slope_x * axes[2]);
        row_y = (v.fy * p.inverse_z) * (axes[1] - p.slope_y * axes[2]);
    }

    // From the gradient by the centre, the depth and the rows to that by the input and the lens.
    static PlaneGradient back(const View &v, const Placed &p, const Vec axes[3], Vec row_x,
                              Vec row_y, Floats by_center_x, Floats by_center_y, Floats by_depth,
                              Vec by_row_x, Vec by_row_y) {
        PlaneGradient out;
        const Floats by_x = v.fx * p.inverse_z, by_y = v.fy * p.inverse_z;
        out.axes[0] = by_x * by_row_x, out.axes[1] = by_y * by_row_y;
        out.axes[2] = (-by_x * p.slope_x) * by_row_x - (by_y * p.slope_y) * by_row_y;

        // The point: through the centre, and through the slopes and the depth in J.
        const Floats gx = by_x * by_center_x, gy = by_y * by_center_y;
        const Floats turn_x = -by_x * dot(by_row_x, axes[2]);
        const Floats turn_y = -by_y * dot(by_row_y, axes[2]);
        const Floats by_slope_x = keep(p.free_x, turn_x * p.inverse_z);
        const Floats by_slope_y = keep(p.free_y, turn_y * p.inverse_z);
        const Floats along_x = dot(by_row_x, row_x), along_y = dot(by_row_y, row_y);
        out.point.x = gx + by_slope_x, out.point.y = gy + by_slope_y;
        out.point.z = by_depth - (gx * p.x + gy * p.y + along_x + along_y) * p.inverse_z -
                      by_slope_x * p.slope_x - by_slope_y * p.slope_y;

        // The lens: through the centre, J, and the limits at which slopes are held.
        const Floats held_x = (1 / v.fx) * (turn_x - keep(p.free_x, turn_x));
        const Floats held_y = (1 / v.fy) * (turn_y - keep(p.free_y, turn_y));
        out.lens[0] = by_center_x * p.x * p.inverse_z + along_x / v.fx - held_x * p.slope_x;
        out.lens[1] = by_center_y * p.y * p.inverse_z + along_y / v.fy - held_y * p.slope_y;
        out.lens[2] = by_center_x - held_x, out.lens[3] = by_center_y - held_y;
        return out;
    }

    // The derivative of centres and rows along a direction of points and axes.
    static void along(const View &v, const Placed &p, const Vec axes[3], Vec row_x, Vec row_y,
                      Vec point, const Vec moved[3], Floats &center_x, Floats &center_y,
                      Vec &moved_x, Vec &moved_y) {
        const Floats away = point.z * p.inverse_z;
        center_x = v.fx * p.inverse_z * (point.x - p.x * away);
        center_y = v.fy * p.inverse_z * (point.y - p.y * away);
        const Floats slope_x = keep(p.free_x, p.inverse_z * (point.x - p.slope_x * point.z));
        const Floats slope_y = keep(p.free_y, p.inverse_z * (point.y - p.slope_y * point.z));
        moved_x = (v.fx * p.inverse_z) * (moved[0] - p.slope_x * moved[2] - slope_x * axes[2]) -
                  away * row_x;
        moved_y = (v.fy * p.inverse_z) * (moved[1] - p.slope_y * moved[2] - slope_y * axes[2]) -
                  away * row_y;
    }
};

using Lens = Pinhole;  // the only one

}  // namespace
}  // namespace lumigraph::LUMIGRAPH_ISA
