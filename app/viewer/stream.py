"""The stream: a coroutine for each client reads its messages and sends what is ready.

Requests go into the client's mailbox, which holds the newest of each kind; the `renderer` makes the
pictures. Nothing that may take long is done on the event loop, where it would stop all clients:

* controls, and the announcements of files, are handled in a thread, in their order;
* pieces of files are written in a second thread, for all clients in the order in which they come;
* whole files are handled in a third thread, to the end even if their client goes: to unpack a zip
  may take minutes, and its client may send the next file meanwhile;
* the state is collected in a fourth thread, once for all clients.
"""

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from lumigraph.app.console import sentence_of
from lumigraph.app.viewer.client import Client, IncomingFile, StreamCallbacks
from lumigraph.app.viewer.controls import KEYS
from lumigraph.app.viewer.limits import StreamSocket
from lumigraph.app.viewer.protocol import (
    Ack,
    CameraMessage,
    ControlMessage,
    DisplayOptions,
    PhotoRequest,
    PixelRequest,
    Scalar,
    UploadRequest,
    parse,
)
from lumigraph.app.viewer.renderer import Renderer
from lumigraph.app.viewer.scheduling import SILENCE, ClientSchedule

VERSION = 2
"""Of the protocol."""

NEWS_SECONDS = 0.2
"""The time between two messages of the state: people cannot read numbers faster."""


