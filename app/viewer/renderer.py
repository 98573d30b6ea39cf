"""The thread that draws: one for all clients, whom it serves in turn.

Photos are read in another thread, one after the other: the first one of a capture may take long.

What to make for whom says `pace`. A client's wishes and what is to be sent to it lie in its
`Client`, so that neither its coroutine nor the thread ever waits for the other.
"""

import io
import json
import math
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from lumigraph.app.viewer.client import Client
from lumigraph.app.viewer.errors import sentence_of
from lumigraph.app.viewer.legend import UNKNOWN, legend_of
from lumigraph.app.viewer.picture import Look, picture
from lumigraph.app.viewer.pixel import PROBED, read_pixel, told
from lumigraph.app.viewer.protocol import View
from lumigraph.app.viewer.scheduling import Order
from lumigraph.app.viewer.source import Shown, Source
from lumigraph.kernels import Stopped

HEADER = struct.Struct("<BBHIIHHIf")
"""Before each picture: magic, kind, flags (1: final, 2: full scale), number of the frame (or of the
photo's camera), number of the view, width, height, step of the training, scale."""

MAGIC, FRAME, PHOTO = 0x4C, 1, 2

BUSY_SECONDS = 1.0
"""After the last passing picture nobody is taken to move any more."""

PROBE_SECONDS = 0.1
"""From one reading under a cursor to the next: nobody reads numbers faster, and others wait."""

TROUBLES = 50
"""Different errors a client is told of: a text that counts something would never end."""

PHOTO_SIZE = (1280, 720)
"""In which a photo fits for a client that has not said how large its canvas is."""


@dataclass(frozen=True)
class _Job:
    """A picture to be made, or a place in one that is there to be read."""

    client: Client
    view: View
    view_id: int
    look: Look
    order: Order
    shown: Shown
    place: tuple[float, float] | None = None


