"""Residuals of pictures: closed forms, exact derivatives, and difficult pictures."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lumigraph.kernels.images import cpu, reference
from lumigraph.recon.optimizers.levenberg import total
from lumigraph.recon.optimizers.residuals import (
    HUBER,
    SSIM_SCALE,
    Terms,
    as_colors,
    published,
    published_cost,
    ssim_by_pixel,
)

SIZES = [(9, 12), (1, 1), (3, 17), (14, 5)]


def picture(height: int, width: int, seed: int) -> Tensor:
    """Values in [0, 1], smooth in one half and rough in the other. float64 [height, width, 3]"""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(height, width, 3, dtype=torch.float64, generator=generator)
    ramp = torch.linspace(0, 1, height * width, dtype=torch.float64).view(height, width, 1)
    return torch.where(ramp > 0.5, rough, 0.4 * ramp + 0.1 * rough)


def numbers(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def written_out(image: Tensor, photo: Tensor) -> Tensor:
    """SSIM at each pixel from its window's numbers, one by one (Wang 2004, eq. 13)."""
    height, width, channels = image.shape
    line = torch.exp(-(torch.arange(-5.0, 6.0, dtype=image.dtype).square()) / (2 * 1.5**2))
    window = torch.outer(line, line).flatten() / line.sum() ** 2

    def windows(plane: Tensor) -> Tensor:
        return functional.unfold(plane.permute(2, 0, 1)[:, None], 11, padding=5)

    x, y = windows(image), windows(photo)

    def average(values: Tensor) -> Tensor:
        return torch.einsum("k,ckp->cp", window, values)

    mx, my = average(x), average(y)
    # A border of zeros is part of the window.
    vx, vy = average((x - mx[:, None]) ** 2), average((y - my[:, None]) ** 2)
    both = average((x - mx[:, None]) * (y - my[:, None]))
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mx * my + c1) * (2 * both + c2)
    whole = top / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return whole.view(channels, height, width).permute(1, 2, 0)


def jacobian(image: Tensor, photo: Tensor) -> Tensor:
    """The Jacobian of the SSIM map, a row for each of its values."""
    found = torch.autograd.functional.jacobian(lambda x: written_out(x, photo), image)
    assert isinstance(found, Tensor)
    return found.reshape(image.numel(), image.numel())


# The exact map ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_map_is_ssim_about_each_pixel(height: int, width: int):
    image, photo = picture(height, width, 1), picture(height, width, 2)
    missing, _ = ssim_by_pixel(image, photo)
    torch.testing.assert_close(1 - missing, written_out(image, photo))
    torch.testing.assert_close(1 - missing.mean(), reference.ssim(image, photo))
    missing, _ = ssim_by_pixel(image.float(), photo.float())
    torch.testing.assert_close(1 - missing.mean(), cpu.ssim(image.float(), photo.float()))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_its_derivative_is_the_diagonal_of_an_explicit_jacobian(height: int, width: int):
    image, photo = picture(height, width, 3), picture(height, width, 4)
    _, centre = ssim_by_pixel(image, photo)
    torch.testing.assert_close(centre.flatten(), jacobian(image, photo).diagonal())


def test_equal_pictures_are_at_the_top_of_the_map():
    image = picture(16, 16, 16)
    missing, centre = ssim_by_pixel(image, image)
    torch.testing.assert_close(1 - missing, torch.ones_like(image))
    assert centre.abs().max() < 1e-9


# The published residuals -----------------------------------------------------------------------


