"""PSNR and SSIM of a scene on the photos that were held out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lumigraph.app.run.cameras import picture_name
from lumigraph.app.run.files import write_json
from lumigraph.app.run.folder import Run
from lumigraph.app.run.pictures import write_picture
from lumigraph.datasets import Frame
from lumigraph.render import Camera, Splats, psnr, quantize, render_color, ssim, to_bytes

Background = tuple[float, float, float]


def look(scene: Splats, camera: Camera, background: Background) -> torch.Tensor:
    """The camera's view of the scene, rounded to 8 bits. [height, width, 3]"""
    return quantize(render_color(scene, camera, background=background)).cpu()


def evaluate(
    run: Run,
    scene: Splats,
    frames: Sequence[Frame],
    *,
    background: Background = (0.0, 0.0, 0.0),
    split: str = "test",
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """PSNR and SSIM of every frame and their means, as eval/metrics.json has them.

    Images are compared after rounding to 8 bits. The renderings are written to eval/renders, those
    of the train split to eval/train_renders. Without frames the means are None.

    Args:
        run: The run; its folder gets the pictures and the JSON.
        scene: The scene, in the frame of the cameras.
        frames: The frames to compare with.
        background: The colour behind the scene.
        split: The split of these frames.
        told: Called after each frame with the number of frames that are done.
    """
    prefix = "" if split == "test" else f"{split}_"
    renders = run.part(f"eval/{prefix}renders")
    views = []
    for index, frame in enumerate(frames):
        seen = look(scene, frame.camera, background)
        score = _compare(seen, frame.image())
        name = picture_name(index, frame.name)
        write_picture(renders / name, to_bytes(seen))
        views.append({"name": frame.name, "file": name, **score})
        told(index + 1)
    metrics = {
        "split": split,
        "psnr": _mean([view["psnr"] for view in views]),
        "ssim": _mean([view["ssim"] for view in views]),
        "images": len(views),
        "splats": len(scene),
        "seconds": run.record.get("seconds"),
        "steps_per_second": run.record.get("steps_per_second"),
        "peak_memory_mb": run.record.get("peak_memory_mb"),
        "per_image": views,
    }
    write_json(run.part("eval") / f"{prefix}metrics.json", metrics)
    return metrics


def with_photos(run: Run, frames: Sequence[Frame], data: Path) -> list[Frame]:
    """The frames of the run, with the photos of its capture at `data`.

    Raises ValueError if the capture lacks one of them.
    """
    images = {frame.name: frame.image for frame in run.selection().load(data).frames}
    missing = [frame.name for frame in frames if frame.name not in images]
    if missing:
        raise ValueError(
            f"{data} has no photo {missing[0]}, which {run.folder} was trained with: give the "
            "capture of that run"
        )
    return [replace(frame, image=images[frame.name]) for frame in frames]


def probe(scene: Splats, frames: Sequence[Frame], count: int, background: Background) -> float:
    """Mean PSNR over at most `count` of the frames, evenly spread."""
    chosen = [frames[i * len(frames) // count] for i in range(count)]
    chosen = list({frame.name: frame for frame in chosen}.values())
    scores = [psnr(look(scene, f.camera, background), f.image().float() / 255) for f in chosen]
    return sum(scores) / len(scores)


def _compare(seen: torch.Tensor, photo: torch.Tensor) -> dict[str, float]:
    """The scores of one rendering; the photo is in bytes."""
    photo = photo.to(seen.dtype) / 255
    return {"psnr": psnr(seen, photo), "ssim": ssim(seen, photo)}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
