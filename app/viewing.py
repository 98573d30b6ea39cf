"""What `app`, `view` and `train --view` do: open the page, say where, and stay until Ctrl-C."""

import signal
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lumigraph.app.run_folder import Run, open_run
from lumigraph.app.terminal import notice
from lumigraph.app.training import Order
from lumigraph.app.viewer.desk import Desk
from lumigraph.app.viewer.page import Page, open_page
from lumigraph.app.viewer.server import ssh_line


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


def run_app(folders: Sequence[Path], runs: Path, serving: Serving) -> None:
    """Serves the page over the captures and runs in the folders."""
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist: give folders of captures or runs")
    _stay(_opened(folders, runs, serving), serving)


def view(path: Path, runs: Path, serving: Serving) -> None:
    """Serves the page with a run or a PLY file open in it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a run folder or a .ply of splats")
    page = _opened([path], runs, serving)
    try:
        source = page.desk.source_at(path)
        page.board.choose(source)
        page.desk.show(source)
    except BaseException:
        page.close()
        raise
    _stay(page, serving)


def train_viewed(
    capture: Path, order: Order, runs: Path, resume: Path | None, serving: Serving
) -> Run | None:
    """Trains with the page open, and goes on serving it; the run, once Ctrl-C ends both."""
    allowed = [capture] if resume is None else [capture, resume]
    page = _opened(allowed, runs, serving)
    try:
        source = page.desk.source_at(capture)
        page.board.choose(source)
        if resume is None:
            page.desk.start(source, order)
        else:
            page.desk.go_on(page.desk.source_at(resume))
    except BaseException:
        page.close()
        raise
    _stay(page, serving)
    folder = page.desk.run_folder
    with suppress(OSError, ValueError):  # it was stopped before it had done a step
        return None if folder is None else open_run(folder)
    return None


def _opened(folders: Sequence[Path], runs: Path, serving: Serving) -> Page:
    runs.mkdir(parents=True, exist_ok=True)
    return open_page(
        Desk(folders, runs),
        runs / "uploads",
        host=serving.host,
        port=serving.port,
        token=serving.token,
    )


def _stay(page: Page, serving: Serving) -> None:
    """Says where the page is, and waits for a signal to end it."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        server = page.server
        url = server.urls["control"]
        notice(f"The page: {url}")
        if (looking := server.urls.get("view")) is not None:
            notice(f"To look only: {looking}")
        if server.port != serving.port and serving.port:
            notice(f"Port {serving.port} is in use, so it is on {server.port}")
        notice(f"From another machine, type there: {ssh_line(server)}")
        notice("Ctrl-C ends it; a training in work keeps its checkpoint")
        if serving.open:
            webbrowser.open(url)
        while not ended.wait(3600):
            pass
        notice("Closing")
    finally:
        page.close()
        for number, handler in before.items():
            signal.signal(number, handler)
