"""What `app`, `view` and `train --view` do: open the page, say where, and stay until Ctrl-C."""

import html
import os
import signal
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Literal

import typer

from lumigraph.app.console import SIGNALS, notice, resume_command
from lumigraph.app.run.folder import Run, open_run
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.training.session import checkpoints
from lumigraph.app.viewer.jobs.job import OVER, Job
from lumigraph.app.viewer.page import Page, open_page
from lumigraph.app.viewer.server import ssh_line
from lumigraph.app.viewer.state import Desk


@dataclass(frozen=True)
class Serving:
    """Where and how the page is served.

    Attributes:
        host: An address of this machine; 0.0.0.0 for all of them.
        port: The first to try.
        open: Whether to open a browser here.
        token: Whether it takes the token to come in.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    open: bool = True
    token: bool = True


News = SimpleQueue[int | Literal["failed"]]
"""What whoever waits is woken for, signals to end by their numbers.

It takes news from a signal handler at any moment, which an Event does not: its lock may just be
held by the thread that the handler interrupts.
"""

REDIRECT = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}">
<title>Lumigraph</title>
<p><a href="{url}">To the page</a>
"""


def run_app(folders: Sequence[Path], runs: Path, serving: Serving) -> None:
    """Serves the page over the captures and runs in the folders, the first of them chosen.

    PLY files that are given are opened before: ValueError says if one cannot be.
    """
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist: give folders of captures or runs")
    files = [path for path in folders if path.is_file() and path.suffix.lower() == ".ply"]
    # The first one is opened last, and so is what is seen.
    with _serving(folders, runs, serving, files[::-1]) as (page, news):
        if (source := page.desk.given()) is not None:
            page.board.choose(source)
        _stay(page, news, serving)


def view(path: Path, runs: Path, serving: Serving) -> None:
    """Serves the page with a run or a PLY file open in it; ValueError says if it cannot be."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a run folder or a .ply of splats")
    with _serving([path], runs, serving, [path]) as (page, news):
        page.board.choose(page.desk.source_at(path))
        _stay(page, news, serving)


@dataclass(frozen=True)
class Watched:
    """A training that was watched: its run, and the exit code it asks for."""

    run: Run
    code: int


def train_viewed(
    capture: Path, order: TrainOptions, runs: Path, resume: Path | None, serving: Serving
) -> Watched | None:
    """Trains with the page open, and goes on serving it until Ctrl-C ends both; the run then.

    Its exit code is that of `train`: 128 and the signal's number if the training was at work then.
    None if the training failed, which is said at once. Raises typer.Exit if it was ended before it
    had done a step, or before it had begun.
    """
    allowed = [capture] if resume is None else [capture, resume]
    with _serving(allowed, runs, serving) as (page, news):
        desk = page.desk
        source = desk.source_at(capture)
        page.board.choose(source)
        if resume is None:
            job = desk.job(desk.start(source, order))
        else:
            job = desk.job(desk.go_on(desk.source_at(resume), source))
        leave = _stay(page, news, serving, job)
    run = _run_of(job)
    if job.state != "failed":
        if run is None:
            raise typer.Exit(leave.code)
        return Watched(run, leave.code)
    if not leave.said:
        _say_failed(job)
    if run is not None and run.state != "finished" and checkpoints(run):
        notice("To go on from the last checkpoint:")
        typer.echo(resume_command(capture, run.folder), err=True)
    return None


def _run_of(job: Job) -> Run | None:
    """What a job left behind, if anything."""
    with suppress(OSError, ValueError):  # it was ended before it had done a step
        return open_run(Path(job.folder)) if job.folder else None
    return None


@contextmanager
def _serving(
    folders: Sequence[Path], runs: Path, serving: Serving, opened: Sequence[Path] = ()
) -> Iterator[tuple[Page, News]]:
    """The page, and where news comes from that it is to end; closed in the end.

    Runs and PLY files to be `opened` are so before it is served: ValueError if one cannot be.
    The first signal to end is news, the second ends a training in work without its checkpoint, and
    a third this process. Signals that are ignored stay so.
    """
    page = open_page(
        _desk(folders, runs, opened),
        runs / "uploads",
        host=serving.host,
        port=serving.port,
        token=serving.token,
    )
    news: News = SimpleQueue()
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that Python knows nothing of and could not put back.
    before = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        news.put(number)
        if len(received) > 1:
            for each in before:
                signal.signal(each, signal.SIG_DFL)
            page.desk.abandon()

    try:
        for number in before:
            signal.signal(number, end)
        yield page, news
    finally:
        page.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _desk(folders: Sequence[Path], runs: Path, opened: Sequence[Path]) -> Desk:
    """A desk with the last of these runs and PLY files open on it; ValueError if one cannot be."""
    desk = Desk(folders, runs)
    try:
        for path in opened:
            desk.show_now(desk.source_at(path))
    except BaseException:
        desk.close()
        raise
    return desk


@dataclass(frozen=True)
class _Leave:
    """How a page came to its end.

    Attributes:
        code: 128 and the number of the signal that ended it if the job was not over, else 0.
        said: Whether the job failed, which was said at once.
    """

    code: int
    said: bool


def _stay(page: Page, news: News, serving: Serving, job: Job | None = None) -> _Leave:
    """Says where the page is, and waits for a signal to end it."""
    server = page.server
    url = server.urls["control"]
    notice(f"The page: {url}")
    if (looking := server.urls.get("view")) is not None:
        notice(f"To look only: {looking}")
    if server.port != serving.port and serving.port:
        notice(f"Port {serving.port} is in use, so it is on {server.port}")
    notice(f"From another machine, type there: {ssh_line(server)}")
    notice("Ctrl-C ends it; a training in work keeps its checkpoint")
    failed = False
    with ExitStack() as stack:
        if serving.open:
            with suppress(OSError, webbrowser.Error):  # its address is on the terminal
                folder = TemporaryDirectory(prefix="lumigraph-", ignore_cleanup_errors=True)
                _browse(url, Path(stack.enter_context(folder)))
        if job is not None:
            stack.callback(page.desk.subscribe(lambda: _watch(job, news)))
            _watch(job, news)  # it may have failed already
        while (number := news.get()) == "failed":
            if job is not None and not failed:
                failed = True
                _say_failed(job)
        code = 128 + number if job is not None and job.state not in OVER else 0
    notice("Closing; once more to end a training in work without its checkpoint")
    return _Leave(code, failed)


def _watch(job: Job, news: News) -> None:
    if job.state == "failed":
        news.put("failed")


def _say_failed(job: Job) -> None:
    typer.secho(f"Error: {job.sentence}", fg=typer.colors.RED, err=True)


def _browse(url: str, folder: Path) -> None:
    """Opens a browser at the address, by a file in the folder, which nobody else may enter.

    Other users of this machine can read with what arguments a program was started, and the address
    has the token in it.
    """
    path = folder / "page.html"
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(REDIRECT.format(url=html.escape(url)))
    webbrowser.open(path.as_uri())
