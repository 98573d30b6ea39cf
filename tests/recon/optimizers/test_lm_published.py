"""The published Levenberg-Marquardt: its algebra, that costs fall, and difficult scenes."""

import copy
import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from lumigraph.kernels import Filter, Parameters, View
from lumigraph.kernels.splats import cpu
from lumigraph.recon.optimizers import lm_published
from lumigraph.recon.optimizers.levenberg import Try, dot, zeros_like
from lumigraph.recon.optimizers.lm_batch import Batch, Published, Shot, Shots, gather
from lumigraph.recon.optimizers.lm_published import (
    LmState,
    direction,
    line_search,
    lm_step,
    moved,
    solve,
    start_lm,
    trust_region,
)
from lumigraph.recon.optimizers.residuals import as_colors, published, published_cost
from lumigraph.render import Camera
from lumigraph.render.paths import look_at

BACKGROUND = (0.1, 0.3, 0.2)
LONG = Published(images=3, batches=2, radius=10.0, radius_min=1e-4, radius_max=1e4)
"""A radius for small pictures: their sums over pixels are small, so steps would be short."""


def camera(angle: float, *, width: int = 32, height: int = 24, far: float = 4.0) -> View:
    """A camera on a ring that looks at the origin."""
    position = torch.tensor([far * math.cos(angle), 0.8, far * math.sin(angle)]).double()
    up = torch.tensor([0.0, -1.0, 0.0]).double()
    matrix = look_at(position, torch.zeros(3).double(), up)
    return Camera(matrix, (width * 1.1, width * 1.1), (width / 2, height / 2), width, height).view


