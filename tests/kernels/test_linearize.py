"""Products with the derivative of a picture: the laws, on every backend."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from parts import Linear, Parts
from torch import Tensor

from lumigraph.kernels import (
    ALPHA_MAX,
    GEOMETRY,
    Blocks,
    Filter,
    Parameters,
    View,
)
from lumigraph.kernels._native import active_level, available_levels, select_level
from lumigraph.kernels.images import cpu as images_cpu
from lumigraph.kernels.images import reference as images_reference
from lumigraph.kernels.splats import cpu as splats_cpu
from lumigraph.kernels.splats.composed import REFERENCE

cpu = Parts(splats_cpu, images_cpu)
reference = Parts(REFERENCE, images_reference)

BACKGROUND = (0.2, 0.5, 0.9)


class Machine(NamedTuple):
    """A backend, and what of it is to be expected."""

    kernels: Parts
    dtype: torch.dtype
    tolerance: float
    """Of a product, relative to its norm."""

    def linearize(self, scene: Parameters, view: View, **options: Any) -> Linear:
        """The scene in the backend's type; all harmonics and a colourful background."""
        options = {"degree": 3, "background": BACKGROUND, **options}
        return self.kernels.linearize(self.typed(scene), view=view, **options)

    def typed(self, splats: Parameters) -> Parameters:
        """The same in the backend's type."""
        return Parameters(*(x.to(self.dtype) for x in splats))


@pytest.fixture(
    params=["reference-64", "reference-32", *(f"cpu-{level}" for level in available_levels())]
)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    kind, which = request.param.split("-")
    if kind == "reference":
        double = which == "64"
        dtype = torch.float64 if double else torch.float32
        yield Machine(reference, dtype, 1e-12 if double else 1e-5)
        return
    before, threads = active_level(), torch.get_num_threads()
    select_level(which)
    yield Machine(cpu, torch.float32, 1e-5)
    select_level(before)
    torch.set_num_threads(threads)


EXACT = Machine(reference, torch.float64, 1e-12)
"""What the others are held to."""


# Scenes ----------------------------------------------------------------------------------------


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64 that float32 has too."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).float().double()


def looking(width: int = 33, height: int = 17) -> View:
    """A camera a little off and turned, that looks along z."""
    c, s = math.cos(0.2), math.sin(0.2)
    matrix = (c, 0, s, 0.1, 0, 1, 0, -0.05, -s, 0, c, 4.0)
    return View(
        matrix, (1.1 * width, 1.2 * width), (0.52 * width, 0.47 * height), width, height, 0.05
    )


def cloud(count: int, *, size: float = 0.25, seed: int = 1, degree: int = 3) -> Parameters:
    """Splats about the origin, as wide as `size`, of which some are not in view."""
    return Parameters(
        means=(random(count, 3, seed=seed) * torch.tensor([1.2, 0.7, 0.7])).float().double(),
        quaternions=random(count, 4, seed=seed + 1),
        log_scales=0.6 * random(count, 3, seed=seed + 2) + math.log(size),
        opacity_logits=1.5 * random(count, seed=seed + 3),
        base=0.8 * random(count, 3, seed=seed + 4),
        rest=0.3 * random(count, (degree + 1) ** 2 - 1, 3, seed=seed + 5),
    )


def like(splats: Parameters, seed: int) -> Parameters:
    """A random direction."""
    numbered = enumerate(splats)
    return Parameters(*(random(*x.shape, seed=10 * seed + i) for i, x in numbered))


def dot(one: Parameters, other: Parameters) -> float:
    pairs = zip(one, other, strict=True)
    return sum((a.double() * b.double()).sum().item() for a, b in pairs)


def norm(of: Parameters) -> float:
    return math.sqrt(dot(of, of))


def moved(splats: Parameters, direction: Parameters, by: float) -> Parameters:
    return Parameters(*(x + by * v for x, v in zip(splats, direction, strict=True)))


SCENES: dict[str, tuple[Parameters, View]] = {
    "no splat": (cloud(0), looking()),
    "one splat": (cloud(1), looking(9, 5)),
    "seventeen": (cloud(17), looking()),
    "one pixel": (cloud(40), looking(1, 1)),
    "narrow": (cloud(60), looking(5, 40)),
    "a crowd": (cloud(900, size=0.08), looking(37, 30)),
    "opaque": (
        cloud(120, size=0.5)._replace(opacity_logits=random(120, seed=3) + 5.0),
        looking(35, 33),
    ),
}
FILTERS: tuple[Filter, ...] = ("classic", "antialiased")


