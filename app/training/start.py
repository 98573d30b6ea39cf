"""How a training begins: the session of a new run, or of one that is resumed."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from lumigraph.app.console import notice, warn
from lumigraph.app.machine import chosen_device, versions
from lumigraph.app.run.folder import (
    Run,
    create_run,
    is_taken,
    next_folder,
    occupied,
    open_run,
)
from lumigraph.app.run.lock import locked
from lumigraph.app.run.record import Selection
from lumigraph.app.training.inputs import TrainOptions, inputs_of, open_capture
from lumigraph.app.training.session import Session, resume_session
from lumigraph.datasets import Capture, Frame
from lumigraph.recon import (
    Plan,
    Preset,
    fit_splats,
    plan_from,
    plan_to_json,
    start_fit,
)
from lumigraph.recon.splats.plan import stretched

Heed = Callable[[], None]
"""Called between photos and steps while a session is made; its exception ends that."""

SPACE_WANTED = 768 << 20
"""Bytes for 200,000 splats of 59 floats: in the scene, in the PLY, and in two checkpoints of three
copies each, or of six with Levenberg-Marquardt."""

TRIAL = 30
"""Steps of the trial; the first ones are slower, as they fill caches."""

GROWTH: dict[Preset, float] = {"quick": 1.4, "standard": 2.5, "high": 2.7}
"""The time of a step over the whole fit, divided by that of a step of the trial, which has fewer
splats, and photos of full size. Measured on the built-in scene and on phone photos: `quick` 1.1 and
1.7, `standard` 2.0 and 3.3."""

LEAST, MOST = 300, 200_000
"""The range of the steps of a fit: fewer show nothing yet, and more improve nothing."""


def start(
    path: Path,
    options: TrainOptions,
    folder: Path | None,
    *,
    overwrite: bool = False,
    runs: Path = Path("runs"),
    heed: Heed = lambda: None,
) -> Session:
    """A session of a new run in `folder`, or in a new folder under `runs` if that is None.

    If it fails, or `heed` raises an exception, no files are left behind.

    Raises FileExistsError if the folder is taken and `overwrite` is False, BlockingIOError if a
    training runs in it, and the errors of reading the capture.
    """
    with ExitStack() as lock:
        if folder is not None:
            lock.enter_context(locked(folder))
            if is_taken(folder) and not overwrite:
                raise FileExistsError(occupied(folder))
        plan = plan_from(options.preset or "standard", **options.changes)
        if options.minutes is not None and plan.optimizer != "adam":
            raise ValueError("--minutes works with Adam alone: give --steps for this optimizer")
        device, reason = chosen_device(options.device or "auto")
        seed = options.seed or 0
        began = time.monotonic()
        heed()
        capture, selection = open_capture(path, options.selection)
        capture = replace(capture, name=options.name or capture.name or "capture")
        heeding = _heeding(capture, heed)
        notice(reason)
        if options.minutes is not None:
            plan = fitted_to(plan, options.preset or "standard", heeding, options.minutes, device)
        fit = start_fit(capture, plan, seed=seed, device=device)
        if folder is None:
            folder = next_folder(runs / capture.name)
            lock.callback(_clear_empty, folder)
            lock.enter_context(locked(folder))
        _check_space(folder)
        asked = _asked(options, seed, device, selection)
        record = _new_record(capture, asked, plan, inputs_of(capture, heed), began)
        run = create_run(folder, capture=heeding, record=record, overwrite=overwrite)
        return Session(run, capture, fit, lock=lock.pop_all())


def resume(path: Path, options: TrainOptions, folder: Path, heed: Heed = lambda: None) -> Session:
    """A session that resumes the run in `folder` where it was stopped, bit for bit.

    Prints a warning if the machine or a program has changed, because the last bits may differ then.

    Raises ValueError if the run is finished, if options are given, or if the capture is not the one
    that the run was started with, and BlockingIOError if a training runs in the folder.
    """
    open_run(folder)  # a folder without a run must not be locked
    with ExitStack() as lock:
        lock.enter_context(locked(folder))
        session = _resumed(path, options, open_run(folder), heed)
        session.lock = lock.pop_all()
        return session


def _resumed(path: Path, options: TrainOptions, run: Run, heed: Heed) -> Session:
    """The session of `resume`, for a run that is locked already."""
    if run.state == "finished":
        raise ValueError(
            f"{run.folder} is finished at step {run.record.get('step')}, so there is nothing to "
            "resume"
        )
    if options.given:
        raise ValueError(
            f"{run.folder} is resumed with the options it was started with, so leave out "
            f"{', '.join('--' + name.replace('_', '-') for name in options.given)}; to train with "
            "other options, choose another folder with -o"
        )
    heed()
    capture, _ = open_capture(path, run.selection())
    if inputs_of(capture, heed) != run.record["inputs"]:
        raise ValueError(
            f"{path} is not the capture that {run.folder} was started with (its cameras, points "
            "or photos differ): give that capture, or train in another folder with -o"
        )
    session = resume_session(run, capture)
    _warn_of_changes(run.record["versions"])
    notice(f"Resuming at step {session.fit.step} of {session.fit.plan.steps}")
    return session


def fitted_to(plan: Plan, preset: Preset, capture: Capture, minutes: float, device: str) -> Plan:
    """The plan, stretched or shortened so that its fit takes about this time on this machine.

    The time is measured on a few steps of a trial. The number of steps therefore differs from run
    to run, and run.json holds it.
    """
    for frame in capture.train:  # photos must be decoded before a step is timed
        frame.image()
    trial = replace(plan, coarse_steps=0, steps=max(plan.steps, TRIAL))
    steps = fit_splats(capture, start_fit(capture, trial, device=device))
    seconds = []
    for _ in range(TRIAL):
        began = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - began)
    count = round(60 * minutes / (GROWTH[preset] * median(seconds[TRIAL // 3 :])))
    count = min(MOST, max(LEAST, count))
    notice(f"This machine does about {count:,} steps in {minutes:g} minutes")
    return stretched(plan, count)


def _heeding(capture: Capture, heed: Heed) -> Capture:
    """The capture; whenever one of its photos is read, `heed` is called."""

    def heeded(frame: Frame) -> Frame:
        return replace(frame, image=partial(_after, heed, frame.image))

    return replace(
        capture,
        train=tuple(heeded(frame) for frame in capture.train),
        test=tuple(heeded(frame) for frame in capture.test),
        calibration=tuple(heeded(frame) for frame in capture.calibration),
    )


def _after(heed: Heed, image: Callable[[], Tensor]) -> Tensor:
    heed()
    return image()


def _clear_empty(folder: Path) -> None:
    """Removes the empty folder of a run that did not begin, and its parent if that is empty too."""
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _new_record(
    capture: Capture, asked: dict[str, Any], plan: Plan, inputs: dict[str, Any], began: float
) -> dict[str, Any]:
    """The entries of run.json for a new run; its loading began at the time `began`."""
    return {
        "capture": capture.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked": asked,
        "plan": plan_to_json(plan),
        "step": 0,
        "steps": plan.steps,
        "seconds": 0.0,
        "inputs": inputs,
        "versions": versions(),
        "timings": {"loading": time.monotonic() - began},
    }


def _asked(options: TrainOptions, seed: int, device: str, selection: Selection) -> dict[str, Any]:
    """The options in run.json, with our choices for those that were not given."""
    return {
        "preset": options.preset or "standard",
        "seed": seed,
        "downscale": selection.downscale,
        "test": selection.test,
        "test_every": selection.test_every,
        "calibration": options.calibration or 0,
        "device": device,
        **({} if options.minutes is None else {"minutes": options.minutes}),
        **{name: value for name, value in options.changes.items() if value is not None},
    }


def _warn_of_changes(before: dict[str, Any]) -> None:
    """Prints a warning if something that affects rounding has changed since the run began."""
    now = versions()
    changes = [
        f"{name.replace('_', ' ')} {str(before.get(name))[:80]} to {now[name]}"
        for name in ("lumigraph", "torch", "instruction_set", "processor")
        if before.get(name) != now[name]
    ]
    if changes:
        warn(
            "The resumed run may differ slightly from one without a break, because these changed "
            f"since it began: {', '.join(changes)}"
        )


def _check_space(folder: Path) -> None:
    """Prints a warning if the disk may be full before the run is finished."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < SPACE_WANTED:
        warn(
            f"Only {free >> 20} MB are free in the folder of the run: a scene of 200,000 splats "
            f"takes {SPACE_WANTED >> 20} MB with its checkpoints"
        )