def cloud(count: int = 60, *, size: float = 0.25, seed: int = 0, degree: int = 1) -> Parameters:
    """Splats about the origin."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Parameters(
        means=0.6 * random(count, 3),
        quaternions=random(count, 4),
        log_scales=0.4 * random(count, 3) + math.log(size),
        opacity_logits=random(count),
        base=0.7 * random(count, 3),
        rest=0.1 * random(count, (degree + 1) ** 2 - 1, 3),
    )


def clone(scene: Parameters) -> Parameters:
    return Parameters(*(x.clone() for x in scene))


def disturbed(scene: Parameters, by: float = 0.1, seed: int = 1) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return Parameters(*(x + by * torch.randn(x.shape, generator=generator) for x in scene))


def photos(scene: Parameters, count: int = 6, filter: Filter = "classic") -> list[Shot]:
    """Photos of a scene from a ring of cameras."""
    views = [camera(2 * math.pi * k / count) for k in range(count)]
    return [(view, photo_of(scene, view, filter)) for view in views]


def photo_of(scene: Parameters, view: View, filter: Filter = "classic") -> Tensor:
    records = cpu.project(scene, view=view, degree=1, filter=filter)
    image = cpu.blend(records, background=BACKGROUND).features
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def cost(scene: Parameters, shots: list[Shot]) -> float:
    """The cost over all photos."""
    images = [shots_of(shots).draw(scene, view).features for view, _ in shots]
    pairs = zip(images, shots, strict=True)
    return sum(published_cost(image, as_colors(photo, image)) for image, (_, photo) in pairs)


def unspoken(text: str) -> None:
    raise AssertionError(f"no note was expected: {text}")


def taken(
    scene: Parameters,
    shots: list[Shot],
    iterations: int,
    settings: Published = LONG,
    state: LmState | None = None,
    **options: Any,
) -> list[Try]:
    """Takes iterations; each one keeps finite numbers finite and never raises the cost."""
    state = start_lm(settings) if state is None else state
    options = {"degree": 1, "background": BACKGROUND, "told": unspoken, **options}
    tries = []
    before = clone(scene)
    while state.number < iterations and not state.ended:
        each = lm_step(scene, state, shots, settings=settings, **options)
        tries.append(each)
        for new, old in zip(scene, before, strict=True):
            assert torch.equal(new.isfinite(), old.isfinite())
            if not each.accepted:
                assert torch.equal(new, old) or not old.isfinite().all()
        assert all(math.isfinite(x) for x in (each.before, each.tried, each.cost, each.length))
        assert each.cost <= each.before
        before = clone(scene)
    return tries


def shots_of(shots: list[Shot], settings: Published = LONG) -> Shots:
    return Shots(shots, cpu, settings, degree=1, background=BACKGROUND)


def batch_of(scene: Parameters, shots: list[Shot]) -> Batch:
    every = Published(images=len(shots))
    return gather(scene, shots_of(shots, every), torch.empty(0, dtype=torch.int64))[0]


# The algebra -----------------------------------------------------------------------------------


def matrix(batch: Batch, scene: Parameters) -> Tensor:
    """J^T J, a column for each parameter. float64"""
    columns = []
    for part in range(len(scene)):
        for place in range(scene[part].numel()):
            unit = zeros_like(scene)
            unit[part].view(-1)[place] = 1
            columns.append(flat(batch.product(unit)))
    return torch.stack(columns, 1)


def flat(point: Parameters) -> Tensor:
    return torch.cat([x.flatten() for x in point]).double()


def test_the_system_is_solved_as_by_a_dense_one():
    scene = cloud(5)
    shots = photos(disturbed(scene), 3)
    batch = batch_of(scene, shots)
    dense, diagonal = matrix(batch, scene), batch.diagonal()
    torch.testing.assert_close(flat(diagonal), dense.diagonal(), rtol=1e-3, atol=1e-3)
    settings = Published(products=400, tolerance=1e-6, longest=math.inf)
    for radius in (1e-3, 1.0, 100.0):
        damping = flat(diagonal).clamp(1, 1e6) / radius
        expected = torch.linalg.solve(dense + damping.diag(), flat(batch.right()))
        x, products = solve(batch, diagonal, radius, settings)
        assert (flat(x) - expected).norm() <= 1e-3 * expected.norm()
        assert 1 < products <= 401


def test_few_products_go_most_of_the_way_and_are_counted():
    scene = cloud()
    batch = batch_of(scene, photos(disturbed(scene), 3))
    x, products = solve(batch, batch.diagonal(), 1e-3, Published())
    # With this much damping the system is almost diagonal: few products reach the tolerance.
    assert 1 < products <= 9
    right, damping = flat(batch.right()), flat(batch.diagonal()).clamp(1, 1e6) / 1e-3
    rest = right - flat(batch.product(x)) - damping * flat(x)
    assert rest.norm() <= 5.1e-2 * right.norm()
    _, products = solve(batch, batch.diagonal(), 1.0, Published(tolerance=0))
    assert products == 9


def test_the_model_of_the_cost_is_half_the_square_of_linear_residuals():
    scene = cloud(20)
    batch = batch_of(scene, photos(disturbed(scene), 2))
    step = disturbed(zeros_like(scene))
    cost, slope, bend = batch.along(step)
    assert cost == pytest.approx(sum(terms.cost for _, terms in batch.parts))
    assert slope == pytest.approx(dot(batch.right(), step), rel=1e-4)
    assert bend == pytest.approx(dot(batch.product(step), step), rel=1e-4)


def test_no_number_moves_further_than_allowed():
    scene = cloud()
    batch = batch_of(scene, photos(disturbed(scene), 3))
    free, _ = solve(batch, batch.diagonal(), 1e3, Published(longest=math.inf))
    tight, _ = solve(batch, batch.diagonal(), 1e3, Published(longest=1e-2))
    assert flat(free).abs().max() > 0.1
    assert flat(tight).abs().max() == pytest.approx(1e-2)
    torch.testing.assert_close(
        flat(tight) / flat(tight).norm(), flat(free) / flat(free).norm(), rtol=1e-4, atol=1e-7
    )


def test_solutions_are_averaged_by_their_diagonals():
    scene, shots = cloud(30), photos(disturbed(cloud(30)), 4)
    settings = dataclasses.replace(LONG, images=2)
    state = start_lm(settings)
    found = direction(scene, state, shots_of(shots, settings), unspoken)
    # Every other view, then the rest.
    parts = [batch_of(scene, [shots[i] for i in index]) for index in ((0, 2), (1, 3))]
    solved = [solve(part, part.diagonal(), state.radius, settings)[0] for part in parts]
    weights = [flat(part.diagonal()) + 1e-12 for part in parts]
    sums = sum(w * flat(x) for w, x in zip(weights, solved, strict=True))
    torch.testing.assert_close(flat(found.step), sums / sum(weights), rtol=1e-4, atol=1e-7)
    assert found.used == [0, 2, 1, 3]
    assert found.judges == [1, 3]
    assert not len(found.order)


def test_views_are_taken_in_strides_until_none_is_left():
    scene, shots = cloud(3), photos(cloud(3), 10)
    settings = dataclasses.replace(LONG, images=4)
    left, seen = torch.empty(0, dtype=torch.int64), []
    for _ in range(4):
        batch, left, fits = gather(scene, shots_of(shots, settings), left)
        assert fits
        seen.append(batch.index)
    assert seen[0] == [0, 2, 4, 6]
    assert sorted(i for index in seen[:3] for i in index) == list(range(10))
    assert seen[3] == seen[0]


def test_the_step_is_shortened_as_long_as_the_cost_falls():
    def search(cost_at: Callable[[float], float]) -> float:
        return line_search(cost_at, Published())

    assert search(lambda by: (by - 1) ** 2) == 1
    assert search(lambda by: (by - 0.5) ** 2) == pytest.approx(0.7**2)
    assert search(lambda by: 3.0) == 1
    assert search(lambda by: by) <= 1e-10
    # A step to a cost of nan is shortened until the cost is finite.
    assert search(lambda by: math.nan if by > 0.2 else (by - 0.12) ** 2) == pytest.approx(0.7**6)
    assert search(lambda by: math.inf) <= 1e-10


def test_the_radius_follows_the_gain():
    settings = Published(radius=1.0, radius_min=1e-2, radius_max=10.0)

    def after(fall: float, gain: float, radius: float = 1.0, factor: float = 2.0):
        state = dataclasses.replace(start_lm(settings), radius=radius, factor=factor)
        return trust_region(state, 100.0, fall, gain, settings)

    assert after(10, 1.0) == (pytest.approx(3), 2, False)
    assert after(10, 1e300) == (pytest.approx(3), 2, False)
    assert after(10, math.inf, factor=8) == (pytest.approx(3), 2, False)
    assert after(10, 0.5) == (1, 2, False)
    assert after(10, 0.01)[0] == pytest.approx(1 / (1 + 0.98**3))
    assert after(10, 1.0, radius=9) == (10, 2, False)
    # The cost fell although the model predicted a rise.
    assert after(10, -1.0, factor=4) == (0.25, 4, False)
    assert after(-10, -1.0) == (0.5, 4, False)
    assert after(-10, 1.0, factor=4) == (0.25, 8, False)
    assert after(0, math.nan) == (0.5, 4, False)
    assert after(math.nan, math.nan) == (0.5, 4, False)
    assert after(-10, -1.0, radius=0.015) == (0.01, 4, True)
    assert after(1e-5, 1.0)[2]


# Costs fall ------------------------------------------------------------------------------------


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
def test_the_cost_falls(filter: Filter):
    truth = cloud()
    shots, scene = photos(truth, filter=filter), disturbed(truth)
    before = cost(scene, shots)
    tries = taken(scene, shots, 8, filter=filter)
    assert sum(each.accepted for each in tries) >= 5
    assert cost(scene, shots) < 0.4 * before
    assert [each.number for each in tries] == list(range(1, len(tries) + 1))
    assert all(each.images == 6 for each in tries)
    assert all(2 <= each.products <= 2 * 9 for each in tries)


def test_with_the_published_numbers_the_cost_falls():
    truth = cloud(150, size=0.15)
    shots, scene = photos(truth), disturbed(truth, 0.05)
    before = cost(scene, shots)
    tries = taken(scene, shots, 5, Published())
    assert tries[0].damping == pytest.approx(1000)
    assert all(each.accepted for each in tries)
    assert cost(scene, shots) < before


def test_photos_may_be_bytes_or_numbers():
    truth = cloud(20)
    scenes, shots = (disturbed(truth), disturbed(truth)), photos(truth, 2)
    floats = [(view, photo.float() / 255) for view, photo in shots]
    for scene, given in zip(scenes, (shots, floats), strict=True):
        taken(scene, given, 2)
    assert all(torch.equal(a, b) for a, b in zip(*scenes, strict=True))


def test_degrees_not_in_use_are_left_alone():
    truth = cloud(20)
    shots, scene = photos(truth, 2), disturbed(truth)
    before = scene.rest.clone()
    assert any(each.accepted for each in taken(scene, shots, 2, degree=0))
    assert torch.equal(scene.rest, before)


# Difficult scenes ------------------------------------------------------------------------------


def test_views_that_see_nothing_move_nothing():
    scene = cloud(20)
    away = camera(0.3, far=-4.0)._replace(near=100.0)
    shots = [(away, torch.full((24, 32, 3), 255, dtype=torch.uint8))]
    before = clone(scene)
    tries = taken(scene, shots, 20)
    assert not any(each.accepted for each in tries)
    assert all(each.length == 0 and math.isnan(each.gain) for each in tries)
    assert all(torch.equal(a, b) for a, b in zip(scene, before, strict=True))
    # It ends after the damping has risen to its bound.
    assert len(tries) < 20
    assert tries[-1].damping > 100 * tries[0].damping


def test_a_view_that_sees_nothing_does_not_harm_the_others():
    truth = cloud()
    shots, scene = photos(truth), disturbed(truth)
    before = cost(scene, shots)
    away = camera(0.3)._replace(near=100.0)
    mixed = [(away, shots[0][1]), *shots[:2], (away, shots[0][1]), *shots[2:]]
    taken(scene, mixed, 6)
    assert cost(scene, shots) < before


def test_a_wrong_pose_breaks_no_number():
    truth = cloud()
    shots, scene = photos(truth), disturbed(truth)
    shots[1] = (camera(2.0), shots[1][1])
    shots[4] = (camera(-1.0, far=0.3), shots[4][1])
    tries = taken(scene, shots, 8)
    assert any(each.accepted for each in tries)


def odd() -> Parameters:
    """Splats out of view, transparent, opaque, needles, discs, and of extreme sizes."""
    scene = clone(cloud(40))
    scene.means[0] = torch.tensor([0.0, 500.0, 0.0])
    scene.means[1, 0] = 1e6
    scene.means[2] = math.nan
    scene.opacity_logits[3] = -100.0
    scene.opacity_logits[4] = 100.0
    scene.log_scales[5] = torch.tensor([1.0, -30.0, -30.0])
    scene.log_scales[6] = torch.tensor([0.0, 0.0, -40.0])
    scene.log_scales[7] = -60.0
    scene.log_scales[8] = 200.0
    scene.quaternions[9] = 0.0
    scene.base[10] = -5.0
    scene.log_scales[11] = 6.0
    scene.means[12] = torch.tensor([3.9, 0.8, 0.0])
    return scene


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 1e4])
def test_odd_splats_give_finite_steps(filter: Filter, radius: float):
    scene, shots = odd(), photos(cloud(40), filter=filter)
    before = clone(scene)
    settings = dataclasses.replace(LONG, radius=radius, radius_max=1e6)
    assert taken(scene, shots, 6, settings, filter=filter)
    for new, old in zip(scene, before, strict=True):
        # Splats out of view do not change, and neither do values that are not finite.
        for unseen in (0, 2, 3):
            assert torch.equal(new[unseen].nan_to_num(7), old[unseen].nan_to_num(7))


def test_two_equal_splats_are_no_obstacle():
    """Their parameters are interchangeable: the normal equations are singular."""
    one = cloud(30)
    twice = Parameters(*(torch.cat([x, x]) for x in one))
    shots, scene = photos(twice), disturbed(one)
    scene = Parameters(*(torch.cat([x, x]) for x in scene))
    before = cost(scene, shots)
    settings = dataclasses.replace(LONG, radius=1e8, radius_max=1e8)
    tries = taken(scene, shots, 6, settings)
    assert any(each.accepted for each in tries)
    assert cost(scene, shots) < before


def test_steps_that_fail_raise_the_damping_and_leave_the_scene():
    truth = cloud()
    # The scene is the one in the photos, but for rounding: steps can hardly lower the cost.
    shots, scene = photos(truth), clone(truth)
    settings = dataclasses.replace(LONG, radius=1e4, search_least=0.9, gain_min=0.5)
    before = cost(scene, shots)
    tries = taken(scene, shots, 12, settings)
    failed = [(a, b) for a, b in pairwise(tries) if not a.accepted]
    assert failed
    assert all(b.damping > a.damping for a, b in failed)
    assert cost(scene, shots) <= 1.01 * before


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("name", ["right", "diagonal"])
def test_a_batch_that_is_not_finite_is_left_out(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float
):
    scene, shots = cloud(20), photos(disturbed(cloud(20)))
    before, whole = clone(scene), getattr(Batch, name)

    def broken(self: Batch) -> Parameters:
        numbers = whole(self)
        numbers.means[0, 0] = value
        return numbers

    monkeypatch.setattr(Batch, name, broken)
    tries = taken(scene, shots, 2)
    assert not any(each.accepted for each in tries)
    assert all(torch.equal(a, b) for a, b in zip(scene, before, strict=True))


def test_the_batches_that_are_finite_are_used(monkeypatch: pytest.MonkeyPatch):
    truth = cloud()
    scene, shots, right = disturbed(truth), photos(truth), Batch.right

    def broken(self: Batch) -> Parameters:
        numbers = right(self)
        if 0 in self.index:
            numbers.base[:] = math.nan
        return numbers

    monkeypatch.setattr(Batch, "right", broken)
    before = cost(scene, shots)
    assert any(each.accepted for each in taken(scene, shots, 2))
    assert cost(scene, shots) < before


def test_a_scene_without_splats_ends():
    tries = taken(cloud(0), photos(cloud(10), 2), 20)
    assert 0 < len(tries) < 20


# State, memory and threads ---------------------------------------------------------------------


def same(a: Parameters, b: Parameters) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_continuing_from_a_copy_is_the_same_bit_for_bit():
    truth = cloud()
    shots = photos(truth, 9)
    settings = dataclasses.replace(LONG, images=2)
    one, state = disturbed(truth), start_lm(settings, seed=5)
    tries = taken(one, shots, 2, settings, state)
    assert len(state.order)
    other, saved = clone(one), LmState(**copy.deepcopy(dataclasses.asdict(state)))
    kinds = (bool, int, float, Tensor)
    assert all(isinstance(x, kinds) for x in dataclasses.asdict(saved).values())
    rest = taken(one, shots, 4, settings, state)
    again = taken(other, shots, 4, settings, saved)
    assert [each.number for each in tries + rest] == [1, 2, 3, 4]
    assert same(one, other)
    assert not same(one, disturbed(truth))
    for a, b in zip(rest, again, strict=True):
        assert dataclasses.replace(a, seconds=0) == dataclasses.replace(b, seconds=0)
    for a, b in zip(dataclasses.astuple(state), dataclasses.astuple(saved), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_batches_shrink_to_the_memory_bound_and_one_note_says_so():
    truth = cloud()
    shots, said = photos(truth), []
    view = batch_of(truth, shots[:1]).bytes
    settings = dataclasses.replace(LONG, images=6, batches=2, bytes=int(3.5 * view))
    most = 0
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(4):
        batch, left, _ = gather(truth, shots_of(shots, settings), left)
        most = max(most, batch.bytes)
        assert len(batch.index) <= 3
        assert batch.bytes <= settings.bytes
    assert most > 2 * view
    scene = disturbed(truth)
    state = start_lm(settings)
    before = cost(scene, shots)
    tries = taken(scene, shots, 4, settings, state, told=said.append)
    assert len(said) == 1
    assert "A batch of 6 photos would take more than" in said[0]
    assert state.shrunk
    assert cost(scene, shots) < before
    assert len(tries) == 4


def test_one_view_is_taken_even_if_it_is_too_large():
    truth = cloud()
    said, settings = [], dataclasses.replace(LONG, bytes=1)
    tries = taken(disturbed(truth), photos(truth), 2, settings, told=said.append)
    assert len(said) == 1
    assert all(each.images == 2 for each in tries)


def test_no_more_is_held_at_once_than_allowed(monkeypatch: pytest.MonkeyPatch):
    truth = cloud()
    shots, alive, most = photos(truth, 8), [0], [0]

    class Counted:
        """A part of a batch that counts its instances."""

        def __init__(self, linear: Any) -> None:
            self.linear = linear
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self) -> None:
            alive[0] -= 1

        def __getattr__(self, name: str) -> Any:
            return getattr(self.linear, name)

    part = Shots.part

    def counted(self: Shots, scene: Parameters, index: int):
        linear, terms = part(self, scene, index)
        return Counted(linear), terms

    monkeypatch.setattr(Shots, "part", counted)
    view = batch_of(truth, shots[:1]).bytes
    settings = dataclasses.replace(LONG, images=8, batches=3, bytes=int(3.2 * view))
    taken(disturbed(truth), shots, 2, settings, told=lambda _: None)
    assert most[0] <= 3
    assert alive[0] == 0


def test_threads_change_no_bit():
    truth = cloud(150)
    shots, threads, found = photos(truth), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            scene = disturbed(truth)
            taken(scene, shots, 3)
            found.append(scene)
    finally:
        torch.set_num_threads(threads)
    assert same(*found)


def test_nothing_changes_until_a_step_is_judged(monkeypatch: pytest.MonkeyPatch):
    truth = cloud(20)
    scene, shots = disturbed(truth), photos(truth)
    state, before = start_lm(LONG), clone(scene)
    kept = copy.deepcopy(state)

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(lm_published, "trust_region", stopped)
    with pytest.raises(KeyboardInterrupt):
        lm_step(scene, state, shots, degree=1, settings=LONG, told=unspoken)
    assert same(scene, before)
    assert state.number == kept.number
    assert torch.equal(state.order, kept.order)
    assert torch.equal(state.random, kept.random)


def test_wrong_arguments_are_named():
    scene, shots = cloud(5), photos(cloud(5), 2)
    with pytest.raises(ValueError, match="no photos to fit the scene to"):
        lm_step(scene, start_lm(), [], degree=1, told=unspoken)
    state = dataclasses.replace(start_lm(), order=torch.tensor([0, 7]))
    with pytest.raises(ValueError, match="2 photos, but the fit was started with at least 8"):
        lm_step(scene, state, shots, degree=1, told=unspoken)
    with pytest.raises(ValueError, match="size of its photo"):
        lm_step(scene, start_lm(), [(camera(0, width=9), shots[0][1])], degree=1, told=unspoken)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", 0),
        ("radius", 1.0),
        ("radius_min", 0.0),
        ("search_factor", 1.0),
        ("huber", 0.0),
        ("ssim_scale", -1.0),
    ],
)
def test_wrong_settings_are_refused(name: str, value: Any):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(Published(), **{name: value})


def test_the_residuals_are_those_of_the_settings():
    scene = cloud(10)
    shots = photos(disturbed(scene), 1)
    settings = dataclasses.replace(LONG, huber=0.02, ssim_scale=0.0)
    linear, terms = shots_of(shots, settings).part(scene, 0)
    photo = as_colors(shots[0][1], linear.features)
    expected = published(linear.features, photo, huber=0.02, ssim_scale=0.0)
    assert torch.equal(terms.weights, expected.weights)
    assert shots_of(shots, settings).cost(scene, [0]) == expected.cost
    assert same(moved(scene, zeros_like(scene), 1), scene)
