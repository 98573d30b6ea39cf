"""PSNR and SSIM against their definitions."""

import numpy as np
import pytest
import torch

from lumigraph.render import psnr, quantize, ssim, to_bytes
from lumigraph.render.metrics import PSNR_MAX


def image_of(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("difference", "expected"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_psnr_of_a_constant_difference(difference, expected):
    target = torch.zeros(7, 5, 3)
    assert psnr(target + difference, target) == pytest.approx(expected, abs=1e-5)


def test_psnr_of_equal_images_is_the_maximum():
    assert psnr(image_of(9, 4), image_of(9, 4)) == PSNR_MAX


def test_psnr_of_one_step_in_one_value_of_a_large_image_is_below_the_maximum():
    target = torch.zeros(1440, 2560, 3)
    image = target.clone()
    image[700, 300, 1] = 1 / 255
    assert 100 < psnr(image, target) < PSNR_MAX


def test_psnr_of_images_that_are_not_finite_is_no_number():
    assert np.isnan(psnr(torch.full((2, 2, 3), torch.nan), torch.zeros(2, 2, 3)))


def test_psnr_does_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    values = set()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        values.add(psnr(image_of(301, 203), image_of(301, 203, seed=1)))
    torch.set_num_threads(threads)
    assert len(values) == 1


def ssim_by_definition(image: torch.Tensor, target: torch.Tensor) -> float:
    """Wang 2004, eq. 13, with a plain loop over a zero-padded window."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    x, y = (np.pad(i.double().numpy(), ((5, 5), (5, 5), (0, 0))) for i in (image, target))
    height, width = image.shape[:2]

    def mean(values: np.ndarray) -> np.ndarray:
        return sum(
            window[i, j] * values[i : i + height, j : j + width]
            for i in range(11)
            for j in range(11)
        )  # type: ignore[return-value]

    mx, my = mean(x), mean(y)
    vx, vy, cross = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    a, b = 0.01**2, 0.03**2
    similarity = (2 * mx * my + a) * (2 * cross + b)
    return float((similarity / ((mx**2 + my**2 + a) * (vx + vy + b))).mean())


@pytest.mark.parametrize("size", [(1, 1), (5, 33), (17, 11), (40, 31)])
def test_ssim_is_its_definition(size):
    image = image_of(*size)
    target = (image + 0.2 * image_of(*size, seed=1)).clamp(0, 1)
    assert ssim(image, target) == pytest.approx(ssim_by_definition(image, target), abs=2e-5)


def test_ssim_of_equal_images_is_one():
    assert ssim(image_of(20, 30), image_of(20, 30)) == pytest.approx(1, abs=1e-6)


def test_ssim_is_symmetric():
    one, other = image_of(20, 30), image_of(20, 30, seed=1)
    assert ssim(one, other) == pytest.approx(ssim(other, one), abs=1e-6)


def test_metrics_take_images_that_are_being_optimised():
    image = image_of(8, 8).requires_grad_()
    assert isinstance(psnr(image, image_of(8, 8, seed=1)), float)
    assert isinstance(ssim(image, image_of(8, 8, seed=1)), float)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_images_that_cannot_be_compared(metric):
    with pytest.raises(ValueError, match=r"\[4, 5, 3\] and \[5, 4, 3\]"):
        metric(torch.zeros(4, 5, 3), torch.zeros(5, 4, 3))
    with pytest.raises(ValueError, match=r"\[4, 5, 3\] and \[4, 5, 1\]"):
        metric(torch.zeros(4, 5, 3), torch.zeros(4, 5, 1))
    with pytest.raises(ValueError, match="height, width, channels"):
        metric(torch.zeros(4, 5), torch.zeros(4, 5))
    with pytest.raises(ValueError, match="height, width, channels"):
        metric(torch.zeros(0, 5, 3), torch.zeros(0, 5, 3))
    with pytest.raises(ValueError, match="255"):
        metric(torch.zeros(4, 5, 3, dtype=torch.uint8), torch.zeros(4, 5, 3, dtype=torch.uint8))


def test_quantized_images_are_those_of_eight_bits():
    levels = torch.arange(256) / 255
    assert torch.equal(quantize(levels), levels)
    assert torch.equal(to_bytes(levels).long(), torch.arange(256))
    assert to_bytes(torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.5])).tolist() == [
        *(0, 0, 0, 1, 255)
    ]
    image = image_of(6, 7)
    assert torch.equal(quantize(quantize(image)), quantize(image))
    assert (quantize(image) - image).abs().max() <= 0.5 / 255 + 1e-6
