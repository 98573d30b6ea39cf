"""What `train` and `demo` do: from what was asked to a session, and through it."""

import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from lumigraph.app.commands.doctor import chosen_device
from lumigraph.app.console import notice, warn
from lumigraph.app.machine import versions
from lumigraph.app.run.files import printable
from lumigraph.app.run.folder import (
    Run,
    create_run,
    is_taken,
    locked,
    next_folder,
    occupied,
    open_run,
)
from lumigraph.app.run.metrics import read_log
from lumigraph.app.run.report import iterations
from lumigraph.app.training.events import Control
from lumigraph.app.training.inputs import Selection, inputs_of, open_capture
from lumigraph.app.training.minutes import fitted_to
from lumigraph.app.training.progress import Drawing, duration
from lumigraph.app.training.session import LOG, Session, checkpoints, resume_session, run_session
from lumigraph.datasets import Capture, Frame
from lumigraph.recon import Preset, plan_from, plan_to_json, start_fit

INTERRUPTED = "\nStopping after this step, and keeping what is done; once more to leave at once.\n"


Heed = Callable[[], None]
"""Called between photos and steps while a session is made; what it raises ends that."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what a machine sends before it shuts down, and what a lost connection sends."""

SPACE_WANTED = 768 << 20
"""Bytes: 200,000 splats of 59 floats in the scene, the PLY and two checkpoints of three copies, and
of six with Levenberg-Marquardt."""


@dataclass(frozen=True)
class Order:
    """What a run is asked to be; None leaves the choice to us.

    Attributes:
        preset: The plan to begin with.
        seed: Of every random choice.
        downscale: Photos are made so many times smaller.
        test: File with the names of the photos to hold out, one a line.
        test_every: One of so many is held out where neither that nor the capture says which.
        calibration: So many are set aside from those to learn from, to calibrate intervals on.
        device: "auto", "cpu" or "cuda".
        minutes: The training is to take about so long; None takes the steps of the plan.
        changes: Entries of the plan that differ from the preset.
        name: Of the capture, in place of its folder's.
    """

    preset: Preset | None = None
    seed: int | None = None
    downscale: int | None = None
    test: Path | None = None
    test_every: int | None = None
    calibration: int | None = None
    device: str | None = None
    minutes: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    name: str | None = None

    @property
    def selection(self) -> Selection:
        """Which photos to use."""
        every = 8 if self.test_every is None else self.test_every
        return Selection(self.downscale, self.test, every, self.calibration or 0)

    @property
    def given(self) -> list[str]:
        """The options by which something was asked for."""
        own = [f.name for f in fields(self)[:-2] if getattr(self, f.name) is not None]
        changed = [name for name, value in self.changes.items() if value is not None]
        return own + ["antialiased" if name == "filter" else name for name in changed]


def start(
    path: Path,
    order: Order,
    folder: Path | None,
    *,
    overwrite: bool = False,
    runs: Path = Path("runs"),
    heed: Heed = lambda: None,
) -> Session:
    """A session that begins a run in `folder`, or in a new one under `runs` if that is None.

    What `heed` raises leaves nothing behind.

    Raises FileExistsError if the folder is taken and not to be overwritten, BlockingIOError if it
    is being trained, and what reading the capture raises.
    """
    with ExitStack() as lock:
        if folder is not None:
            lock.enter_context(locked(folder))
            if is_taken(folder) and not overwrite:
                raise FileExistsError(occupied(folder))
        plan = plan_from(order.preset or "standard", **order.changes)
        if order.minutes is not None and plan.optimizer != "adam":
            raise ValueError(
                "Minutes are counted in steps of Adam: give --steps for this optimizer"
            )
        device, reason = chosen_device(order.device or "auto")
        seed = order.seed or 0
        began = time.monotonic()
        heed()
        capture, selection = open_capture(path, order.selection)
        capture = replace(capture, name=order.name or capture.name or "capture")
        heeding = _heeding(capture, heed)
        notice(reason)
        if order.minutes is not None:
            plan = fitted_to(plan, order.preset or "standard", heeding, order.minutes, device)
        fit = start_fit(capture, plan, seed=seed, device=device)
        if folder is None:
            folder = next_folder(runs / capture.name)
            lock.callback(_clear_empty, folder)
            lock.enter_context(locked(folder))
        _check_space(folder)
        record = {
            "capture": capture.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "asked": _asked(order, seed, device, selection),
            "plan": plan_to_json(plan),
            "step": 0,
            "steps": plan.steps,
            "seconds": 0.0,
            "inputs": inputs_of(capture, heed),
            "versions": versions(),
            "timings": {"loading": time.monotonic() - began},
        }
        run = create_run(folder, capture=heeding, record=record, overwrite=overwrite)
        return Session(run, capture, fit, lock=lock.pop_all())


