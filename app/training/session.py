"""One training: pulls the fit, obeys commands, publishes events, and writes the run folder.

This is the only place that pulls a fit. Progress bar and viewer listen to bounded queues that drop
their oldest event, so a listener that hangs or dies changes nothing; they give commands by a
`TrainingControl`, which is read between steps. Events and commands are plain data, so that either
end may live in another process.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from lumigraph.app.console import quoted
from lumigraph.app.machine import chosen_device, peak_memory_mb
from lumigraph.app.run.evaluation import evaluate, probe
from lumigraph.app.run.export import write_ply
from lumigraph.app.run.folder import Run
from lumigraph.app.run.frames import moved_frames
from lumigraph.app.run.metrics import open_log, rewind_log
from lumigraph.app.run.record import LOG, RunState
from lumigraph.app.run.report import write_report
from lumigraph.app.training.events import (
    Changed,
    Channel,
    Ended,
    Probed,
    Saved,
    Scored,
    StepDone,
    TrainingControl,
    Trouble,
)
from lumigraph.datasets import Capture, Frame
from lumigraph.datasets.files import remove_abandoned, shown
from lumigraph.recon import (
    LIVE,
    SplatFit,
    Step,
    change_plan,
    fit_splats,
    load_checkpoint,
    plan_to_json,
    save_checkpoint,
)
from lumigraph.recon.files import save_scene
from lumigraph.render import Splats

CHECKPOINT_SECONDS = 300.0
"""Between two checkpoints: what a crash may cost, against a write of a few hundred MB."""

CHECKPOINTS_KEPT = 2
"""The newest, and the one before in case the newest turns out to be damaged."""

RETRY_SECONDS = 10.0
"""Between two tries to write a result where the disk is full."""

LOG_ENTRIES, PROBES, PROBE_STEPS, PROBE_VIEWS = 500, 20, 100, 4
"""Entries of metrics.jsonl over a whole run, about; how often PSNR is among them at most, after how
many steps at least, and over how many views. It takes a percent or two of the time.
"""


@dataclass
class Session:
    """What changes while a reconstruction runs.

    Attributes:
        run: Its folder.
        capture: What it learns from.
        fit: The state of the training.
        control: Where commands come in.
        channel: Where events go out.
        changes: The changes of the plan while it trained, as run.json lists them.
        seconds: Spent in training steps so far, earlier sittings included.
        checkpoint_seconds: Time between two checkpoints.
        patient: Whether a result that cannot be written is held until it can, as when somebody is
            there to free the disk; else that raises OSError.
        lock: What `run_session` closes at its end, or whoever drops the session before: the
            right to train into the folder.
    """

    run: Run
    capture: Capture
    fit: SplatFit
    control: TrainingControl = field(default_factory=TrainingControl)
    channel: Channel = field(default_factory=Channel)
    changes: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    patient: bool = False
    lock: ExitStack = field(default_factory=ExitStack)

    def views(self, frames: Sequence[Frame]) -> tuple[Frame, ...]:
        """Frames of the capture with their cameras in the frame of the fit's scene."""
        return moved_frames(frames, self.fit.similarity)


def run_session(session: Session) -> Run:
    """The run when its fit is finished or was stopped; its folder can be opened in both cases.

    A checkpoint that cannot be written on the way is told as `Trouble` and the training goes on;
    the older ones stay. Raises OSError if the result itself cannot be written.
    """
    state: RunState = "finished"
    started = time.monotonic()
    try:
        finished = _train(session)
        state = "finished" if finished else "stopped"
        run = _keep(session, state)
        if finished:
            with suppress(_Stopped):
                run = _score(session, run)
        session.run = run.with_record(
            peak_memory_mb=peak_memory_mb(),
            timings={
                **run.record.get("timings", {}),
                "training": session.seconds,
                "last_sitting": time.monotonic() - started,
            },
        )
        write_report(session.run)
    except BaseException:
        state = "stopped"
        raise
    finally:
        session.lock.close()  # before anybody hears of the end, and begins anew
        session.channel.publish(Ended(state, session.fit.step))
        session.channel.close()
    return session.run


def resume_session(run: Run, capture: Capture) -> Session:
    """The session that goes on, to the bit, where the newest sound checkpoint of `run` was written.

    Raises FileNotFoundError if there is no checkpoint, and ValueError if none can be read.
    """
    paths = checkpoints(run)
    if not paths:
        raise FileNotFoundError(
            f"{run.folder} has no checkpoint to resume from: start again with --overwrite -o "
            f"{quoted(run.folder)}"
        )
    remove_abandoned(run.folder)
    device, problems = _device(run), []
    for path in reversed(paths):
        try:
            fit = load_checkpoint(path, device=device)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        changes = _changes_until(fit, run.record.get("changes"))
        seconds = rewind_log(run.folder / LOG, fit.step)
        return Session(run, capture, fit, changes=changes, seconds=seconds)
    raise ValueError("; ".join(problems))


