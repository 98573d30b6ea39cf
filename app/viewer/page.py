"""The page, put together: the server, the stream, viser's panels, and the desk behind them."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import viser

from lumigraph.app.machine import cores
from lumigraph.app.viewer.actions import Board
from lumigraph.app.viewer.server import Server, open_server
from lumigraph.app.viewer.state import Desk
from lumigraph.app.viewer.stream import Streams
from lumigraph.app.viewer.viser_panel import Panel

PANEL_SECONDS = 0.25
"""From one refresh of viser's panels to the next: each message wakes that page's WebGL."""


@dataclass(eq=False)
class Page:
    """A page that is being served; `close` it.

    Attributes:
        desk: What it drives.
        board: The desk as the pages draw it.
        server: Where it is to be found.
    """

    desk: Desk
    board: Board
    server: Server
    _streams: Streams
    _leave: Callable[[], None]
    _panels: dict[int, Panel] = field(default_factory=dict)
    _stale: threading.Event = field(default_factory=threading.Event)
    _closed: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Ends it all: the training in work with a checkpoint, and then what tells pages of it."""
        self.desk.close()
        self._leave()
        self._closed.set()
        self._stale.set()
        self._streams.close()
        self.server.stop()

    def _enter(self, client: viser.ClientHandle) -> None:
        """Makes the panel of a client, which may leave, and be forgotten, before that is done."""
        panel = Panel(client, self.board, self.server.role_of(client.client_id))
        self._panels[client.client_id] = panel
        self._sweep()

    def _forget(self, client: viser.ClientHandle) -> None:
        """Drops the panel of a client that left."""
        self._panels.pop(client.client_id, None)

    def _sweep(self) -> None:
        """Drops the panels of clients that are gone."""
        here = self.server.viser.get_clients()
        for client_id in [each for each in list(self._panels) if each not in here]:
            self._panels.pop(client_id, None)

    def _refresh(self) -> None:
        """Brings viser's panels up to date, now and then."""
        while not self._closed.is_set():
            self._stale.wait()
            self._stale.clear()
            self._sweep()
            for panel in list(self._panels.values()):
                with suppress(Exception):  # its client may just be leaving
                    panel.refresh()
            self._closed.wait(PANEL_SECONDS)


def open_page(
    desk: Desk,
    uploads: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: bool = True,
) -> Page:
    """The page of a desk, served; for arguments and errors see `open_server`.

    The desk is the page's from here on: it is closed with it, also if the page cannot be opened.
    """
    try:
        board = Board(desk, uploads)
        streams = Streams(
            board,
            threads=lambda: _threads(desk),
            busy=lambda moving: _make_room(desk, moving),
        )
        server = open_server(host, port, stream=streams.handle, token=token)
    except BaseException:
        desk.close()
        raise
    page: Page

    def changed() -> None:
        streams.changed()
        page._stale.set()

    page = Page(desk, board, server, streams, desk.subscribe(lambda: changed()))
    board.changed = changed
    server.viser.scene.set_up_direction("+y")
    server.viser.gui.main_panel.dock_right()
    server.viser.on_client_connect(page._enter)
    server.viser.on_client_disconnect(page._forget)
    threading.Thread(target=page._refresh, name="panels", daemon=True).start()
    return page


def _threads(desk: Desk) -> int:
    """A picture's: all cores, or half of them while a training has the others."""
    return _half() if desk.training else cores()


def _make_room(desk: Desk, moving: bool) -> None:
    """Has trainings leave half of the cores to somebody who moves."""
    desk.threads(_half() if moving else None)


def _half() -> int:
    """Of the cores there are for us."""
    return max(1, cores() // 2)
