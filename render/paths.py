"""Camera paths: a loop around the photographed scene, and smooth paths through given cameras."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lumigraph.kernels.splats.reference import rotation_matrices
from lumigraph.render.camera import Camera
from lumigraph.render.rotations import quaternions_from_matrices

SURROUND_GAP = math.radians(120)
"""Cameras surround their focus if they leave no gap wider than this between them."""

PARALLEL = 1e-3
"""Below this mean square sine of the angles between the axes, the axes count as parallel: they then
differ by less than 2 degrees."""

SWING_MIN = math.radians(4)
"""The least swing of a path to each side: with less parallax, the film looks like a still."""

ELEVATION_MAX = math.radians(80)
"""The highest elevation of a path: nearer to the pole, a camera with a level horizon spins about
its own axis."""


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """World to camera for a camera at `position` that looks at `target`. float64 [4, 4]

    The horizon is level.

    Raises:
        ValueError: The target is at the position, or in the direction of `up` from it.
    """
    position, target, up = position.double(), target.double(), up.double()
    forward = target - position
    right = torch.linalg.cross(forward, up)
    if right.norm() <= 1e-9 * forward.norm() * up.norm():
        raise ValueError(
            f"A camera at {position.tolist()} cannot look at {target.tolist()} with "
            f"{up.tolist()} up: move it off the vertical through its target"
        )
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([axis / axis.norm() for axis in (right, down, forward)])
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = -rotation @ position
    return matrix


def focus_of(cameras: Sequence[Camera]) -> Tensor:
    """The point nearest to all optical axes, or a point before the cameras. float64 [3]

    It minimises the sum of the distances to the axes, in place of the sum of squares, by
    reweighting (Weiszfeld 1937), so that a camera that looks elsewhere hardly moves it. If the axes
    are parallel, it is a guess before the cameras.
    """
    positions, forward = _positions(cameras), _rotations(cameras)[:, 2]
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    center = positions.mean(0)
    spread = float((positions - center).norm(dim=1).median())
    if float(torch.linalg.eigvalsh(across.mean(0))[0]) < PARALLEL:
        # The photos were taken side by side: their scene is usually some baselines away.
        return center + forward.mean(0) * 3 * (spread or 1.0)
    weights = torch.ones(len(cameras), dtype=torch.float64)
    focus = center
    for _ in range(20):
        matrix = (weights[:, None, None] * across).sum(0)
        side = (weights[:, None] * (across @ positions[:, :, None])[..., 0]).sum(0)
        focus = torch.linalg.solve(matrix, side)
        away = (across @ (focus - positions)[:, :, None])[..., 0].norm(dim=1)
        weights = 1 / away.clamp_min(1e-6 * spread + 1e-12)
    before = ((focus - positions) * forward).sum(1) > 0
    # Axes that meet behind most cameras come from a photographer who turned around on one spot.
    return focus if float(before.double().mean()) > 0.5 else center


def up_of(cameras: Sequence[Camera]) -> Tensor:
    """The direction away from the ground, a unit vector. float64 [3]

    It is the mean of the cameras' own up directions, without the part along their horizons: people
    tilt a camera up and down, but hold its horizon level.
    """
    rotations = _rotations(cameras)
    right, up = rotations[:, 0], -rotations[:, 1].mean(0)
    if up.norm() < 1e-6:
        up = -rotations[0, 1]
    level = (right[:, :, None] * right[:, None, :]).mean(0)
    up = torch.linalg.solve(level + 1e-2 * torch.eye(3, dtype=torch.float64), up)
    return up / up.norm()


def orbit(
    cameras: Sequence[Camera],
    count: int,
    *,
    focus: Tensor | None = None,
    up: Tensor | None = None,
) -> list[Camera]:
    """A smooth closed loop around the focus of the cameras, near the cameras' places.

    If the cameras surround the focus, the loop is a circle at their median height and distance. If
    they stand on one side, it is an oval over most of their sector, because no photo shows the
    other side. The view after the last is the first. Lens and size are those of the first camera.

    Args:
        cameras: One camera or more.
        count: Number of views, at least one.
        focus: The point to look at; by default that of `focus_of`. [3]
        up: Direction away from the ground; by default that of `up_of`. [3]

    Raises:
        ValueError: There are no cameras, or `count` is less than one.
    """
    _check(cameras, count, needed=1)
    focus = focus_of(cameras) if focus is None else focus.double()
    up = up_of(cameras) if up is None else up.double() / up.double().norm()
    axes = _frame(_positions(cameras) - focus, up)
    x, y, z = ((_positions(cameras) - focus) @ axes.T).unbind(1)
    distance = (x * x + y * y + z * z).sqrt()
    elevations = torch.atan2(z, torch.hypot(x, y))
    middle, half = _sector(torch.atan2(y, x))

    turn = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    if half >= math.pi:
        azimuth = turn
        elevation = elevations.median().expand(count)
    else:
        azimuth = middle + max(0.8 * half, SWING_MIN) * turn.sin()
        low, high = elevations.quantile(0.1), elevations.quantile(0.9)
        swing = ((high - low) / 2).clamp_min(SWING_MIN / 2)
        elevation = (low + high) / 2 + swing * turn.cos()
    elevation = elevation.clamp(-ELEVATION_MAX, ELEVATION_MAX)
    flat = elevation.cos()
    local = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=1)
    # A camera in the focus has no distance: a radius of zero would not give a loop.
    radius = distance.median() if distance.median() > 0 else torch.tensor(1.0).double()
    places = focus + (radius * local) @ axes
    return [replace(cameras[0], world_to_camera=look_at(p, focus, up)) for p in places]


def interpolate(cameras: Sequence[Camera], count: int) -> list[Camera]:
    """A smooth path through the cameras in order, from the first to the last.

    It is a Catmull-Rom spline (1974) through positions, lenses and quaternions, which are
    normalised afterwards. Each stretch between two cameras takes the same time, so the path is at
    camera k in view k * (count - 1) / (len(cameras) - 1). Size and near plane are those of the
    first camera.

    Raises:
        ValueError: There are fewer than two cameras, or `count` is less than two.
    """
    _check(cameras, count, needed=2)
    first = cameras[0]
    keys = torch.stack([_state(c.resized(first.width, first.height)) for c in cameras])
    for i in range(1, len(keys)):  # q and -q are the same rotation: take the nearer one
        keys[i, :4] *= 1.0 if keys[i, :4] @ keys[i - 1, :4] >= 0 else -1.0
    time = torch.linspace(0, len(keys) - 1, count, dtype=torch.float64)
    return [_camera(first, state) for state in _spline(keys, time)]


def _spline(keys: Tensor, time: Tensor) -> Tensor:
    """The Catmull-Rom spline through the rows of `keys` at times in [0, keys - 1]. [times, n]"""
    before, after = 2 * keys[:1] - keys[1:2], 2 * keys[-1:] - keys[-2:-1]
    padded = torch.cat([before, keys, after])
    index = time.floor().long().clamp(0, len(keys) - 2)
    t = (time - index)[:, None]
    a, b, c, d = (padded[index + k] for k in range(4))
    return b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _state(camera: Camera) -> Tensor:
    """A camera as numbers to interpolate: quaternion, position, lens. [11]"""
    quaternion = quaternions_from_matrices(camera.world_to_camera[:3, :3].double())
    lens = torch.tensor([*camera.focal, *camera.center], dtype=torch.float64)
    return torch.cat([quaternion, camera.position.double(), lens])


def _camera(like: Camera, state: Tensor) -> Camera:
    """The camera of a state, with the size and near plane of `like`."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation_matrices(state[:4])
    matrix[:3, 3] = -matrix[:3, :3] @ state[4:7]
    fx, fy, cx, cy = state[7:].tolist()
    return replace(like, world_to_camera=matrix, focal=(fx, fy), center=(cx, cy))


