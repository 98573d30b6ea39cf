"""Laws of camera paths."""

import itertools
import math

import pytest
import torch

from lumigraph.kernels.splats.reference import rotation_matrices
from lumigraph.render import Camera, focus_of, interpolate, look_at, orbit
from lumigraph.render.paths import up_of

FOCUS = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
UP = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
SIDE = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
AHEAD = torch.linalg.cross(UP, SIDE)


def captured(azimuths: list[float], elevation: float = 0.5, distance: float = 4.0) -> list[Camera]:
    """Cameras around FOCUS that look at it, at azimuths in degrees."""
    cameras = []
    for azimuth in map(math.radians, azimuths):
        flat = math.cos(azimuth) * SIDE + math.sin(azimuth) * AHEAD
        offset = math.cos(elevation) * flat + math.sin(elevation) * UP
        matrix = look_at(FOCUS + distance * offset, FOCUS, UP)
        cameras.append(Camera(matrix, (60.0, 60.0), (32.0, 24.0), 64, 48))
    return cameras


ALL_AROUND = captured([0, 40, 95, 130, 200, 240, 300])
ONE_SIDE = captured([-50, -20, 0, 15, 60])
PARALLEL = [
    Camera(
        torch.tensor([[1, 0, 0, x], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).double(),
        *((60.0, 60.0), (32.0, 24.0), 64, 48),
    )
    for x in (-1.0, 0.0, 1.0)
]
CAPTURES = {
    "all around": ALL_AROUND,
    "one side": ONE_SIDE,
    "parallel": PARALLEL,
    "one camera": PARALLEL[:1],
    "one place": PARALLEL[:1] * 3,
}


def assert_rotations(cameras: list[Camera]) -> None:
    rotations = torch.stack([camera.world_to_camera[:3, :3] for camera in cameras])
    identity = torch.eye(3, dtype=torch.float64).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, identity)
    assert (torch.linalg.det(rotations) > 0).all()


def steps_of(cameras: list[Camera]) -> torch.Tensor:
    """Distances between neighbours on a closed path."""
    positions = torch.stack([camera.position for camera in cameras])
    return (positions - positions.roll(1, dims=0)).norm(dim=1)


@pytest.mark.parametrize("cameras", [ALL_AROUND, ONE_SIDE, ALL_AROUND[:2]])
def test_focus_is_where_the_cameras_look(cameras):
    torch.testing.assert_close(focus_of(cameras), FOCUS)


def test_a_camera_that_looks_elsewhere_does_not_move_the_focus():
    place, up = FOCUS + 4 * AHEAD, UP
    astray = Camera(look_at(place, place + SIDE + 0.3 * UP, up), (60.0, 60.0), (32.0, 24.0), 64, 48)
    torch.testing.assert_close(focus_of([*ALL_AROUND, astray]), FOCUS, atol=1e-3, rtol=0)


def test_the_focus_of_a_panorama_is_where_it_was_taken():
    outward = [
        Camera(look_at(c.position, 2 * c.position - FOCUS, UP), c.focal, c.center, 64, 48)
        for c in captured([0, 60, 120, 180, 240, 300], elevation=0.1, distance=0.02)
    ]
    torch.testing.assert_close(focus_of(outward), FOCUS, atol=2e-2, rtol=0)
    assert_rotations(orbit(outward, 6))


def test_focus_of_parallel_cameras_is_before_them():
    focus = focus_of(PARALLEL)
    assert focus[2] > 0.5
    assert focus[:2].abs().max() < 1e-6


@pytest.mark.parametrize("cameras", [ALL_AROUND, ONE_SIDE])
def test_up_is_perpendicular_to_the_horizons(cameras):
    # The mean of the cameras' own up would be 0.4 off for those on one side, which look down.
    torch.testing.assert_close(up_of(cameras), UP, atol=5e-2, rtol=0)


def test_up_of_cameras_that_cancel_is_that_of_the_first():
    turned = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])).double()
    upside_down = Camera(turned @ PARALLEL[0].world_to_camera, *((9.0, 9.0), (4.0, 4.0), 8, 8))
    up = up_of([PARALLEL[0], upside_down])
    torch.testing.assert_close(up, torch.tensor([0.0, -1.0, 0.0]).double())


@pytest.mark.parametrize("cameras", CAPTURES.values(), ids=CAPTURES.keys())
def test_orbit_looks_at_the_focus_with_a_level_horizon(cameras):
    path = orbit(cameras, 24)
    assert len(path) == 24
    assert_rotations(path)
    focus, up = focus_of(cameras), up_of(cameras)
    for camera in path:
        pixel, depth = camera.project(focus)
        assert depth > 0
        torch.testing.assert_close(pixel, torch.tensor(camera.center).double())
        rotation = camera.world_to_camera[:3, :3]
        assert abs(rotation[0] @ up) < 1e-9
        assert -rotation[1] @ up > 0