def residuals(image: Tensor, photo: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """r1, w1, r2 and w2 with their roots, as in the code of 3DGS-LM."""
    error = image - photo
    c, s = HUBER, SSIM_SCALE
    squared = error.abs() <= c
    huber = torch.where(squared, error.square() / 2, c * (error.abs() - c / 2))
    psi = torch.where(squared, error, c * error.sign())
    similarity = written_out(image, photo)
    centre = jacobian(image, photo).diagonal().view_as(image)
    r1, r2 = huber.sqrt(), (s * (1 - similarity)).sqrt()
    return r1, psi / (2 * r1), r2, -s * centre / (2 * r2)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_products_of_roots_are_those_of_the_closed_forms(height: int, width: int):
    image, photo = picture(height, width, 20), picture(height, width, 21)
    r1, w1, r2, w2 = residuals(image, photo)
    terms = published(image, photo)
    assert terms.cost == pytest.approx(float((r1**2 + r2**2).sum()) / 2, rel=1e-10)
    assert published_cost(image, photo) == pytest.approx(terms.cost, rel=1e-12)
    torch.testing.assert_close(terms.weights, w1**2 + w2**2)
    torch.testing.assert_close(terms.right, w1 * r1 + w2 * r2)


def test_w_is_the_derivative_of_r_by_the_colour_at_the_centre():
    """Each pixel is changed alone; the other colours of the window stay."""
    image, photo, step = picture(6, 7, 22), picture(6, 7, 23), 1e-6
    r1, w1, r2, w2 = residuals(image, photo)
    assert (r1 > 0).all()
    for place in range(0, image.numel(), 5):
        change = torch.zeros_like(image)
        change.view(-1)[place] = step
        c, error = HUBER, (image + change - photo).abs()
        moved = torch.where(error <= c, error.square() / 2, c * (error - c / 2)).sqrt()
        gain = float((moved - r1).reshape(-1)[place]) / step
        assert gain == pytest.approx(float(w1.reshape(-1)[place]), rel=1e-3)
        moved = (SSIM_SCALE * (1 - written_out(image + change, photo))).sqrt()
        gain = float((moved - r2).reshape(-1)[place]) / step
        assert gain == pytest.approx(float(w2.reshape(-1)[place]), rel=1e-3, abs=1e-6)


def test_without_ssim_the_right_side_is_half_the_gradient_of_huber():
    image, photo = picture(8, 9, 24).requires_grad_(), picture(8, 9, 25)
    functional.huber_loss(image, photo, reduction="sum", delta=HUBER).backward()
    terms = published(image.detach(), photo, ssim_scale=0)
    assert image.grad is not None
    torch.testing.assert_close(terms.right, image.grad / 2)
    torch.testing.assert_close(terms.weights.max(), torch.tensor(0.5, dtype=torch.float64))


def test_the_centre_alone_is_a_small_part_of_the_gradient():
    ramp = torch.linspace(0, 1, 40, dtype=torch.float64)
    photo = (0.2 + 0.5 * ramp[:, None] * ramp)[..., None].expand(40, 40, 3)
    image = (photo + 0.05).requires_grad_()
    (whole,) = torch.autograd.grad(reference.ssim(image, photo) * photo.numel(), image)
    _, centre = ssim_by_pixel(image.detach(), photo)
    peak = reference.gaussian_window()[5] ** 2
    inside = (slice(12, -12), slice(12, -12))
    assert peak == pytest.approx(0.07, abs=0.005)
    torch.testing.assert_close(centre[inside], peak * whole[inside], rtol=0.1, atol=0)


# Difficult pictures ----------------------------------------------------------------------------


def flat(value: float) -> Tensor:
    return torch.full((13, 21, 3), value)


HARD = {
    "both black": (flat(0), flat(0)),
    "both white": (flat(1), flat(1)),
    "equal": (picture(13, 21, 1).float(), picture(13, 21, 1).float()),
    "equal and flat": (flat(0.3), flat(0.3)),
    "flat, almost equal": (flat(0.3), flat(0.3) + 1e-7),
    "black photo": (picture(13, 21, 2).float(), flat(0)),
    "black picture": (flat(0), picture(13, 21, 3).float()),
    "flat photo": (picture(13, 21, 4).float(), flat(0.7)),
    "brighter than white": (20 * picture(13, 21, 5).float(), picture(13, 21, 6).float()),
    "opposite": (flat(0), flat(1)),
    "bytes": (picture(13, 21, 7).float(), (picture(13, 21, 7) * 255).round().float() / 255),
}


@pytest.mark.parametrize("name", HARD)
def test_every_picture_gives_finite_numbers(name: str):
    image, photo = HARD[name]
    terms, near = published(image, photo), ssim_by_pixel(image, photo)
    for tensor in (*terms[1:], *near):
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
    assert math.isfinite(terms.cost)
    assert terms.cost >= 0
    assert published_cost(image, photo) == terms.cost
    assert terms.weights.min() >= 0
    assert near[0].min() >= 0


@pytest.mark.parametrize("name", ["both black", "both white", "equal", "equal and flat"])
def test_equal_pictures_have_no_cost_and_no_gradient(name: str):
    terms = published(*HARD[name])
    assert terms.cost == 0
    assert not terms.right.any()
    assert (terms.weights == 0.5).all()


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 1e-2])
@pytest.mark.parametrize("brightness", [0.0, 0.1, 0.5, 1.0])
def test_almost_equal_pictures_are_separated_in_32_bits(brightness: float, noise: float):
    photo = torch.full((13, 21, 3), brightness)
    image = photo + noise * numbers(13, 21, 3, seed=31).float()
    exact, rounded = published(image.double(), photo.double()), published(image, photo)
    assert rounded.cost == pytest.approx(exact.cost, rel=1e-3)
    assert exact.weights.max() > 1
    torch.testing.assert_close(rounded.weights.double(), exact.weights, rtol=2e-3, atol=1e-3)
    assert (rounded.right - exact.right).norm() <= 1e-3 * exact.right.norm()


def test_threads_change_no_bit():
    image, photo = picture(230, 170, 32).float(), picture(230, 170, 33).float()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            terms: Terms = published(image, photo)
            found.append((*terms[1:], *ssim_by_pixel(image, photo)))
            found[-1] += (torch.tensor(terms.cost), torch.tensor(total(image)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_sums_are_those_of_64_bits():
    for count in (0, 1, 4095, 4096, 4097, 100_000):
        values = torch.rand(count)
        assert total(values) == pytest.approx(float(values.double().sum()), rel=1e-12)


def test_photos_of_bytes_become_numbers():
    photo = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 3)
    assert as_colors(photo, torch.zeros(1, 1, 3)).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert as_colors(torch.ones(1, 1, 3), torch.zeros(1, 1, 3).double()).dtype == torch.float64
    with pytest.raises(ValueError, match=r"a photo is \[1, 1, 3\] but the picture .* \[2, 1, 3\]"):
        as_colors(photo, torch.zeros(2, 1, 3))