def _sector(azimuths: Tensor) -> tuple[float, float]:
    """Middle and half width of the sector of the azimuths; half a turn if they surround."""
    ordered = azimuths.sort().values
    gaps = torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered
    widest = int(gaps.argmax())
    gap = gaps[widest].item()
    if gap < SURROUND_GAP:
        return 0.0, math.pi
    half = (2 * math.pi - gap) / 2
    return ordered[widest].item() + gap + half, half


def _frame(offsets: Tensor, up: Tensor) -> Tensor:
    """Rows x, y, z of a right-handed frame: z is up, x is the level part of the mean offset."""
    ahead = offsets.mean(0)
    ahead = ahead - (ahead @ up) * up
    if ahead.norm() <= 1e-6 * offsets.norm(dim=1).max() or ahead.norm() == 0:
        ahead = torch.eye(3, dtype=torch.float64)[up.abs().argmin()]
        ahead = ahead - (ahead @ up) * up
    ahead = ahead / ahead.norm()
    return torch.stack([ahead, torch.linalg.cross(up, ahead), up])


def _positions(cameras: Sequence[Camera]) -> Tensor:
    return torch.stack([camera.position.double() for camera in cameras])


def _rotations(cameras: Sequence[Camera]) -> Tensor:
    return torch.stack([camera.world_to_camera[:3, :3].double() for camera in cameras])


def _check(cameras: Sequence[Camera], count: int, *, needed: int) -> None:
    if len(cameras) < needed or count < needed:
        raise ValueError(
            f"A path needs at least {needed} cameras and {needed} views, "
            f"but {len(cameras)} cameras and {count} views were asked for"
        )
