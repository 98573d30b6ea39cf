"""The processes that `watching.py` measures: one that trains, and one that serves a page.

Each process has one end of a pipe. It sends the progress of its training, and ends when the pipe
closes.
"""

import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lumigraph.app.commands.demo import demo_capture
from lumigraph.app.training.events import Event, StepDone
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.training.session import Session, run_session
from lumigraph.app.training.start import start
from lumigraph.app.viewer.jobs.worker import of_demo
from lumigraph.app.viewer.serve import open_page
from lumigraph.app.viewer.state import ViewerState
from lumigraph.datasets.demo import DemoSize

Mark = dict[str, float]
"""A point in a training: step, splats, processor seconds of the trainer and of the server, and the
time by the clock. Without a server, its seconds are 0."""


@contextmanager
def process(work: Callable[..., None], *given: Any) -> Iterator[tuple[int, Connection]]:
    """Starts a process with that work; yields its number and a pipe, with which it ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    running = context.Process(target=work, args=(theirs, *given))
    running.start()
    theirs.close()
    assert running.pid is not None
    try:
        yield running.pid, ours
    finally:
        ours.close()
        running.join()


def train(pipe: Connection, scene: DemoSize, order: TrainOptions, steps: list[int]) -> None:
    """Trains as the command `train` does, without drawing; sends marks, stops after the last."""
    with tempfile.TemporaryDirectory() as name, redirect_stderr(io.StringIO()):
        session = start(demo_capture(scene), of_demo(order, scene), Path(name) / "run")
        session.channel.attach(_Marks(session, steps, pipe))
        run_session(session)


class _Marks:
    """A listener that sends a mark at each of some steps, and stops the session at the last."""

    def __init__(self, session: Session, steps: list[int], pipe: Connection) -> None:
        self.session, self.steps, self.pipe = session, steps, pipe

    def put(self, event: Event) -> None:
        """Receives an event, in the thread that trains."""
        if isinstance(event, StepDone) and event.step in self.steps:
            self.pipe.send(_mark(event.step, event.splats, os.getpid(), None))
            if event.step == self.steps[-1]:
                self.session.control.stop()

    def close(self) -> None:
        """Receives the end of the events."""


def serve(pipe: Connection, scene: DemoSize, order: TrainOptions) -> None:
    """Serves a page, sends its address, and obeys the pipe until it closes.

    "start" begins the training. A number is answered with a mark when the training is at that step.
    """
    with tempfile.TemporaryDirectory() as name, suppress(EOFError, BrokenPipeError):
        runs = Path(name)
        page = open_page(ViewerState([], runs), runs, port=0)
        try:
            pipe.send(page.server.urls["control"])
            while True:
                wish = pipe.recv()
                if wish == "start":
                    page.viewer.start(f"demo:{scene}", order)
                else:
                    pipe.send(_arrival(page.viewer, wish))
        finally:
            page.close()


def _arrival(viewer: ViewerState, step: int) -> Mark:
    """Waits for a step of the training and returns its mark; RuntimeError if it ends before."""
    version = -1
    while True:
        version = viewer.wait(version)
        # `viewer.state` is not used: it computes curves, which would cost time of the server.
        job, pid = viewer.jobs.job, viewer.jobs.pid
        if job is None or job.state in ("waiting", "loading"):
            continue
        if pid is None or job.state != "training":
            raise RuntimeError(f"The training is {job.state} before step {step}: {job.sentence}")
        numbers = job.numbers
        if numbers.get("step", 0) >= step:
            return _mark(numbers["step"], numbers["splats"], pid, os.getpid())


def _mark(step: int, splats: int, trainer: int, server: int | None) -> Mark:
    return {
        "step": step,
        "splats": splats,
        "trainer": _seconds(trainer),
        "server": 0.0 if server is None else _seconds(server),
        "clock": time.perf_counter(),
    }


def _seconds(pid: int) -> float:
    """Processor time of all threads of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def holdings(pid: int) -> dict[str, float]:
    """Memory of a process, and its private part, in megabytes; its threads and open files."""
    process = Path("/proc") / str(pid)
    lines = (process / "status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return {
        "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
        "private_mb": int(status["RssAnon"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "files": len(list((process / "fd").iterdir())),
    }
