"""The command `uncertainty`: maps, numbers, curves, intervals and a report of a run's test views.

It fills the folder uncertainty/ of the run: estimate.json holds the drop rate, where it comes from,
the numbers of each test view and the intervals; maps/, means/ and pictures/ hold an image of each
test view; confidence.safetensors holds the confidence of each splat; report.html shows it all.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lumigraph.app.commands.demo import demo_capture
from lumigraph.app.console import counting
from lumigraph.app.run.curves import mean_curves
from lumigraph.app.run.estimate import (
    ESTIMATE,
    FOLDER,
    Rate,
    save_confidence,
    scene_digest,
    stored_rate,
)
from lumigraph.app.run.evaluation import with_photos
from lumigraph.app.run.files import write_json
from lumigraph.app.run.folder import Run, open_run
from lumigraph.app.run.intervals import (
    Promise,
    Told,
    choice_of_test_views,
    intervals_json,
    make_intervals,
    note_of,
    percent,
)
from lumigraph.app.run.uncertainty_maps import FOLDERS, assess_view, map_maker, mean_metrics
from lumigraph.app.run.uncertainty_report import write_uncertainty_report
from lumigraph.app.training.inputs import inputs_of
from lumigraph.datasets import Capture
from lumigraph.datasets.demo import SIZES, DemoSize
from lumigraph.render import Camera, Splats
from lumigraph.uncertainty import MARGIN, PASSES, check_rate, confidence, find_rate

ORIGINS = {"outdated": "found for another scene"}
"""The words that the user sees for an origin of a rate, where its name is not clear enough."""


@dataclass(frozen=True)
class Asked:
    """The options of the command.

    Attributes:
        data: The capture of the run; the drop rate is searched for on its training photos. The
            capture of the built-in scene is found without it.
        rate: The drop rate; None searches for it, or takes the stored one.
        margin: Share of the training views' SSIM that the search may lose.
        trials: How many masks are sampled; None takes the exact moments over all masks.
        seed: Seed of the sampled masks.
        promise: What the intervals are asked to hold.
    """

    data: Path | None = None
    rate: float | None = None
    margin: float = MARGIN
    trials: int | None = None
    seed: int = 0
    promise: Promise = field(default_factory=Promise)


def estimate_run(
    run: Run, asked: Asked, told: Told = lambda what, done, of: None
) -> dict[str, Any]:
    """The uncertainty of a run's test views, as estimate.json holds it; writes `uncertainty/`.

    Args:
        run: An open run.
        asked: The options.
        told: Called with the name of the work, the part of it that is done, and the whole.

    Raises:
        ValueError: The rate is out of range or cannot be found, or the capture is another one.
    """
    scene, views = run.scene(), run.views()
    rate = rate_of(run, scene, views, asked, told)
    maps = map_maker(scene, views.background, rate.value, asked.trials, asked.seed)
    folders = [run.part(f"{FOLDER}/{name}") for name in FOLDERS]

    def picture_and_std(camera: Camera) -> tuple[Tensor, Tensor]:
        made = maps(camera)
        return made.picture, made.std

    intervals = make_intervals(views.calibration, picture_and_std, rate.value, asked.promise, told)
    assessed = []
    for index, frame in enumerate(views.test):
        assessed.append(assess_view(frame, index, maps(frame.camera), intervals, folders))
        told("Comparing with the test photos", index + 1, len(views.test))
    if rate.value > 0:
        told("Confidence of the splats", 0, 1)
        cameras = [frame.camera for frame in views.train]
        trusted = confidence(scene, cameras, rate.value, background=views.background)
        save_confidence(run, scene, trusted)
        told("Confidence of the splats", 1, 1)
    found = [estimate for estimate, _ in assessed]
    held = [view.interval for view in found if view.interval is not None]
    estimate = {
        "rate": rate.value,
        "origin": rate.origin,
        "calibrated": rate.calibrated,
        "margin": rate.margin,
        "base_ssim": rate.base,
        "trials": asked.trials,
        "splats": len(scene),
        "scene": scene_digest(scene),
        "mean": mean_metrics([view.metrics for view in found]),
        "published": mean_metrics([view.published for view in found]),
        "per_image": [asdict(view) for view in found],
        "curves": mean_curves([curves for _, curves in assessed]),
        "intervals": intervals_json(
            intervals, held, choice_of_test_views(views, run.selection().test_every)
        ),
        "intervals_note": note_of(intervals, held),
    }
    run.part(FOLDER)
    write_json(run.folder / ESTIMATE, estimate)
    write_uncertainty_report(run, estimate)
    return estimate


def rate_of(
    run: Run,
    scene: Splats,
    views: Capture,
    asked: Asked,
    told: Told = lambda what, done, of: None,
) -> Rate:
    """The drop rate to use: as given, found by a search on the training photos, or stored.

    A stored rate is taken if it was found for this scene, or if there are no photos to search on.
    """
    if asked.rate is not None:
        check_rate(asked.rate)
        return Rate(asked.rate, "given")
    data = asked.data
    if data is None:
        stored = stored_rate(run, scene)
        if stored and stored.origin == "stored":
            return stored
        data = _built_in(run)
        if stored and data is None:
            return stored
    if data is None:
        raise ValueError(
            f"The drop rate of {run.folder} is found on its training photos, which are not in "
            "it: give their capture with --data, or a rate with --rate"
        )
    search = find_rate(
        scene,
        with_photos(run, views.train, data),
        margin=asked.margin,
        seed=asked.seed,
        background=views.background,
        told=lambda done: told("Searching for the drop rate", done, PASSES),
    )
    return Rate(search.rate, "searched", search.margin, search.base)


def _built_in(run: Run) -> Path | None:
    """The capture of the built-in scene, if the run was trained on it."""
    size: DemoSize | None
    size = next((size for size in SIZES if run.record["capture"] == f"demo_{size}"), None)
    if size is None:
        return None
    folder = demo_capture(size)
    return folder if inputs_of(run.selection().load(folder)) == run.record["inputs"] else None


def estimated(folder: Path, asked: Asked) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The uncertainty of the run in a folder with its progress drawn, and a table of it."""
    with counting() as told:
        found = estimate_run(open_run(folder), asked, told)
    origin = ORIGINS.get(found["origin"], found["origin"])
    known = "" if found["calibrated"] else ", not calibrated"
    rows = [
        ("drop rate", f"{found['rate']:.4f} ({origin}{known})"),
        *(_metric_rows(found["mean"], found["published"]) if found["mean"] else ()),
        ("views", len(found["per_image"])),
        *_interval_rows(found),
        ("report", folder / "uncertainty" / "report.html"),
    ]
    return found, rows


