"""The command that says how far a scene can be trusted; nothing heavy is imported before it."""

from pathlib import Path
from typing import Annotated

import typer

from lumigraph.app.endings import interruptible, report


def uncertainty(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `train` wrote.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="CAPTURE", help="Find the drop rate on its training photos."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Drop rate, in place of a search. [default: as found]")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Share of the training SSIM that dropping may cost.")
    ] = 0.05,
    trials: Annotated[
        int | None, typer.Option(min=2, help="Sample so many masks. [default: all, exactly]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of sampled masks.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Say how far a scene can be trusted: maps, numbers, curves (PH-Dropout)."""
    from lumigraph.app.estimating import Asked, estimate_run
    from lumigraph.app.progress import counting
    from lumigraph.app.run_folder import open_run

    interruptible()
    opened = open_run(run)
    with counting() as told:
        found = estimate_run(opened, Asked(data, rate, margin, trials, seed), told)
    mean = found["mean"] or {}
    known = "" if found["calibrated"] else ", not calibrated"
    rows = [
        ("drop rate", f"{found['rate']:.4f} ({found['origin']}{known})"),
        ("AUSE", f"{mean['ause_mae']:.3f} (MAE), {mean['ause_rmse']:.3f} (RMSE)" if mean else None),
        ("Spearman", f"{mean['spearman']:.3f}" if mean else None),
        ("mean std", f"{mean['sharpness']:.4f}" if mean else None),
        ("views", len(found["per_image"])),
        ("report", run / "uncertainty" / "report.html"),
    ]
    report(as_json, found, f"{run}: how far to trust it", rows)
