"""Records, windows, gradients by records and by the view, and penalties: the laws."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lumigraph.kernels import (
    Adam,
    ByRecords,
    Filter,
    Look,
    Moments,
    Parameters,
    Penalty,
    Pull,
    Rates,
    Seen,
    SplatBackend,
    View,
    Window,
)
from lumigraph.kernels._native import active_level, available_levels, select_level
from lumigraph.kernels.splats import cpu
from lumigraph.kernels.splats.composed import REFERENCE

BACKGROUND = (0.2, 0.5, 0.9)
RATES = Rates(*[1e-2] * 6)


class Machine(NamedTuple):
    """A backend, and what of it is to be expected."""

    kernels: SplatBackend
    dtype: torch.dtype
    tolerance: float

    def typed(self, splats: Parameters) -> Parameters:
        """The same in the backend's type."""
        return Parameters(*(x.to(self.dtype) for x in splats))


@pytest.fixture(params=["reference", *(f"cpu-{level}" for level in available_levels())])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if request.param == "reference":
        yield Machine(REFERENCE, torch.float64, 1e-9)
        return
    before, threads = active_level(), torch.get_num_threads()
    select_level(request.param.removeprefix("cpu-"))
    yield Machine(cpu, torch.float32, 2e-4)
    select_level(before)
    torch.set_num_threads(threads)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64 that float32 has too."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).float().double()


def looking(width: int = 70, height: int = 45) -> View:
    """A camera a little off and turned, that looks along z."""
    c, s = math.cos(0.2), math.sin(0.2)
    matrix = (c, 0, s, 0.1, 0, 1, 0, -0.05, -s, 0, c, 4.0)
    focal, center = (1.1 * width, 1.2 * width), (0.52 * width, 0.47 * height)
    return View(matrix, focal, center, width, height, 0.05)


def cloud(count: int = 120, *, size: float = 0.2, seed: int = 1) -> Parameters:
    """Splats about the origin, of which some are not in view and some far beside the image."""
    return Parameters(
        means=random(count, 3, seed=seed) * torch.tensor([1.5, 0.9, 0.7]).double(),
        quaternions=random(count, 4, seed=seed + 1),
        log_scales=0.6 * random(count, 3, seed=seed + 2) + math.log(size),
        opacity_logits=1.5 * random(count, seed=seed + 3),
        base=0.8 * random(count, 3, seed=seed + 4),
        rest=0.3 * random(count, 15, 3, seed=seed + 5),
    )


def close(one: Tensor, other: Tensor, part: float) -> None:
    assert one.shape == other.shape
    assert (one - other).abs().max() <= part * other.abs().max().clamp_min(1e-30)


# Records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
def test_records_can_travel(machine: Machine, filter: Filter):
    """Whoever has their tensors alone draws the same picture, and finds the same gradient."""
    kernels, view = machine.kernels, looking()
    here = kernels.project(machine.typed(cloud()), view=view, degree=3, filter=filter)
    seen = here.tensors()
    assert 0 < len(seen.index) < 120
    assert torch.equal(seen.index, seen.index.sort().values)
    there = kernels.records(Seen(seen.index.clone(), seen.rows.clone()), here.look)
    for one, other in zip(there.tensors(), seen, strict=True):
        assert torch.equal(one, other)
    gradient, results = random(45, 70, 3).to(machine.dtype), []
    for records in (here, there):
        picture = kernels.blend(records, background=BACKGROUND, median=True)
        by = picture.vjp(gradient, gradient[..., 0].contiguous(), absolute=True)
        results.append((picture.features, picture.transmittance, picture.median, by.rows, by.index))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_the_definition_sees_the_same(machine: Machine):
    view = looking()
    ours = machine.kernels.project(machine.typed(cloud()), view=view, degree=3).tensors()
    theirs = REFERENCE.project(cloud(), view=view, degree=3).tensors()
    assert torch.equal(ours.index, theirs.index)
    for name in ("means", "conics", "opacities", "colors", "depths", "extents"):
        close(getattr(ours, name).double(), getattr(theirs, name), 1e-4)


