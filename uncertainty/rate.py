"""The search for a drop rate: the largest at which the training views still look as they should."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from lumigraph.datasets import Frame
from lumigraph.render import Splats, render_color, ssim
from lumigraph.uncertainty.dropout import BLACK, Color, exact_color, thin

MARGIN = 0.05
"""The share of the training views' SSIM that may be lost; the published default."""

STEP = 0.01
"""The step of the published search."""

PASSES = 8
"""How often the search renders the training views, first without dropping."""

Criterion = Literal["masks", "mean"]


@dataclass(frozen=True)
class RateSearch:
    """The result of a search.

    Attributes:
        rate: The drop rate.
        margin: The margin that was asked for.
        base: Mean SSIM over the training views with all splats.
        trail: Each rate that was tried, with its mean SSIM.
    """

    rate: float
    margin: float
    base: float
    trail: tuple[tuple[float, float], ...]


def find_rate(
    scene: Splats,
    frames: Sequence[Frame],
    *,
    margin: float = MARGIN,
    criterion: Criterion = "masks",
    seed: int = 0,
    background: Color = BLACK,
    told: Callable[[int], None] = lambda done: None,
) -> RateSearch:
    """The largest rate at which the training views keep their SSIM within `margin`, by bisection.

    The root of the rate is halved seven times, because small rates matter most. With "masks" one
    thinned picture of each view is compared, with masks that are nested from rate to rate. With
    "mean" the exact mean picture is compared, which is smoother than any thinned picture.

    Args:
        scene: In the frame of the cameras.
        frames: The training views with their photos.
        margin: The share of the SSIM that may be lost, in (0, 1).
        criterion: What is compared with the photos.
        seed: Seed of the masks.
        background: The colour behind the splats.
        told: Called after each of the `PASSES` with the number of passes done.

    Raises ValueError if there are no frames, or if even the lowest rate loses more than the
    margin because the scene is under-fitted.
    """
    _check(frames, margin)

    def score(rate: float) -> float:
        return _mean_ssim(scene, frames, rate, criterion, seed, background)

    base = score(0.0)
    told(1)
    low, high = 0.0, 1.0  # roots of a rate that is within the margin, and of one that is not
    trail = []
    for done in range(2, PASSES + 1):
        middle = (low + high) / 2
        value = score(middle * middle)
        trail.append((middle * middle, value))
        low, high = (middle, high) if value > (1 - margin) * base else (low, middle)
        told(done)
    if low == 0:
        raise ValueError(_under_fitted(margin, base, trail[-1]))
    return RateSearch(low * low, margin, base, tuple(trail))


def published_rate(
    scene: Splats,
    frames: Sequence[Frame],
    *,
    margin: float = MARGIN,
    generator: torch.Generator,
    background: Color = BLACK,
) -> RateSearch:
    """The search as published: up in steps of 0.01, with fresh masks, until the margin is passed.

    It returns the first rate beyond the margin, as the authors' program does; their text says the
    last rate within it. A rate of 1 is never tried: 0.99 is the highest result.
    """
    _check(frames, margin)

    def score(rate: float) -> float:
        total = 0.0
        for frame in frames:
            thinned = thin(scene, rate, generator)
            total += _ssim(render_color(thinned, frame.camera, background=background), frame)
        return total / len(frames)

    base = _mean_ssim(scene, frames, 0.0, "masks", 0, background)
    trail: list[tuple[float, float]] = []
    for step in range(1, 100):
        rate = round(step * STEP, 2)
        trail.append((rate, score(rate)))
        if trail[-1][1] <= (1 - margin) * base:
            break
    return RateSearch(trail[-1][0], margin, base, tuple(trail))


def _mean_ssim(
    scene: Splats,
    frames: Sequence[Frame],
    rate: float,
    criterion: Criterion,
    seed: int,
    background: Color,
) -> float:
    total = 0.0
    for index, frame in enumerate(frames):
        if criterion == "mean":
            picture, _ = exact_color(scene, frame.camera, rate, background=background)
        else:
            # Seeded anew for each rate, so that a view's masks are nested.
            generator = torch.Generator().manual_seed(seed * len(frames) + index)
            thinned = thin(scene, rate, generator)
            picture = render_color(thinned, frame.camera, background=background)
        total += _ssim(picture, frame)
    return total / len(frames)


def _ssim(picture: torch.Tensor, frame: Frame) -> float:
    photo = frame.image().to(picture.device, picture.dtype) / 255
    return ssim(picture.clamp(0, 1), photo)


def _check(frames: Sequence[Frame], margin: float) -> None:
    if not frames:
        raise ValueError("There are no training views to find a drop rate with: give a rate")
    if not 0 < margin < 1:
        raise ValueError(
            "The margin is the share of the SSIM that may be lost, between 0 and 1, not "
            f"{margin}: give 0.05, for example"
        )


def _under_fitted(margin: float, base: float, last: tuple[float, float]) -> str:
    return (
        f"No drop rate keeps the training views within {margin:.0%} of their SSIM of {base:.3f}: "
        f"even {last[0]:.1e} lowers it to {last[1]:.3f}. The scene is under-fitted: train it "
        "longer, or give a rate yourself"
    )
