"""Levenberg-Marquardt photo by photo: its curvature, its damping, and difficult scenes."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lumigraph.kernels import Moments, Parameters, Rates, Target, View
from lumigraph.kernels.images import reference as images
from lumigraph.kernels.splats import cpu
from lumigraph.kernels.splats.composed import REFERENCE
from lumigraph.recon.optimizers import lm
from lumigraph.recon.optimizers.levenberg import Try
from lumigraph.recon.optimizers.lm import BlockState, Descent
from lumigraph.recon.optimizers.residuals import curvature_weights
from lumigraph.render import Camera
from lumigraph.render.paths import look_at

BACKGROUND = (0.1, 0.3, 0.2)
RATES = Rates(2e-3, 2e-3, 5e-3, 2e-2, 5e-3, 5e-4)


def camera(angle: float, *, width: int = 32, height: int = 24, far: float = 4.0) -> View:
    """A camera on a ring that looks at the origin."""
    position = torch.tensor([far * math.cos(angle), 0.8, far * math.sin(angle)]).double()
    matrix = look_at(position, torch.zeros(3).double(), torch.tensor([0.0, -1.0, 0.0]).double())
    return Camera(matrix, (width * 1.1, width * 1.1), (width / 2, height / 2), width, height).view


def cloud(count: int = 60, *, size: float = 0.25, seed: int = 0) -> Parameters:
    """Splats about the origin, with harmonics of degree 1."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Parameters(
        means=0.6 * random(count, 3),
        quaternions=random(count, 4),
        log_scales=0.4 * random(count, 3) + math.log(size),
        opacity_logits=random(count),
        base=0.7 * random(count, 3),
        rest=0.1 * random(count, 3, 3),
    )


def disturbed(scene: Parameters, by: float = 0.1, seed: int = 1) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return Parameters(*(x + by * torch.randn(x.shape, generator=generator) for x in scene))


def photos(scene: Parameters, count: int = 6) -> list[Target]:
    """Photos of a scene from a ring of cameras."""
    targets = []
    for k in range(count):
        view = camera(2 * math.pi * k / count)
        image = cpu.blend(cpu.project(scene, view=view, degree=1), background=BACKGROUND).features
        targets.append(Target(view, image.clamp(0, 1).mul(255).round().byte(), BACKGROUND))
    return targets


def descent_of(scene: Parameters) -> Descent:
    means = Parameters(*(torch.zeros_like(x) for x in scene))
    squares = Parameters(*(torch.zeros_like(x) for x in scene))
    last = torch.zeros(len(scene.means), dtype=torch.int32)
    return Descent(scene, Moments(means, squares, last), degree=1)


