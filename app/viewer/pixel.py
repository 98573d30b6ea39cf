"""The numbers beside a picture: the legend of its colours, and the pixel under the cursor."""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from lumigraph.app.viewer.picture import HAZE, Picture, SceneUncertainty, color_table
from lumigraph.app.viewer.protocol import DisplayColor, DisplayOptions, Mode
from lumigraph.kernels import Window, splats_for
from lumigraph.render import Camera, Splats
from lumigraph.render.render import project_splats
from lumigraph.uncertainty import Calibration, check_rate, interval

PROBED: tuple[Mode, ...] = ("uncertainty", "depth")
"""The modes in which the numbers under the cursor are shown."""

DIGITS = 5
"""Digits after the point of the numbers that a page gets: it shows three."""

UNKNOWN = (
    "The confidence of this scene's splats was not estimated: run `lumigraph uncertainty` on its "
    "run folder, then press Rescan"
)
"""Is shown in the mode of confidence where none is known."""

assert set(PROBED) <= set(get_args(Mode))


@dataclass(frozen=True)
class PixelMoments:
    """The exact moments of one pixel over all masks of dropped splats; see `uncertainty.exact`.

    Attributes:
        color: With all splats, as it is shown. [3]
        std: Standard deviation of each channel over masks. [3]
        opacity: Mean over masks.
        depth: Along the camera's axis, in the scene's units; None where the opacity is too small.
        depth_std: Standard deviation of the depth over masks.
    """

    color: Tensor
    std: Tensor
    opacity: float
    depth: float | None
    depth_std: float | None


@torch.no_grad()
def read_pixel(
    scene: Splats, camera: Camera, column: int, row: int, *, rate: float, background: DisplayColor
) -> PixelMoments:
    """One pixel of `uncertainty.exact`, without computing the others.

    It is a window of the whole image: a camera of that one pixel would see other footprints, which
    are linearised elsewhere beyond its edges.
    """
    check_rate(rate)
    kernels, records = splats_for(scene.means.device), project_splats(scene, camera)
    window = Window(column, row, 1, 1)
    seen = records.tensors()
    depths = seen.depths[:, None]
    moments = kernels.moments(
        records,
        rate=rate,
        features=torch.cat([seen.colors, torch.ones_like(depths), depths], dim=1),
        background=(*background, 0, 0),
        window=window,
    )
    mean, std = moments.mean[0, 0].cpu(), moments.variance[0, 0].sqrt().cpu()
    whole = kernels.moments(records, rate=0.0, background=background, window=window)
    color, opacity = whole.mean[0, 0].cpu(), mean[3].item()
    if opacity < HAZE:
        return PixelMoments(color, std[:3], opacity, None, None)
    depth = mean[4] / mean[3]
    around = kernels.moments(
        records, rate=rate, features=depths, origin=depth.to(depths).view(1, 1, 1), window=window
    )
    depth_std = around.variance.item() ** 0.5 / opacity
    return PixelMoments(color, std[:3], opacity, depth.item(), depth_std)


def pixel_message(
    pixel: PixelMoments, place: tuple[float, float], calibration: Calibration | None
) -> dict[str, Any]:
    """The message that tells a page of a pixel, with colours and intervals clamped to [0, 1].

    Args:
        pixel: Its moments.
        place: Of the pixel, in parts of the picture's width and height.
        calibration: The widths of the intervals; without it there are no intervals.
    """
    low = high = None
    if calibration is not None:
        low, high = map(_clamped, interval(calibration, pixel.color, pixel.std))
    depth, depth_std = (
        None if value is None else float(f"{value:.{DIGITS}g}")
        for value in (pixel.depth, pixel.depth_std)
    )
    return {
        "t": "pixel",
        "x": place[0],
        "y": place[1],
        "color": _clamped(pixel.color),
        "std": [round(value, DIGITS) for value in pixel.std.tolist()],
        "low": low,
        "high": high,
        "level": None if calibration is None else 1 - calibration.alpha,
        "within": None if calibration is None else 1 - calibration.beta,
        "calibrated": calibration is not None,
        "opacity": round(pixel.opacity, DIGITS),
        "depth": depth,
        "depth_std": depth_std,
    }


def _clamped(color: Tensor) -> list[float]:
    return [round(value, DIGITS) for value in color.clamp(0, 1).tolist()]


def legend_of(
    display: DisplayOptions, picture: Picture, uncertainty: SceneUncertainty
) -> dict[str, Any]:
    """The legend of a picture as plain data: the range, its colours, and the quantity's name."""
    low, high = (None if n is None else float(f"{n:.3g}") for n in (picture.low, picture.high))
    return {
        "mode": display.mode,
        "map": display.color_map,
        "low": low,
        "high": high,
        "colors": None if low is None else color_table(display.color_map).tolist(),
        "text": _quantity(display.mode, uncertainty),
    }


def _quantity(mode: Mode, uncertainty: SceneUncertainty) -> str:
    """The name of the quantity that a mode shows; "" where the picture shows colours."""
    match mode:
        case "uncertainty":
            note = "" if uncertainty.calibrated else ", not calibrated"
            return f"Standard deviation of the colours; drop rate {uncertainty.rate:.2g}{note}"
        case "confidence":
            return UNKNOWN if uncertainty.confidence is None else "Confidence of the splats"
        case "depth":
            return "Depth, in the scene's units"
        case "opacity":
            return "Opacity"
        case _:
            return ""
