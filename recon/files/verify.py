"""A check that a written file shows the same as its scene."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lumigraph.recon.files.ply import load_ply
from lumigraph.render import Camera, Splats, psnr, render_color

BOUNDS_TOLERANCE = 1e-3
"""The bounding box may move by this part of the scene's diagonal: formats round positions."""


@dataclass(frozen=True)
class ExportCheck:
    """The comparison of a file with the scene that it was written from.

    Attributes:
        splats: Splats in the file, as many as in the scene.
        views: Views that both were drawn in.
        psnr: The lowest PSNR over these views, in dB.
        bounds_error: The largest move of a side of the bounding box of all centres, as a part of
            the scene's diagonal; 0 if the boxes are equal.
    """

    splats: int
    views: int
    psnr: float
    bounds_error: float


def verify_export(
    scene: Splats,
    path: Path,
    cameras: Sequence[Camera],
    *,
    psnr_min: float = 50.0,
    load: Callable[[Path], Splats] = load_ply,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> ExportCheck:
    """Reads the file back, renders it, and compares it with the scene.

    Args:
        scene: The scene that was written, in the frame of what `load` returns.
        path: The file.
        cameras: At least one, in the same frame.
        psnr_min: The PSNR that each view must reach, in dB; at 50 eight-bit pictures are equal.
        load: Reads the file.
        background: The colour behind the scene.

    Raises:
        ValueError: There are no cameras, or the file differs from the scene in the number of
            splats, its bounds or its pictures; the message has the numbers.
    """
    if not cameras:
        raise ValueError(f"{path} cannot be checked without a camera: give at least one camera")
    written = load(path).to(scene.means.device)
    if len(written) != len(scene):
        raise ValueError(
            f"{path} has {len(written)} splats when it is read back, but the scene has "
            f"{len(scene)}: do not use the file"
        )
    error = _bounds_error(scene, written)

    def seen(splats: Splats, camera: Camera) -> Tensor:
        return render_color(splats, camera, background=background)

    scores = [psnr(seen(written, camera), seen(scene, camera)) for camera in cameras]
    lowest = min(scores)
    if not (error <= BOUNDS_TOLERANCE and all(score >= psnr_min for score in scores)):
        raise ValueError(
            f"{path} is not the scene when it is read back: {lowest:.1f} dB in the worst view, "
            f"where {psnr_min:g} dB are needed, and bounds that moved by {error:.2%} of the "
            "scene's size: do not use the file"
        )
    return ExportCheck(len(written), len(cameras), lowest, error)


def _bounds_error(scene: Splats, written: Splats) -> float:
    """The largest move of a side of the bounding box, as a part of the scene's diagonal."""
    if len(scene) == 0:
        return 0.0
    low, high = scene.means.double().cpu().aminmax(dim=0)
    low_now, high_now = written.means.double().cpu().aminmax(dim=0)
    moved = torch.maximum((low_now - low).abs().amax(), (high_now - high).abs().amax()).item()
    # A scene of one splat has a diagonal of 0: 1 takes its place.
    return moved / ((high - low).norm().item() or 1.0)
