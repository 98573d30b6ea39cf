"""What lies under the cursor: one pixel of the exact moments of a picture, as numbers."""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from lumigraph.app.viewer.picture import HAZE, Color, Mode
from lumigraph.kernels import Footprints, backend_for
from lumigraph.render import Camera, Splats
from lumigraph.uncertainty import Calibration, check_rate, interval

PROBED: tuple[Mode, ...] = ("uncertainty", "depth")
"""Modes in which numbers are read under the cursor."""

DIGITS = 5
"""After the point, of what a page is told: it shows three."""

assert set(PROBED) <= set(get_args(Mode))


@dataclass(frozen=True)
class Reading:
    """What chance leaves of one pixel when splats are dropped; see `uncertainty.exact`.

    Attributes:
        color: With all splats, as people see it. [3]
        std: Of each channel over masks. [3]
        opacity: Expected over masks.
        depth: Along the camera's axis, in the scene's units; None where hardly anything is.
        depth_std: Of that.
    """

    color: Tensor
    std: Tensor
    opacity: float
    depth: float | None
    depth_std: float | None


@torch.no_grad()
def read_pixel(
    scene: Splats, camera: Camera, column: int, row: int, *, rate: float, background: Color
) -> Reading:
    """That pixel of `uncertainty.exact`, without the others.

    The splats are projected by the whole camera and those that reach the pixel moved to an image of
    nothing else. (A camera of that one pixel would see other footprints: beyond its edges they are
    linearised elsewhere.)
    """
    check_rate(rate)
    backend = backend_for(scene.means.device)
    footprints = backend.project(
        scene.means,
        scene.quaternions,
        scene.log_scales,
        scene.opacity_logits,
        view=camera.view,
        filter=scene.filter,
    )
    corner = footprints.means.new_tensor([column, row])
    away = (footprints.means - corner - 0.5).abs()
    # With a pixel to spare: which ones are faint just there is decided when they are blended.
    here = ((away <= footprints.extents + 1) & (footprints.extents > 0)).all(dim=1)
    part, footprints = scene[here], Footprints(*(values[here] for values in footprints))
    colors = backend.harmonics(
        part.means,
        part.base,
        part.rest,
        view=camera.view,
        degree=part.degree,
        visible=footprints.extents[:, 0] > 0,
    )
    depths = footprints.depths[:, None]
    footprints = footprints._replace(means=footprints.means - corner)
    features = torch.cat([colors, torch.ones_like(depths), depths], dim=1)
    pixel = {"width": 1, "height": 1, "rate": rate}
    moments = backend.rasterize_moments(
        footprints, features, background=(*background, 0, 0), **pixel
    )
    mean, std = moments.mean[0, 0].cpu(), moments.variance[0, 0].sqrt().cpu()
    whole = backend.rasterize_moments(
        footprints, colors, background=background, **{**pixel, "rate": 0.0}
    )
    color, opacity = whole.mean[0, 0].cpu(), mean[3].item()
    if opacity < HAZE:
        return Reading(color, std[:3], opacity, None, None)
    depth = mean[4] / mean[3]
    around = backend.rasterize_moments(
        footprints, depths, origin=depth.to(depths).view(1, 1, 1), **pixel
    )
    depth_std = around.variance.item() ** 0.5 / opacity
    return Reading(color, std[:3], opacity, depth.item(), depth_std)


def told(
    reading: Reading, place: tuple[float, float], calibration: Calibration | None
) -> dict[str, Any]:
    """A reading as a page is told it: colours and intervals cut to what can be seen.

    Args:
        reading: Of the pixel.
        place: Which one, in parts of the picture's width and height.
        calibration: How wide intervals are; without one there are none.
    """
    low = high = None
    if calibration is not None:
        low, high = map(_seen, interval(calibration, reading.color, reading.std))
    depth, depth_std = (
        None if value is None else float(f"{value:.{DIGITS}g}")
        for value in (reading.depth, reading.depth_std)
    )
    return {
        "t": "probe",
        "x": place[0],
        "y": place[1],
        "color": _seen(reading.color),
        "std": [round(value, DIGITS) for value in reading.std.tolist()],
        "low": low,
        "high": high,
        "level": None if calibration is None else 1 - calibration.alpha,
        "within": None if calibration is None else 1 - calibration.beta,
        "calibrated": calibration is not None,
        "opacity": round(reading.opacity, DIGITS),
        "depth": depth,
        "depth_std": depth_std,
    }


def _seen(color: Tensor) -> list[float]:
    return [round(value, DIGITS) for value in color.clamp(0, 1).tolist()]