@pytest.mark.parametrize("cameras", CAPTURES.values(), ids=CAPTURES.keys())
def test_orbit_closes_and_is_smooth(cameras):
    steps = steps_of(orbit(cameras, 120))
    assert steps.min() > 0
    # An oval's steps are those of an ellipse: none is a jump.
    assert steps.max() < 2 * math.pi / 120 * 1.1 * max(
        (c.position - focus_of(cameras)).norm().item() for c in cameras
    )
    coarse, fine = orbit(cameras, 30), orbit(cameras, 60)
    torch.testing.assert_close(fine[::2][7].world_to_camera, coarse[7].world_to_camera)


def test_orbit_all_around_is_a_circle_at_the_cameras_height():
    for camera in orbit(ALL_AROUND, 16):
        offset = camera.position - FOCUS
        assert offset.norm() == pytest.approx(4, rel=1e-2)
        assert math.asin(offset @ UP / offset.norm()) == pytest.approx(0.5, abs=3e-2)


def test_orbit_of_one_side_stays_on_it():
    azimuths = [
        math.degrees(math.atan2(offset @ AHEAD, offset @ SIDE))
        for offset in (camera.position - FOCUS for camera in orbit(ONE_SIDE, 40))
    ]
    assert min(azimuths) == pytest.approx(5 - 0.8 * 55, abs=3)
    assert max(azimuths) == pytest.approx(5 + 0.8 * 55, abs=3)


def test_orbit_takes_a_focus_and_an_up():
    focus, up = FOCUS + 0.3, torch.tensor([0.0, 0.0, 2.0])
    for camera in orbit(ALL_AROUND, 5, focus=focus, up=up):
        pixel, _ = camera.project(focus)
        torch.testing.assert_close(pixel, torch.tensor(camera.center).double())
        assert abs(camera.world_to_camera[0, 2]) < 1e-9


def test_orbit_straight_above_keeps_off_the_pole():
    above = captured([0, 90, 180, 270], elevation=math.radians(89.9))
    assert_rotations(orbit(above, 12, up=UP))


def test_interpolated_path_passes_through_its_cameras():
    path = interpolate(ALL_AROUND, 6 * 5 + 1)
    assert_rotations(path)
    for key, camera in zip(ALL_AROUND, path[::5], strict=True):
        torch.testing.assert_close(camera.world_to_camera, key.world_to_camera)
        assert (camera.width, camera.height) == (64, 48)
        assert camera.focal == pytest.approx(key.focal)


def test_interpolated_path_of_a_steady_motion_is_that_motion():
    path = interpolate(PARALLEL, 9)
    positions = torch.stack([camera.position for camera in path])
    torch.testing.assert_close(positions[:, 0], torch.linspace(1, -1, 9, dtype=torch.float64))
    for camera in path:
        torch.testing.assert_close(camera.world_to_camera[:3, :3], torch.eye(3).double())


def test_interpolated_path_has_no_kink():
    # Halving the time step must halve the largest change of velocity: the path is C1.
    def kink(count: int) -> float:
        matrices = torch.stack([c.world_to_camera for c in interpolate(ALL_AROUND, count)])
        velocity = (matrices[1:] - matrices[:-1]) * count
        return (velocity[1:] - velocity[:-1]).abs().max().item()

    assert kink(1201) < 0.6 * kink(601)


def test_interpolated_path_does_not_depend_on_the_sign_of_quaternions():
    # 350 degrees in small steps: somewhere w changes sign, and the path must not swing around.
    path = interpolate(captured([0, 70, 140, 210, 280, 350]), 101)
    turns = torch.stack(
        [
            a.world_to_camera[:3, :3] @ b.world_to_camera[:3, :3].T
            for a, b in itertools.pairwise(path)
        ]
    )
    cosine = ((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
    assert torch.rad2deg(cosine.acos()).max() < 6


def test_interpolated_path_zooms():
    wide = ALL_AROUND[0]
    narrow = Camera(wide.world_to_camera, (240.0, 240.0), (64.0, 48.0), 128, 96)
    path = interpolate([wide, narrow], 3)
    assert path[2].focal == pytest.approx((120, 120))
    assert path[1].focal == pytest.approx((90, 90))
    assert (path[2].width, path[2].height) == (64, 48)


def test_paths_say_what_they_need():
    with pytest.raises(ValueError, match="at least 1 cameras"):
        orbit([], 5)
    with pytest.raises(ValueError, match="0 views"):
        orbit(ALL_AROUND, 0)
    with pytest.raises(ValueError, match="at least 2 cameras"):
        interpolate(ALL_AROUND[:1], 5)


def test_orbit_is_the_same_whatever_the_frame():
    # Turning and moving the whole capture turns and moves the path.
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = rotation_matrices(torch.tensor([0.3, -0.5, 0.7, 0.2]).double())
    turn[:3, 3] = torch.tensor([5.0, 6.0, -7.0])
    inverse = torch.linalg.inv(turn)
    moved = [
        Camera(c.world_to_camera @ inverse, c.focal, c.center, c.width, c.height) for c in ONE_SIDE
    ]
    for one, other in zip(orbit(ONE_SIDE, 8), orbit(moved, 8), strict=True):
        torch.testing.assert_close(one.world_to_camera @ inverse, other.world_to_camera)
