"""The command `eval`: how well a run's scene shows photos."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lumigraph.app.console import notice
from lumigraph.app.run.evaluation import evaluate, with_photos
from lumigraph.app.run.folder import Run
from lumigraph.app.run.report import write_report


def evaluate_run(
    run: Run, *, split: Literal["test", "train"] = "test", data: Path | None = None
) -> dict[str, Any]:
    """The metrics of a run's scene; writes its eval/ and report.html.

    Args:
        run: An open run.
        split: The frames to compare with.
        data: The capture that has the photos; None takes those in the run folder.

    Raises:
        ValueError: The capture has no photo for one of the frames of the run, or of another size.
    """
    views = run.views()
    frames = getattr(views, split)
    if data is not None:
        frames = with_photos(run, frames, data)
    if not frames:
        notice(f"{run.folder} has no {split} views: nothing to evaluate")
    while True:  # a training may save another scene meanwhile
        stamp = run.scene_stamp()
        metrics = evaluate(run, run.scene(), frames, background=views.background, split=split)
        with run.changing() as record:
            current = run.scene_stamp() == stamp
            if current and split == "test":
                record["metrics"] = {key: metrics[key] for key in ("psnr", "ssim", "images")}
        run = replace(run, record=record)  # the numbers that belong to the newer scene
        if current:
            break
    if split == "test":
        write_report(run)
    return metrics


def evaluation_rows(run: Run, metrics: dict[str, Any]) -> list[tuple[str, Any]]:
    """The metrics as a person reads them."""
    known = metrics["psnr"] is not None
    return [
        ("PSNR", f"{metrics['psnr']:.2f} dB" if known else "no views to evaluate"),
        ("SSIM", f"{metrics['ssim']:.4f}" if known else None),
        ("views", metrics["images"]),
        ("splats", f"{metrics['splats']:,}"),
        ("pictures and numbers", run.folder / "eval"),
    ]