def _device(run: Run) -> str:
    """The device the run was started on; ValueError if it is none or not to be had here."""
    wanted, path = run.asked.get("device"), run.folder / "run.json"
    if wanted not in ("cpu", "cuda"):
        raise ValueError(
            f'{path} has {shown(wanted)} under "device", where cpu or cuda belongs: restore it '
            "from a copy"
        )
    try:
        return chosen_device(wanted)[0]
    except ValueError as error:
        raise ValueError(f"{path} asks for a device that is not to be had: {error}") from None


def checkpoints(run: Run) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run.folder / "checkpoints").glob(f"{'[0-9]' * 8}.safetensors"))


def _train(session: Session) -> bool:
    """Pulls the fit to its end, or until it is told to stop; True if it came to its end."""
    fit, control = session.fit, session.control
    log_every = max(1, fit.plan.steps // LOG_ENTRIES)
    probe_every = max(PROBE_STEPS, fit.plan.steps // PROBES)
    saved = time.monotonic()
    steps = fit_splats(session.capture, fit)
    path = session.run.folder / LOG
    with open_log(path, lambda message: session.channel.publish(Trouble(message))) as log:
        while not control.stopped:
            started = time.perf_counter()
            step = next(steps, None)
            session.seconds += time.perf_counter() - started
            if step is None:
                return True
            _tell(session, step)
            due = time.monotonic() - saved > session.checkpoint_seconds
            saving = control.take_checkpoint() or (due and step.step < step.steps)
            probing = step.step % probe_every == 0 and bool(session.capture.test)
            # A sitting that goes on from a checkpoint reads its seconds from the entry of its step.
            noted = step.step % log_every == 0 or step.tried is not None
            if probing or saving or control.stopped or noted:
                log(_entry(session, step, probing=probing))
            _obey(session)
            if saving:
                _checkpoint(session)
                saved = time.monotonic()
            _hold(session)
    return fit.step >= fit.plan.steps


def _hold(session: Session) -> None:
    """Returns at once, or when a pause is over; checkpoints can be asked for meanwhile."""
    while session.control.paused and not session.control.stopped:
        session.control.wait(0.1)
        _obey(session)
        if session.control.take_checkpoint():
            _checkpoint(session)


def _obey(session: Session) -> None:
    """Does between two steps what was asked for, other than to hold, to save or to end."""
    if threads := session.control.take_threads():
        torch.set_num_threads(threads)
    if values := session.control.take_changes():
        _change(session, values)
    _show(session)


def _change(session: Session, values: dict[str, Any]) -> None:
    """Changes the plan, and lists the changes that the next checkpoint takes to run.json."""
    before, step = session.fit.plan, session.fit.step
    change_plan(session.fit, **values)
    for name in values:
        old, new = getattr(before, name), getattr(session.fit.plan, name)
        if old != new:
            change = Changed(step, name, old, new)
            session.channel.publish(change)
            session.changes.append(asdict(change))


def _changes_until(fit: SplatFit, listed: Any) -> list[dict[str, Any]]:
    """The changes in run.json that the fit of a checkpoint has.

    Changes after the checkpoint are undone. Of those at its very step, its plan tells which were
    made before it.
    """
    changes = []
    for entry in listed if isinstance(listed, list) else []:
        with suppress(ValueError):  # malformed: not of ours
            changes.append(asdict(msgspec.convert(entry, Changed)))
    kept = [entry for entry in changes if entry["step"] < fit.step]
    for name in LIVE:
        now = getattr(fit.plan, name)
        first = next((entry["before"] for entry in changes if entry["name"] == name), now)
        before = next((entry["now"] for entry in reversed(kept) if entry["name"] == name), first)
        if before != now:
            kept.append(asdict(Changed(fit.step, name, before, now)))
    return kept


def _show(session: Session) -> None:
    """Lets everybody look who asked to; what goes wrong with them does not matter here."""
    for look in session.control.take_looks():
        try:
            look(session.fit)
        except Exception as error:
            session.channel.publish(Trouble(f"The scene could not be shown: {error}"))


def _tell(session: Session, step: Step) -> None:
    numbers = (step.step, step.steps, step.loss, step.splats, step.degree, session.seconds)
    session.channel.publish(StepDone(*numbers, step.tried))
    if step.note:
        session.channel.publish(Trouble(step.note))


def _checkpoint(session: Session, *, kept: int = CHECKPOINTS_KEPT) -> Path | None:
    """Writes the state of the fit, then drops the oldest ones; None if it could not be written."""
    path = session.run.part("checkpoints") / f"{session.fit.step:08d}.safetensors"
    try:
        save_checkpoint(session.fit, path)
        with session.run.changing() as record:
            record.update(step=session.fit.step, seconds=session.seconds)
            record["plan"] = plan_to_json(session.fit.plan)
            if session.changes or "changes" in record:
                record["changes"] = session.changes
        session.run = replace(session.run, record=record)
    except OSError as error:
        session.channel.publish(
            Trouble(f"The checkpoint of step {session.fit.step} could not be written: {error}")
        )
        return None
    for old in checkpoints(session.run)[:-kept]:
        old.unlink(missing_ok=True)
    session.channel.publish(Saved(session.fit.step, str(path)))
    return path


def _keep(session: Session, state: RunState) -> Run:
    """Writes the last checkpoint and the scene, and says so in run.json; again if it must wait."""
    while True:
        try:
            return _write_result(session, state)
        except OSError as error:
            if not session.patient:
                raise
            sentence = f"{error}. Free some space: it is tried again every {RETRY_SECONDS:.0f} s"
            session.channel.publish(Trouble(sentence))
            time.sleep(RETRY_SECONDS)


def _write_result(session: Session, state: RunState) -> Run:
    kept = 1 if state == "finished" else CHECKPOINTS_KEPT
    path = _checkpoint(session, kept=kept)
    if path is None and state == "stopped":
        older = checkpoints(session.run)
        rest = f"; {older[-1].name} is still there" if older else ""
        raise OSError(f"The fit was stopped but could not be kept, see above{rest}")
    scene = session.fit.scene()
    if lost := len(session.fit.splats) - len(scene):
        note = f"The scene leaves out splats with values that are not finite: {lost}"
        session.channel.publish(Trouble(note))
    save_scene(scene, session.run.folder / "scene.safetensors")
    _export(session, scene)
    rate = session.fit.step / session.seconds if session.seconds > 0 else None
    with session.run.changing() as record:
        record.pop("metrics", None)  # of an earlier scene
        record.update(
            state=state,
            step=session.fit.step,
            seconds=session.seconds,
            splats=len(scene),
            steps_per_second=rate,
        )
    return replace(session.run, record=record)


def _export(session: Session, scene: Splats) -> None:
    """Writes scene.ply; where float32 cannot hold the capture's frame there is none, and a word."""
    path, capture = session.run.folder / "scene.ply", session.capture
    cameras = [frame.camera for frame in session.views((*capture.test, *capture.train))]
    try:
        write_ply(
            scene,
            path,
            cameras=cameras,
            similarity=session.fit.similarity,
            background=capture.background,
        )
    except ValueError as error:
        path.unlink(missing_ok=True)  # of an earlier sitting
        session.channel.publish(Trouble(f"There is no scene.ply: {error}"))


class _Stopped(Exception):
    """The session was told to stop while it evaluated."""


def _score(session: Session, run: Run) -> Run:
    """Evaluates the finished scene on the test views and says so in run.json."""
    started = time.monotonic()
    total = len(session.capture.test)

    def told(done: int) -> None:
        session.channel.publish(Scored(done, total))
        _show(session)
        if session.control.stopped and done < total:
            raise _Stopped

    frames, background = session.views(session.capture.test), session.capture.background
    metrics = evaluate(run, run.scene(), frames, background=background, told=told)
    summary = {key: metrics[key] for key in ("psnr", "ssim", "images")}
    timings = {**run.record.get("timings", {}), "evaluation": time.monotonic() - started}
    return run.with_record(metrics=summary, timings=timings)


def _entry(session: Session, step: Step, *, probing: bool) -> dict[str, Any]:
    """What metrics.jsonl says of a step."""
    entry: dict[str, Any] = {
        "step": step.step,
        "loss": step.loss,
        "splats": step.splats,
        "degree": step.degree,
        "seconds": session.seconds,
    }
    if step.tried:
        entry["lm"] = asdict(step.tried)
    if probing:
        frames, background = session.views(session.capture.test), session.capture.background
        entry["psnr"] = probe(session.fit.splats, frames, PROBE_VIEWS, background)
        session.channel.publish(Probed(step.step, entry["psnr"], session.seconds))
    return entry
