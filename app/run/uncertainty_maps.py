"""The uncertainty maps of a run's views, and the numbers that compare them with photos.

Errors are those of the picture that people see, rendered with all splats. As published, they are
those of the mean over masks. The mean fades as more is left out, which is an additional error that
the standard deviation predicts well: it makes any map look better at higher rates. Both are kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lumigraph.app.run.cameras import picture_name
from lumigraph.app.run.curves import Curves, curves_of
from lumigraph.app.run.intervals import Held, Intervals
from lumigraph.app.run.pictures import colored, write_picture
from lumigraph.datasets import Frame
from lumigraph.render import Camera, Splats, quantize, render_color, to_bytes
from lumigraph.uncertainty import exact_color, sampled, view_metrics

FOLDERS = ("maps", "means", "pictures")
"""In the folder uncertainty/ of a run: the maps, the means over masks, and the pictures."""


class Maps(NamedTuple):
    """What one camera sees. [height, width, 3] each, on the CPU

    Attributes:
        picture: Colours with all splats, as people see them.
        mean: Mean of the colours over masks.
        std: Standard deviation of the colours over masks.
    """

    picture: Tensor
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class ViewEstimate:
    """The numbers of one test view.

    Attributes:
        name: Name of the frame.
        file: File name of its map, of its mean and of its picture.
        metrics: Its metrics with the errors of the picture.
        published: Its metrics with the errors of the mean over masks, as published.
        interval: What its intervals hold, if there are any.
    """

    name: str
    file: str
    metrics: dict[str, float]
    published: dict[str, float]
    interval: Held | None


def map_maker(
    scene: Splats,
    background: tuple[float, float, float],
    rate: float,
    trials: int | None,
    seed: int,
) -> Callable[[Camera], Maps]:
    """The function that makes a camera's maps: exact without `trials`, else from sampled masks."""
    generator = torch.Generator().manual_seed(seed)

    def make(camera: Camera) -> Maps:
        picture = render_color(scene, camera, background=background)
        if trials is None:
            mean, std = exact_color(scene, camera, rate, background=background)
        else:
            spread = sampled(
                scene, camera, rate, trials=trials, generator=generator, background=background
            )
            mean, std = spread.mean, spread.std
        return Maps(picture.cpu(), mean.cpu(), std.cpu())

    return make


def assess_view(
    frame: Frame, index: int, maps: Maps, intervals: Intervals, folders: Sequence[Path]
) -> tuple[ViewEstimate, Curves]:
    """The numbers and curves of one view; its map, mean and picture are written to `FOLDERS`."""
    photo, std = frame.image().float() / 255, maps.std
    held = intervals.held(maps.picture, std, photo)
    picture, mean = quantize(maps.picture), quantize(maps.mean)
    name = picture_name(index, frame.name)
    images = (colored(shade(std)), to_bytes(mean), to_bytes(picture))
    for folder, image in zip(folders, images, strict=True):
        write_picture(folder / name, image)
    metrics, published = (asdict(view_metrics(seen, std, photo)) for seen in (picture, mean))
    estimate = ViewEstimate(frame.name, name, metrics, published, held)
    return estimate, curves_of(picture, std, photo)


def shade(std: Tensor) -> Tensor:
    """Where each pixel lies on the colour map, from 0 to 1: twice the root of its mean std. [h, w]

    The root, because most standard deviations are small; the map ends at a deviation of 0.25.
    """
    return std.mean(-1).clamp(0, 1).sqrt() * 2


def mean_metrics(views: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """Each number's mean over the views; None if there are no views."""
    if not views:
        return None
    return {key: math.fsum(view[key] for view in views) / len(views) for key in views[0]}
