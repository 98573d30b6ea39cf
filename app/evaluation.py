"""How well a scene shows what was held out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lumigraph.app.files import write_json
from lumigraph.app.pictures import picture_name, write_picture
from lumigraph.app.run_folder import Run
from lumigraph.datasets import Frame
from lumigraph.render import Camera, Splats, psnr, render, ssim, to_bytes


def look(scene: Splats, camera: Camera) -> torch.Tensor:
    """What the camera sees of the scene, as 8 bits hold it. uint8 [height, width, 3]"""
    with torch.no_grad():
        return to_bytes(render(scene, camera).color).cpu()


def evaluate(
    run: Run,
    scene: Splats,
    frames: Sequence[Frame],
    *,
    split: str = "test",
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """PSNR and SSIM of every frame and their means, as eval/metrics.json keeps them.

    Images are compared after rounding to 8 bits. The renderings go to eval/renders (those of the
    train split to eval/train_renders). Without frames nothing is evaluated and the means are None.

    Args:
        run: Its folder gets the pictures and the JSON.
        scene: In the frame of the cameras.
        frames: To compare with.
        split: Which frames these are.
        told: Called with the number of frames done after each.
    """
    prefix = "" if split == "test" else f"{split}_"
    renders = run.part(f"eval/{prefix}renders")
    views = []
    for index, frame in enumerate(frames):
        seen = look(scene, frame.camera)
        score = _compare(seen, frame.image())
        name = picture_name(index, frame.name)
        write_picture(renders / name, seen)
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


def probe(scene: Splats, frames: Sequence[Frame], count: int) -> float:
    """Mean PSNR over at most `count` frames, evenly spread over all of them."""
    chosen = [frames[i * len(frames) // count] for i in range(count)]
    chosen = list({frame.name: frame for frame in chosen}.values())
    scores = [_psnr(look(scene, frame.camera), frame.image()) for frame in chosen]
    return sum(scores) / len(scores)


def _psnr(seen: torch.Tensor, photo: torch.Tensor) -> float:
    return psnr(seen.float() / 255, photo.float() / 255)


def _compare(seen: torch.Tensor, photo: torch.Tensor) -> dict[str, float]:
    """The scores of one rendering."""
    return {"psnr": _psnr(seen, photo), "ssim": ssim(seen.float() / 255, photo.float() / 255)}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
