"""PH-Dropout: thinning, exact and sampled moments, confidence, and the search for a rate."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumigraph.datasets import Frame
from lumigraph.render import Camera, Splats, render_color, to_bytes
from lumigraph.uncertainty.dropout import (
    confidence,
    exact,
    exact_color,
    light_of,
    sampled,
    thin,
)
from lumigraph.uncertainty.rate import PASSES, find_rate, published_rate

CAMERA = Camera(torch.eye(4, dtype=torch.float64), (40.0, 40.0), (20.0, 12.0), 40, 24)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene_of(count: int, seed: int = 0) -> Splats:
    """Splats of all colours in front of CAMERA."""
    generator = seeded(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Splats(
        means=numbers(count, 3) * torch.tensor([1.0, 0.6, 0.8]) + torch.tensor([0, 0, 4.0]),
        quaternions=numbers(count, 4),
        log_scales=numbers(count, 3) * 0.3 - 1.8,
        opacity_logits=numbers(count),
        base=numbers(count, 3),
        rest=torch.zeros(count, 0, 3),
    )


def shifted(camera: Camera, x: float) -> Camera:
    matrix = camera.world_to_camera.clone()
    matrix[0, 3] = -x
    return replace(camera, world_to_camera=matrix)


def frames_of(scene: Splats, count: int = 3) -> list[Frame]:
    """Photos of the scene from some places."""
    frames = []
    for i in range(count):
        camera = shifted(CAMERA, 0.2 * i)
        photo = to_bytes(render_color(scene, camera))
        frames.append(Frame(f"{i}.png", camera, lambda photo=photo: photo))
    return frames


def test_a_higher_rate_leaves_out_the_same_and_more():
    scene = scene_of(2000)
    left = [
        {tuple(row) for row in thin(scene, rate, seeded()).means.tolist()} for rate in (0.1, 0.4)
    ]
    assert left[1] < left[0]
    assert len(left[0]) == pytest.approx(1800, abs=60)
    assert len(thin(scene, 0.0, seeded())) == 2000


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan, math.inf])
def test_rates_out_of_range(rate: float):
    scene = scene_of(5)
    for use in (
        lambda: thin(scene, rate, seeded()),
        lambda: sampled(scene, CAMERA, rate, trials=2, generator=seeded()),
        lambda: exact(scene, CAMERA, rate),
        lambda: exact_color(scene, CAMERA, rate),
        lambda: confidence(scene, [CAMERA], rate),
    ):
        with pytest.raises(ValueError, match="at least 0 and less than 1"):
            use()


def test_a_spread_takes_two_trials():
    with pytest.raises(ValueError, match="at least 2 trials, but trials is 1"):
        sampled(scene_of(5), CAMERA, 0.1, trials=1, generator=seeded())


def test_without_dropping_nothing_varies():
    scene = scene_of(200)
    for spread in (
        exact(scene, CAMERA, 0.0),
        sampled(scene, CAMERA, 0.0, trials=3, generator=seeded()),
    ):
        for std in (spread.std, spread.opacity_std, spread.depth_std):
            assert std.max() == 0
        torch.testing.assert_close(spread.mean, render_color(scene, CAMERA), rtol=0, atol=1e-5)


def test_trials_tend_to_the_exact_moments():
    scene, background = scene_of(150), (0.3, 0.1, 0.5)
    sure = exact(scene, CAMERA, 0.1, background=background)
    errors = []
    for trials in (100, 1600):
        few = sampled(scene, CAMERA, 0.1, trials=trials, generator=seeded(7), background=background)
        errors.append((few.std - sure.std).norm() / sure.std.norm())
        torch.testing.assert_close(few.mean, sure.mean, rtol=0, atol=3 / math.sqrt(trials) * 0.3)
    # The error falls with the root of the number of trials.
    assert errors[1] < 0.05
    assert 2.5 < errors[0] / errors[1] < 6.5
    torch.testing.assert_close(few.opacity_std, sure.opacity_std, rtol=0.2, atol=2e-3)


def test_the_depth_varies_as_the_delta_method_says():
    scene = scene_of(150)
    sure = exact(scene, CAMERA, 0.004)
    many = sampled(scene, CAMERA, 0.004, trials=3000, generator=seeded(3))
    solid = sure.opacity > 0.8
    assert solid.float().mean() > 0.1
    torch.testing.assert_close(many.depth[solid], sure.depth[solid], rtol=0.01, atol=0)
    ratio = many.depth_std[solid].norm() / sure.depth_std[solid].norm()
    assert ratio == pytest.approx(1, abs=0.1)
    # Where nothing is seen, depth and its standard deviation are 0.
    far = exact(scene[:0], CAMERA, 0.1)
    assert far.depth.abs().max() == far.depth_std.max() == 0


def test_colours_alone_are_those_of_the_whole():
    scene, background = scene_of(200), (0.3, 0.1, 0.5)
    shares = torch.zeros(2, len(scene))
    whole = exact(scene, CAMERA, 0.05, background=background, shares=shares[0])
    mean, std = exact_color(scene, CAMERA, 0.05, background=background, shares=shares[1])
    torch.testing.assert_close(mean, whole.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(std, whole.std, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(*shares, rtol=1e-3, atol=1e-5)
    assert float(shares[0].sum()) == pytest.approx(float(whole.std.square().sum()), rel=1e-4)


def wall(layers: int) -> Splats:
    """A red wall of overlapping splats, each where `layers` others are too."""
    x, y = torch.meshgrid(torch.linspace(-3, 3, 25), torch.linspace(-2, 2, 17), indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), torch.full_like(x.flatten(), 5.0)], dim=1)
    means = torch.cat([means + torch.tensor([0, 0, 0.01 * i]) for i in range(layers)])
    count = len(means)
    return Splats(
        means=means,
        quaternions=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        log_scales=torch.full((count, 3), -1.6),
        opacity_logits=torch.full((count,), 1.0),
        base=torch.tensor([[1.5, -1.5, -1.5]]).repeat(count, 1),
        rest=torch.zeros(count, 0, 3),
    )


def with_more(scene: Splats, means: list[list[float]]) -> Splats:
    """The scene with white splats at some places."""
    count = len(means)
    more = {
        "means": torch.tensor(means),
        "quaternions": torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        "log_scales": torch.full((count, 3), -2.0),
        "opacity_logits": torch.full((count,), 1.0),
        "base": torch.full((count, 3), 1.5),
        "rest": torch.zeros(count, 0, 3),
    }
    return replace(scene, **{n: torch.cat([v, more[n]]) for n, v in scene.tensors.items()})


def test_floaters_are_trusted_least_and_unseen_splats_not_at_all():
    scene = with_more(wall(4), [[0.0, 0.0, 2.0], [0.3, 0.2, 2.5], [0.0, 0.0, -3.0]])
    cameras = [shifted(CAMERA, x) for x in (-0.4, 0.0, 0.4)]
    trusted = confidence(scene, cameras, 0.05)
    assert trusted.shape == (len(scene),)
    assert ((trusted >= 0) & (trusted <= 1)).all()
    assert trusted[-1] == 0
    seen = trusted[light_of(scene, CAMERA) > 0.5]
    lowest = seen.quantile(0.05)
    assert (trusted[-3:-1] < lowest).all()
    # Half of those that are seen are trusted more than the middle one.
    assert trusted[trusted > 0].median() == pytest.approx(0.5, abs=0.03)


def test_confidence_needs_dropping():
    with pytest.raises(ValueError, match="give a rate above 0"):
        confidence(scene_of(5), [CAMERA], 0.0)
    assert confidence(scene_of(5), [], 0.1).max() == 0


def test_the_light_of_a_splat_is_what_it_covers():
    scene = scene_of(200)
    white = replace(scene, base=torch.full((200, 3), 0.5 / 0.28209479177387814))
    assert float(light_of(scene, CAMERA).sum()) == pytest.approx(
        float(render_color(white, CAMERA)[..., 0].sum()), rel=1e-4
    )


@pytest.mark.parametrize("criterion", ["masks", "mean"])
def test_the_rate_is_the_largest_that_keeps_the_views(criterion):
    scene = wall(6)
    frames = frames_of(scene)
    done: list[int] = []
    found = find_rate(scene, frames, criterion=criterion, told=done.append)
    assert done == list(range(1, PASSES + 1))
    assert found.base > 0.99
    assert len(found.trail) == PASSES - 1
    kept = [rate for rate, value in found.trail if value > 0.95 * found.base]
    lost = [rate for rate, value in found.trail if value <= 0.95 * found.base]
    assert max(kept) == found.rate < min(lost)
    assert math.sqrt(min(lost)) - math.sqrt(found.rate) == pytest.approx(2**-7)
    assert find_rate(scene, frames, criterion=criterion) == found
    # A redundant scene allows a higher one.
    bare = wall(1)
    assert find_rate(bare, frames_of(bare), criterion=criterion).rate < found.rate


def test_the_published_search_returns_the_first_rate_that_loses_it():
    scene = wall(3)
    frames = frames_of(scene)
    found = published_rate(scene, frames, generator=seeded())
    rates = [rate for rate, _ in found.trail]
    assert rates == [round(0.01 * (i + 1), 2) for i in range(len(rates))]
    assert found.rate == rates[-1]
    values = [value for _, value in found.trail]
    assert values[-1] <= 0.95 * found.base < min(values[:-1])
    assert published_rate(scene, frames, generator=seeded()) == found


def test_a_scene_that_allows_no_rate_is_told_so():
    # Photos that are brighter than the scene: whatever is left out makes it worse.
    scene = wall(1)
    frames = frames_of(replace(scene, base=scene.base + 0.5))
    with pytest.raises(ValueError, match=r"The scene is under-fitted.*or give a rate"):
        find_rate(scene, frames, margin=1e-8, criterion="mean")


def test_a_search_needs_views_and_a_margin():
    scene = scene_of(5)
    with pytest.raises(ValueError, match="no training views"):
        find_rate(scene, [])
    for margin in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            find_rate(scene, frames_of(scene), margin=margin)
        with pytest.raises(ValueError, match="between 0 and 1"):
            published_rate(scene, frames_of(scene), margin=margin, generator=seeded())