# The picture and G v ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES)
def test_the_color_is_what_paint_gives(machine: Machine, name: str):
    scene, view = SCENES[name]
    color = machine.linearize(scene, view).color
    expected, _ = machine.kernels.paint(
        machine.typed(scene), view=view, degree=3, background=BACKGROUND
    )
    assert color.shape == (view.height, view.width, 3)
    if machine.kernels is reference:
        torch.testing.assert_close(color, expected)
    else:
        assert torch.equal(color, expected)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("name", ["one splat", "seventeen", "narrow", "opaque"])
def test_the_definition_agrees_with_finite_differences(name: str, filter: Filter):
    scene, view = SCENES[name]
    direction = like(scene, 2)
    actual = EXACT.linearize(scene, view, filter=filter).jvp(direction)
    step = 1e-7  # so small that no pixel is cut off or finished in between
    ahead, back = (
        EXACT.linearize(moved(scene, direction, by), view, filter=filter).color
        for by in (step, -step)
    )
    expected = (ahead - back) / (2 * step)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("filter", FILTERS)
def test_each_kind_of_parameter_moves_the_color_as_defined(
    machine: Machine, filter: Filter, degree: int
):
    scene, view = SCENES["seventeen"]
    whole = like(scene, 3)
    exact = EXACT.linearize(scene, view, filter=filter, degree=degree)
    actual = machine.linearize(scene, view, filter=filter, degree=degree)
    for name in scene._fields:
        only = Parameters(
            *(x * (field == name) for field, x in zip(scene._fields, whole, strict=True))
        )
        expected = exact.jvp(only)
        assert expected.any() == (name != "rest" or degree > 0)
        error = (actual.jvp(machine.typed(only)).double() - expected).norm()
        assert error <= 20 * machine.tolerance * expected.norm(), name


@pytest.mark.parametrize("name", SCENES)
def test_gv_is_that_of_the_definition(machine: Machine, name: str):
    scene, view = SCENES[name]
    direction = like(scene, 4)
    expected = EXACT.linearize(scene, view).jvp(direction)
    actual = machine.linearize(scene, view).jvp(machine.typed(direction))
    assert actual.dtype == machine.dtype
    assert (actual.double() - expected).norm() <= 100 * machine.tolerance * expected.norm()


# G^T u -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("name", SCENES)
def test_the_products_are_adjoint(machine: Machine, name: str, filter: Filter):
    scene, view = SCENES[name]
    direction = machine.typed(like(scene, 5))
    weights = random(view.height, view.width, 3, seed=6).to(machine.dtype)
    linear = machine.linearize(scene, view, filter=filter)
    change, gradient = linear.jvp(direction), linear.vjp(weights)
    left = (weights.double() * change.double()).sum().item()
    size = weights.double().norm().item() * change.double().norm().item()
    assert abs(left - dot(gradient, direction)) <= machine.tolerance * size


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gtu_is_that_of_the_definition(machine: Machine, degree: int):
    for name in ("seventeen", "a crowd", "opaque"):
        scene, view = SCENES[name]
        weights = random(view.height, view.width, 3, seed=7)
        expected = EXACT.linearize(scene, view, degree=degree).vjp(weights)
        actual = machine.linearize(scene, view, degree=degree).vjp(weights.to(machine.dtype))
        for one, other in zip(actual, expected, strict=True):
            assert one.dtype == machine.dtype
            error = (one.double() - other).norm()
            assert error <= 100 * machine.tolerance * other.norm()


def test_views_are_summed_in_place(machine: Machine):
    scene, view = SCENES["seventeen"]
    weights = random(view.height, view.width, 3, seed=8).to(machine.dtype)
    linear = machine.linearize(scene, view)
    start = machine.typed(like(scene, 9))
    out = Parameters(*(x.clone() for x in start))
    once = linear.vjp(weights)
    assert linear.vjp(weights, out) is out
    for total, before, added in zip(out, start, once, strict=True):
        torch.testing.assert_close(total, before + added)
    blocks = linear.blocks(weights.square())
    sums = Blocks(*(torch.ones_like(x) for x in blocks))
    assert linear.blocks(weights.square(), sums) is sums
    for total, added in zip(sums, blocks, strict=True):
        torch.testing.assert_close(total, 1 + added)


