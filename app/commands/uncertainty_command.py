"""The command that says how far a scene can be trusted; nothing heavy is imported before it."""

from pathlib import Path
from typing import Annotated, Any

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
    level: Annotated[float, typer.Option(help="Share of views that intervals must cover.")] = 0.9,
    within: Annotated[
        float, typer.Option(help="Share of a view's values that must lie within theirs.")
    ] = 0.9,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Say how far a scene can be trusted: maps, numbers, curves, intervals (PH-Dropout)."""
    from lumigraph.app.commands.uncertainty import Asked, estimate_run
    from lumigraph.app.run.folder import open_run
    from lumigraph.app.run.intervals import Promise
    from lumigraph.app.training.progress import counting

    interruptible()
    opened = open_run(run)
    asked = Asked(data, rate, margin, trials, seed, Promise(level, within))
    with counting() as told:
        found = estimate_run(opened, asked, told)
    mean = found["mean"] or {}
    known = "" if found["calibrated"] else ", not calibrated"
    rows = [
        ("drop rate", f"{found['rate']:.4f} ({found['origin']}{known})"),
        ("AUSE", f"{mean['ause_mae']:.3f} (MAE), {mean['ause_rmse']:.3f} (RMSE)" if mean else None),
        ("Spearman", f"{mean['spearman']:.3f}" if mean else None),
        ("as published", _published(found["published"])),
        ("mean std", f"{mean['sharpness']:.4f}" if mean else None),
        ("views", len(found["per_image"])),
        *_interval_rows(found),
        ("report", run / "uncertainty" / "report.html"),
    ]
    report(as_json, found, f"{run}: how far to trust it", rows)


def _published(metrics: dict[str, float] | None) -> str | None:
    """The numbers with errors of the mean over masks."""
    if metrics is None:
        return None
    ause, spearman = metrics["ause_mae"], metrics["spearman"]
    return f"AUSE {ause:.3f} (MAE), Spearman {spearman:.3f}, of the mean over masks"


def _interval_rows(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """How wide intervals are, what they are to hold and what they do; or why there are none."""
    from lumigraph.app.run.intervals import percent

    made, note = found["intervals"], found["intervals_note"]
    if made is None:
        return [("intervals", note)]
    promise = f"{percent(1 - made['beta'])} of the values in {percent(made['level'])} of views"
    covered = None
    if made["covered_views"] is not None:
        covered = (
            f"{percent(made['covered_views'])} of the test views, "
            f"{percent(made['covered_values'])} of their values; {made['width']:.3f} wide"
        )
    return [
        ("intervals", f"colour +- {made['q']:.3g} std, to hold {promise}"),
        ("they hold", covered),
        ("but", note),
    ]
