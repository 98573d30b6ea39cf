"""Scenes as sums of squares: cost, derivative and preconditioner, and that scenes are found."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lumigraph.kernels import Filter, Parameters, View
from lumigraph.kernels.splats import cpu, reference
from lumigraph.recon.optimizers.levenberg import Iteration, dot, levenberg_marquardt, solve
from lumigraph.recon.optimizers.splat_problem import (
    DELTA,
    Colors,
    LinearSplats,
    SplatProblem,
    inverted,
)
from lumigraph.render import Camera
from lumigraph.render.paths import look_at

BACKGROUND = (0.1, 0.3, 0.2)
KINDS: dict[str, dict[str, Any]] = {
    "absolute": {"colors": "absolute"},
    "squared": {"colors": "squared"},
    "absolute and ssim": {"colors": "absolute", "ssim_weight": 0.2},
    "squared and ssim": {"colors": "squared", "ssim_weight": 0.6},
    "ssim alone": {"ssim_weight": 1.0},
}

Shot = tuple[View, Tensor]


def cloud(count: int = 40, *, seed: int = 0, degree: int = 1) -> Parameters:
    """Splats about the origin."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Parameters(
        means=0.6 * random(count, 3),
        quaternions=random(count, 4),
        log_scales=0.4 * random(count, 3) + math.log(0.25),
        opacity_logits=random(count),
        base=0.7 * random(count, 3),
        rest=0.1 * random(count, (degree + 1) ** 2 - 1, 3),
    )


def like(scene: Parameters, seed: int) -> Parameters:
    """A random direction."""
    generator = torch.Generator().manual_seed(seed)
    return Parameters(*(torch.randn(x.shape, generator=generator) for x in scene))


def disturbed(scene: Parameters, by: float = 0.1) -> Parameters:
    return Parameters(*(x + by * d for x, d in zip(scene, like(scene, 1), strict=True)))


def camera(angle: float) -> View:
    """A camera on a ring, that looks at the origin."""
    position = torch.tensor([4 * math.cos(angle), 0.8, 4 * math.sin(angle)]).double()
    up = torch.tensor([0.0, -1.0, 0.0]).double()
    matrix = look_at(position, torch.zeros(3).double(), up)
    return Camera(matrix, (35.0, 35.0), (16.0, 12.0), 32, 24).view


def photos(scene: Parameters, count: int = 4) -> list[Shot]:
    views = [camera(2 * math.pi * k / count) for k in range(count)]
    images = [cpu.paint(scene, view=v, degree=1, background=BACKGROUND)[0] for v in views]
    pairs = zip(views, images, strict=True)
    return [(view, image.clamp(0, 1).mul(255).round().to(torch.uint8)) for view, image in pairs]


def problem(shots: list[Shot], **options: Any) -> SplatProblem:
    return SplatProblem(shots, 1, background=BACKGROUND, **options)


def losses(image: Tensor, photo: Tensor, colors: Colors, ssim_weight: float) -> Tensor:
    """The cost of one view, by the definition."""
    size = (image - photo).abs()
    rho = torch.where(size < DELTA, size.square() / (2 * DELTA), size - DELTA / 2)
    loss = (1 - ssim_weight) * (rho if colors == "absolute" else size.square()).mean()
    return loss + ssim_weight * (1 - reference.ssim(image, photo))