def test_records_without_splats_have_no_derivative_by_splats(machine: Machine):
    kernels, splats = machine.kernels, machine.typed(cloud(9))
    here = kernels.project(splats, view=looking(), degree=3)
    far = kernels.blend(kernels.records(here.tensors(), here.look))
    other = kernels.blend(here, features=here.tensors().depths[:, None])
    for picture in (far, other):
        with pytest.raises(ValueError, match="were made from tensors"):
            picture.jvp(splats)
        with pytest.raises(ValueError, match="were made from tensors"):
            picture.blocks(picture.features)


def test_shares_of_splats_are_projected_and_blended_as_the_whole(machine: Machine):
    """As several processes would: each projects its own, and one draws all."""
    kernels, splats, view = machine.kernels, machine.typed(cloud()), looking()
    whole = kernels.project(splats, view=view, degree=3)
    parts = []
    for first, end in ((0, 50), (50, 120)):
        own = Parameters(*(x[first:end].contiguous() for x in splats))
        seen = kernels.project(own, view=view, degree=3).tensors()
        parts.append(Seen(seen.index + first, seen.rows))
    seen = Seen(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    together = kernels.blend(kernels.records(seen, whole.look), background=BACKGROUND)
    alone = kernels.blend(whole, background=BACKGROUND)
    assert torch.equal(together.features, alone.features)
    by = together.vjp(random(45, 70, 3).to(machine.dtype))
    gradient = kernels.gradients(splats, by)
    for first, end in ((0, 50), (50, 120)):
        own = Parameters(*(x[first:end].contiguous() for x in splats))
        for x, y in zip(kernels.gradients(own, by.share(first, end)), gradient, strict=True):
            torch.testing.assert_close(x, y[first:end])


def test_records_of_another_backend_are_refused():
    records = REFERENCE.project(cloud(5), view=looking(), degree=3)
    for operation in (cpu.blend, lambda records: cpu.moments(records, rate=0.1)):
        with pytest.raises(TypeError, match="records must be CpuRecords but are TensorRecords"):
            operation(records)


# Windows ---------------------------------------------------------------------------------------


def tiled(width: int, height: int, step: tuple[int, int]) -> list[Window]:
    """Windows that make up an image."""
    return [
        Window(x, y, min(step[0], width - x), min(step[1], height - y))
        for y in range(0, height, step[1])
        for x in range(0, width, step[0])
    ]


@pytest.mark.parametrize("step", [(32, 16), (16, 48), (13, 7)])
def test_pictures_of_windows_make_up_the_whole(machine: Machine, step: tuple[int, int]):
    kernels, view = machine.kernels, looking()
    records = kernels.project(machine.typed(cloud()), view=view, degree=3)
    whole = kernels.blend(records, background=BACKGROUND, median=True)
    features, light = torch.zeros_like(whole.features), torch.zeros_like(whole.transmittance)
    median = torch.zeros_like(whole.median)
    for window in tiled(view.width, view.height, step):
        part = kernels.blend(records, background=BACKGROUND, window=window, median=True)
        x, y, width, height = window
        place = slice(y, y + height), slice(x, x + width)
        features[place], light[place] = part.features, part.transmittance
        median[place] = part.median
    if machine.kernels is cpu and step[0] % 16 == 0:
        assert torch.equal(features, whole.features)
        assert torch.equal(light, whole.transmittance)
        assert torch.equal(median, whole.median)
    else:
        close(features, whole.features, 1e-5)
        close(light, whole.transmittance, 1e-5)
        assert (median != whole.median).sum() <= 3


@pytest.mark.parametrize("step", [(32, 16), (13, 7)])
@pytest.mark.parametrize("channels", [None, 1, 6])
def test_gradients_of_windows_add_up(machine: Machine, step: tuple[int, int], channels: int | None):
    kernels, view = machine.kernels, looking()
    records = kernels.project(machine.typed(cloud()), view=view, degree=3)
    count = len(records.tensors().index)
    features = None if channels is None else random(count, channels, seed=2).to(machine.dtype)
    few = channels is None or channels <= 4
    by_image = random(view.height, view.width, channels or 3, seed=3).to(machine.dtype)
    by_light = random(view.height, view.width, seed=4).to(machine.dtype)
    options: dict[str, Any] = {"features": features}
    whole = kernels.blend(records, **options).vjp(by_image, by_light, absolute=few)
    rows, shown = torch.zeros_like(whole.rows), torch.zeros(())
    for window in tiled(view.width, view.height, step):
        x, y, width, height = window
        place = slice(y, y + height), slice(x, x + width)
        part = kernels.blend(records, window=window, **options)
        by = part.vjp(by_image[place], by_light[place], absolute=few)
        assert torch.equal(by.index, whole.index)
        rows += by.rows
        if by.features is not None:
            shown = shown + by.features
    for columns in (slice(0, 2), slice(2, 5), slice(5, 6), slice(6, 9), slice(10, 12)):
        close(rows[:, columns], whole.rows[:, columns], 1e-4)
    if whole.features is not None:
        close(shown, whole.features, 1e-4)


def test_moments_of_a_window_are_those_of_the_whole(machine: Machine):
    kernels, view = machine.kernels, looking()
    records = kernels.project(machine.typed(cloud()), view=view, degree=3)
    whole_shares, shares = (torch.zeros(120, dtype=machine.dtype) for _ in range(2))
    options: dict[str, Any] = {"rate": 0.2, "background": BACKGROUND}
    whole = kernels.moments(records, shares=whole_shares, **options)
    for window in tiled(view.width, view.height, (32, 16)):
        part = kernels.moments(records, window=window, shares=shares, **options)
        x, y, width, height = window
        place = slice(y, y + height), slice(x, x + width)
        close(part.mean, whole.mean[place], 1e-5)
        torch.testing.assert_close(part.variance, whole.variance[place], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(shares, whole_shares, rtol=1e-3, atol=1e-6)


def test_products_of_windows_make_up_those_of_the_whole(machine: Machine):
    kernels, view, splats = machine.kernels, looking(), machine.typed(cloud())
    records = kernels.project(splats, view=view, degree=3)
    direction = Parameters(*(random(*x.shape, seed=7).to(x) for x in splats))
    weights = random(view.height, view.width, 3, seed=8).square().to(machine.dtype)
    whole = kernels.blend(records, background=BACKGROUND)
    change, blocks = whole.jvp(direction), whole.blocks(weights)
    found, sums = torch.zeros_like(change), None
    for window in tiled(view.width, view.height, (32, 16)):
        x, y, width, height = window
        place = slice(y, y + height), slice(x, x + width)
        part = kernels.blend(records, background=BACKGROUND, window=window)
        found[place] = part.jvp(direction)
        sums = part.blocks(weights[place].contiguous(), sums)
    close(found, change, 1e-5)
    assert sums is not None
    for one, other in zip(sums, blocks, strict=True):
        close(one, other, 1e-4)


# Channels --------------------------------------------------------------------------------------


def test_the_colours_given_as_features_are_the_picture(machine: Machine):
    kernels, view = machine.kernels, looking()
    records = kernels.project(machine.typed(cloud()), view=view, degree=3)
    seen = records.tensors()
    plain = kernels.blend(records, background=BACKGROUND)
    both = torch.cat([seen.colors, seen.depths[:, None]], 1)
    more = kernels.blend(records, features=both, background=(*BACKGROUND, 0.0))
    close(more.features[..., :3], plain.features, 1e-6)
    gradient = random(45, 70, 4, seed=5).to(machine.dtype)
    gradient[..., 3] = 0
    # The colours are still there for the next, whatever was blended before.
    expected = plain.vjp(gradient[..., :3].contiguous())
    close(more.vjp(gradient).with_channels(slice(0, 3), 3).rows, expected.rows, 1e-5)
    assert torch.equal(kernels.blend(records, background=BACKGROUND).features, plain.features)


def test_depth_moves_the_means(machine: Machine):
    """The gradient of a blended depth by the parameters, against finite differences."""
    view, splats = looking(), cloud(40)
    direction = Parameters(*(random(*x.shape, seed=9) for x in splats))
    gradient = random(45, 70, 1, seed=10)

    def depth(kernels: SplatBackend, scene: Parameters):
        records = kernels.project(scene, view=view, degree=0)
        depths = records.tensors().depths[:, None].contiguous()
        return kernels.blend(records, features=depths)

    def moved(by: float) -> Parameters:
        return Parameters(*(x + by * v for x, v in zip(splats, direction, strict=True)))

    step = 1e-7
    ahead, back = (depth(REFERENCE, moved(by)).features for by in (step, -step))
    expected = ((ahead - back) * gradient).sum() / (2 * step)
    by = depth(machine.kernels, machine.typed(splats)).vjp(gradient.to(machine.dtype))
    found = machine.kernels.gradients(machine.typed(splats), by.with_channels(None, 0))
    actual = sum((x.double() * v).sum() for x, v in zip(found, direction, strict=True))
    assert float(actual) == pytest.approx(float(expected), rel=max(1e-4, 10 * machine.tolerance))


@pytest.mark.parametrize("alpha_max", [0.4, 0.999])
def test_alpha_is_held_where_it_is_said(machine: Machine, alpha_max: float):
    kernels, view = machine.kernels, looking()
    bold = cloud()._replace(opacity_logits=4 + random(120, seed=20))
    records = kernels.project(machine.typed(bold), view=view, degree=3)
    exact = REFERENCE.project(bold, view=view, degree=3)
    plain = kernels.blend(records, background=BACKGROUND)
    gradient = random(45, 70, 3, seed=21)
    ours = kernels.blend(records, background=BACKGROUND, alpha_max=alpha_max)
    theirs = REFERENCE.blend(exact, background=BACKGROUND, alpha_max=alpha_max)
    close(ours.features.double(), theirs.features, 1e-4)
    assert (ours.features - plain.features).abs().max() > 1e-3
    rows, truth = ours.vjp(gradient.to(machine.dtype)).rows.double(), theirs.vjp(gradient).rows
    for columns in (slice(0, 2), slice(2, 5), slice(5, 6), slice(6, 9)):
        close(rows[:, columns], truth[:, columns], 1e-3)
    # The records are as they were for the next picture.
    assert torch.equal(kernels.blend(records, background=BACKGROUND).features, plain.features)


# The view --------------------------------------------------------------------------------------


def by_view(
    kernels: SplatBackend, splats: Parameters, view: View, filter: Filter, gradient: Tensor
):
    records = kernels.project(splats, view=view, degree=3, filter=filter)
    picture = kernels.blend(records, background=BACKGROUND)
    return kernels.view_gradient(splats, picture.vjp(gradient.to(picture.features)))


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
def test_the_gradient_by_the_view_is_that_of_finite_differences(filter: Filter):
    splats, view, step = cloud(40), looking(), 1e-7
    gradient = random(45, 70, 3, seed=11)
    found = by_view(REFERENCE, splats, view, filter, gradient)

    def loss(numbers: list[float]) -> float:
        moved = view._replace(
            world_to_camera=tuple(numbers[:12]),
            focal=(numbers[12], numbers[13]),
            center=(numbers[14], numbers[15]),
        )
        records = REFERENCE.project(splats, view=moved, degree=3, filter=filter)
        picture = REFERENCE.blend(records, background=BACKGROUND)
        return float((picture.features * gradient).sum())

    numbers = [*view.world_to_camera, *view.focal, *view.center]
    flat = torch.cat([x.flatten() for x in found])
    for place in range(16):
        size = step * max(1.0, abs(numbers[place]))
        ends = []
        for sign in (1, -1):
            moved = list(numbers)
            moved[place] += sign * size
            ends.append(loss(moved))
        difference = (ends[0] - ends[1]) / (2 * size)
        assert float(flat[place]) == pytest.approx(
            difference, rel=1e-4, abs=1e-4 * float(flat.abs().max())
        )


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
def test_the_gradient_by_the_view_is_that_of_the_definition(machine: Machine, filter: Filter):
    splats, view, gradient = cloud(), looking(), random(45, 70, 3, seed=12)
    expected = by_view(REFERENCE, splats, view, filter, gradient)
    actual = by_view(machine.kernels, machine.typed(splats), view, filter, gradient)
    for one, other in zip(actual, expected, strict=True):
        close(one, other, 10 * machine.tolerance)


@pytest.mark.parametrize("level", available_levels())
def test_threads_change_no_bit(level: str):
    before, threads = active_level(), torch.get_num_threads()
    select_level(level)
    splats = Parameters(*(x.float() for x in cloud(5000, size=0.03)))
    gradient, results = random(45, 70, 3, seed=13).float(), []
    for count in (1, 2, 8):
        torch.set_num_threads(count)
        records = cpu.project(splats, view=looking(), degree=3)
        part = cpu.blend(records, window=Window(16, 16, 40, 20))
        by = cpu.blend(records).vjp(gradient, absolute=True)
        view = cpu.view_gradient(splats, by)
        whole = (*records.tensors(), by.rows, *view, part.features, *cpu.gradients(splats, by))
        results.append((*whole, part.vjp(gradient[16:36, 16:56]).rows))
    torch.set_num_threads(threads)
    select_level(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


# Steps -----------------------------------------------------------------------------------------


def stepped(machine: Machine, by: ByRecords, splats: Parameters, **options: Any):
    """Splats after one step, with the moments and what density control learns."""
    moved = Parameters(*(x.clone() for x in splats))
    first, second = (Parameters(*map(torch.zeros_like, splats)) for _ in range(2))
    pull = Pull(*(torch.zeros_like(splats.opacity_logits) for _ in range(2)))
    moments = Moments(first, second)
    machine.kernels.update(moved, moments, by, Adam(RATES, 1), pull=pull, **options)
    return moved, moments, pull


def some_gradient(machine: Machine, splats: Parameters) -> ByRecords:
    records = machine.kernels.project(splats, view=looking(), degree=3)
    picture = machine.kernels.blend(records, background=BACKGROUND)
    return picture.vjp(random(45, 70, 3, seed=14).to(machine.dtype), absolute=True)


def test_the_moments_of_a_step_are_those_of_the_gradient(machine: Machine):
    splats = machine.typed(cloud())
    by = some_gradient(machine, splats)
    gradient = machine.kernels.gradients(splats, by)
    _, moments, _ = stepped(machine, by, splats)
    for mean, slope in zip(moments.first, gradient, strict=True):
        close(mean, 0.1 * slope, 1e-5)


def test_penalties_are_added_to_the_gradient_of_splats_in_view(machine: Machine):
    splats = machine.typed(cloud())
    by = some_gradient(machine, splats)
    seen = torch.zeros(120, dtype=torch.bool)
    seen[by.index.long()] = True
    penalty = Penalty(opacity=0.7, scale=0.3)
    gradient = machine.kernels.gradients(splats, by)
    _, moments, _ = stepped(machine, by, splats, penalty=penalty)
    logits = splats.opacity_logits.double().requires_grad_()
    scales = splats.log_scales.double().requires_grad_()
    cost = 0.7 * logits.sigmoid()[seen].sum() + 0.3 * scales.exp()[seen].sum()
    by_logits, by_scales = torch.autograd.grad(cost, (logits, scales))
    close(
        10 * moments.first.opacity_logits, gradient.opacity_logits + by_logits.to(gradient[0]), 1e-4
    )
    close(10 * moments.first.log_scales, gradient.log_scales + by_scales.to(gradient[0]), 1e-4)
    assert not moments.first.opacity_logits[~seen].any()


def test_no_penalty_is_a_penalty_of_zero(machine: Machine):
    splats = machine.typed(cloud())
    by = some_gradient(machine, splats)
    one, *_ = stepped(machine, by, splats)
    other, *_ = stepped(machine, by, splats, penalty=Penalty())
    for x, y in zip(one, other, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_gradient_that_is_not_finite_moves_nothing(machine: Machine, bad: float):
    """Neither the splat that has it, nor its moments, nor what density control learns of it."""
    if machine.dtype == torch.float64 and bad == 1e30:
        bad = 1e200
    splats = machine.typed(cloud())
    by = some_gradient(machine, splats)
    plain, *_ = stepped(machine, by, splats)
    for column in range(12):
        rows = by.rows.clone()
        rows[4, column] = bad
        ill = int(by.index[4])
        moved, moments, pull = stepped(machine, by._replace(rows=rows), splats)
        for x, old, y in zip(moved, splats, plain, strict=True):
            assert torch.equal(x[ill], old[ill])
            others = torch.arange(120) != ill
            assert torch.equal(x[others], y[others])
        for mean in (*moments.first, *moments.second, *pull):
            assert mean.isfinite().all()


def test_a_pixel_that_is_not_a_number_moves_nothing_it_does_not_show(machine: Machine):
    kernels, splats = machine.kernels, machine.typed(cloud())
    records = kernels.project(splats, view=looking(), degree=3)
    picture = kernels.blend(records, background=BACKGROUND)
    gradient = random(45, 70, 3, seed=15).to(machine.dtype)
    gradient[20, 30, 1] = math.nan
    moved, moments, _ = stepped(machine, picture.vjp(gradient, absolute=True), splats)
    for values in (*moved, *moments.first, *moments.second):
        assert values.isfinite().all()
    assert any(not torch.equal(x, y) for x, y in zip(moved, splats, strict=True))


@pytest.mark.parametrize("name", ["means", "quaternions", "log_scales", "opacity_logits"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_splat_that_is_not_finite_is_not_in_view(machine: Machine, name: str, bad: float):
    splats = machine.typed(cloud())
    ill = int(machine.kernels.project(splats, view=looking(), degree=3).tensors().index[7])
    if name == "opacity_logits" and bad == math.inf:
        bad = -bad  # an infinite logit is an opacity of one
    splats._asdict()[name].view(120, -1)[ill, 0] = bad
    seen = machine.kernels.project(splats, view=looking(), degree=3).tensors()
    assert ill not in seen.index.tolist()
    assert seen.rows.isfinite().all()


@pytest.mark.parametrize("name", ["base", "rest"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_splat_with_a_colour_that_is_not_finite_is_not_in_view(
    machine: Machine, name: str, bad: float
):
    splats = machine.typed(cloud())
    before = machine.kernels.project(splats, view=looking(), degree=3).tensors()
    ill = int(before.index[7])
    splats._asdict()[name].view(120, -1)[ill, 1] = bad
    seen = machine.kernels.project(splats, view=looking(), degree=3).tensors()
    others = before.index != ill
    assert torch.equal(seen.index, before.index[others])
    assert torch.equal(seen.rows, before.rows[others])


def test_a_near_plane_behind_the_camera_is_refused(machine: Machine):
    view = looking()._replace(near=-0.1)
    with pytest.raises(ValueError, match=r"near plane is at -0\.1"):
        machine.kernels.project(machine.typed(cloud(5)), view=view, degree=3)
    seen = machine.kernels.project(machine.typed(cloud()), view=looking(), degree=3).tensors()
    rows = seen.rows.clone()
    rows[3, 9] = -1.0
    with pytest.raises(ValueError, match="depths of at least 0"):
        machine.kernels.records(Seen(seen.index, rows), Look(looking(), 3))
