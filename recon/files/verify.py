"""Proof that a file shows what the scene shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lumigraph.recon.files.ply import load_ply
from lumigraph.render import Camera, Splats, psnr, render_color

BOUNDS_TOLERANCE = 1e-3
"""Part of the scene's diagonal by which its box may change: formats round positions."""


@dataclass(frozen=True)
class ExportCheck:
    """How a file that was read back compares with the scene it was written from.

    Attributes:
        splats: In the file, as many as in the scene.
        views: That were rendered from both.
        psnr: The lowest over these views, in dB.
        bounds_error: Largest move of a side of the box around all centres, as a part of the
            scene's diagonal; 0 if the boxes are equal.
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
    """Reads the file back, renders it, and says how near it comes to the scene.

    Args:
        scene: What was written, in the frame that `load` leads to.
        path: Of the file.
        cameras: At least one, in the same frame.
        psnr_min: What each view must reach, in dB. 50 is beyond what eight bits show.
        load: Reads the format of the file.
        background: The colour behind the scene.

    Raises:
        ValueError: There are no cameras, or the file differs from the scene in count, bounds or
            looks; the message has the figure.
    """
    if not cameras:
        raise ValueError(f"{path} can be checked only from at least one camera, but none was given")
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
    """Largest move of a side of the bounding box, as a part of the scene's diagonal."""
    if len(scene) == 0:
        return 0.0
    low, high = scene.means.double().cpu().aminmax(dim=0)
    low_now, high_now = written.means.double().cpu().aminmax(dim=0)
    moved = torch.maximum((low_now - low).abs().amax(), (high_now - high).abs().amax()).item()
    # A scene of one splat has no diagonal: its size is one then.
    return moved / ((high - low).norm().item() or 1.0)
