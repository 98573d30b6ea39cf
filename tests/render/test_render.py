"""Laws of rendering, and closed forms of what one and two splats look like."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumigraph.kernels import ALPHA_MAX, ALPHA_MIN, BLUR
from lumigraph.kernels.splats.reference import rotation_matrices
from lumigraph.render import Camera, Rendering, Similarity, Splats, render, render_color

COLOR = 0.28209479177387814
"""The harmonic of degree 0: a splat's colour is 0.5 + COLOR * base."""

FOCAL = 50.0
CAMERA = Camera(torch.eye(4, dtype=torch.float64), (FOCAL, FOCAL), (16.5, 8.5), 33, 17)
"""At zero, looking along z; the axis goes through the middle of pixel (row 8, column 16)."""


def scene_of(count: int, degree: int = 2) -> Splats:
    """Splats of all sizes and colours in front of CAMERA."""
    generator = torch.Generator().manual_seed(count)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Splats(
        means=numbers(count, 3) * torch.tensor([1.0, 0.5, 1.0]) + torch.tensor([0, 0, 5.0]),
        quaternions=numbers(count, 4),
        log_scales=numbers(count, 3) * 0.5 - 2,
        opacity_logits=numbers(count),
        base=numbers(count, 3).abs(),
        rest=0.05 * numbers(count, (degree + 1) ** 2 - 1, 3),
    )


@pytest.mark.parametrize("degree", range(4))
def test_colours_alone_are_those_of_the_whole_rendering(degree: int):
    scene, background = scene_of(300, degree), (0.2, 0.4, 0.6)
    whole = render(scene, CAMERA, background=background)
    alone = render_color(scene, CAMERA, background=background)
    torch.testing.assert_close(alone, whole.color, rtol=0, atol=1e-6)


def splat_at(
    depth: float,
    *,
    opacity: float = 0.8,
    sizes: tuple[float, float, float] = (0.4, 0.4, 0.4),
    color: tuple[float, float, float] = (1.0, 0.5, 0.25),
) -> Splats:
    """One splat on the axis of CAMERA, its axes those of the camera."""
    return Splats(
        means=torch.tensor([[0.0, 0.0, depth]]),
        quaternions=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        log_scales=torch.tensor([sizes]).log(),
        opacity_logits=torch.tensor([opacity]).logit(),
        base=(torch.tensor([color]) - 0.5) / COLOR,
        rest=torch.zeros(1, 0, 3),
    )


def together(*scenes: Splats) -> Splats:
    names = scenes[0].tensors
    return Splats(**{n: torch.cat([s.tensors[n] for s in scenes]) for n in names}, filter="classic")


def assert_alike(one: Rendering, other: Rendering, *, scale: float = 1.0) -> None:
    """Equal but for pixels at a splat's edge, where alpha is cut at 1/255."""
    assert_near(one.color, other.color)
    assert_near(one.opacity, other.opacity)
    seen = one.opacity > 0.1  # Depth is a quotient: of nothing it is noise.
    torch.testing.assert_close(one.depth[seen] * scale, other.depth[seen], rtol=2e-3, atol=0)
    same = (one.median_depth * scale - other.median_depth).abs() <= 1e-3 * scale
    assert same.float().mean() > 0.99


def assert_near(one: Tensor, other: Tensor) -> None:
    difference = (one - other).abs()
    assert difference.max() <= 1.5 / 255
    assert (difference > 2e-4).float().mean() <= 0.01


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_moving_scene_and_camera_together_changes_only_the_unit_of_depth(scale, filter):
    move = Similarity(torch.tensor([0.5, -0.25, 2.0], dtype=torch.float64), scale)
    scene = replace(scene_of(40), filter=filter)
    before = render(scene, CAMERA)
    assert_alike(before, render(scene.moved(move), move.camera(CAMERA)), scale=scale)


