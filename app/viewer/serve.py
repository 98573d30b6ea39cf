"""Serves the page for `app`, `view` and `train --view`: opens it, prints its address, and waits."""

import html
import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Literal

import typer
import viser

from lumigraph.app.console import handled_signals, notice, resume_command
from lumigraph.app.machine import cores
from lumigraph.app.run.folder import Run, open_run
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.app.training.session import checkpoints
from lumigraph.app.viewer.actions import Actions
from lumigraph.app.viewer.client import StreamCallbacks
from lumigraph.app.viewer.jobs.job import OVER, Job
from lumigraph.app.viewer.server import Server, open_server, ssh_line
from lumigraph.app.viewer.state import ViewerState
from lumigraph.app.viewer.stream import Streams
from lumigraph.app.viewer.viser_panel import Panel, PanelCallbacks

SWITCH_SECONDS = 0.0005
"""Python hands its lock to another thread after this time, so that a thread that reads files delays
the event loop by less than a millisecond. The default delays it by 14, and at times by 70."""

PANEL_SECONDS = 0.25
"""From one refresh of viser's panels to the next: every message has that page draw WebGL again."""

REDIRECT = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}">
<title>Lumigraph</title>
<p><a href="{url}">Open the page</a>
"""

Wakes = SimpleQueue[int | Literal["failed"]]
"""What wakes the main thread: the numbers of signals that ask for the end, and a failed training.

A signal handler may put into it at any moment. An Event would not do: the handler may interrupt a
thread that holds its lock.
"""


@dataclass(frozen=True)
class ServeOptions:
    """Where and how the page is served.

    Attributes:
        host: An address of this machine; 0.0.0.0 for all of them.
        port: The first port that is tried.
        open: Whether to open a browser on this machine.
        token: Whether visitors need a token.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    open: bool = True
    token: bool = True


@dataclass(frozen=True)
class Watched:
    """A training that was watched: its run, and the exit code for the command."""

    run: Run
    code: int


@dataclass(frozen=True)
class _End:
    """How the page came to its end.

    Attributes:
        code: 128 and the number of the signal that ended it, if the job was not over; else 0.
        printed: Whether the job failed, which was printed at once.
    """

    code: int
    printed: bool


def run_app(folders: Sequence[Path], runs: Path, options: ServeOptions) -> None:
    """Serves the page over the captures and runs in the folders; the first of them is chosen.

    PLY files that are given are opened before: ValueError tells if one cannot be opened.
    """
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist: give folders of captures or runs")
    files = [path for path in folders if path.is_file() and path.suffix.lower() == ".ply"]
    # The first file is opened last, and so it is the one that is shown.
    with _served(folders, runs, options, files[::-1]) as (page, wakes):
        if (source := page.viewer.library.first()) is not None:
            page.actions.choose(source.id)
        _stay(page, wakes, options)