class Streams:
    """All clients, and the threads that work for them."""

    def __init__(
        self,
        callbacks: StreamCallbacks,
        *,
        threads: Callable[[], int] = lambda: 2,
        moving: Callable[[bool], None] = lambda moving: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A stream without clients.

        Args:
            callbacks: The functions that it calls.
            threads: The number of threads of a picture; asked before each.
            moving: Called with True when a client begins to move its view, with False when
                none does any more.
            clock: Seconds.
        """
        self._callbacks, self._clock = callbacks, clock
        self._renderer = Renderer(callbacks, threads=threads, moving=moving, clock=clock)
        names = ("controls", "writer", "finisher", "state")
        self._controls, self._writer, self._finisher, self._collector = (
            ThreadPoolExecutor(1, name) for name in names
        )
        self._lock = threading.Lock()
        self._values: dict[tuple[Client, str], Scalar] = {}  # that wait to be set
        self._changes, self._collected = 1, 0  # of the state: how many there were, and are known
        self._news: tuple[dict[str, Any], str, str] = ({}, "", "")

    @property
    def count(self) -> int:
        """The number of clients."""
        return len(self._renderer.clients)

    def changed(self) -> None:
        """Has the changed state sent to all clients; quick, and from any thread."""
        with self._renderer.lock:
            self._changes += 1
            for client in self._renderer.clients:
                client.stale = True
                client.wake_up()
            self._renderer.stir()

    def close(self) -> None:
        """Ends the threads: clients get no more pictures. Whole files are handled to the end."""
        self._renderer.close()
        for pool in (self._controls, self._writer, self._finisher, self._collector):
            pool.shutdown()

    async def handle(self, socket: StreamSocket) -> None:
        """Serves a client; returns when it has gone or is given up."""
        schedule = ClientSchedule(guest=socket.role != "control")
        client = Client(asyncio.get_running_loop(), schedule)
        self._renderer.enter(client)
        tasks = [asyncio.create_task(each(socket, client)) for each in (self._read, self._write)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._renderer.leave(client)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    # Messages from a client.

    async def _read(self, socket: StreamSocket, client: Client) -> None:
        """Reads messages until the socket ends."""
        file: IncomingFile | None = None
        try:
            while True:
                try:
                    message = await socket.recv()
                except Exception:
                    return
                if isinstance(message, bytes):
                    file = await self._piece(client, file, message)
                    continue
                match parse(message):
                    case UploadRequest(name=name, size=size) if socket.role == "control":
                        self._drop(file)
                        file = await self._run(self._controls, self._begin, client, name, size)
                    case ControlMessage(id=id, value=value) if socket.role == "control":
                        self._set(client, id, value)
                    case request:
                        self._take(client, request)
        finally:
            self._drop(file)

    def _take(self, client: Client, request: object) -> None:
        """Puts a request into the mailbox, in the place of the last one of its kind."""
        now = self._clock()
        with self._renderer.lock:
            match request:
                case CameraMessage(id=id, view=camera):
                    client.camera_id = id
                    if camera != client.camera:
                        client.camera = camera
                        client.schedule.see(camera.width, camera.height, now)
                        self._renderer.moved(client)
                case DisplayOptions():
                    if request != client.display:
                        client.schedule.see_differently(now)
                        self._renderer.moved(client)
                    client.display = request
                case Ack(frame=frame, ms=ms):
                    client.schedule.acknowledge(frame, ms / 1e3, now)
                case PhotoRequest(camera=number):
                    client.photo = number
                case PixelRequest():
                    client.cursor, client.cursor_read = request.place, None
                case _:
                    client.dropped += 1
                    return
            self._renderer.asked(client, now)

    def _set(self, client: Client, id: str, value: Scalar) -> None:
        """Has a control handled in its thread; of values that wait there the newest counts."""
        with suppress(RuntimeError):  # closed
            if value is True:  # a button that was pressed, or a check: each counts
                self._controls.submit(self._do, client, id, value)
                return
            with self._lock:
                waits = (client, id) in self._values
                self._values[client, id] = value
            if not waits:
                self._controls.submit(self._do_newest, client, id)

    def _do_newest(self, client: Client, id: str) -> None:
        with self._lock:
            value = self._values.pop((client, id))
        self._do(client, id, value)

    def _do(self, client: Client, id: str, value: Scalar) -> None:
        try:
            self._callbacks.do(id, value)
        except Exception as error:
            self._renderer.note(client, "error", sentence_of(error))

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[..., Any], *args: Any) -> Any:
        """The result of a call in a thread; None if the stream is closed.

        The call is finished also if the client goes meanwhile.
        """
        try:
            future = asyncio.wrap_future(pool.submit(call, *args))
        except RuntimeError:
            return None
        return await asyncio.shield(future)

    # Files.

    def _begin(self, client: Client, name: str, size: int) -> IncomingFile | None:
        """The file that was announced, if it is accepted; the client gets an answer."""
        file = None
        try:
            file = self._callbacks.upload(name, size)
        except Exception as error:
            self._renderer.note(client, "error", sentence_of(error))
        answer = {"t": "upload", "name": name, "taken": file is not None}
        with self._renderer.lock:
            client.out.append(json.dumps(answer))
        client.wake_up()
        return file

    async def _piece(
        self, client: Client, file: IncomingFile | None, data: bytes
    ) -> IncomingFile | None:
        """Has a piece of a file written; the file, if more of it is to come."""
        if file is None:
            client.dropped += 1
            return None
        more = await self._run(self._writer, self._add, client, file, data)
        if more is None:
            self._drop(file)
        return file if more else None

    def _add(self, client: Client, file: IncomingFile, data: bytes) -> bool:
        """Writes a piece, in the writer's thread; whether more is to come."""
        try:
            whole = file.add(data)
        except Exception as error:
            self._renderer.note(client, "error", sentence_of(error))
            file.drop()
            return False
        if whole:
            self._finisher.submit(self._finish, client, file)
        return not whole

    def _finish(self, client: Client, file: IncomingFile) -> None:
        """Handles a whole file, in the finisher's thread."""
        try:
            file.finish()
        except Exception as error:
            self._renderer.note(client, "error", sentence_of(error))

    def _drop(self, file: IncomingFile | None) -> None:
        """Deletes a file, unless it is whole, after its last piece is written."""
        if file is None:
            return
        try:
            self._writer.submit(file.drop)
        except RuntimeError:  # closed: nothing is being written any more
            file.drop()

    # Messages to a client.

    async def _write(self, socket: StreamSocket, client: Client) -> None:
        """Sends what is ready until the socket ends, or the client is silent for too long."""
        hello = {"t": "hello", "version": VERSION, "role": socket.role}
        client.out.append(json.dumps(hello))
        sent = counted = -math.inf
        while True:
            client.wake.clear()
            now = self._clock()
            messages = self._ready(client)
            if client.stale and not client.collecting and now >= sent + NEWS_SECONDS:
                client.stale, client.collecting, sent = False, True, now
                self._collector.submit(self._collect_for, client)
            if client.collected:
                client.collected = False
                messages += self._changes_for(client)
            if now >= counted + 1:
                counted = now
                messages += self._stats(client, now)
            try:
                for message in messages:
                    async with asyncio.timeout(SILENCE):
                        await socket.send(message)
            except Exception:
                return
            with self._renderer.lock:
                gone = client.schedule.gone(self._clock())
            if gone:
                with suppress(Exception):
                    await socket.close(f"No picture was acknowledged for {SILENCE:.0f} s")
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(NEWS_SECONDS if client.stale else 1.0):
                    await client.wake.wait()

    def _ready(self, client: Client) -> list[str | bytes]:
        """Takes what waits to be sent."""
        with self._renderer.lock:
            messages = [*client.notes, *client.out]
            client.notes.clear()
            client.out.clear()
            if client.photo_ready is not None:
                messages.append(client.photo_ready)
                client.photo_ready, client.photo_pending = None, False
                self._renderer.stir()
            if client.cursor_ready is not None:
                messages.append(client.cursor_ready)
                client.cursor_ready = None
        return messages

    def _collect_for(self, client: Client) -> None:
        """Collects the state, and has it sent to a client; in the thread for that."""
        try:
            self._collect()
        except Exception as error:
            self._renderer.note(client, "error", sentence_of(error))
        client.collecting, client.collected = False, True
        client.wake_up()

    def _collect(self) -> None:
        """Collects the state for all clients, unless it is known already."""
        with self._renderer.lock:
            changes = self._changes
        if changes == self._collected:
            return
        callbacks = self._callbacks
        controls = json.dumps({"items": callbacks.controls(), "keys": KEYS, "t": "controls"})
        cameras = f'{{"t": "cameras", "items": {callbacks.frusta()}}}'
        self._news, self._collected = (callbacks.state(), controls, cameras), changes

    def _changes_for(self, client: Client) -> Iterator[str]:
        """The parts of the state that have changed since they were sent to the client."""
        if not self._collected:
            return
        state, controls, cameras = self._news
        yield from self._state(client, state)
        yield from client.changed_text("controls", controls)
        yield from client.changed_text("cameras", cameras)

    def _state(self, client: Client, state: dict[str, Any]) -> Iterator[str]:
        """The state, if it has changed, without notes and curves that the client was sent before.

        `notes` are those with a larger `id` than the last one sent. In place of `history` stands
        `more`, the new end of each curve, as long as the client has the beginning.
        """
        state = {"notes": (), "history": {}, **state}
        state.pop("version", None)  # counts changes that are not in the rest
        notes = [note for note in state.pop("notes") if note["id"] > client.noted]
        history = state.pop("history")
        more = _tails(client.history, history)
        text = json.dumps(state)
        same = client.said.get("state") == text and not notes
        if same and more is not None and not any(more.values()):
            return
        client.said["state"], client.history = text, history
        client.noted = notes[-1]["id"] if notes else client.noted
        curves = {"history": history} if more is None else {"more": more}
        yield json.dumps({**state, **curves, "notes": notes, "t": "state"})

    def _stats(self, client: Client, now: float) -> Iterator[str]:
        with self._renderer.lock:
            stats = client.schedule.stats(now)
        if stats is not None:
            yield json.dumps({"t": "stats", **asdict(stats)})


def _tails(
    had: dict[str, list[float]] | None, now: dict[str, list[float]]
) -> dict[str, list[float]] | None:
    """The new end of each curve; None if the beginnings differ."""
    if had is None or had.keys() != now.keys():
        return None
    if any(now[name][: len(points)] != points for name, points in had.items()):
        return None
    return {name: points[len(had[name]) :] for name, points in now.items()}