def _metric_rows(mean: dict[str, float], published: dict[str, float]) -> list[tuple[str, str]]:
    """How well the maps know the errors of the picture, and those of the mean over masks."""
    return [
        (
            "AUSE over chance",
            f"{mean['ause_mae_ratio']:.3f} (MAE), {mean['ause_rmse_ratio']:.3f} (RMSE); 0 is best, "
            "1 is chance",
        ),
        (
            "AUSE",
            f"{mean['ause_mae']:.3f} (MAE; chance {mean['ause_mae_chance']:.3f}), "
            f"{mean['ause_rmse']:.3f} (RMSE; chance {mean['ause_rmse_chance']:.3f})",
        ),
        ("Spearman", f"{mean['spearman']:.3f}"),
        (
            "as published",
            f"AUSE {published['ause_published']:.3f} in the paper's units, "
            f"{published['ause_mae_ratio']:.3f} over chance (MAE), Spearman "
            f"{published['spearman']:.3f}; errors of the mean over masks",
        ),
        ("mean standard deviation", f"{mean['sharpness']:.4f}"),
    ]


def _interval_rows(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """The intervals, what they promise and hold in the test views, or why there are none."""
    made, note = found["intervals"], found["intervals_note"]
    if made is None:
        return [("intervals", note)]
    within, level = percent(1 - made["beta"]), percent(made["level"])
    promise = f"{within} of the colour values in {level} of views"
    covered = None
    if made["covered_views"] is not None:
        covered = (
            f"{percent(made['covered_views'])} of the test views, "
            f"{percent(made['covered_values'])} of their colour values; "
            f"mean width {made['width']:.3f}"
        )
    return [
        ("intervals", f"{made['q']:.3g} standard deviations to both sides should hold {promise}"),
        ("they hold", covered),
        ("limit", note),
    ]
