"""Operations on images: the reference obeys its definitions, and every backend the reference.

The reference works in float64 on what a backend gets in float32.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from lumigraph.kernels import ImageBackend, images_for
from lumigraph.kernels._native import active_level, available_levels, select_level
from lumigraph.kernels.images import Inner, cpu, cuda, reference, with_margin


class Machine(NamedTuple):
    """A backend, and the device of its tensors."""

    kernels: ImageBackend
    device: str


@pytest.fixture(
    params=[
        *(f"cpu-{level}" for level in available_levels()),
        "plain-torch",
        pytest.param("cuda", marks=pytest.mark.cuda),
    ]
)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if not request.param.startswith("cpu"):
        yield Machine(cuda, "cuda" if request.param == "cuda" else "cpu")
        return
    before = active_level()
    select_level(request.param.removeprefix("cpu-"))
    yield Machine(cpu, "cpu")
    select_level(before)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def picture(*shape: int, seed: int = 0) -> Tensor:
    """Random colours between 0 and 1, which float32 holds exactly. float64"""
    return noise(*shape, seed=seed).sigmoid().float().double()


def assert_close_gradient(actual: Tensor, expected: Tensor) -> None:
    """1e-3 of the largest entry, and 1e-4 in norm."""
    assert actual.shape == expected.shape
    difference = actual.cpu().double() - expected
    assert difference.abs().max() <= 1e-3 * expected.abs().max()
    assert difference.norm() <= 1e-4 * expected.norm()


def test_a_device_has_its_backend():
    assert images_for("cpu") is cpu
    assert images_for(torch.device("cuda", 1)) is cuda


# The definitions ------------------------------------------------------------------------------


def test_ssim_is_its_definition_pixel_by_pixel():
    x, y = noise(9, 13, 2, seed=23).sigmoid(), noise(9, 13, 2, seed=24).sigmoid()
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights)[:, :, None] / weights.sum() ** 2
    padded = [np.pad(t.numpy(), ((5, 5), (5, 5), (0, 0))) for t in (x, y)]
    total = 0.0
    for row in range(9):
        for column in range(13):
            a, b = (t[row : row + 11, column : column + 11] for t in padded)
            mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
            # Windows reach over the border, where images are zero.
            var_a = (window * a * a).sum((0, 1)) - mean_a**2
            var_b = (window * b * b).sum((0, 1)) - mean_b**2
            both = (window * a * b).sum((0, 1)) - mean_a * mean_b
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            total += (luminance * (2 * both + 9e-4) / (var_a + var_b + 9e-4)).sum()
    assert reference.ssim(x, y).item() == pytest.approx(total / (9 * 13 * 2))


def test_an_image_is_wholly_similar_to_itself_alone():
    x, y = noise(9, 13, 3, seed=23).sigmoid(), noise(9, 13, 3, seed=24).sigmoid()
    assert reference.ssim(x, x).item() == pytest.approx(1)
    assert reference.ssim(x, y).item() == pytest.approx(reference.ssim(y, x).item())
    assert reference.ssim(x, y).item() < 0.9
    assert reference.l1(x, x).item() == 0
    assert reference.l1(x, y).item() == pytest.approx(np.abs(x.numpy() - y.numpy()).mean())


def test_ssim_and_l1_have_the_derivatives_they_claim():
    image, target = noise(5, 7, 2, seed=8).sigmoid(), noise(5, 7, 2, seed=9).sigmoid()
    assert gradcheck(lambda image: reference.ssim(image, target), image.requires_grad_())
    assert gradcheck(lambda image: reference.l1(image, target), image)


@pytest.mark.parametrize("epsilon", [1e-15, 1e-2])
def test_adam_is_the_adam_of_torch(epsilon: float):
    theirs = noise(5, 3, seed=25).requires_grad_()
    ours, first, second = theirs.detach().clone(), torch.zeros(5, 3), torch.zeros(5, 3)
    first, second = first.double(), second.double()
    optimizer = torch.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.99), eps=epsilon)
    for step in range(1, 6):
        gradient = noise(5, 3, seed=30 + step)
        theirs.grad = gradient
        optimizer.step()
        reference.adam(
            ours,
            gradient,
            first,
            second,
            step=step,
            learning_rate=0.1,
            betas=(0.8, 0.99),
            epsilon=epsilon,
        )
        torch.testing.assert_close(ours, theirs.detach())


def test_adam_leaves_the_other_rows_alone():
    rows = torch.tensor([True, False, True])
    start = [noise(3, 2, 2, seed=seed) for seed in (26, 27, 28)]
    start.append(noise(3, 2, 2, seed=29).square())
    some, whole = ([t.clone() for t in start] for _ in range(2))
    reference.adam(*some, step=3, learning_rate=0.1, rows=rows)
    reference.adam(*whole, step=3, learning_rate=0.1)
    for before, part, every in zip(start, some, whole, strict=True):
        assert torch.equal(part, torch.where(rows[:, None, None], every, before))


# SSIM and L1 ----------------------------------------------------------------------------------

IMAGES = [(17, 33, 3), (1, 1, 3), (16, 16, 1), (40, 5, 3), (70, 90, 3), (23, 12, 4)]
IMAGES += [(3, 161, 3), (70, 400, 3)]  # wider, and higher, than the blocks in which it is worked
IMAGES += [(20, 31, 2), (9, 14, 5), (66, 130, 7), (6, 5, 8)]  # more channels than go at once


def pair(kind: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """An image and its target, which float32 holds exactly. float64"""
    image = picture(*shape, seed=1)
    target = {
        "unlike": picture(*shape, seed=2),
        "alike": (image + 0.01 * noise(*shape, seed=2)).clamp(0, 1),
        "flat": torch.full(shape, 0.5, dtype=torch.float64),
    }[kind]
    if kind == "flat":
        image = target + 1e-3 * noise(*shape, seed=1)
    return image.float().double(), target.float().double()


each_shape = pytest.mark.parametrize("shape", IMAGES, ids=str)


@pytest.mark.parametrize("loss", ["ssim", "l1"])
@each_shape
@pytest.mark.parametrize("kind", ["unlike", "alike", "flat"])
def test_losses(machine: Machine, loss: str, shape: tuple[int, ...], kind: str):
    image, target = pair(kind, shape)
    source, leaf = image.requires_grad_(), image.detach().float().to(machine.device)
    leaf.requires_grad_()
    expected = getattr(reference, loss)(source, target)
    actual = getattr(machine.kernels, loss)(leaf, target.float().to(machine.device))
    assert actual.shape == ()
    assert actual.item() == pytest.approx(expected.item(), abs=2e-5)
    # Upstream is not one: the gradient has to be scaled by it.
    (ours,), (theirs,) = (
        torch.autograd.grad(3 * value, at) for value, at in ((actual, leaf), (expected, source))
    )
    assert_close_gradient(ours, theirs)


def test_equal_images_have_no_l1_gradient(machine: Machine):
    image = noise(8, 9, 3).float().to(machine.device).requires_grad_()
    loss = machine.kernels.l1(image, image.detach().clone())
    (gradient,) = torch.autograd.grad(loss, image)
    assert loss.item() == 0
    assert not gradient.any()


def test_images_may_come_in_any_layout(machine: Machine):
    image, target = (picture(17, 33, 3, seed=i).float().to(machine.device) for i in (1, 2))
    turned = target.mT.contiguous().mT
    for loss in (machine.kernels.ssim, machine.kernels.l1):
        torch.testing.assert_close(loss(image, target), loss(image, turned))
        torch.testing.assert_close(loss(target, image), loss(turned, image))
    one, other = (machine.kernels.loss(image, t, ssim_weight=0.2) for t in (target, turned))
    torch.testing.assert_close(one, other)
    one, other = (machine.kernels.loss(t, image, ssim_weight=0.2) for t in (target, turned))
    torch.testing.assert_close(one, other)


# The loss -------------------------------------------------------------------------------------

each_weight = pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])


def masks(height: int, width: int, seed: int = 4) -> Tensor:
    """Half of the pixels, in patches and alone. bool [height, width]"""
    patches = noise(height // 6 + 1, width // 6 + 1, seed=seed) > 0
    mask = patches.repeat_interleave(6, 0).repeat_interleave(6, 1)[:height, :width]
    return mask ^ (noise(height, width, seed=seed + 1) > 2)


def weights(height: int, width: int) -> Tensor:
    return noise(height, width, seed=6).exp().float().double()


def loss_of(machine: Machine, image: Tensor, target: Tensor, **options: Any) -> tuple:
    """The loss and its gradient by a backend, of numbers in float64."""

    def there(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.float() if value.is_floating_point() else value
        return value.to(machine.device)

    options = {name: there(value) for name, value in options.items()}
    return machine.kernels.loss(there(image), there(target), **options)


def options_of(kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    height, width, _ = shape
    options: dict[str, Any] = {}
    if "mask" in kind:
        options["mask"] = masks(height, width)
    if "weight" in kind:
        options["weight"] = weights(height, width)
    if "inner" in kind:
        left, top = width // 4, height // 3
        inner = Inner(left, top, width - left - width // 5, height - top - height // 6, 100_000)
        options["inner"] = inner
    return options


@each_weight
@each_shape
@pytest.mark.parametrize("kind", ["", "mask", "weight", "inner", "mask, weight and inner"])
def test_the_loss_is_that_of_the_reference(
    machine: Machine, ssim_weight: float, shape: tuple[int, ...], kind: str
):
    image, target = picture(*shape, seed=1), picture(*shape, seed=2)
    options = {"ssim_weight": ssim_weight, **options_of(kind, shape)}
    expected, theirs = reference.loss(image, target, **options)
    actual, ours = loss_of(machine, image, target, **options)
    assert actual.dtype == torch.float64
    assert ours.dtype == torch.float32
    assert actual.item() == pytest.approx(expected.item(), rel=2e-5, abs=2e-8)
    assert_close_gradient(ours, theirs)
    photo = (target * 255).byte()
    one = loss_of(machine, image, photo, **options)
    other = loss_of(machine, image, photo.double() / 255, **options)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@each_weight
def test_the_loss_is_made_of_its_parts(machine: Machine, ssim_weight: float):
    image, target = (picture(20, 30, 3, seed=i).float().to(machine.device) for i in (1, 2))
    image.requires_grad_()
    whole = (1 - ssim_weight) * machine.kernels.l1(image, target)
    whole = whole + ssim_weight * (1 - machine.kernels.ssim(image, target))
    value, gradient = machine.kernels.loss(image, target, ssim_weight=ssim_weight)
    assert not value.requires_grad
    assert not gradient.requires_grad
    assert value.item() == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(whole, image)[0])
    out = torch.full_like(gradient, 7)
    again, written = machine.kernels.loss(image, target, ssim_weight=ssim_weight, out=out)
    assert written is out
    assert torch.equal(out, gradient)
    assert torch.equal(again, value)


@each_weight
@pytest.mark.parametrize("shape", [(41, 53, 3), (75, 320, 1), (33, 200, 6)], ids=str)
@pytest.mark.parametrize("kind", ["", "mask and weight"])
def test_windows_add_up_to_the_whole(
    machine: Machine, ssim_weight: float, shape: tuple[int, ...], kind: str
):
    image, target = picture(*shape, seed=1), picture(*shape, seed=2)
    height, width, _ = shape
    options = options_of(kind, shape)
    whole, expected = loss_of(machine, image, target, ssim_weight=ssim_weight, **options)
    total, gradient = 0.0, torch.zeros_like(expected)
    # Odd windows: a pixel wide, thinner than the margin, and as long as the image.
    columns, rows = [0, 1, 4, width // 2 + 1, width - 7, width], [0, 3, height // 2, height]
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            window = left, top, right - left, bottom - top
            (x, y, wide, high), inner = with_margin(window, (width, height))
            at = slice(y, y + high), slice(x, x + wide)
            part = {name: value[at] for name, value in options.items()}
            share, derived = loss_of(
                machine, image[at], target[at], ssim_weight=ssim_weight, inner=inner, **part
            )
            total += share.item()
            gradient[at] += derived
    assert total == pytest.approx(whole.item(), rel=1e-6)
    assert_close_gradient(gradient, expected.cpu().double())


def test_a_window_needs_its_margin_alone():
    assert with_margin((10, 20, 30, 40), (100, 100)) == (
        (5, 15, 40, 50),
        Inner(5, 5, 30, 40, 10_000),
    )
    assert with_margin((0, 3, 7, 5), (7, 8)) == ((0, 0, 7, 8), Inner(0, 3, 7, 5, 56))
    image, target = picture(30, 40, 3, seed=1), picture(30, 40, 3, seed=2)
    inner = Inner(5, 5, 30, 20, 600)
    value, gradient = reference.loss(image, target, ssim_weight=1.0, inner=inner)
    assert gradient[:, 0].any()
    beyond = torch.nn.functional.pad(image, (0, 0, 3, 3, 3, 3), value=9.0)
    wide, _ = reference.loss(
        beyond,
        torch.nn.functional.pad(target, (0, 0, 3, 3, 3, 3)),
        ssim_weight=1.0,
        inner=Inner(8, 8, 30, 20, 600),
    )
    assert wide.item() == pytest.approx(value.item())


@each_weight
@pytest.mark.parametrize("lost", [0.5, torch.nan, torch.inf])
def test_pixels_that_do_not_count_act_as_if_they_were_right(
    machine: Machine, ssim_weight: float, lost: float
):
    image, target = picture(30, 40, 3, seed=1), picture(30, 40, 3, seed=2)
    mask = masks(30, 40)
    right = torch.where(mask[..., None], image, target)
    value, gradient = loss_of(machine, right, target, ssim_weight=ssim_weight)
    wrong = image.masked_fill(~mask[..., None], lost)
    masked, derived = loss_of(machine, wrong, target, ssim_weight=ssim_weight, mask=mask)
    assert masked.item() == pytest.approx(value.item())
    mask = mask.to(gradient.device)
    assert not derived[~mask].any()
    torch.testing.assert_close(derived[mask], gradient[mask])
    nothing, still = loss_of(
        machine, wrong, target, ssim_weight=ssim_weight, mask=torch.zeros(30, 40, dtype=torch.bool)
    )
    assert nothing.item() == pytest.approx(0, abs=1e-6)
    assert not still.any()


def test_the_loss_is_linear_in_the_weights(machine: Machine):
    image, target = picture(30, 40, 3, seed=1), picture(30, 40, 3, seed=2)
    one, other = weights(30, 40), masks(30, 40).double()
    parts = [
        loss_of(machine, image, target, ssim_weight=0.2, weight=w)
        for w in (one, other, one + 2 * other)
    ]
    for a, b, both in zip(*parts, strict=True):
        torch.testing.assert_close(a + 2 * b, both, rtol=1e-5, atol=1e-8)
    even = loss_of(machine, image, target, ssim_weight=0.2, weight=torch.ones(30, 40).double())
    torch.testing.assert_close(even, loss_of(machine, image, target, ssim_weight=0.2))


def test_channels_do_not_see_each_other(machine: Machine):
    image, target = picture(20, 70, 9, seed=1), picture(20, 70, 9, seed=2)
    whole, gradient = loss_of(machine, image, target, ssim_weight=0.2)
    parts = [
        loss_of(machine, image[..., c : c + 1], target[..., c : c + 1], ssim_weight=0.2)
        for c in range(9)
    ]
    assert whole.item() == pytest.approx(sum(value.item() for value, _ in parts) / 9)
    torch.testing.assert_close(gradient, torch.cat([part for _, part in parts], 2) / 9)


# Adam -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 3), (1,), (17, 4), (1003, 15, 3)], ids=str)
@pytest.mark.parametrize("some", [False, True])
def test_adam(machine: Machine, shape: tuple[int, ...], some: bool):
    rows = noise(shape[0], seed=9) > 0 if some else None
    state = [noise(*shape, seed=1), torch.zeros(shape).double(), torch.zeros(shape).double()]
    ours = [tensor.float().to(machine.device) for tensor in state]
    for step in range(1, 5):
        gradient = (
            noise(*shape, seed=step)
            * 10.0 ** noise(shape[0], seed=3).round().view(-1, *[1] * (len(shape) - 1))
        ).float()
        rate = 0.1 / step
        reference.adam(
            state[0], gradient.double(), *state[1:], step=step, learning_rate=rate, rows=rows
        )
        machine.kernels.adam(
            ours[0],
            gradient.to(machine.device),
            *ours[1:],
            step=step,
            learning_rate=rate,
            rows=None if rows is None else rows.to(machine.device),
        )
    for one, other in zip(ours, state, strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=2e-5, atol=2e-5)
    if rows is not None:
        assert torch.equal(ours[0].cpu()[~rows], noise(*shape, seed=1).float()[~rows])


def test_adam_moves_a_slice_as_it_would_alone(machine: Machine):
    start = [noise(5, 4, seed=seed).float().to(machine.device) for seed in (1, 2, 3)]
    start[2].square_()
    gradient = noise(4, seed=4).float().to(machine.device)
    alone, whole = [x[2].clone() for x in start], [x.clone() for x in start]
    versions = [x._version for x in whole]
    machine.kernels.adam(alone[0], gradient, *alone[1:], step=3, learning_rate=0.1)
    row = [x[2] for x in whole]
    machine.kernels.adam(row[0], gradient, *row[1:], step=3, learning_rate=0.1)
    for before, after, expected, version in zip(start, whole, alone, versions, strict=True):
        assert torch.equal(after[2], expected)
        assert torch.equal(after[[0, 1, 3, 4]], before[[0, 1, 3, 4]])
        assert after._version > version, "autograd is not told"


@pytest.mark.parametrize("rows", [None, True, False])
def test_adam_moves_a_single_number(machine: Machine, rows: bool | None):
    state = [torch.tensor(x, device=machine.device) for x in (1.0, 0.0, 0.0)]
    gradient = torch.tensor(-3.0, device=machine.device)
    mask = None if rows is None else torch.tensor([rows], device=machine.device)
    machine.kernels.adam(state[0], gradient, *state[1:], step=1, learning_rate=0.1, rows=mask)
    assert state[0].item() == pytest.approx(1.0 if rows is False else 1.1)


# Determinism, on the CPU ----------------------------------------------------------------------


@pytest.mark.parametrize("level", available_levels())
def test_the_number_of_threads_changes_no_bit(level: str):
    def everything() -> list[Tensor]:
        values: list[Tensor] = []
        for channels in (3, 7):
            shape = (150, 220, channels)
            image, target = picture(*shape, seed=1).float(), picture(*shape, seed=2).float()
            values += cpu.loss(image, target, ssim_weight=0.2)
            values += [cpu.ssim(image, target), cpu.l1(image, target)]
            options = options_of("mask, weight and inner", shape)
            options["weight"] = options["weight"].float()
            values += cpu.loss(image, (target * 255).byte(), ssim_weight=0.2, **options)
        state = [noise(10_000, 3, seed=seed).float() for seed in range(3)]
        state[2].square_()
        gradient, rows = noise(10_000, 3, seed=3).float(), noise(10_000, seed=4) > 0
        cpu.adam(state[0], gradient, *state[1:], step=7, learning_rate=0.01, rows=rows)
        cpu.adam(state[0], gradient, *state[1:], step=8, learning_rate=0.01)
        return [*values, *state]

    before, threads = active_level(), torch.get_num_threads()
    select_level(level)
    try:
        torch.set_num_threads(1)
        once = everything()
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            for one, other in zip(once, everything(), strict=True):
                assert torch.equal(one, other), f"{count} threads"
    finally:
        select_level(before)
        torch.set_num_threads(threads)


# What bad input gets --------------------------------------------------------------------------

PHOTO = torch.zeros(4, 5, 3)

BAD_IMAGES: dict[str, tuple[Tensor, Tensor]] = {
    "images of two sizes": (PHOTO, torch.zeros(5, 4, 3)),
    "a grey photo": (PHOTO, torch.zeros(4, 5, 1)),
    "a grey image": (torch.zeros(4, 5, 1), PHOTO),
    "a row": (PHOTO, torch.zeros(1, 5, 3)),
    "a photo without channels": (PHOTO, torch.zeros(4, 5)),
    "images without channels": (torch.zeros(4, 5), torch.zeros(4, 5)),
    "empty images": (torch.zeros(4, 0, 3), torch.zeros(4, 0, 3)),
    "a batch": (PHOTO[None], PHOTO[None]),
    "a photo of another float": (PHOTO, PHOTO.double()),
    "a photo of integers": (PHOTO, PHOTO.int()),
    "an image of bytes": (PHOTO.byte(), PHOTO.byte()),
    "a photo elsewhere": (PHOTO, PHOTO.to("meta")),
}

BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "a mask of numbers": {"mask": torch.ones(4, 5)},
    "a mask with channels": {"mask": torch.ones(4, 5, 3, dtype=torch.bool)},
    "a mask of another size": {"mask": torch.ones(4, 1, dtype=torch.bool)},
    "weights of another size": {"weight": torch.ones(5, 4)},
    "weights in float64": {"weight": torch.ones(4, 5).double()},
    "a gradient of another size": {"out": torch.zeros(4, 5, 1)},
    "a gradient by columns": {"out": torch.zeros(5, 4, 3).mT.contiguous().mT.transpose(0, 1)},
    "a gradient with a graph": {"out": torch.zeros(4, 5, 3, requires_grad=True)},
    "a part beyond the image": {"inner": Inner(2, 0, 4, 4, 100)},
    "a part above the image": {"inner": Inner(0, -1, 4, 4, 100)},
    "a part of nothing": {"inner": Inner(0, 0, 4, 4, 15)},
}

BACKENDS = {"cpu": cpu, "cuda": cuda, "reference": reference}
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@each_backend
@pytest.mark.parametrize("what", BAD_IMAGES)
def test_images_that_cannot_be_compared_are_refused(backend: str, what: str):
    kernels, (image, target) = BACKENDS[backend], BAD_IMAGES[what]
    said = set()
    calls: list[Callable[[], Any]] = [
        lambda: kernels.ssim(image, target),
        lambda: kernels.l1(image, target),
        lambda: kernels.loss(image, target, ssim_weight=0.2),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^the (image|target) must be .* but is ") as caught:
            call()
        said.add(str(caught.value))
    assert len(said) == 1


@each_backend
@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_options_that_do_not_fit_are_refused(backend: str, what: str):
    with pytest.raises(ValueError, match="must be"):
        BACKENDS[backend].loss(PHOTO, PHOTO, ssim_weight=0.2, **BAD_OPTIONS[what])


def test_only_float32_is_compared_in_cpp():
    for loss in (cpu.ssim, cpu.l1):
        with pytest.raises(TypeError, match="following argument types are supported"):
            loss(PHOTO.double(), PHOTO.double())


BAD_STATES: dict[str, dict[str, Tensor]] = {
    "a gradient of another shape": {"gradient": torch.zeros(5, 2)},
    "a gradient turned": {"gradient": torch.zeros(3, 5)},
    "a gradient for all rows": {"gradient": torch.zeros(1, 3)},
    "a float64 moment": {"second": torch.zeros(5, 3).double()},
    "rows that are numbers": {"rows": torch.ones(5)},
    "too many rows": {"rows": torch.ones(6, dtype=torch.bool)},
    "rows by columns": {"rows": torch.ones(5, 3, dtype=torch.bool)},
}


def step_with(backend: str, **changes: Tensor) -> None:
    names = ("parameter", "gradient", "first", "second")
    tensors = {name: torch.zeros(5, 3) for name in names} | changes
    rows = tensors.pop("rows", None)
    BACKENDS[backend].adam(*(tensors[name] for name in names), step=1, learning_rate=0.1, rows=rows)


@each_backend
@pytest.mark.parametrize("what", BAD_STATES)
def test_a_step_with_tensors_that_do_not_fit_is_refused(backend: str, what: str):
    with pytest.raises(ValueError, match="must be"):
        step_with(backend, **BAD_STATES[what])


def test_a_step_that_would_move_a_copy_is_refused():
    with pytest.raises(TypeError, match="following argument types are supported"):
        step_with("cpu", **{n: torch.zeros(3, 5).T for n in ("parameter", "first", "second")})
