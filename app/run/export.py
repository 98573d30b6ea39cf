"""The scene as a PLY file for other programs, kept only if it looks the same as the scene."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from lumigraph.datasets.files import atomic
from lumigraph.recon.files import ExportCheck, load_ply, save_ply, verify_export
from lumigraph.render import Camera, Similarity, Splats

FrameOf = Literal["capture", "fit"]

CHECK_VIEWS = 4
"""The number of views in which a file is compared with the scene: spread over the capture, they see
all of it."""


def write_ply(
    scene: Splats,
    path: Path,
    *,
    cameras: Sequence[Camera],
    similarity: Similarity,
    frame: FrameOf = "capture",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    extra: Mapping[str, Tensor] | None = None,
) -> ExportCheck:
    """Writes the scene as a PLY file, and tells how near the file comes to the scene.

    Args:
        scene: The scene, in the fit's frame.
        path: The file. An older file there is replaced only after the new one was read back and
            compared with the scene.
        cameras: Cameras in the fit's frame; some of them render both for the comparison.
        similarity: From the capture's frame to the fit's.
        frame: The frame of the file's coordinates.
        background: The colour behind the scene.
        extra: Further properties of each splat by their names, as in `save_ply`.

    Raises:
        ValueError: The file does not look the same as the scene.
        OSError: The file cannot be written.
    """
    there = similarity if frame == "capture" else Similarity.identity()
    chosen = cameras[:: max(1, len(cameras) // CHECK_VIEWS)][:CHECK_VIEWS]
    with atomic(path) as partial:
        save_ply(scene.moved(there.inverse()), partial, extra=extra)
        try:
            return verify_export(
                scene,
                path,
                chosen,
                load=lambda _: load_ply(partial).moved(there),
                background=background,
            )
        except ValueError as error:
            if frame == "fit":
                raise
            raise ValueError(
                f"{error}. The capture's coordinates are too large for the 32-bit numbers of a "
                "PLY: use `lumigraph export RUN --frame fit`, where coordinates lie around zero"
            ) from error