def view(path: Path, runs: Path, options: ServeOptions) -> None:
    """Serves the page with a run or a PLY file open in it; ValueError if it cannot be opened."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a run folder or a .ply of splats")
    with _served([path], runs, options, [path]) as (page, wakes):
        page.actions.choose(page.viewer.library.add(path).id)
        _stay(page, wakes, options)


def train_viewed(
    capture: Path, order: TrainOptions, runs: Path, resume: Path | None, options: ServeOptions
) -> Watched | None:
    """Trains with the page open, serves it until Ctrl-C ends both, and returns the run.

    The exit code is that of `train`: 128 and the signal's number if the training was still going
    on. None if the training failed, which is printed at once. Raises typer.Exit if the training was
    ended before its first step.
    """
    allowed = [capture] if resume is None else [capture, resume]
    with _served(allowed, runs, options) as (page, wakes):
        viewer = page.viewer
        source = viewer.library.add(capture).id
        page.actions.choose(source)
        if resume is None:
            job = viewer.jobs.find(viewer.start(source, order))
        else:
            job = viewer.jobs.find(viewer.resume_run(viewer.library.add(resume).id, source))
        end = _stay(page, wakes, options, job)
    run = _run_of(job)
    if job.state != "failed":
        if run is None:
            raise typer.Exit(end.code)
        return Watched(run, end.code)
    if not end.printed:
        _print_failure(job)
    if run is not None and run.state != "finished" and checkpoints(run):
        notice("To resume from the last checkpoint:")
        typer.echo(resume_command(capture, run.folder), err=True)
    return None


# The page, put together ---------------------------------------------------------------------------


@dataclass(eq=False)
class Page:
    """A page that is being served; `close` it.

    Attributes:
        viewer: The state that it shows.
        actions: What its controls do.
        server: The server, with its addresses.
    """

    viewer: ViewerState
    actions: Actions
    server: Server
    _streams: Streams
    _unsubscribe: Callable[[], None]
    _panels: dict[int, Panel] = field(default_factory=dict)
    _stale: threading.Event = field(default_factory=threading.Event)
    _closed: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Ends the running training with a checkpoint, then the threads and the server."""
        self.viewer.close()
        self._unsubscribe()
        self._closed.set()
        self._stale.set()
        self._streams.close()
        self.server.stop()

    def _enter(self, client: viser.ClientHandle) -> None:
        """Makes the panel of a client, which may leave before the panel is finished."""
        role = self.server.role_of(client.client_id)
        actions = self.actions
        callbacks = PanelCallbacks(actions.controls, self.viewer.as_dict, actions.do)
        self._panels[client.client_id] = Panel(client, callbacks, role)
        self._sweep()

    def _forget(self, client: viser.ClientHandle) -> None:
        """Drops the panel of a client that left."""
        self._panels.pop(client.client_id, None)

    def _sweep(self) -> None:
        """Drops the panels of all clients that are gone."""
        here = self.server.viser.get_clients()
        for client_id in [each for each in list(self._panels) if each not in here]:
            self._panels.pop(client_id, None)

    def _refresh(self) -> None:
        """Brings viser's panels up to date after changes."""
        while not self._closed.is_set():
            self._stale.wait()
            self._stale.clear()
            self._sweep()
            for panel in list(self._panels.values()):
                with suppress(Exception):  # its client may just be leaving
                    panel.refresh()
            self._closed.wait(PANEL_SECONDS)