def test_permuting_splats_changes_nothing():
    scene = scene_of(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    one, other = render(scene, CAMERA), render(scene[order], CAMERA)
    # Vector code may round a splat differently at another place in the array.
    for name in ("color", "opacity", "depth", "median_depth"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-5)


def test_splats_that_are_not_seen_change_nothing():
    scene = scene_of(20)
    behind = replace(scene, means=scene.means * torch.tensor([1.0, 1.0, -1.0]))
    beside = replace(scene, means=scene.means + torch.tensor([500.0, 0.0, 0.0]))
    faint = replace(scene, opacity_logits=torch.full((20,), ALPHA_MIN * 0.99).logit())
    one, other = render(scene, CAMERA), render(together(behind, scene, beside, faint), CAMERA)
    torch.testing.assert_close(one.color, other.color, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.opacity, other.opacity, rtol=0, atol=1e-5)


def test_rendering_is_linear_in_colour():
    scene = replace(scene_of(30), rest=torch.zeros(30, 0, 3))
    others = scene.base.flip(0)
    mixed = render(replace(scene, base=0.3 * scene.base + 0.7 * others), CAMERA).color
    parts = render(scene, CAMERA).color, render(replace(scene, base=others), CAMERA).color
    torch.testing.assert_close(mixed, 0.3 * parts[0] + 0.7 * parts[1], atol=1e-5, rtol=1e-5)


def test_background_shows_where_the_scene_does_not_hide_it():
    scene, background = scene_of(30), (0.9, 0.1, 0.4)
    black, colored = render(scene, CAMERA), render(scene, CAMERA, background=background)
    expected = black.color + (1 - black.opacity)[..., None] * torch.tensor(background)
    torch.testing.assert_close(colored.color, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(colored.depth, black.depth)


@pytest.mark.parametrize("degree", range(4))
def test_an_empty_scene_is_its_background(degree):
    rendering = render(scene_of(5, degree)[:0], CAMERA, background=(0.1, 0.2, 0.3))
    assert rendering.color.shape == (17, 33, 3)
    torch.testing.assert_close(rendering.color, torch.tensor([0.1, 0.2, 0.3]).expand(17, 33, 3))
    for image in (rendering.opacity, rendering.depth, rendering.median_depth):
        assert torch.equal(image, torch.zeros(17, 33))


def gaussian(variance_x: float, variance_y: float) -> Tensor:
    """exp(-x^2 / (2 variance_x) - y^2 / (2 variance_y)) about the axis of CAMERA. [17, 33]"""
    x = torch.arange(33) + 0.5 - CAMERA.center[0]
    y = torch.arange(17) + 0.5 - CAMERA.center[1]
    return torch.exp(-(x[None, :] ** 2) / (2 * variance_x) - y[:, None] ** 2 / (2 * variance_y))


@pytest.mark.parametrize("sizes", [(0.4, 0.4, 0.4), (0.6, 0.1, 2.0), (0.02, 0.3, 0.02)])
@pytest.mark.parametrize("filter", ["classic", "antialiased"])
def test_one_splat_is_a_gaussian_image(sizes, filter):
    depth, opacity, color = 4.0, 0.8, (1.0, 0.5, 0.25)
    splat = splat_at(depth, opacity=opacity, sizes=sizes, color=color)
    rendering = render(replace(splat, filter=filter), CAMERA)
    sharp = [(FOCAL * size / depth) ** 2 for size in sizes[:2]]
    blurred = [variance + BLUR for variance in sharp]
    if filter == "antialiased":
        opacity *= math.sqrt(math.prod(sharp) / math.prod(blurred))
    alpha = opacity * gaussian(blurred[0], blurred[1])
    alpha = torch.where(alpha >= ALPHA_MIN, alpha, 0)
    assert_near(rendering.opacity, alpha)
    assert_near(rendering.color, alpha[..., None] * torch.tensor(color))


def test_antialiased_splats_send_the_same_light_however_small():
    # The sum over pixels of alpha is opacity * 2 pi * sigma^2, sigma being the size in pixels.
    for pixels in (0.5, 1.0, 2.0):
        size = pixels * 4.0 / FOCAL
        splat = replace(splat_at(4.0, opacity=0.9, sizes=(size, size, size)), filter="antialiased")
        expected = 0.9 * 2 * math.pi * pixels**2
        # Less what is cut off below ALPHA_MIN.
        assert render(splat, CAMERA).opacity.sum() == pytest.approx(expected, rel=0.03)


def test_depths_of_one_opaque_splat():
    rendering = render(splat_at(4.0, opacity=1 - 1e-6), CAMERA)
    alpha = (1 - 1e-6) * gaussian(25 + BLUR, 25 + BLUR)
    assert rendering.opacity[8, 16] == pytest.approx(ALPHA_MAX)
    seen, half = alpha > 0.01, alpha > 0.501
    assert rendering.depth[seen].tolist() == pytest.approx([4.0] * int(seen.sum()), rel=1e-4)
    assert torch.equal(rendering.median_depth[half], torch.full((int(half.sum()),), 4.0))
    assert torch.equal(
        rendering.median_depth[alpha < 0.499], torch.zeros(int((alpha < 0.499).sum()))
    )


@pytest.mark.parametrize(("front", "median"), [(0.3, 6.0), (0.6, 4.0), (0.1, 6.0)])
def test_two_splats_are_blended_front_to_back(front, median):
    near = splat_at(4.0, opacity=front, color=(1.0, 0.0, 0.0))
    far = splat_at(6.0, opacity=0.7, color=(0.0, 1.0, 0.0))
    behind = (1 - front) * 0.7
    for scene in (together(near, far), together(far, near)):
        rendering = render(scene, CAMERA)
        assert rendering.color[8, 16].tolist() == pytest.approx([front, behind, 0], abs=1e-5)
        assert rendering.opacity[8, 16] == pytest.approx(front + behind, abs=1e-5)
        expected = (front * 4 + behind * 6) / (front + behind)
        assert rendering.depth[8, 16] == pytest.approx(expected, rel=1e-4)
        assert rendering.median_depth[8, 16] == median


def test_a_shifted_principal_point_shifts_the_image():
    # The camera turns no further than the field of view that projection clamps to.
    scene = scene_of(30)
    wide = replace(CAMERA, width=43, height=27, center=(21.5, 13.5))
    inner = render(scene, wide).color[5:22, 5:38]
    assert_near(inner, render(scene, CAMERA).color)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rolled_camera_sees_a_rotated_image(turns):
    scene = scene_of(30)
    square = replace(CAMERA, width=24, height=24, center=(12.0, 12.0))
    half = turns * math.pi / 4
    roll = torch.eye(4, dtype=torch.float64)
    roll[:3, :3] = rotation_matrices(torch.tensor([math.cos(half), 0, 0, math.sin(half)]).double())
    rolled = replace(square, world_to_camera=roll @ square.world_to_camera)
    straight = render(scene, square)
    assert_near(render(scene, rolled).color, straight.color.rot90(-turns, dims=(0, 1)))


def test_nothing_nearer_than_the_near_plane_is_drawn():
    near = replace(CAMERA, near=5.0)
    assert render(splat_at(4.99), near).opacity.max() == 0
    assert render(splat_at(5.01), near).opacity.max() > 0.5


def test_every_parameter_gets_a_gradient():
    scene = scene_of(20)
    for value in scene.tensors.values():
        value.requires_grad_()
    rendering = render(scene, CAMERA)
    assert not rendering.median_depth.requires_grad
    (rendering.color.square().sum() + rendering.depth.sum()).backward()
    for name, value in scene.tensors.items():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
        assert value.grad.abs().max() > 0, name


def test_gradient_of_a_colour_is_the_weight_of_its_splat():
    splat = splat_at(4.0)
    splat.base.requires_grad_()
    rendering = render(splat, CAMERA)
    rendering.color[..., 1].sum().backward()
    weight = rendering.opacity.detach().sum().item() * COLOR
    assert splat.base.grad is not None
    assert splat.base.grad[0].tolist() == pytest.approx([0, weight, 0], rel=1e-4)
