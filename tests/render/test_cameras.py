"""Laws of cameras, similarities, rotations and the splats they move."""

import math
from dataclasses import replace

import pytest
import torch

from lumigraph.kernels.splats.reference import rotation_matrices
from lumigraph.render import Camera, Similarity, Splats, look_at
from lumigraph.render.rotations import quaternions_from_matrices


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def camera_of(seed: int = 0) -> Camera:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation_matrices(numbers(4, seed=seed))
    matrix[:3, 3] = numbers(3, seed=seed + 100)
    return Camera(matrix, (80.0, 90.0), (31.5, 20.25), 64, 48)


def splats_of(count: int, degree: int = 1) -> Splats:
    return Splats(
        means=numbers(count, 3),
        quaternions=numbers(count, 4),
        log_scales=numbers(count, 3),
        opacity_logits=numbers(count),
        base=numbers(count, 3),
        rest=numbers(count, (degree + 1) ** 2 - 1, 3),
    )


SIMILARITY = Similarity(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), 0.37)


@pytest.mark.parametrize("shape", [(), (1,), (5, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_project_undoes_unproject(shape, seed):
    camera = camera_of(seed)
    pixels, depth = numbers(*shape, 2) * 100, numbers(*shape).exp()
    again, depth_again = camera.project(camera.unproject(pixels, depth))
    torch.testing.assert_close(again, pixels)
    torch.testing.assert_close(depth_again, depth)


def test_centre_of_projection_is_at_depth_zero():
    camera = camera_of()
    assert camera.project(camera.position)[1].abs() < 1e-12


def test_point_on_the_axis_appears_at_the_principal_point():
    camera = camera_of()
    point = camera.position + 3 * camera.world_to_camera[2, :3]
    pixel, depth = camera.project(point)
    torch.testing.assert_close(pixel, torch.tensor(camera.center).double())
    torch.testing.assert_close(depth, torch.tensor(3.0).double())


def test_axes_are_opencv():
    camera = Camera(torch.eye(4, dtype=torch.float64), (10.0, 10.0), (5.0, 5.0), 10, 10)
    right_and_below = torch.tensor([1.0, 2.0, 10.0])
    assert camera.project(right_and_below)[0].tolist() == [6.0, 7.0]


def test_resized_camera_sees_along_the_same_rays():
    camera = camera_of()
    small = camera.resized(17, 5)
    points = camera.unproject(numbers(20, 2), torch.ones(20).double())
    scale = torch.tensor([17 / 64, 5 / 48]).double()
    torch.testing.assert_close(small.project(points)[0], camera.project(points)[0] * scale)
    back = small.resized(64, 48)
    assert back.focal == pytest.approx(camera.focal)
    assert back.center == pytest.approx(camera.center)


def test_view_holds_the_camera_in_plain_numbers():
    camera = camera_of()
    view = camera.view
    assert view.world_to_camera == tuple(camera.world_to_camera[:3].flatten().tolist())
    assert (view.width, view.height, view.near) == (64, 48, camera.near)


def test_similarity_and_its_inverse_cancel():
    points = numbers(9, 3)
    torch.testing.assert_close(SIMILARITY.inverse().points(SIMILARITY.points(points)), points)
    twice = SIMILARITY.inverse().inverse()
    torch.testing.assert_close(twice.origin, SIMILARITY.origin)
    assert twice.scale == pytest.approx(SIMILARITY.scale)
    camera = SIMILARITY.inverse().camera(SIMILARITY.camera(camera_of()))
    torch.testing.assert_close(camera.world_to_camera, camera_of().world_to_camera)


def test_identity_changes_nothing():
    assert torch.equal(Similarity.identity().points(numbers(4, 3)), numbers(4, 3))


def test_moving_scene_and_camera_together_changes_no_pixel():
    camera, points = camera_of(), camera_of().unproject(numbers(30, 2), numbers(30).exp())
    moved = SIMILARITY.camera(camera)
    pixels, depth = camera.project(points)
    moved_pixels, moved_depth = moved.project(SIMILARITY.points(points))
    torch.testing.assert_close(moved_pixels, pixels)
    torch.testing.assert_close(moved_depth, depth * SIMILARITY.scale)
    torch.testing.assert_close(moved.position, SIMILARITY.points(camera.position))


def test_similarity_leaves_the_camera_it_was_given():
    camera = camera_of()
    SIMILARITY.camera(camera)
    torch.testing.assert_close(camera.world_to_camera, camera_of().world_to_camera, rtol=0, atol=0)


def test_similarity_keeps_the_precision_of_far_points():
    # In float32 alone the difference of two large numbers would lose the small one.
    far = torch.tensor([1e6, 0.0, 0.0], dtype=torch.float64)
    point = torch.tensor([[1e6 + 1, 0.0, 0.0]], dtype=torch.float32)
    assert Similarity(far, 1000.0).points(point)[0, 0] == 1000.0


@pytest.mark.parametrize("degree", range(4))
def test_splats_know_their_degree(degree):
    assert splats_of(5, degree).degree == degree


def test_splats_are_selected_row_by_row():
    splats = splats_of(6)
    rows = torch.tensor([True, False, True, False, False, True])
    chosen = splats[rows]
    assert len(chosen) == 3
    for name, value in chosen.tensors.items():
        assert torch.equal(value, splats.tensors[name][rows])
    assert len(splats[2:4]) == 2
    assert replace(splats, filter="antialiased")[rows].filter == "antialiased"


def test_moved_splats_scale_about_the_origin_and_move_back():
    splats = splats_of(6)
    moved = splats.moved(SIMILARITY)
    torch.testing.assert_close(
        moved.log_scales - splats.log_scales,
        torch.full_like(splats.log_scales, math.log(SIMILARITY.scale)),
    )
    assert torch.equal(moved.quaternions, splats.quaternions)
    again = moved.moved(SIMILARITY.inverse())
    for name, value in again.tensors.items():
        torch.testing.assert_close(value, splats.tensors[name], msg=name)


@pytest.mark.parametrize("length", [1e-3, 1.0, 50.0])
def test_quaternions_give_rotations(length):
    matrices = rotation_matrices(numbers(40, 4) * length)
    identity = torch.eye(3, dtype=torch.float64).expand(40, 3, 3)
    torch.testing.assert_close(matrices @ matrices.mT, identity)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(40, dtype=torch.float64))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1.0, math.pi - 1e-9, math.pi])
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.0, -0.8)])
def test_matrices_and_quaternions_agree_at_every_angle(angle, axis):
    half = torch.tensor([math.cos(angle / 2), *(math.sin(angle / 2) * a for a in axis)])
    matrix = rotation_matrices(half.double())
    quaternion = quaternions_from_matrices(matrix)
    assert quaternion[0] >= 0
    torch.testing.assert_close(quaternion.norm(), torch.tensor(1.0).double())
    torch.testing.assert_close(rotation_matrices(quaternion), matrix, atol=1e-7, rtol=0)


def test_quaternion_of_a_quarter_turn_about_z():
    matrix = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double()
    root = math.sqrt(0.5)
    expected = torch.tensor([root, 0.0, 0.0, root]).double()
    torch.testing.assert_close(quaternions_from_matrices(matrix), expected)


def test_look_at_sees_its_target_in_the_middle_and_up_above():
    position, target, up = numbers(3, 3)
    camera = Camera(look_at(position, target, up), (50.0, 50.0), (32.0, 24.0), 64, 48)
    torch.testing.assert_close(camera.position, position)
    pixel, depth = camera.project(target)
    torch.testing.assert_close(pixel, torch.tensor([32.0, 24.0]).double())
    torch.testing.assert_close(depth, (target - position).norm())
    pixel, _ = camera.project(target + 0.01 * up / up.norm())
    assert pixel[1] < 24
    assert pixel[0] == pytest.approx(32)


def test_look_at_refuses_what_has_no_horizon():
    up = torch.tensor([0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="cannot look at"):
        look_at(torch.zeros(3), 2 * up, up)
    with pytest.raises(ValueError, match="cannot look at"):
        look_at(up, up, up)