def open_page(
    viewer: ViewerState,
    uploads: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: bool = True,
) -> Page:
    """The page of a state, served; for arguments and errors see `open_server`.

    The page owns the state: it is closed with the page, also if the page cannot be opened.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        actions = Actions(viewer, uploads)
        streams = Streams(
            _callbacks(viewer, actions),
            threads=lambda: _threads(viewer),
            moving=lambda moving: _share_cores(viewer, moving),
        )
        server = open_server(host, port, stream=streams.handle, token=token)
    except BaseException:
        viewer.close()
        raise
    page: Page

    def changed() -> None:
        streams.changed()
        page._stale.set()

    page = Page(viewer, actions, server, streams, viewer.subscribe(lambda: changed()))
    actions.changed = changed
    server.viser.scene.set_up_direction("+y")
    server.viser.gui.main_panel.dock_right()
    server.viser.on_client_connect(page._enter)
    server.viser.on_client_disconnect(page._forget)
    threading.Thread(target=page._refresh, name="panels", daemon=True).start()
    return page


def _callbacks(viewer: ViewerState, actions: Actions) -> StreamCallbacks:
    return StreamCallbacks(
        scene=viewer.scene,
        want_scene=viewer.want_scene,
        state=viewer.as_dict,
        frusta=viewer.frusta,
        controls=actions.controls,
        photo=viewer.photo,
        do=actions.do,
        upload=actions.upload,
    )


def _threads(viewer: ViewerState) -> int:
    """The threads of a picture: all cores, or half of them while a training has the others."""
    return _half() if viewer.jobs.training else cores()


def _share_cores(viewer: ViewerState, moving: bool) -> None:
    """Limits trainings to half of the cores while a client moves its view."""
    viewer.jobs.limit_threads(_half() if moving else None)


def _half() -> int:
    """Half of the cores that we may use."""
    return max(1, cores() // 2)


# From the start of a command to its end -----------------------------------------------------------


@contextmanager
def _served(
    folders: Sequence[Path], runs: Path, options: ServeOptions, opened: Sequence[Path] = ()
) -> Iterator[tuple[Page, Wakes]]:
    """A page that is served, and the queue that wakes the main thread; both end with the block.

    Runs and PLY files to be `opened` are opened before: ValueError if one cannot be opened.
    The first signal wakes the main thread, the second ends a training without its checkpoint, and
    a third one ends this process. Signals that were ignored stay ignored.
    """
    page = open_page(
        _state(folders, runs, opened),
        runs / "uploads",
        host=options.host,
        port=options.port,
        token=options.token,
    )
    wakes: Wakes = SimpleQueue()
    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        wakes.put(number)
        if len(received) > 1:
            reset()
            page.viewer.jobs.abandon()

    with handled_signals(end) as reset:
        try:
            yield page, wakes
        finally:
            page.close()


def _state(folders: Sequence[Path], runs: Path, opened: Sequence[Path]) -> ViewerState:
    """A state with the last of these runs and PLY files open; ValueError if one cannot be."""
    viewer = ViewerState(folders, runs)
    try:
        for path in opened:
            viewer.show_now(viewer.library.add(path).id)
    except BaseException:
        viewer.close()
        raise
    return viewer


def _stay(page: Page, wakes: Wakes, options: ServeOptions, job: Job | None = None) -> _End:
    """Prints the addresses of the page, and waits for a signal to end it."""
    server = page.server
    url = server.urls["control"]
    notice(f"The page: {url}")
    if (guests := server.urls.get("view")) is not None:
        notice(f"For guests, who can look but not change anything: {guests}")
    if server.port != options.port and options.port:
        notice(f"Port {options.port} is in use, so the page is on port {server.port}")
    notice(f"To open it from another machine, type this there: {ssh_line(server)}")
    notice("Press Ctrl-C to close the page; a running training saves a checkpoint first")
    failed = False
    with ExitStack() as stack:
        if options.open:
            with suppress(OSError, webbrowser.Error):  # its address is on the terminal
                folder = TemporaryDirectory(prefix="lumigraph-", ignore_cleanup_errors=True)
                _browse(url, Path(stack.enter_context(folder)))
        if job is not None:
            stack.callback(page.viewer.subscribe(lambda: _watch(job, wakes)))
            _watch(job, wakes)  # it may have failed already
        while (number := wakes.get()) == "failed":
            if job is not None and not failed:
                failed = True
                _print_failure(job)
        code = 128 + number if job is not None and job.state not in OVER else 0
    notice("Closing and saving a checkpoint. Press Ctrl-C again to quit without saving.")
    return _End(code, failed)


def _run_of(job: Job) -> Run | None:
    """The run that a job left behind; None if it was ended before its first step."""
    with suppress(OSError, ValueError):
        return open_run(Path(job.folder)) if job.folder else None
    return None


def _watch(job: Job, wakes: Wakes) -> None:
    if job.state == "failed":
        wakes.put("failed")


def _print_failure(job: Job) -> None:
    typer.secho(f"Error: {job.sentence}", fg=typer.colors.RED, err=True)


def _browse(url: str, folder: Path) -> None:
    """Opens a browser at the address, by a file in the folder that only this user can read.

    Other users of this machine can read the arguments of every program, and the address has the
    token in it.
    """
    path = folder / "page.html"
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(REDIRECT.format(url=html.escape(url)))
    webbrowser.open(path.as_uri())