def taken(
    descent: Descent,
    state: BlockState,
    targets: Sequence[Target],
    steps: int,
    rates: Rates = RATES,
) -> tuple[list[float], list[Try]]:
    """Takes steps, the photos by turns; returns the losses and the iterations."""
    losses, tries = [], []
    for _ in range(steps):
        number = state.step + 1
        loss, tried = descent.step(state, targets[number % len(targets)], rates, number)
        losses.append(loss)
        tries += [tried] if tried else []
    return losses, tries


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short iterations, so that a test has several of them."""
    monkeypatch.setattr(lm, "ITERATION", 20)
    monkeypatch.setattr(lm, "REFRESH", 5)


def test_the_curvature_begins_as_the_mean_of_blocks():
    scene = cloud()
    targets = photos(disturbed(scene), 3)
    state = descent_of(scene).start(targets)
    sums = None
    for view, photo, background, weight in targets:
        records = REFERENCE.project(scene, view=view, degree=1)
        picture = REFERENCE.blend(records, background=background)
        weights = curvature_weights(picture.features, photo.float() / 255, weight)
        sums = picture.blocks(weights, sums)
    assert sums is not None
    for found, expected in zip(state.curvature, sums, strict=True):
        mean = expected * (lm.STIFFNESS / 3)
        assert (found - mean).abs().max() < 1e-3 * mean.abs().max()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("contrast", [0.3, 0.03])
def test_weights_are_the_second_derivatives_of_the_loss(contrast, channels):
    generator = torch.Generator().manual_seed(0)
    photo = 0.5 + contrast * (2 * torch.rand(20, 20, 1, generator=generator).double() - 1)
    # Hardly coloured, as most photos are.
    photo = photo + 0.1 * contrast * torch.rand(20, 20, channels, generator=generator).double()
    noise = torch.randn(20, 20, channels, generator=generator).double()
    image = (photo + 1e-4 * noise).requires_grad_()
    loss = 1 - images.ssim(image, photo)
    (slope,) = torch.autograd.grad(loss, image, create_graph=True)
    weights = curvature_weights(image.detach().float(), photo.float(), 1.0)
    for y, x in ((10, 10), (3, 14), (0, 0), (19, 7)):
        (bend,) = torch.autograd.grad(slope[y, x, 0], image, retain_graph=True)
        assert float(weights[y, x, 0]) == pytest.approx(float(bend[y, x, 0]), rel=0.1)
    errors = torch.tensor([0.0, 0.01, -0.05, 0.5]).view(2, 2, 1)
    absolute = curvature_weights(torch.full((2, 2, 1), 0.5) + errors, torch.full((2, 2, 1), 0.5), 0)
    expected = 1 / errors.abs().clamp_min(0.02) / 4
    torch.testing.assert_close(absolute, expected, rtol=1e-4, atol=0)


def test_the_linear_model_predicts_short_steps():
    scene = cloud()
    targets = photos(disturbed(scene))
    descent = descent_of(scene)
    state = descent.start(targets)
    _, tries = taken(descent, state, targets, 40, Rates(*(1e-3 * rate for rate in RATES)))
    assert [tried.gain for tried in tries] == pytest.approx([1.0, 1.0], abs=0.2)
    assert state.damping == 1.0


def test_losses_fall_and_iterations_are_reported():
    scene = cloud()
    targets = photos(disturbed(scene))
    descent = descent_of(scene)
    state = descent.start(targets)
    losses, tries = taken(descent, state, targets, 100)
    assert sum(losses[-6:]) < 0.4 * sum(losses[:6])
    assert [tried.number for tried in tries] == [1, 2, 3, 4, 5]
    assert all(tried.accepted and tried.length > 0 and tried.seconds > 0 for tried in tries)
    means = [sum(losses[at : at + 20]) / 20 for at in range(0, 100, 20)]
    assert [tried.tried for tried in tries] == pytest.approx(means)
    assert [tried.before for tried in tries[1:]] == pytest.approx(means[:-1])
    assert (state.losses, state.foretold) == (0, 0)


def test_a_short_last_iteration_is_reported_too():
    scene = cloud()
    targets = photos(disturbed(scene))
    descent = descent_of(scene)
    state = descent.start(targets)
    taken(descent, state, targets, 27)
    _, tried = descent.step(state, targets[0], RATES, 28, last=True)
    assert tried is not None
    assert (tried.images, tried.products, tried.number) == (8, 1, 2)


def test_a_short_last_iteration_towards_a_difficult_photo_is_not_lost():
    scene = cloud()
    targets = photos(disturbed(scene))
    descent = descent_of(scene)
    state = descent.start(targets)
    taken(descent, state, targets, 40)
    best = state.best.means.clone()
    hard = targets[0]._replace(photo=255 - targets[0].photo)
    _, tried = descent.step(state, hard, RATES, 41, last=True)
    assert tried is not None
    assert tried.tried > lm.MUCH_WORSE * state.cost
    assert tried.accepted
    assert not torch.equal(scene.means, best)


def test_it_is_the_same_on_every_backend(monkeypatch: pytest.MonkeyPatch):
    scenes = []
    for backend in (cpu, REFERENCE):
        monkeypatch.setattr(lm, "splats_for", lambda device, backend=backend: backend)
        scene = cloud(30)
        targets = photos(disturbed(scene), 3)
        descent = descent_of(scene)
        state = descent.start(targets)
        losses, _ = taken(descent, state, targets, 7)
        scenes.append((scene, losses, state.fall, state.foretold))
    (one, losses, *judged), (other, expected, *foreseen) = scenes
    assert losses == pytest.approx(expected, rel=1e-3)
    assert judged == pytest.approx(foreseen, rel=0.05)
    for x, y in zip(one, other, strict=True):
        assert (x - y).abs().max() < 0.02 * max(1.0, float(y.abs().max()))


def test_steps_that_differ_from_the_prediction_are_damped():
    scene = cloud()
    targets = photos(disturbed(scene, 0.02))
    descent = descent_of(scene)
    state = descent.start(targets)
    for numbers in state.curvature:
        numbers.zero_()  # as if the pictures had no curvature
    descent.step(state, targets[0], Rates(*(20 * rate for rate in RATES)), 1)
    state.fall, state.foretold, state.cost = -1.0, 10.0, math.inf
    _, tried = descent.step(state, targets[1], RATES, 2, last=True)
    assert tried is not None
    assert tried.gain < lm.GAIN_LOW
    assert (tried.damping, state.damping) == (1.0, 2.0)
    state.fall = state.foretold = 10.0
    _, tried = descent.step(state, targets[2], RATES, 3, last=True)
    assert tried is not None
    assert (tried.damping, state.damping) == (2.0, 1.0)


def test_wild_rates_do_no_harm_where_curvature_is_known():
    scene = cloud()
    targets = photos(disturbed(scene))
    descent = descent_of(scene)
    state = descent.start(targets)
    losses, tries = taken(descent, state, targets, 60, Rates(*(1000 * rate for rate in RATES)))
    assert all(tried.accepted for tried in tries)
    assert sum(losses[-6:]) < sum(losses[:6])


@pytest.mark.parametrize("harm", ["much worse", "means", "opacity_logits", "base"])
def test_a_scene_that_is_lost_goes_back_to_the_best(harm):
    scene = cloud()
    targets = photos(disturbed(scene))
    descent = descent_of(scene)
    state = descent.start(targets)
    taken(descent, state, targets, 40)
    best = copy.deepcopy(state.best)
    if harm == "much worse":
        state.cost /= 1000  # as if the best scene were much better
    else:
        getattr(scene, harm)[:5] = math.nan
    _, tries = taken(descent, state, targets, 20)
    assert not tries[0].accepted
    assert state.damping == lm.BACK_DAMPING
    assert all(x.isfinite().all() for x in state.curvature)
    assert all(torch.equal(now, then) for now, then in zip(scene, best, strict=True))
    losses, tries = taken(descent, state, targets, 20)
    assert tries[0].accepted
    assert max(losses) < 2 * state.cost
    assert tries[0].damping == lm.BACK_DAMPING


def resisting(kind: str) -> tuple[Parameters, list[Target]]:
    """A scene and photos without a simple way to a lower loss."""
    scene = cloud()
    targets = photos(disturbed(scene))
    if kind == "a camera that sees nothing":
        targets[0] = targets[0]._replace(view=camera(0.0, far=-40.0))
        scene.means[:, 0] += 0.5
    if kind == "a wrong pose":
        targets[0] = targets[0]._replace(view=camera(2.0))
    if kind == "one photo":
        targets = targets[:1]
    if kind == "splats that nobody sees":
        scene.means[:20] += 1000.0
    if kind == "no opacity":
        scene.opacity_logits[:30] = -60.0
    if kind == "needles":
        scene.log_scales[:, 0], scene.log_scales[:, 1:] = 1.0, -9.0
    if kind == "one splat many times":
        for x in scene:
            x[:] = x[0]
    if kind == "a black photo":
        targets[0] = targets[0]._replace(photo=torch.zeros_like(targets[0].photo))
    return scene, targets


@pytest.mark.parametrize(
    "kind",
    [
        "a camera that sees nothing",
        "a wrong pose",
        "one photo",
        "splats that nobody sees",
        "no opacity",
        "needles",
        "one splat many times",
        "a black photo",
    ],
)
def test_nothing_diverges(kind):
    scene, targets = resisting(kind)
    descent = descent_of(scene)
    state = descent.start(targets)
    losses, tries = taken(descent, state, targets, 100)
    assert all(x.isfinite().all() for x in scene)
    assert all(math.isfinite(loss) for loss in losses)
    count = len(targets)
    assert sum(losses[-count:]) <= 1.02 * sum(losses[:count])
    assert all(math.isfinite(tried.tried) and math.isfinite(tried.length) for tried in tries)


def test_no_photos_are_refused():
    with pytest.raises(ValueError, match="there are no photos to learn from"):
        descent_of(cloud()).start([])