def go_on(path: Path, order: Order, folder: Path, heed: Heed = lambda: None) -> Session:
    """A session that goes on, to the bit, where the run in `folder` was stopped.

    Warns if the machine or a program changed since, as it is not to the bit then.

    Raises ValueError if the run is finished, if anything about it is to change, or if the capture
    is not the one it was started with, and BlockingIOError if it is being trained.
    """
    open_run(folder)  # nothing is locked where there is no run
    with ExitStack() as lock:
        lock.enter_context(locked(folder))
        session = _gone_on(path, order, open_run(folder), heed)
        session.lock = lock.pop_all()
        return session


def _gone_on(path: Path, order: Order, run: Run, heed: Heed) -> Session:
    """What `go_on` returns, of a run that is locked."""
    if run.state == "finished":
        raise ValueError(
            f"{run.folder} is finished at step {run.record.get('step')}: there is nothing to go "
            "on with"
        )
    if order.given:
        raise ValueError(
            f"{run.folder} goes on with what it was started with, so leave out "
            f"{', '.join('--' + name.replace('_', '-') for name in order.given)}; to train anew, "
            "choose another folder with -o"
        )
    heed()
    capture, _ = open_capture(path, run.selection())
    if inputs_of(capture, heed) != run.record["inputs"]:
        raise ValueError(
            f"{path} is not what {run.folder} was started with (its cameras, points or photos "
            "differ): give the same capture, or train anew in another folder with -o"
        )
    session = resume_session(run, capture)
    _warn_of_changes(run.record["versions"])
    notice(f"Going on at step {session.fit.step} of {session.fit.plan.steps}")
    return session


def conduct(session: Session, path: Path) -> tuple[Run, int]:
    """Runs the session with its progress drawn, and returns the run and an exit code.

    Any of `SIGNALS` ends it after the step it is in, with a checkpoint; a second one leaves at
    once. `next_command` is how to go on.
    """
    session.patient = sys.stderr.isatty()
    drawing = Drawing(session.channel.subscribe())
    with stopping(session.control) as received:
        try:
            run = run_session(session)
        except OSError as error:
            if not checkpoints(session.run):
                raise
            command = resume_command(path, session.run.folder)
            raise OSError(f"{error}. When that is mended, go on with: {command}") from error
        finally:
            drawing.finish()
    return run, 128 + received[0] if received else 0


def program() -> list[str]:
    """The words that call Lumigraph again as it was called, in the same folder and shell."""
    called = Path(sys.argv[0])
    if called.name != "lumigraph" or not called.is_file():  # run by Python itself
        return [sys.executable, "-Pm", "lumigraph.app.cli"]
    found = shutil.which("lumigraph")
    if found is not None and os.path.samefile(found, called):
        return ["lumigraph"]
    return [str(called.absolute())]


def resume_command(path: Path, folder: Path) -> str:
    """What to type to go on with a run."""
    return shlex.join([*program(), "train", str(path), "--resume", str(folder)])


