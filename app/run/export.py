"""The scene as a file for other programs, which is there only if it shows what the scene shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from lumigraph.datasets.files import atomic
from lumigraph.recon.files import ExportCheck, load_ply, save_ply, verify_export
from lumigraph.render import Camera, Similarity, Splats

FrameOf = Literal["capture", "fit"]

CHECK_VIEWS = 4
"""From which a file is compared with the scene: spread over the capture they see all of it."""


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
    """How near the PLY file that was written comes to the scene.

    Args:
        scene: In the fit's frame.
        path: Of the file. What lies there gives way only to a file that was read back and found
            good.
        cameras: In the fit's frame; some of them look at both.
        similarity: From the capture's frame to the fit's.
        frame: Whose coordinates the file has.
        background: The colour behind the scene.
        extra: Further properties of each splat by their names, as `save_ply` has them.

    Raises:
        ValueError: The file does not show what the scene shows.
        OSError: It cannot be written.
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
                "PLY: `lumigraph export RUN --frame fit` writes one about zero and of size one"
            ) from error
