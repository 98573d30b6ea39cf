"""The worker process: it reads an order, trains, writes events, and reads commands meanwhile.

Messages are lines of JSON. `process` starts it, and it lives as long as its standard input is open:
when that closes, because the server closed it or died, the training ends with a checkpoint. Output
of libraries goes to standard error, and warnings go to the page as notes.
"""

import io
import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lumigraph.app.commands.demo import demo_options
from lumigraph.app.console import sentence_of
from lumigraph.app.run.files import finite
from lumigraph.app.run.folder import clear_run
from lumigraph.app.training.events import Event, StepDone, TrainingControl
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.training.session import Session, run_session
from lumigraph.app.training.start import resume, start
from lumigraph.app.viewer.jobs.shared_memory import SceneWriter
from lumigraph.app.viewer.library import folder_at, size_of
from lumigraph.datasets.demo import DemoSize
from lumigraph.recon import SplatFit, plan_to_json

NICENESS = 5
"""The page is drawn first, and the training gets the remaining time of the cores."""

PROGRESS_SECONDS = 0.2
"""The time between two messages of progress: people cannot read numbers faster, and a message costs
both processes half a millisecond, so a training loses a few thousandths of its time."""

QUEUE = 1000
"""The most messages that wait while the server does not read; then the oldest are lost."""


class Outbox:
    """Messages on their way to the server: a thread writes them, so no caller waits for a pipe.

    Of progress only the newest message is sent, at most once in `PROGRESS_SECONDS`. It can be
    attached to a session's channel.
    """

    def __init__(self, descriptor: int) -> None:
        """Starts the thread, which writes to the descriptor."""
        self._descriptor = descriptor
        self._messages: deque[dict[str, Any]] = deque(maxlen=QUEUE)
        self._progress: StepDone | None = None
        self._filled, self._urgent, self._finished = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._deliver, name="outbox", daemon=True)
        self._thread.start()

    def say(self, kind: str, **content: Any) -> None:
        """Sends a message; never waits."""
        self._messages.append({"t": kind, **content})
        self._urgent.set()
        self._filled.set()

    def put(self, event: Event) -> None:
        """Sends an event; never waits."""
        if isinstance(event, StepDone):
            self._progress = event
            self._filled.set()
        else:
            self.say(type(event).__name__.lower(), **asdict(event))

    def close(self) -> None:
        """Does nothing: the result is sent after the last event of the session."""

    def finish(self) -> None:
        """Waits until all is sent, unless the server does not read."""
        self._finished.set()
        self._urgent.set()
        self._filled.set()
        self._thread.join(timeout=2)

    def _deliver(self) -> None:
        finished = False
        while not finished:
            self._filled.wait()
            self._filled.clear()
            self._urgent.clear()
            finished = self._finished.is_set()  # messages that come later are sent in another turn
            progress, self._progress = self._progress, None
            lines = [] if progress is None else [{"t": "progress", **asdict(progress)}]
            while self._messages:
                lines.append(self._messages.popleft())
            try:
                for line in lines:
                    _write(self._descriptor, json.dumps(finite(line)).encode() + b"\n")
            except OSError:  # the server is gone, and the end of our input will say so
                return
            if not finished:
                self._urgent.wait(PROGRESS_SECONDS)


class NoteStream(io.TextIOBase):
    """Standard error as a stream of notes: every line becomes a note on the page."""

    def __init__(self, outbox: Outbox) -> None:
        """A stream without text."""
        self._outbox, self._line = outbox, ""

    def write(self, text: str) -> int:
        """Takes a piece of text; whole lines of it are sent."""
        *lines, self._line = (self._line + text).split("\n")
        for line in filter(None, map(str.strip, lines)):
            self._outbox.say("notice", message=line[:500])
        return len(text)