def next_command(run: Run, path: Path) -> str | None:
    """What to type next if the run was stopped before it was finished or evaluated."""
    if run.state != "finished":
        return resume_command(path, run.folder)
    return None if "metrics" in run.record else shlex.join([*program(), "eval", str(run.folder)])


def summary(run: Run, path: Path) -> dict[str, Any]:
    """The result of a run as `--json` prints it."""
    record = run.record
    metrics = record.get("metrics") or {}
    keys = ("state", "step", "steps", "splats", "seconds", "steps_per_second", "peak_memory_mb")
    return {
        "run": str(run.folder),
        "psnr": metrics.get("psnr"),
        "ssim": metrics.get("ssim"),
        "images": metrics.get("images", 0),
        **{key: record.get(key) for key in keys},
        "timings": record.get("timings"),
        "instruction_set": record["versions"].get("instruction_set"),
        "iterations": iterations(read_log(run.folder / LOG)),
        "next": next_command(run, path),
    }


def summary_rows(run: Run, path: Path) -> list[tuple[str, Any]]:
    """The result of a run as a person reads it; what is not known is None."""
    facts = summary(run, path)
    psnr, ssim, rate = facts["psnr"], facts["ssim"], facts["steps_per_second"]
    return [
        ("PSNR", None if psnr is None else f"{psnr:.2f} dB in {facts['images']} test views"),
        ("SSIM", None if ssim is None else f"{ssim:.4f}"),
        ("splats", f"{facts['splats']:,}"),
        ("training", f"{facts['step']:,} steps in {duration(facts['seconds'])}"),
        ("speed", None if rate is None else f"{rate:.1f} steps per second"),
        ("peak memory", f"{facts['peak_memory_mb']:,} MB"),
        ("run", run.folder),
        ("report", run.folder / "report.html"),
        ("scene", scene if (scene := run.folder / "scene.ply").exists() else None),
    ]


def _heeding(capture: Capture, heed: Heed) -> Capture:
    """The capture, with `heed` called whenever a photo of it is asked for."""

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
    """Removes the folder of a run that was not begun, and the one it is in if that is empty too."""
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _asked(order: Order, seed: int, device: str, selection: Selection) -> dict[str, Any]:
    """What run.json says was asked, with our choices where it was left to us."""
    return {
        "preset": order.preset or "standard",
        "seed": seed,
        "downscale": selection.downscale,
        "test": selection.test,
        "test_every": selection.test_every,
        "calibration": selection.calibration,
        "device": device,
        **({} if order.minutes is None else {"minutes": order.minutes}),
        **{name: value for name, value in order.changes.items() if value is not None},
    }


def _warn_of_changes(before: dict[str, Any]) -> None:
    """Warns if what decides about the last bits is not what the run began with."""
    now = versions()
    changes = [
        f"{name.replace('_', ' ')} {printable(str(before.get(name)))[:80]} to {now[name]}"
        for name in ("lumigraph", "torch", "instruction_set", "processor")
        if before.get(name) != now[name]
    ]
    if changes:
        warn(
            f"The run goes on, but not to the bit as it would have: {', '.join(changes)} "
            "changed since it began"
        )


def _check_space(folder: Path) -> None:
    """Warns if the disk may fill up before the run is finished."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < SPACE_WANTED:
        warn(
            f"Only {free >> 20} MB are free where the run will lie: a scene of 200,000 splats "
            f"takes {SPACE_WANTED >> 20} MB with its checkpoints"
        )


@contextmanager
def stopping(control: Control) -> Iterator[list[int]]:
    """While inside, the first signal to end stops the session and the second the process.

    Signals that are ignored stay so: `nohup` and shells that start background jobs want that.
    """
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that Python knows nothing of and could not put back.
    before = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        control.stop()
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        with suppress(OSError):  # the terminal may be the one that is gone
            os.write(2, INTERRUPTED.encode())

    try:
        for number in before:
            signal.signal(number, stop)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
