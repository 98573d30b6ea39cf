"""The signature of `lumigraph uncertainty`; nothing heavy is imported before it runs."""

from pathlib import Path
from typing import Annotated

import typer

from lumigraph.app.console import interruptible, report


def uncertainty(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `train` wrote.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="CAPTURE", help="Search for the drop rate on its photos."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Drop rate. [default: the result of a search]")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Share of the training SSIM that the search may lose.")
    ] = 0.05,
    trials: Annotated[
        int | None, typer.Option(min=2, help="Number of masks to sample. [default: all, exactly]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampled masks.")] = 0,
    level: Annotated[float, typer.Option(help="Share of views that intervals must cover.")] = 0.9,
    within: Annotated[
        float,
        typer.Option(help="Share of a view's colour values that must lie in their intervals."),
    ] = 0.9,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Tell how far to trust a scene: maps, metrics, curves, intervals (PH-Dropout)."""
    from lumigraph.app.commands.uncertainty import Asked, estimated
    from lumigraph.app.run.intervals import Promise

    interruptible()
    asked = Asked(data, rate, margin, trials, seed, Promise(level, within))
    found, rows = estimated(run, asked)
    report(as_json, found, f"{run}: how far to trust it", rows)