class Worker:
    """Carries out one order, and the commands that come meanwhile."""

    def __init__(self, order: dict[str, Any], outbox: Outbox) -> None:
        """A worker that has not begun."""
        self.order, self.outbox, self.control = order, outbox, TrainingControl()
        self.writer = SceneWriter(order["buffers"])
        self.session: Session | None = None
        self.leaving = False

    def train(self) -> None:
        """Carries out the order, and sends the result."""
        session = self._session()
        if self.control.stopped and session.fit.step == 0:  # no step was done, so nothing is kept
            clear_run(session.run.folder)
            session.lock.close()
            raise InterruptedError
        session.control, session.patient = self.control, True
        self.session = session
        if self.leaving:
            session.patient = False
        session.channel.attach(self.outbox)
        self.outbox.say(
            "loaded",
            capture=self.order["capture"],
            folder=str(session.run.folder.absolute()),
            step=session.fit.step,
            steps=session.fit.plan.steps,
            views=len(session.capture.train),
            plan=plan_to_json(session.fit.plan),
        )
        run = run_session(session)
        metrics = run.record.get("metrics") or {}
        self.outbox.say(
            "result", state=run.state, psnr=metrics.get("psnr"), ssim=metrics.get("ssim")
        )

    def obey(self, lines: Iterator[bytes]) -> None:
        """Obeys the commands in the lines, and ends the training after the last line."""
        for line in lines:
            try:
                self._do(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                self.outbox.say("trouble", message=sentence_of(error))
        self.leave()

    def leave(self) -> None:
        """Ends the training with a checkpoint, or without one if it cannot be written."""
        self.leaving = True
        if self.session is not None:
            self.session.patient = False
        self.control.stop()

    def _session(self) -> Session:
        if self.order["resume"] is not None:
            return self._resumed(Path(self.order["resume"]))
        fields, place = self.order["order"], self.order["capture"]
        order = TrainOptions(**{**fields, "test": fields.get("test") and Path(fields["test"])})
        path = folder_at(place, self._made)
        if size := size_of(place):
            order = of_demo(order, size)
        folder = self.order["folder"] and Path(self.order["folder"])
        return start(path, order, folder, runs=Path(self.order["runs"]), heed=self._check)

    def _resumed(self, folder: Path) -> Session:
        """The session of a resumed run, with the first capture that fits the run."""
        problems = []
        for place in (self.order["capture"], *self.order.get("others", ())):
            try:
                session = resume(folder_at(place, self._made), TrainOptions(), folder, self._check)
            except (ValueError, FileNotFoundError) as error:
                problems.append(error)
                continue
            self.order["capture"] = place
            return session
        raise problems[0]

    def _made(self, done: int, pictures: int) -> None:
        """Is called after each picture that is made of the built-in scene."""
        if done == 1:
            sentence = f"Making the built-in scene ({pictures} pictures); this is done only once"
            self.outbox.say("notice", message=sentence)
        self._check()

    def _check(self) -> None:
        """Raises InterruptedError if the training is to end while it is still loading."""
        if self.control.stopped:
            raise InterruptedError

    def _do(self, command: dict[str, Any]) -> None:
        plain: dict[str, Callable[[], None]] = {
            "pause": self.control.pause,
            "resume": self.control.resume,
            "stop": self.control.stop,
            "checkpoint": self.control.checkpoint,
        }
        match command:
            case {"do": "change", "values": values}:
                self.control.change(**values)
            case {"do": "threads", "count": count}:
                self.control.threads(count)
            case {"do": "snapshot", "buffer": buffer, "size": size}:
                self.control.look(partial(self._show, buffer, size))
            case {"do": name}:
                plain[name]()

    def _show(self, buffer: int, size: int, fit: SplatFit) -> None:
        try:
            message = self.writer.write(fit.splats, buffer, size)
        except Exception as error:  # memory may be short now and free later
            message = {"trouble": sentence_of(error)}
        self.outbox.say("snapshot", step=fit.step, **message)


def main() -> int:
    """Carries out the order on standard input, and returns the exit code.

    It is 0 if the run is finished, or was stopped and saved.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which will tell us
    os.nice(NICENESS)
    # Libraries that print must not print between our messages.
    outbox = Outbox(os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.showwarning = lambda message, *_: outbox.say("notice", message=f"Warning: {message}")
    lines = read_lines(sys.stdin.fileno())
    trainer = Worker(json.loads(next(lines)), outbox)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: trainer.leave())
    threading.Thread(target=trainer.obey, args=(lines,), name="commands", daemon=True).start()
    try:
        with redirect_stderr(NoteStream(outbox)):
            trainer.train()
        return 0
    except InterruptedError:
        outbox.say(
            "result", state="stopped", psnr=None, ssim=None
        )  # it was stopped before its run folder was made
        return 0
    except Exception as error:
        if not isinstance(error, ValueError | OSError | MemoryError):
            traceback.print_exc(file=sys.__stderr__)
        outbox.say("failed", sentence=sentence_of(error))
        return 1
    finally:
        outbox.finish()


def read_lines(descriptor: int) -> Iterator[bytes]:
    """The lines from a pipe until it is closed.

    Python's own buffer is not used: its lock would be held at exit by the thread that waits in it.
    """
    rest = b""
    while part := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + part).split(b"\n")
        yield from lines


def of_demo(order: TrainOptions, size: DemoSize) -> TrainOptions:
    """The order, with the settings of the demo command where it has none of its own."""
    demo = demo_options(size)
    changes = {name: value for name, value in order.changes.items() if value is not None}
    return replace(
        order,
        preset=order.preset or demo.preset,
        downscale=order.downscale or demo.downscale,
        changes={**demo.changes, **changes} if order.preset is None else changes,
        name=order.name or demo.name,
    )


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    sys.exit(main())
