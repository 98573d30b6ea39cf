"""The command `train`: the options it is given, the training itself, and its result."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import typer

from lumigraph.app.console import (
    command_line,
    duration,
    handled_signals,
    notice,
    report,
    resume_command,
)
from lumigraph.app.run.folder import Run
from lumigraph.app.run.metrics import read_log
from lumigraph.app.run.record import LOG
from lumigraph.app.run.report import iterations
from lumigraph.app.training.events import TrainingControl
from lumigraph.app.training.progress import Drawing
from lumigraph.app.training.session import Session, checkpoints, run_session

INTERRUPTED = (
    "\nStopping after this step and saving a checkpoint. Press Ctrl-C again to quit without "
    "saving.\n"
)


def run_training(session: Session, path: Path, *, as_json: bool) -> NoReturn:
    """Runs the session, prints its result, and leaves with its exit code."""
    run, code = conduct(session, path)
    report_run(run, path, as_json, code)


def conduct(session: Session, path: Path) -> tuple[Run, int]:
    """Runs the session with its progress drawn, and returns the run and an exit code.

    The first signal to end stops the session after the step it is in, with a checkpoint; the
    second ends the process at once. `next_command` says how to resume.
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
            raise OSError(f"{error}. Remove the cause, then resume with: {command}") from error
        finally:
            drawing.finish()
    return run, 128 + received[0] if received else 0


@contextmanager
def stopping(control: TrainingControl) -> Iterator[list[int]]:
    """Inside, the first signal to end stops the session, and the second ends the process.

    Yields the list of the signals that arrived.
    """
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        control.stop()
        reset()
        with suppress(OSError):  # the terminal itself may be lost
            os.write(2, INTERRUPTED.encode())

    with handled_signals(stop) as reset:
        yield received


def report_run(run: Run, capture: Path, as_json: bool, code: int) -> NoReturn:
    """Prints the result of a training, and leaves with its exit code."""
    command = next_command(run, capture)
    if as_json or command is None:
        report(as_json, summary(run, capture), str(run.folder), summary_rows(run, capture))
    else:
        notice(f"Stopped at step {run.record['step']} of {run.record['steps']}. To resume:")
        typer.echo(command)
    raise typer.Exit(code)


def next_command(run: Run, path: Path) -> str | None:
    """The command to type next if the run was stopped before it was finished or evaluated."""
    if run.state != "finished":
        return resume_command(path, run.folder)
    return None if "metrics" in run.record else command_line("eval", run.folder)


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
    """The result of a run as a person reads it; unknown values are None."""
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