# Blocks ----------------------------------------------------------------------------------------


def jacobian(linear: Linear, scene: Parameters) -> dict[str, Tensor]:
    """G, a row for each number of the picture, from the products with all unit vectors."""
    columns: dict[str, list[Tensor]] = {name: [] for name in scene._fields}
    for name, parameter in scene._asdict().items():
        for place in range(parameter.numel()):
            direction = Parameters(*(torch.zeros_like(x) for x in scene))
            direction._asdict()[name].view(-1)[place] = 1
            columns[name].append(linear.jvp(direction).flatten())
    none = linear.color.new_zeros(linear.color.numel(), 0)
    return {name: torch.stack(column, 1) if column else none for name, column in columns.items()}


def explicit_blocks(scene: Parameters, view: View, weights: Tensor, **options: Any) -> Blocks:
    """The blocks from G itself."""
    count = len(scene.means)
    whole = jacobian(EXACT.linearize(scene, view, **options), scene)
    names = ("means", "quaternions", "log_scales", "opacity_logits")
    geometry = torch.cat([whole[name].view(weights.numel(), count, -1) for name in names], 2)
    full = torch.einsum("r,rni,rnj->nij", weights.flatten(), geometry, geometry)
    low, across = torch.tril_indices(GEOMETRY, GEOMETRY)
    squares = [weights.flatten() @ whole[name].square() for name in ("base", "rest")]
    base, rest = (x.view(y.shape) for x, y in zip(squares, scene[4:], strict=True))
    return Blocks(full[:, low, across], base, rest)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("filter", FILTERS)
def test_blocks_are_those_of_an_explicit_jacobian(machine: Machine, filter: Filter, degree: int):
    scene, view = cloud(6, degree=degree), looking(13, 9)
    weights = random(9, 13, 3, seed=1).square()
    options: dict[str, Any] = {"filter": filter, "degree": degree}
    expected = explicit_blocks(scene, view, weights, **options)
    actual = machine.linearize(scene, view, **options).blocks(weights.to(machine.dtype))
    assert expected.geometry.any()
    for one, other in zip(actual, expected, strict=True):
        assert (one.double() - other).norm() <= 100 * machine.tolerance * other.norm()
    # Each splat by itself, and each parameter by itself: none is lost among larger ones.
    scales = expected.matrices().diagonal(dim1=1, dim2=2).sqrt()
    room = (scales[:, :, None] * scales[:, None]).clamp_min(1e-30)
    error = (actual.matrices().double() - expected.matrices()).abs() / room
    assert error.max() <= 200 * machine.tolerance


@pytest.mark.parametrize("name", SCENES)
def test_blocks_are_those_of_the_definition(machine: Machine, name: str):
    scene, view = SCENES[name]
    weights = random(view.height, view.width, 3, seed=2).square()
    expected = EXACT.linearize(scene, view).blocks(weights)
    actual = machine.linearize(scene, view).blocks(weights.to(machine.dtype))
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == machine.dtype
        assert (one.double() - other).norm() <= 200 * machine.tolerance * other.norm()


