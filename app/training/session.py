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
"""Seconds between two checkpoints: a crash loses that time, and a write is a few hundred MB."""

CHECKPOINTS_KEPT = 2
"""The newest checkpoint, and the one before it in case the newest is damaged."""

RETRY_SECONDS = 10.0
"""Seconds between two attempts to write a result to a full disk."""

LOG_ENTRIES, PROBES, PROBE_STEPS, PROBE_VIEWS = 500, 20, 100, 4
"""metrics.jsonl gets about `LOG_ENTRIES` over a run. At most `PROBES` of them have a PSNR, at least
`PROBE_STEPS` apart and over up to `PROBE_VIEWS` views; that takes one or two percent of the time.
"""


@dataclass
class Session:
    """The state of a training while it runs.

    Attributes:
        run: The run that it writes.
        capture: The capture that it is trained on.
        fit: The state of the fit.
        control: The commands to it.
        channel: The events from it.
        changes: The changes of the plan during the training, as run.json lists them.
        seconds: Time spent in training steps, also before the run was resumed.
        checkpoint_seconds: Time between two checkpoints.
        patient: Whether to wait and try again if a result cannot be written, because a person can
            free the disk; else OSError is raised.
        lock: The lock on the run folder. `run_session` closes it at its end; close it yourself if
            the session is never run.
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
        """The frames with their cameras in the frame of the fit's scene."""
        return moved_frames(frames, self.fit.similarity)


def run_session(session: Session) -> Run:
    """The run after its fit is finished or was stopped; its folder can be opened in both cases.

    If a checkpoint cannot be written, a `Trouble` is published and the training continues; the
    older checkpoints stay. Raises OSError if the result itself cannot be written.
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
        session.lock.close()  # before a listener hears of the end and resumes the run
        session.channel.publish(Ended(state, session.fit.step))
        session.channel.close()
    return session.run


def resume_session(run: Run, capture: Capture) -> Session:
    """The session that resumes the run, bit for bit, from its newest checkpoint that can be read.

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
    """The device that the run was started on; ValueError if this machine has no such device."""
    wanted, path = run.asked.get("device"), run.folder / "run.json"
    if wanted not in ("cpu", "cuda"):
        raise ValueError(
            f'{path} has {shown(wanted)} under "device", which should be cpu or cuda: restore it '
            "from a copy"
        )
    try:
        return chosen_device(wanted)[0]
    except ValueError as error:
        raise ValueError(
            f"{path} asks for a device that this machine does not have: {error}"
        ) from None


def checkpoints(run: Run) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run.folder / "checkpoints").glob(f"{'[0-9]' * 8}.safetensors"))


def _train(session: Session) -> bool:
    """Pulls the fit to its end, or until it is stopped; True if it came to its end."""
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
            # A run that is resumed reads its seconds from the entry of the checkpoint's step.
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
    """Waits while the training is paused; obeys commands and writes checkpoints meanwhile."""
    while session.control.paused and not session.control.stopped:
        session.control.wait(0.1)
        _obey(session)
        if session.control.take_checkpoint():
            _checkpoint(session)


def _obey(session: Session) -> None:
    """Carries out the commands, except those to pause, to save or to stop."""
    if threads := session.control.take_threads():
        torch.set_num_threads(threads)
    if values := session.control.take_changes():
        _change(session, values)
    _show(session)


def _change(session: Session, values: dict[str, Any]) -> None:
    """Changes the plan, and lists the changes; run.json gets the list with the next checkpoint."""
    before, step = session.fit.plan, session.fit.step
    change_plan(session.fit, **values)
    for name in values:
        old, new = getattr(before, name), getattr(session.fit.plan, name)
        if old != new:
            change = Changed(step, name, old, new)
            session.channel.publish(change)
            session.changes.append(asdict(change))


def _changes_until(fit: SplatFit, listed: Any) -> list[dict[str, Any]]:
    """The changes listed in run.json that were made before the fit's checkpoint was written.

    The later ones are undone by resuming. For changes at the very step of the checkpoint, its plan
    tells whether they were made before.
    """
    changes = []
    for entry in listed if isinstance(listed, list) else []:
        with suppress(ValueError):  # Lumigraph did not write that entry
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
    """Calls the functions that were given to `look`; their errors do not end the training."""
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
    """Writes a checkpoint, then removes the oldest ones; None if it could not be written."""
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
    """Writes the last checkpoint, the scene and run.json; a patient session tries until it can."""
    while True:
        try:
            return _write_result(session, state)
        except OSError as error:
            if not session.patient:
                raise
            sentence = f"{error}. Free some space: the next attempt is in {RETRY_SECONDS:.0f} s"
            session.channel.publish(Trouble(sentence))
            time.sleep(RETRY_SECONDS)


def _write_result(session: Session, state: RunState) -> Run:
    kept = 1 if state == "finished" else CHECKPOINTS_KEPT
    path = _checkpoint(session, kept=kept)
    if path is None and state == "stopped":
        older = checkpoints(session.run)
        rest = f"; the checkpoint {older[-1].name} is still there" if older else ""
        raise OSError(f"The training was stopped but could not be saved, see above{rest}")
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
    """Writes scene.ply; if float32 cannot hold the capture's frame, a `Trouble` says so instead."""
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
        path.unlink(missing_ok=True)  # a file from before the run was resumed
        session.channel.publish(Trouble(f"scene.ply was not written: {error}"))


class _Stopped(Exception):
    """The session was stopped during its evaluation."""


def _score(session: Session, run: Run) -> Run:
    """Evaluates the finished scene on the test views, and writes the result to run.json."""
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
    """The entry of metrics.jsonl for a step."""
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