# Cost and derivative ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_is_the_loss_and_half_the_square_of_the_residual(kind: str):
    scene = cloud()
    shots = photos(disturbed(scene))
    task = problem(shots, **KINDS[kind])
    colors, weight = task.colors, task.ssim_weight
    expected = sum(
        float(losses(linear.color.double(), photo.double() / 255, colors, weight))
        for (linear, _), (_, photo) in zip(task.linearized(scene).parts, shots, strict=True)
    )
    assert task.cost(scene) == pytest.approx(expected, rel=1e-5)
    residual = task.linearized(scene).residual
    assert float(residual.double().square().sum()) / 2 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_loss(kind: str):
    scene = cloud()
    shots = photos(disturbed(scene))
    task = problem(shots, **KINDS[kind])
    local = task.linearized(scene)
    found, expected = local.vjp(local.residual), Parameters(*(torch.zeros_like(x) for x in scene))
    for (linear, _), (_, photo) in zip(local.parts, shots, strict=True):
        image = linear.color.double().requires_grad_()
        losses(image, photo.double() / 255, task.colors, task.ssim_weight).backward()
        assert image.grad is not None
        linear.vjp(image.grad.float(), expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 2e-3 * other.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_the_products_are_adjoint(kind: str):
    scene = cloud()
    local = problem(photos(disturbed(scene)), **KINDS[kind]).linearized(scene)
    direction, weights = like(scene, 2), torch.randn(local.residual.shape)
    change = local.jvp(direction)
    assert change.shape == local.residual.shape
    assert change[-1] == 0
    left, right = dot((weights,), (change,)), dot(local.vjp(weights), direction)
    assert abs(left - right) <= 1e-5 * float(weights.norm() * change.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_moves_as_finite_differences_say(kind: str):
    """Along colours: shapes move where splats are cut off too, which no derivative knows."""
    scene = cloud()
    task = problem(photos(disturbed(scene)), **KINDS[kind])
    still = Parameters(*(torch.zeros_like(x) for x in scene))
    direction = still._replace(base=like(scene, 3).base, rest=like(scene, 3).rest)
    local, step = task.linearized(scene), 1e-3

    def costs(by: float) -> float:
        return task.cost(tuple(x + by * d for x, d in zip(scene, direction, strict=True)))

    slope = (costs(step) - costs(-step)) / (2 * step)
    assert slope == pytest.approx(dot(local.vjp(local.residual), direction), rel=2e-3)


def dense(local: LinearSplats, scene: Parameters) -> Tensor:
    """J, a column for each parameter. float64"""
    columns = []
    for part in range(len(scene)):
        for place in range(scene[part].numel()):
            unit = Parameters(*(torch.zeros_like(x) for x in scene))
            unit[part].view(-1)[place] = 1
            columns.append(local.jvp(unit).double())
    return torch.stack(columns, 1)


@pytest.mark.parametrize("colors", ["absolute", "squared"])
def test_the_diagonal_is_that_of_the_squared_jacobian(colors: Colors):
    scene = cloud(4)
    local = problem(photos(disturbed(scene)), colors=colors).linearized(scene)
    expected = dense(local, scene).square().sum(0)
    found = torch.cat([x.flatten() for x in local.diagonal()]).double()
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_with_ssim_the_diagonal_is_of_the_right_size():
    scene = cloud(8)
    local = problem(photos(disturbed(scene)), ssim_weight=0.2).linearized(scene)
    expected = dense(local, scene).square().sum(0)
    found = torch.cat([x.flatten() for x in local.diagonal()]).double()
    share = (found / expected)[expected > 1e-6 * expected.max()]
    assert share.min() > 0.02
    assert share.max() < 50


# The preconditioner ----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 1e-2])
def test_of_a_splats_shape_the_inverse_is_exact(factor: float):
    scene = cloud(1)
    local = problem(photos(disturbed(scene)), colors="squared").linearized(scene)
    whole = dense(local, scene)[:, :11]
    damping = tuple(factor * x.clamp_min(1e-12) for x in local.diagonal())
    square = whole.T @ whole
    square += torch.cat([x.flatten() for x in damping[:4]]).double().diag()
    vector = like(scene, 4)
    expected = torch.linalg.solve(square, torch.cat([x.flatten() for x in vector[:4]]).double())
    solved = local.precondition(vector, damping)
    found = torch.cat([x.flatten() for x in solved[:4]]).double()
    torch.testing.assert_close(found, expected, rtol=0.01, atol=1e-3 * float(expected.abs().max()))
    torch.testing.assert_close(
        solved[4], vector.base / (local.blocks().base + damping[4]), rtol=1e-5, atol=0
    )


def test_both_preconditioners_lead_to_the_same_solution():
    scene = cloud(20)
    found = []
    for preconditioner in ("blocks", "diagonal"):
        task = problem(photos(disturbed(scene)), preconditioner=preconditioner)
        local = task.linearized(scene)
        right = local.vjp(local.residual)
        solved = solve(local, right, 0.1, products=200, tolerance=1e-5)
        found.append(torch.cat([x.flatten() for x in solved.step]))
        assert solved.products < 200
    assert (found[0] - found[1]).norm() <= 1e-3 * found[0].norm()


def test_it_is_symmetric_and_positive():
    scene = cloud()
    local = problem(photos(disturbed(scene)), ssim_weight=0.2).linearized(scene)
    damping = tuple(1e-6 * x.clamp_min(1e-12) for x in local.diagonal())
    # So that no one scale outweighs the others.
    roots = [x.clamp_min(1e-12).sqrt() for x in local.diagonal()]
    one, other = (
        Parameters(*(r * x for r, x in zip(roots, like(scene, seed), strict=True)))
        for seed in (5, 6)
    )
    left, right = local.precondition(one, damping), local.precondition(other, damping)
    assert dot(left, other) == pytest.approx(dot(one, right), rel=1e-2)
    assert dot(left, one) > 0
    assert dot(right, other) > 0


def test_blocks_without_an_inverse_give_way_to_their_diagonals():
    scene = cloud(3)
    local = problem(photos(disturbed(scene)), colors="squared").linearized(scene)
    blocks = local.blocks()
    blocks.geometry[0] = 0.0
    blocks.geometry[1] = math.nan
    damping = Parameters(*(torch.full_like(x, 2.0) for x in scene))
    solved = inverted(blocks, damping).times(damping)
    torch.testing.assert_close(solved.means[0], torch.ones(3))
    assert all(x[[0, 2]].isfinite().all() for x in solved)
    nothing = Parameters(*(torch.zeros_like(x) for x in scene))
    blocks.geometry[1] = 0.0
    assert all(x.isfinite().all() for x in inverted(blocks, nothing).times(nothing))


# Scenes are found ------------------------------------------------------------------------------


def tries(task: SplatProblem, scene: Parameters, **options: Any) -> list[Iteration]:
    """What Levenberg-Marquardt does, whose cost never rises."""
    found = list(levenberg_marquardt(task, scene, **options))
    costs = [each.cost for each in found]
    assert costs == sorted(costs, reverse=True)
    for each in found:
        for new, old in zip(each.point, scene, strict=True):
            assert torch.equal(new.isfinite(), old.isfinite())
    return found


@pytest.mark.parametrize("preconditioner", ["blocks", "diagonal"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_disturbed_scene_is_found(kind: str, preconditioner: str):
    truth = cloud()
    task = problem(photos(truth), preconditioner=preconditioner, **KINDS[kind])
    scene = disturbed(truth)
    before = task.cost(scene)
    found = tries(task, scene, iterations=12)
    assert found[-1].cost < 0.15 * before
    assert found[-1].cost == pytest.approx(task.cost(found[-1].point), rel=1e-6)


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
def test_odd_splats_give_finite_steps(filter: Filter):
    scene = Parameters(*(x.clone() for x in cloud()))
    scene.means[0] = torch.tensor([0.0, 500.0, 0.0])
    scene.means[1] = math.nan
    scene.opacity_logits[2] = -100.0
    scene.opacity_logits[3] = 100.0
    scene.log_scales[4] = torch.tensor([1.0, -30.0, -30.0])
    scene.log_scales[5] = torch.tensor([0.0, 0.0, -40.0])
    scene.log_scales[6] = 200.0
    scene.quaternions[7] = 0.0
    scene.base[8] = -5.0
    task = problem(photos(cloud()), filter=filter, ssim_weight=0.2)
    before = task.cost(scene)
    found = tries(task, scene, iterations=6)
    assert found[-1].cost < before
    for unseen in (0, 1, 2):
        for new, old in zip(found[-1].point, scene, strict=True):
            assert torch.equal(new[unseen].nan_to_num(7), old[unseen].nan_to_num(7))


def test_two_equal_splats_are_no_obstacle():
    one = cloud(20)
    scene = Parameters(*(torch.cat([x, x]) for x in disturbed(one)))
    task = problem(photos(Parameters(*(torch.cat([x, x]) for x in one))))
    before = task.cost(scene)
    assert tries(task, scene, iterations=8, damping=1e-9)[-1].cost < 0.5 * before


def test_where_nothing_is_seen_it_ends():
    shots = [(view._replace(near=100.0), photo) for view, photo in photos(cloud())]
    found = tries(problem(shots), cloud(), iterations=20)
    assert len(found) == 1
    assert found[0].length == 0


def test_where_all_is_right_it_ends():
    scene = cloud()
    views = [view for view, _ in photos(scene)]
    images = [cpu.paint(scene, view=v, degree=1, background=BACKGROUND)[0] for v in views]
    task = problem(list(zip(views, images, strict=True)), ssim_weight=0.2)
    found = tries(task, scene, iterations=20)
    assert len(found) == 1
    assert all(torch.equal(a, b) for a, b in zip(found[-1].point, scene, strict=True))


def test_threads_change_no_bit():
    truth, threads, found = cloud(), torch.get_num_threads(), []
    task = problem(photos(truth), ssim_weight=0.2)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(tries(task, disturbed(truth), iterations=3)[-1].point)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