@pytest.mark.parametrize("name", SCENES)
def test_blocks_are_symmetric_and_positive_semidefinite(machine: Machine, name: str):
    scene, view = SCENES[name]
    weights = random(view.height, view.width, 3, seed=3).square().to(machine.dtype)
    blocks = machine.linearize(scene, view).blocks(weights)
    matrices = blocks.matrices().double()
    assert torch.equal(matrices, matrices.mT)
    scales = matrices.diagonal(dim1=1, dim2=2)
    assert (scales >= 0).all()
    # In units of the diagonal, so that small parameters count as large ones; of a single pixel the
    # smallest are small differences, which rounding leaves less of.
    scales = scales.sqrt().clamp_min(1e-30)
    lowest = torch.linalg.eigvalsh(matrices / (scales[:, :, None] * scales[:, None]))
    assert (lowest >= -500 * machine.tolerance).all()
    assert (blocks.base >= 0).all()
    assert (blocks.rest >= 0).all()
    diagonal = blocks.diagonal()
    assert [x.shape for x in diagonal] == [x.shape for x in scene]
    flat = torch.cat([*diagonal[:3], diagonal.opacity_logits[:, None]], 1)
    assert torch.equal(flat.double(), matrices.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("level", available_levels())
def test_blocks_of_long_needles_keep_their_small_entries(level: str):
    """Whose quadratic forms are differences of large numbers, and the squares of those larger.

    In float32 the definition itself, which is about readable formulas, does not stand this.
    """
    before = active_level()
    select_level(level)
    scene = cloud(12, size=0.02)
    long = torch.tensor([0.5, -6.0, -6.0], dtype=torch.float64).expand(12, 3)
    scene, view = scene._replace(log_scales=long, means=scene.means / 4), looking(300, 200)
    weights = torch.ones(200, 300, 3)
    expected = EXACT.linearize(scene, view).blocks(weights.double()).matrices()
    actual = Machine(cpu, torch.float32, 0).linearize(scene, view).blocks(weights).matrices()
    select_level(before)
    scales = expected.diagonal(dim1=1, dim2=2).sqrt()
    assert scales.any(1).sum() > 3
    error = (actual.double() - expected) / (scales[:, :, None] * scales[:, None]).clamp_min(1e-30)
    assert error.abs().max() <= 0.01


# Degenerate input ------------------------------------------------------------------------------


def odd() -> Parameters:
    """Splats that nobody sees, needles, discs, and some in order among them."""
    scene = cloud(12)
    means, quaternions, log_scales, logits, *colors = (x.clone() for x in scene)
    means[0] = torch.tensor([0.0, 0.0, -50.0])  # behind the camera
    means[1, 0] = 1e6
    logits[2] = -100.0
    logits[3] = 100.0
    log_scales[4] = torch.tensor([2.0, -30.0, -30.0])
    log_scales[5] = torch.tensor([0.0, 0.0, -40.0])
    log_scales[6] = -60.0
    quaternions[7] = 0
    log_scales[8] = 200.0
    means[9] = math.nan
    colors[0][10] = -5.0  # darker than black
    return Parameters(means, quaternions, log_scales, logits, *colors)


@pytest.mark.parametrize("filter", FILTERS)
def test_odd_splats_give_finite_numbers(machine: Machine, filter: Filter):
    scene, view = odd(), looking()
    linear = machine.linearize(scene, view, filter=filter)
    weights = torch.ones(view.height, view.width, 3, dtype=machine.dtype)
    gradient, blocks = linear.vjp(weights), linear.blocks(weights)
    for tensor in (linear.jvp(machine.typed(like(scene, 1))), *gradient, *blocks):
        assert tensor.isfinite().all()
    # What is not seen has no part in anything; what is held at black has no colour.
    for unseen in (0, 1, 2, 9):
        assert not any(x[unseen].any() for x in (*gradient, *blocks))
    assert not gradient.base[10].any()
    assert not blocks.base[10].any()
    assert gradient.base[11].any()
    assert blocks.base[11].any()


def test_an_alpha_at_its_ceiling_does_not_move(machine: Machine):
    scene = cloud(1)._replace(means=torch.zeros(1, 3).double(), log_scales=torch.ones(1, 3) * 3.0)
    scene = scene._replace(opacity_logits=torch.full((1,), 20.0), base=torch.full((1, 3), 0.4))
    view = looking(3, 3)
    linear = machine.linearize(scene, view)
    weights = torch.ones(3, 3, 3, dtype=machine.dtype)
    gradient, blocks = linear.vjp(weights), linear.blocks(weights)
    assert not gradient.opacity_logits.any()
    assert not blocks.matrices()[:, 3:].any()
    expected = torch.full((1, 3), 9 * (ALPHA_MAX * 0.28209479177387814) ** 2)
    torch.testing.assert_close(blocks.base, expected.to(machine.dtype))


def test_a_weight_of_zero_gives_zeros(machine: Machine):
    scene, view = SCENES["a crowd"]
    linear = machine.linearize(scene, view)
    nothing = torch.zeros_like(linear.color)
    assert not any(x.any() for x in (*linear.vjp(nothing), *linear.blocks(nothing)))
    assert not linear.jvp(Parameters(*(0 * x for x in machine.typed(scene)))).any()


# Threads and instruction sets ------------------------------------------------------------------


@pytest.mark.parametrize("level", available_levels())
def test_threads_change_no_bit(level: str):
    before, threads = active_level(), torch.get_num_threads()
    select_level(level)
    scene, view = Parameters(*(x.float() for x in cloud(3000, size=0.06))), looking(75, 50)
    weights, results = random(50, 75, 3, seed=1).float(), []
    for count in (1, 2, 8):
        torch.set_num_threads(count)
        linear = cpu.linearize(scene, view=view, degree=3)
        change = linear.jvp(Parameters(*(x.float() for x in like(scene, 1))))
        results.append(
            (linear.color, change, *linear.vjp(weights), *linear.blocks(weights.square()))
        )
    torch.set_num_threads(threads)
    select_level(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


def test_products_can_be_asked_for_in_any_order(machine: Machine):
    """What one leaves in memory does not find its way into the next."""
    scene, view = SCENES["a crowd"]
    weights = random(view.height, view.width, 3, seed=1).to(machine.dtype)
    direction = machine.typed(like(scene, 2))
    one, other = machine.linearize(scene, view), machine.linearize(scene, looking(20, 20))
    first = (one.blocks(weights), one.vjp(weights), one.jvp(direction))
    other.vjp(torch.ones_like(other.color))
    again = (one.jvp(direction), one.vjp(weights), one.blocks(weights))
    assert torch.equal(first[2], again[0])
    for a, b in zip((*first[0], *first[1]), (*again[2], *again[1]), strict=True):
        assert torch.equal(a, b)


# What is refused -------------------------------------------------------------------------------


def test_wrong_arguments_are_named(machine: Machine):
    scene, view = cloud(5), looking(7, 6)
    linear = machine.linearize(scene, view)
    typed = machine.typed(scene)
    with pytest.raises(ValueError, match=r"gradient must be .* \[6, 7, 3\] .* but is .* \[6, 7\]"):
        linear.vjp(torch.zeros(6, 7, dtype=machine.dtype))
    with pytest.raises(ValueError, match="weights must be"):
        linear.blocks(torch.zeros(7, 6, 3, dtype=machine.dtype))
    with pytest.raises(ValueError, match="weights must be"):
        linear.blocks(torch.zeros(6, 7, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match="log_scales of the direction must be"):
        linear.jvp(typed._replace(log_scales=typed.log_scales[:3]))
    with pytest.raises(ValueError, match="rest of out must be"):
        linear.vjp(linear.color, typed._replace(rest=typed.rest[:, :8]))
    with pytest.raises(ValueError, match="means of out must be contiguous"):
        linear.vjp(linear.color, typed._replace(means=typed.means.mT.contiguous().mT))
    with pytest.raises(ValueError, match="geometry of out must be"):
        linear.blocks(linear.color, Blocks(typed.means, typed.base, typed.rest))
    with pytest.raises(ValueError, match="degree must be 0 to 3"):
        machine.linearize(scene, view, degree=4)
    with pytest.raises(ValueError, match="quaternions must be"):
        machine.linearize(scene._replace(quaternions=scene.means), view)


def test_changed_splats_are_noticed(machine: Machine):
    scene, view = machine.typed(cloud(5)), looking(7, 6)
    linear = machine.linearize(scene, view)
    scene.base.add_(1)
    for product in (linear.vjp, linear.blocks):
        with pytest.raises(RuntimeError, match="changed in place"):
            product(linear.color)
    with pytest.raises(RuntimeError, match="changed in place"):
        linear.jvp(scene)


def test_the_memory_of_a_picture_is_counted_whatever_came_before_and_on_any_threads():
    """Memory bounds the batches of photos, and a resumed fit must make the same batches."""
    scene, view = Parameters(*(x.float() for x in cloud(3000, size=0.06))), looking(75, 50)

    def held(threads: int) -> int:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return cpu.linearize(scene, view=view, degree=3).picture.bytes
        finally:
            torch.set_num_threads(before)

    first = held(1)
    assert 64 * 3000 < first < 200 * 3000 + (1 << 20)
    cpu.linearize(scene, view=looking(750, 500), degree=3)  # its memory goes to the next views
    assert [held(threads) for threads in (1, 2, 8)] == [first] * 3