class Painter:
    """The clients, and the thread that draws for them.

    Attributes:
        lock: To be held by whoever touches a client, and to be notified by `stir`.
        clients: Those there are.
        resting: Whether the thread that draws has nothing to do for now.
    """

    def __init__(
        self,
        source: Source,
        *,
        threads: Callable[[], int],
        busy: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A thread that starts when the first client comes; for the arguments see `Streams`."""
        self.lock = threading.Condition()
        self.clients: list[Client] = []
        self._source, self._threads, self._busy, self._clock = source, threads, busy, clock
        self.resting = False
        self._photos = ThreadPoolExecutor(1, "photos")
        self._next = 0  # whose turn it is
        self._stirred = False  # something happened since the thread last looked
        self._closed = False
        self._thread: threading.Thread | None = None
        self._wanted = -math.inf  # when a newer scene was last asked for
        self._moved = -math.inf  # when a passing picture was last begun
        self._moving = False
        self._version: int | None = None  # of the scene when the thread last looked

    def enter(self, client: Client) -> None:
        """Takes a client on."""
        with self.lock:
            self.clients.append(client)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="painter", daemon=True)
                self._thread.start()

    def leave(self, client: Client) -> None:
        """Forgets a client, and gives up what is being made for it."""
        with self.lock:
            self.clients.remove(client)
            client.stop.fill_(1)
            self.stir()

    def close(self) -> None:
        """Ends the threads."""
        with self.lock:
            self._closed = True
            for client in self.clients:
                client.stop.fill_(1)
            self.stir()
        if self._thread is not None:
            self._thread.join()
        self._photos.shutdown(cancel_futures=True)

    def stir(self) -> None:
        """Has the thread look for what is to be done; under the lock."""
        self._stirred = True
        self.lock.notify_all()

    def note(self, client: Client, kind: str, text: str) -> None:
        """Has a client told something."""
        with self.lock:
            client.notes.append(json.dumps({"t": "note", "kind": kind, "text": text}))
        client.stir()

    def _work(self) -> None:
        """Makes one picture after the other."""
        while not self._closed:
            try:
                if job := self._find():
                    (self._make if job.place is None else self._read)(job)
                del job  # a scene is not held while there is nothing to do
                self._rest()
            except Exception as error:  # of the source; the next moment may be a better one
                for client in list(self.clients):
                    self._trouble(client, error)
                with self.lock:
                    if not self._stirred:
                        self.lock.wait(1)

    def _find(self) -> _Job | None:
        """What is to be made now, by whose turn it is."""
        with self.lock:
            self._stirred = False
            now = self._clock()
            wanted = now >= self._wants(now)
        if wanted:
            self._wanted = now
            self._source.want_scene()
        shown = self._source.scene()
        with self.lock:
            self._version = None if shown is None else shown.version
            for client in self.clients:
                if client.photo is not None and not client.photo_waits and not self._closed:
                    self._photos.submit(self._fetch, client, client.photo)
                    client.photo, client.photo_waits = None, True
            for _ in self.clients:
                self._next = (self._next + 1) % len(self.clients)
                if job := self._job(self.clients[self._next], shown, self._clock()):
                    self._stirred = True  # there may be more
                    return job
            # Numbers under a cursor are read when no picture is to be made.
            for client in self.clients:
                if shown is not None and (job := self._reading(client, shown, self._clock())):
                    self._stirred = True
                    return job
        return None

    def _job(self, client: Client, shown: Shown | None, now: float) -> _Job | None:
        """What is to be made for a client; under the lock."""
        order = client.pace.next(None if shown is None else shown.version, now)
        if order is None or shown is None or client.view is None:
            return None
        if order.final:
            client.stop.zero_()
            client.final = order
        look = _looked(client.look or Look(), shown)
        return _Job(client, client.view, client.view_id, look, order, shown)

    def _reading(self, client: Client, shown: Shown, now: float) -> _Job | None:
        """What is to be read for a client; under the lock."""
        order = client.pace.settled(shown.version)
        if order is None or client.look is None or client.view is None:
            return None
        if now < self._probe_due(client):
            return None
        client.probed = self._probing(client)
        look = _looked(client.look, shown)
        return _Job(client, client.view, client.view_id, look, order, shown, client.place)

    def _probing(self, client: Client) -> object:
        """What a client wants to be read, of which picture; None if nothing is; under the lock."""
        look, version = client.look, self._version
        still = client.pace.settled(version) is not None
        if client.place is None or look is None or look.mode not in PROBED or not still:
            return None
        return client.place, look, version

    def _probe_due(self, client: Client) -> float:
        """When that is to be read; infinity if it was, or there is nothing; under the lock."""
        wanted = self._probing(client)
        if wanted is None or wanted == client.probed:
            return math.inf
        return client.probe_at + PROBE_SECONDS

    def _wants(self, now: float) -> float:
        """When a newer scene is to be asked for; under the lock."""
        looking = [client.pace for client in self.clients if client.pace.looking(now)]
        return self._wanted + min(pace.refresh for pace in looking) if looking else math.inf

    def _rest(self) -> None:
        """Waits until there may be something to do; says when nobody moves any more."""
        with self.lock:
            now = self._clock()
            still = self._moving and now >= self._moved + BUSY_SECONDS
            if not still and not self._stirred and not self._closed:
                moments = [client.pace.due(self._version) for client in self.clients]
                moments += [self._probe_due(client) for client in self.clients]
                moments += [self._wants(now)]
                moments += [self._moved + BUSY_SECONDS] if self._moving else []
                until = min(moments)
                self.resting = True
                self.lock.notify_all()
                self.lock.wait(None if until == math.inf else max(0.0, until - now))
                self.resting = False
        if still:
            self._moving = False
            self._busy(False)

    def _make(self, job: _Job) -> None:
        """Makes a picture, and hands it to the client."""
        client, order = job.client, job.order
        made: list[str | bytes] = []
        try:
            made = self._frame(job)
        except Stopped:
            pass
        except Exception as error:
            self._trouble(client, error)
            with self.lock:
                client.pace.failed(order)
        with self.lock:
            client.final = None
            if made:
                client.frames += 1
                if not order.final:  # of another view, whose numbers the page no longer shows
                    client.probed = None
                client.pace.sent(order, client.frames, len(made[-1]), self._clock())
            client.out.extend(made)
        client.stir()

    def _read(self, job: _Job) -> None:
        """Reads a place in the picture that a client has, and hands it the numbers."""
        client, read = job.client, None
        try:
            read = json.dumps(self._numbers(job))
        except Exception as error:
            self._trouble(client, error)
        with self.lock:
            client.probe_at = self._clock()
            client.probe_read = read if client.place == job.place else None
        client.stir()

    def _numbers(self, job: _Job) -> dict[str, Any]:
        """What is told of a place."""
        assert job.place is not None
        self._use_threads()
        (x, y), order, shown, background = job.place, job.order, job.shown, job.look.behind
        column, row = int(x * order.width), int(y * order.height)
        reading = read_pixel(
            shown.scene,
            job.view.camera(order.width, order.height, shown.near),
            min(column, order.width - 1),
            min(row, order.height - 1),
            rate=job.look.rate,
            background=background,
        )
        # Intervals were found before the scene's own background.
        known = background == shown.background
        return told(reading, job.place, shown.trust.calibration if known else None)

    def _use_threads(self) -> None:
        threads = self._threads()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def _fetch(self, client: Client, number: int) -> None:
        """Reads a photo, and hands it to the client; in the thread for that."""
        made = None
        try:
            made = self._photo(client, number)
        except Exception as error:  # the answer to a click: also to the next one
            self.note(client, "error", sentence_of(error))
        with self.lock:
            client.photo_read, client.photo_waits = made, made is not None
            self.stir()
        client.stir()

    def _frame(self, job: _Job) -> list[str | bytes]:
        """A picture as it is sent, after the legend that belongs to it if that is another one."""
        client, look, shown, order = job.client, job.look, job.shown, job.order
        if not order.final:
            self._moved = order.begun
            if not self._moving:
                self._moving = True
                self._busy(True)
        self._use_threads()
        camera = job.view.camera(order.width, order.height, shown.near)
        stop, confidence = client.stop if order.final else None, shown.trust.confidence
        made = picture(shown.scene, camera, look, stop, confidence)
        if look.mode == "confidence" and confidence is None:
            self._once(client, "info", UNKNOWN)
        image = Image.fromarray(made.pixels.numpy())
        flags = order.final | order.whole << 1
        # The number that `_make` will give it: nobody else counts.
        numbers = (client.frames + 1, job.view_id, order.width, order.height, shown.step)
        header = HEADER.pack(MAGIC, FRAME, flags, *numbers, order.scale)
        legend = legend_of(look, made, shown.trust)
        return [*client.saying("legend", legend), header + _jpeg(image, **order.jpeg)]

    def _photo(self, client: Client, number: int) -> bytes | None:
        """A photo as it is sent, no larger than the client's canvas."""
        photo, view = self._source.photo(number), client.view
        if photo is None:
            self.note(client, "info", "The scene that is shown has no such camera.")
            return None
        image = Image.fromarray(photo.numpy())
        size = PHOTO_SIZE if view is None else (view.width, view.height)
        image.thumbnail(size, Image.Resampling.BOX)
        scale = image.width / photo.shape[1]
        header = HEADER.pack(MAGIC, PHOTO, 3, number, 0, image.width, image.height, 0, scale)
        return header + _jpeg(image, quality=88, subsampling=0)

    def _trouble(self, client: Client, error: Exception) -> None:
        """Tells a client of an error, once."""
        self._once(client, "error", sentence_of(error))

    def _once(self, client: Client, kind: str, text: str) -> None:
        """Tells a client something, unless it was told before."""
        if text not in client.told and len(client.told) < TROUBLES:
            client.told.add(text)
            self.note(client, kind, text)


def _looked(look: Look, shown: Shown) -> Look:
    """What a client wants to see, with what only the scene knows."""
    return replace(look, rate=shown.trust.rate, background=look.background or shown.background)


def _jpeg(image: Image.Image, *, quality: int, subsampling: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()
