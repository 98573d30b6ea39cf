"""The stream: a coroutine for each client, which reads its wishes and sends what is ready.

Wishes go into a mailbox that holds the newest of each kind; the `painter` makes the pictures.

Files are written in one thread, for all clients in the order in which their pieces come. What
follows a file that is whole may take minutes, such as unpacking a zip: that is done in another
thread, one file after the other, while its client is served on, and to its end even if the client
goes. A client may send its next file meanwhile.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict

from lumigraph.app.viewer.client import Client
from lumigraph.app.viewer.controls import KEYS
from lumigraph.app.viewer.errors import sentence_of
from lumigraph.app.viewer.limits import Socket
from lumigraph.app.viewer.picture import Look
from lumigraph.app.viewer.protocol import Ack, Do, Move, Probe, Scalar, SeePhoto, SendFile, parse
from lumigraph.app.viewer.renderer import Painter
from lumigraph.app.viewer.scheduling import SILENCE
from lumigraph.app.viewer.source import Source, Upload

VERSION = 1
"""Of the protocol."""

NEWS_SECONDS = 0.2
"""From one message of the desk's state to the next: the eye reads no numbers faster."""


class Streams:
    """All clients, and the thread that draws for them."""

    def __init__(
        self,
        source: Source,
        *,
        threads: Callable[[], int] = lambda: 2,
        busy: Callable[[bool], None] = lambda moving: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nobody looks yet.

        Args:
            source: What is shown.
            threads: How many a picture may use; asked before each.
            busy: Told True when somebody begins to move, False when nobody does any more.
            clock: Seconds.
        """
        self._source, self._clock = source, clock
        self._painter = Painter(source, threads=threads, busy=busy, clock=clock)
        self._cameras: tuple[object, str] = (None, "")  # what the source said, and its message
        self._writer = ThreadPoolExecutor(1, "writer")
        self._finisher = ThreadPoolExecutor(1, "finisher")

    @property
    def count(self) -> int:
        """How many clients there are."""
        return len(self._painter.clients)

    def changed(self) -> None:
        """Something about the source is another; to be called from any thread, and quick."""
        with self._painter.lock:
            for client in self._painter.clients:
                client.news = True
                client.stir()
            self._painter.stir()

    def close(self) -> None:
        """Ends the threads; clients that there are get no more pictures, their files no end.

        Files that are whole are received to the end.
        """
        self._painter.close()
        self._writer.shutdown()
        self._finisher.shutdown()

    async def handle(self, socket: Socket) -> None:
        """Serves a client; returns when it has gone or is given up."""
        client = Client(asyncio.get_running_loop())
        self._painter.enter(client)
        tasks = [asyncio.create_task(each(socket, client)) for each in (self._read, self._write)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._painter.leave(client)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    # What comes in.

    async def _read(self, socket: Socket, client: Client) -> None:
        """Takes in messages until the socket ends."""
        upload: Upload | None = None
        try:
            while True:
                try:
                    message = await socket.recv()
                except Exception:
                    return
                if isinstance(message, bytes):
                    upload = await self._piece(client, upload, message)
                    continue
                match parse(message):
                    case SendFile(name, size) if socket.role == "control":
                        self._drop(upload)
                        upload = self._begin(client, name, size)
                    case Do(id, value) if socket.role == "control":
                        self._do(client, id, value)
                    case wish:
                        self._take(client, wish)
        finally:
            self._drop(upload)

    def _take(self, client: Client, wish: object) -> None:
        """Puts a wish into the mailbox, in the place of the last one of its kind."""
        now = self._clock()
        with self._painter.lock:
            match wish:
                case Move(id, view):
                    client.view_id = id
                    if view != client.view:
                        client.view = view
                        client.pace.see(view.width, view.height, now)
                case Look():
                    if wish != client.look and client.view is not None:
                        client.pace.see(client.view.width, client.view.height, now)
                    client.look = wish
                case Ack(frame, seconds):
                    client.pace.acknowledge(frame, seconds, now)
                case SeePhoto(index):
                    client.photo = index
                case Probe(place):
                    client.place, client.probed = place, None
                case _:
                    client.dropped += 1
                    return
            if client.final is not None and client.pace.stale(client.final):
                client.stop.fill_(1)
            self._painter.stir()

    def _do(self, client: Client, id: str, value: Scalar) -> None:
        try:
            self._source.do(id, value)
        except Exception as error:
            self._painter.note(client, "error", sentence_of(error))

    # Files.

    def _begin(self, client: Client, name: str, size: int) -> Upload | None:
        """The upload of a file that was announced, if it is taken; the client is told whether."""
        upload = None
        try:
            upload = self._source.upload(name, size)
        except Exception as error:
            self._painter.note(client, "error", sentence_of(error))
        answer = {"t": "upload", "name": name, "taken": upload is not None}
        with self._painter.lock:
            client.out.append(json.dumps(answer))
        client.wake.set()
        return upload

    async def _piece(self, client: Client, upload: Upload | None, data: bytes) -> Upload | None:
        """Passes a piece of a file on; the upload, if more of it is to come."""
        if upload is None:
            client.dropped += 1
            return None
        try:
            added = asyncio.wrap_future(self._writer.submit(self._add, client, upload, data))
        except RuntimeError:  # closed
            self._drop(upload)
            return None
        # What has come is written, also for a client that goes meanwhile.
        return upload if await asyncio.shield(added) else None

    def _add(self, client: Client, upload: Upload, data: bytes) -> bool:
        """Writes a piece, in the writer's thread; whether more is to come."""
        try:
            whole = upload.add(data)
        except Exception as error:
            self._painter.note(client, "error", sentence_of(error))
            upload.drop()
            return False
        if whole:
            self._finisher.submit(self._finish, client, upload)
        return not whole

    def _finish(self, client: Client, upload: Upload) -> None:
        """Does what follows a file that is whole, in the finisher's thread."""
        try:
            upload.finish()
        except Exception as error:
            self._painter.note(client, "error", sentence_of(error))

    def _drop(self, upload: Upload | None) -> None:
        """Has an upload forgotten, unless it is whole, once what came of it before is written."""
        if upload is None:
            return
        try:
            self._writer.submit(upload.drop)
        except RuntimeError:  # closed: nothing is being written any more
            upload.drop()

    # What goes out.

    async def _write(self, socket: Socket, client: Client) -> None:
        """Sends what is ready until the socket ends, or the client is silent for too long."""
        hello = {"t": "hello", "version": VERSION, "role": socket.role}
        client.out.append(json.dumps(hello))
        told = counted = -math.inf
        while True:
            client.wake.clear()
            now = self._clock()
            messages = self._ready(client)
            if client.news and now >= told + NEWS_SECONDS:
                client.news, told = False, now
                messages += self._news(client)
            if now >= counted + 1:
                counted = now
                messages += self._stats(client, now)
            try:
                for message in messages:
                    async with asyncio.timeout(SILENCE):
                        await socket.send(message)
            except Exception:
                return
            with self._painter.lock:
                gone = client.pace.gone(self._clock())
            if gone:
                with suppress(Exception):
                    await socket.close(f"No picture was acknowledged for {SILENCE:.0f} s")
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(NEWS_SECONDS if client.news else 1.0):
                    await client.wake.wait()

    def _ready(self, client: Client) -> list[str | bytes]:
        """Takes what waits to be sent."""
        with self._painter.lock:
            messages = [*client.notes, *client.out]
            client.notes.clear()
            client.out.clear()
            if client.photo_read is not None:
                messages.append(client.photo_read)
                client.photo_read, client.photo_waits = None, False
                self._painter.stir()
            if client.probe_read is not None:
                messages.append(client.probe_read)
                client.probe_read = None
        return messages

    def _news(self, client: Client) -> Iterator[str]:
        """What has changed since the client was told."""
        yield from self._state(client)
        yield from client.saying("controls", {"items": self._source.controls(), "keys": KEYS})
        cameras = self._source.cameras()
        if cameras is client.cameras:  # as nearly always: they are many, and stay the same
            return
        client.cameras = cameras
        if cameras is not self._cameras[0]:
            self._cameras = (cameras, json.dumps({"items": cameras, "t": "cameras"}))
        if client.said.get("cameras") != self._cameras[1]:
            client.said["cameras"] = self._cameras[1]
            yield self._cameras[1]

    def _state(self, client: Client) -> Iterator[str]:
        """The desk's state, if it is another one, without what the client was sent before.

        `notes` are those with a larger `id` than the last. In place of `history` stands `more`,
        what has been added to each curve, as long as the client has all that was there before.
        """
        state = {"notes": (), "history": {}, **self._source.state()}
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
        with self._painter.lock:
            stats = client.pace.stats(now)
        if stats is not None:
            yield json.dumps({"t": "stats", **asdict(stats)})


def _tails(
    had: dict[str, list[float]] | None, now: dict[str, list[float]]
) -> dict[str, list[float]] | None:
    """What was added to each curve; None if these are others than they had been."""
    if had is None or had.keys() != now.keys():
        return None
    if any(now[name][: len(points)] != points for name, points in had.items()):
        return None
    return {name: points[len(had[name]) :] for name, points in now.items()}
