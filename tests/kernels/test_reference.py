"""The reference kernels obey the laws that define them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from lumigraph.kernels import ALPHA_MIN, BLUR, Filter, Footprints, View
from lumigraph.kernels.splats import reference

FILTERS: tuple[Filter, ...] = ("classic", "antialiased")
smooth_rasterize = partial(
    reference.rasterize, alpha_min=0.0, alpha_max=1 - 1e-9, transmittance_min=0.0
)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(seed: int) -> Tensor:
    """A random proper rotation. [3, 3]"""
    matrix = torch.linalg.qr(random(3, 3, seed=seed)).Q
    return matrix * torch.linalg.det(matrix)


def view_of(rotation: Tensor, translation: Tensor, width: int = 20, height: int = 14) -> View:
    """A camera whose pixels are not square and whose centre is not the image's."""
    rows = torch.cat([rotation, translation[:, None]], 1).flatten().tolist()
    return View(tuple(rows), (17.0, 15.0), (9.2, 7.7), width, height, 0.2)


PLAIN = view_of(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
TURNED = view_of(rotation(1), random(3, seed=2))


def splats_before(view: View, count: int, seed: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means, quaternions, log scales and opacity logits of splats that `view` sees whole."""
    matrix = torch.tensor(view.world_to_camera, dtype=torch.float64).view(3, 4)
    local = 0.25 * random(count, 3, seed=seed).clamp(-1.5, 1.5)
    local[:, 2] += 2
    means = (local - matrix[:, 3]) @ matrix[:, :3]
    scales = 0.3 * random(count, 3, seed=seed + 1) - 2
    return means, random(count, 4, seed=seed + 2), scales, random(count, seed=seed + 3)


def footprints_of(view: View, count: int, seed: int = 3) -> Footprints:
    return reference.project(*splats_before(view, count, seed), view=view)


def alphas(footprints: Footprints, width: int, height: int) -> Tensor:
    """Alpha of every splat at every pixel by the definition, cut at ALPHA_MIN. [h, w, splats]"""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offset = torch.stack([columns, rows], -1)[:, :, None] + 0.5 - footprints.means
    xx, xy, yy = footprints.conics.unbind(-1)
    matrix = torch.stack([torch.stack([xx, xy], -1), torch.stack([xy, yy], -1)], -2)
    power = torch.einsum("hwni,nij,hwnj->hwn", offset, matrix, offset)
    alpha = footprints.opacities * torch.exp(-power / 2)
    return torch.where(alpha >= ALPHA_MIN, alpha, 0)


# Derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("filter", FILTERS)
def test_project_has_the_derivatives_it_claims(filter: Filter):
    inputs = [tensor.requires_grad_() for tensor in splats_before(TURNED, 4)]
    assert gradcheck(
        lambda *tensors: reference.project(*tensors, view=TURNED, filter=filter)[:4], inputs
    )


@pytest.mark.parametrize("degree", range(4))
def test_harmonics_has_the_derivatives_it_claims(degree: int):
    visible = torch.tensor([True, False, True, True, True])
    means, base, rest = random(5, 3, seed=4), random(5, 3, seed=5), random(5, 15, 3, seed=6)
    assert gradcheck(
        lambda *tensors: reference.harmonics(*tensors, view=TURNED, degree=degree, visible=visible),
        [tensor.requires_grad_() for tensor in (means, base, 0.1 * rest)],
    )


@pytest.mark.parametrize("background", [None, (0.3, 0.8)])
def test_a_smooth_rasterize_has_the_derivatives_it_claims(background: tuple[float, ...] | None):
    fixed = footprints_of(PLAIN, 5)

    def blend(means: Tensor, conics: Tensor, opacities: Tensor, features: Tensor):
        footprints = Footprints(means, conics, opacities, fixed.depths, fixed.extents)
        return smooth_rasterize(footprints, features, width=6, height=5, background=background)[:2]

    inputs = [tensor.detach().requires_grad_() for tensor in (*fixed[:3], random(5, 2, seed=7))]
    assert gradcheck(blend, inputs)


# Projection ----------------------------------------------------------------------------------


def covariance_by_definition(view: View, mean: Tensor, quaternion: Tensor, scale: Tensor):
    """J W Sigma W^T J^T + BLUR, with a numerical J, and a rotation made of quaternion products."""
    matrix = torch.tensor(view.world_to_camera, dtype=torch.float64).view(3, 4)
    (fx, fy), (cx, cy) = view.focal, view.center
    local = matrix[:, :3] @ mean + matrix[:, 3]
    # The direction in which the affine approximation is taken stays near the image.
    low = torch.tensor([-cx / fx, -cy / fy]) - 0.15 * torch.tensor(
        [view.width / fx, view.height / fy]
    )
    high = low + 1.3 * torch.tensor([view.width / fx, view.height / fy])
    slopes = (local[:2] / local[2]).clamp(low.double(), high.double())
    local = torch.cat([slopes * local[2], local[2:]])

    def pixel(p: Tensor) -> Tensor:
        return torch.stack([fx * p[0] / p[2] + cx, fy * p[1] / p[2] + cy])

    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    jacobian = torch.stack([(pixel(local + h) - pixel(local - h)) / 2e-6 for h in step], 1)
    q = quaternion / quaternion.norm()

    def rotated(v: Tensor) -> Tensor:
        t = 2 * torch.linalg.cross(q[1:], v)
        return v + q[0] * t + torch.linalg.cross(q[1:], t)

    turn = torch.stack([rotated(axis) for axis in torch.eye(3, dtype=torch.float64)], 1)
    sigma = turn @ torch.diag(scale.exp() ** 2) @ turn.T
    half = jacobian @ matrix[:, :3]
    return half @ sigma @ half.T + BLUR * torch.eye(2, dtype=torch.float64)


@pytest.mark.parametrize("beside", [0.0, 2.5])
def test_project_is_the_affine_approximation_of_the_projection(beside: float):
    means, quaternions, log_scales, logits = splats_before(TURNED, 6)
    matrix = torch.tensor(TURNED.world_to_camera, dtype=torch.float64).view(3, 4)
    means = means + beside * matrix[0, :3]
    log_scales = log_scales + beside  # large enough to reach the image from beside it
    seen = reference.project(means, quaternions, log_scales, logits + 3, view=TURNED)
    assert (seen.extents > 0).all()
    for i in range(6):
        covariance = covariance_by_definition(TURNED, means[i], quaternions[i], log_scales[i])
        inverse = covariance.inverse()
        expected = torch.stack([inverse[0, 0], inverse[0, 1], inverse[1, 1]])
        torch.testing.assert_close(seen.conics[i], expected, rtol=1e-6, atol=1e-9)
    local = means @ matrix[:, :3].T + matrix[:, 3]
    centers = local[:, :2] / local[:, 2:] * torch.tensor(TURNED.focal) + torch.tensor(TURNED.center)
    torch.testing.assert_close(seen.means, centers, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(seen.depths, local[:, 2])
    torch.testing.assert_close(seen.opacities, (logits + 3).sigmoid())


def test_extents_are_where_alpha_falls_to_its_minimum():
    seen = footprints_of(TURNED, 6)
    xx, xy, yy = seen.conics.unbind(-1)
    determinant = xx * yy - xy * xy
    for extent, variance in zip(seen.extents.T, (yy / determinant, xx / determinant), strict=True):
        edge = seen.opacities * torch.exp(-(extent**2) / variance / 2)
        torch.testing.assert_close(edge, torch.full_like(edge, ALPHA_MIN))


def test_moving_scene_and_camera_together_changes_nothing():
    means, quaternions, log_scales, logits = splats_before(TURNED, 6)
    before = reference.project(means, quaternions, log_scales, logits, view=TURNED)
    turn, shift = reference.rotation_matrices(random(4, seed=11)), random(3, seed=12)
    matrix = torch.tensor(TURNED.world_to_camera, dtype=torch.float64).view(3, 4)
    view = view_of(matrix[:, :3] @ turn.T, matrix[:, 3] - matrix[:, :3] @ turn.T @ shift)
    w, x = random(4, seed=11)[None], quaternions
    product = torch.cat(
        [
            w[:, :1] * x[:, :1] - (w[:, 1:] * x[:, 1:]).sum(1, keepdim=True),
            w[:, :1] * x[:, 1:]
            + x[:, :1] * w[:, 1:]
            + torch.linalg.cross(w[:, 1:].expand(6, 3), x[:, 1:]),
        ],
        1,
    )
    after = reference.project(means @ turn.T + shift, product, log_scales, logits, view=view)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old, new)


def test_the_length_of_a_quaternion_means_nothing():
    means, quaternions, log_scales, logits = splats_before(TURNED, 6)
    short = reference.project(means, 1e-3 * quaternions, log_scales, logits, view=TURNED)
    for one, other in zip(footprints_of(TURNED, 6), short, strict=True):
        torch.testing.assert_close(one, other)


def test_what_the_view_does_not_see_is_zero_everywhere():
    unseen = {
        "behind": ([0.0, 0, -1], -3.0, 2.0),
        "just before near": ([0.0, 0, 0.2 - 1e-9], -3.0, 2.0),
        "beside": ([9.0, 0, 1], -3.0, 2.0),
        "below": ([0.0, 9, 1], -3.0, 2.0),
        "fainter than a step": ([0.0, 0, 1], -3.0, -6.0),
        "not a number": ([math.nan, 0, 1], -3.0, 2.0),
        "infinite": ([0.0, 0, 1], math.inf, 2.0),
    }
    means = torch.tensor([mean for mean, _, _ in unseen.values()], dtype=torch.float64)
    scales = torch.tensor([scale for _, scale, _ in unseen.values()], dtype=torch.float64)
    logits = torch.tensor([logit for _, _, logit in unseen.values()], dtype=torch.float64)
    turns = random(len(unseen), 4, seed=13)
    footprints = reference.project(means, turns, scales[:, None].repeat(1, 3), logits, view=PLAIN)
    assert all(not tensor.any() for tensor in footprints)


def test_a_splat_on_the_near_plane_is_seen():
    at = torch.tensor([[0.0, 0, 0.2]], dtype=torch.float64)
    turn = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    footprints = reference.project(at, turn, at.new_full((1, 3), -3), at.new_zeros(1), view=PLAIN)
    assert footprints.extents.all()


# One splat -----------------------------------------------------------------------------------


def isotropic(sigma: float, opacity: float, filter: Filter) -> Tensor:
    """The image of one round splat on the axis, `sigma` pixels wide before the blur."""
    view = View((1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (40, 40), (20.25, 19.5), 41, 40, 0.1)
    at = torch.tensor([[0.0, 0, 2]], dtype=torch.float64)
    size = at.new_full((1, 3), math.log(sigma * 2 / 40))
    logit = at.new_full((1,), math.log(opacity / (1 - opacity)))
    turn = random(1, 4, seed=14)
    footprints = reference.project(at, turn, size, logit, view=view, filter=filter)
    raster = reference.rasterize(footprints, at.new_ones(1, 1), width=41, height=40)
    torch.testing.assert_close(raster.features[..., 0], 1 - raster.transmittance)
    return raster.features[..., 0]


@pytest.mark.parametrize("sigma", [0.4, 2.0, 5.0])
def test_one_splat_is_a_gaussian_image(sigma: float):
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(41), indexing="ij")
    squared = (columns + 0.5 - 20.25).double() ** 2 + (rows + 0.5 - 19.5).double() ** 2
    expected = 0.8 * torch.exp(-squared / (2 * (sigma**2 + BLUR)))
    expected = torch.where(expected >= ALPHA_MIN, expected, 0)
    torch.testing.assert_close(isotropic(sigma, 0.8, "classic"), expected)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_the_antialiased_filter_keeps_the_light_of_a_splat(sigma: float):
    light = isotropic(sigma, 0.9, "antialiased").sum().item()
    # The tail under ALPHA_MIN that is not drawn holds at most ALPHA_MIN / opacity of the light.
    assert light == pytest.approx(0.9 * 2 * math.pi * sigma**2, rel=1.4 * ALPHA_MIN / 0.9)
    assert isotropic(sigma, 0.9, "classic").sum().item() > light


# Harmonics -----------------------------------------------------------------------------------


def sphere() -> tuple[Tensor, Tensor]:
    """Directions and weights that integrate polynomials of degree 8 over the sphere exactly."""
    z, weights = np.polynomial.legendre.leggauss(6)
    angle = np.arange(12) * 2 * math.pi / 12
    ring = np.sqrt(1 - z[:, None] ** 2)
    directions = np.stack(
        [ring * np.cos(angle), ring * np.sin(angle), np.broadcast_to(z[:, None], (6, 12))], -1
    )
    return torch.tensor(directions.reshape(-1, 3)), torch.tensor(weights.repeat(12) * math.pi / 6)


def test_harmonics_are_orthonormal_on_the_sphere():
    directions, weights = sphere()
    basis = reference.harmonics_basis(directions, 3)
    torch.testing.assert_close(basis.T @ (weights[:, None] * basis), torch.eye(16).double())


def test_harmonics_have_the_order_and_the_signs_of_3dgs():
    """Y_lm = (-1)^m sqrt(2) K P_l^|m|(z) sin or cos(|m| phi), m from -l to l."""
    directions, _ = sphere()
    z, phi = directions[:, 2].numpy(), np.arctan2(*directions[:, :2].numpy().T[::-1])
    expected = []
    for l in range(4):
        for m in range(-l, l + 1):
            derivative = np.polynomial.legendre.Legendre.basis(l).deriv(abs(m))(z)
            legendre = (1 - z**2) ** (abs(m) / 2) * derivative
            norm = (2 * l + 1) / (4 * math.pi) * math.factorial(l - abs(m))
            wave = np.sin(-m * phi) if m < 0 else np.cos(m * phi)
            norm = math.sqrt(norm / math.factorial(l + abs(m)) * (2 if m else 1))
            expected.append((-1) ** m * norm * legendre * wave)
    basis = reference.harmonics_basis(directions, 3)
    torch.testing.assert_close(basis, torch.tensor(np.stack(expected, -1)))


@pytest.mark.parametrize("degree", range(4))
def test_a_colour_is_half_plus_its_harmonics_and_never_negative(degree: int):
    matrix = torch.tensor(TURNED.world_to_camera, dtype=torch.float64).view(3, 4)
    position = -torch.linalg.solve(matrix[:, :3], matrix[:, 3])
    means, base, rest = random(9, 3, seed=15), random(9, 3, seed=16), random(9, 15, 3, seed=17)
    away = (means - position) / (means - position).norm(dim=1, keepdim=True)
    basis = reference.harmonics_basis(away, degree)
    used = torch.cat([base[:, None], rest], 1)[:, : (degree + 1) ** 2]
    expected = (0.5 + torch.einsum("nk,nkc->nc", basis, used)).clamp_min(0)
    colors = reference.harmonics(means, base, rest, view=TURNED, degree=degree)
    torch.testing.assert_close(colors, expected)
    assert (expected == 0).any()
    if degree == 0:
        torch.testing.assert_close(colors, (0.5 + 0.28209479177387814 * base).clamp_min(0))


# Blending ------------------------------------------------------------------------------------


def test_features_and_transmittance_are_front_to_back_sums():
    footprints, features = footprints_of(PLAIN, 9), random(9, 3, seed=18)
    raster = reference.rasterize(footprints, features, width=20, height=14)
    image, left = torch.zeros(14, 20, 3).double(), torch.ones(14, 20).double()
    median = torch.full((14, 20), -1, dtype=torch.int32)
    alpha = alphas(footprints, 20, 14)
    for i in footprints.depths.argsort().tolist():
        image += (left * alpha[..., i])[..., None] * features[i]
        after = left * (1 - alpha[..., i])
        median[(left > 0.5) & (after <= 0.5)] = i
        left = after
    torch.testing.assert_close(raster.features, image)
    torch.testing.assert_close(raster.transmittance, left)
    assert torch.equal(raster.median, median)
    assert (median >= 0).any()


def test_features_and_background_share_what_there_is():
    footprints = footprints_of(PLAIN, 9)
    ones = torch.ones(9, 2, dtype=torch.float64)
    bare = reference.rasterize(footprints, ones, width=20, height=14)
    torch.testing.assert_close(bare.features[..., 0], 1 - bare.transmittance)
    full = reference.rasterize(footprints, ones, width=20, height=14, background=(1, 0.25))
    torch.testing.assert_close(full.features[..., 0], torch.ones(14, 20).double())
    torch.testing.assert_close(
        full.features[..., 1], bare.features[..., 1] + 0.25 * bare.transmittance
    )


def test_permuting_the_splats_changes_nothing():
    footprints, features = footprints_of(PLAIN, 9), random(9, 3, seed=18)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = Footprints(*(tensor[order] for tensor in footprints))
    one = reference.rasterize(footprints, features, width=20, height=14)
    other = reference.rasterize(moved, features[order], width=20, height=14)
    torch.testing.assert_close(one.features, other.features)
    index = other.median.long()
    assert torch.equal(torch.where(index >= 0, order[index], -1).int(), one.median)


def test_a_scene_cut_by_depth_and_composed_equals_the_whole():
    footprints, features = footprints_of(PLAIN, 12), random(12, 3, seed=18)
    whole = smooth_rasterize(footprints, features, width=20, height=14)
    image, left = torch.zeros(14, 20, 3).double(), torch.ones(14, 20).double()
    for part in footprints.depths.argsort().split(5):
        cut = Footprints(*(tensor[part] for tensor in footprints))
        raster = smooth_rasterize(cut, features[part], width=20, height=14)
        image = image + left[..., None] * raster.features
        left = left * raster.transmittance
    torch.testing.assert_close(whole.features, image)
    torch.testing.assert_close(whole.transmittance, left)


def stacked(opacity: float, count: int) -> Footprints:
    """Splats of one depth, all over the middle of the same pixel."""
    one = torch.ones(count, dtype=torch.float64)
    wide = torch.tensor([1.0, 0, 1], dtype=torch.float64).expand(count, 3)
    middle = 0.5 * one[:, None].expand(count, 2)
    return Footprints(middle, wide, opacity * one, one, 3 * one[:, None].expand(count, 2))


def test_splats_of_equal_depth_are_blended_by_index():
    raster = reference.rasterize(stacked(0.25, 4), torch.eye(4).double(), width=1, height=1)
    expected = 0.25 * torch.tensor([1, 0.75, 0.75**2, 0.75**3], dtype=torch.float64)
    torch.testing.assert_close(raster.features[0, 0], expected)
    assert raster.median.item() == 2


def test_nothing_is_seen_behind_a_finished_pixel():
    raster = reference.rasterize(stacked(1.0, 4), torch.eye(4).double(), width=1, height=1)
    # Alpha stops at 0.99, and a third splat finds 1e-4 of the light, which is too little.
    torch.testing.assert_close(
        raster.features[0, 0], torch.tensor([0.99, 0.0099, 0, 0], dtype=torch.float64)
    )
    assert raster.transmittance.item() == pytest.approx(1e-4)
    assert raster.median.item() == 0


def test_absolute_gradients_are_summed_over_pixels():
    fixed, features = footprints_of(PLAIN, 7), random(7, 2, seed=19)
    weights, more = random(14, 20, 2, seed=20), random(14, 20, seed=21)
    means = fixed.means.detach().requires_grad_()
    footprints = Footprints(means, *fixed[1:])
    start = random(7, 2, seed=22).abs()
    absolute = start.clone()
    raster = reference.rasterize(
        footprints, features, width=20, height=14, background=(1, 0), absolute_gradients=absolute
    )
    torch.testing.assert_close(absolute, start)
    losses = (raster.features * weights).sum(-1) + raster.transmittance * more
    losses.sum().backward()
    plain = reference.rasterize(footprints, features, width=20, height=14, background=(1, 0))
    losses = (plain.features * weights).sum(-1) + plain.transmittance * more
    expected = start.clone()
    for loss in losses.flatten():
        (gradient,) = torch.autograd.grad(loss, means, retain_graph=True)
        expected += gradient.abs()
    torch.testing.assert_close(absolute, expected)


def test_the_size_of_a_block_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    def run() -> tuple[Tensor, ...]:
        fixed, features = footprints_of(PLAIN, 7), random(7, 2, seed=19)
        means, absolute = fixed.means.requires_grad_(), torch.zeros(7, 2).double()
        footprints = Footprints(means, *fixed[1:])
        raster = reference.rasterize(
            footprints, features, width=20, height=14, absolute_gradients=absolute
        )
        (raster.features * random(14, 20, 2, seed=20)).sum().backward()
        assert means.grad is not None
        return *(tensor.detach() for tensor in raster), means.grad, absolute

    whole = run()
    monkeypatch.setattr(reference, "_PAIRS_PER_BLOCK", 7 * 9)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other)


def test_without_splats_there_is_background():
    none = torch.zeros(0)
    nothing = Footprints(
        none.view(0, 2), none.view(0, 3), opacities=none, depths=none, extents=none.view(0, 2)
    )
    raster = reference.rasterize(nothing, torch.zeros(0, 2), width=3, height=2, background=(1, 2))
    assert torch.equal(raster.features, torch.tensor([1.0, 2]).expand(2, 3, 2))
    assert torch.equal(raster.transmittance, torch.ones(2, 3))
    assert torch.equal(raster.median, torch.full((2, 3), -1, dtype=torch.int32))
