"""The thread that makes the pictures of all clients, one after the other.

`turns` and each client's schedule decide what is made next. A client's requests, and what is to be
sent to it, lie in its `Client`: neither its coroutine nor the thread ever waits for the other.
Photos are read in another thread, one after the other: the first one of a capture may take long.
"""

import json
import math
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from msgspec.structs import replace
from PIL import Image

from lumigraph.app.console import sentence_of
from lumigraph.app.viewer.client import Client, StreamCallbacks
from lumigraph.app.viewer.picture import jpeg, picture
from lumigraph.app.viewer.pixel import PROBED, UNKNOWN, legend_of, pixel_message, read_pixel
from lumigraph.app.viewer.protocol import ClientCamera, DisplayOptions
from lumigraph.app.viewer.scene import CurrentScene
from lumigraph.app.viewer.scheduling import ClientSchedule, FrameRequest
from lumigraph.app.viewer.turns import Turns
from lumigraph.kernels import Stopped

HEADER = struct.Struct("<BBHIIHHIf")
"""Stands before each picture: magic, kind, flags (1: final, 2: full scale), number of the frame (or
of the photo's camera), number of the view, width, height, step of the training, scale."""

MAGIC, FRAME, PHOTO = 0x4C, 1, 2

MOVING_SECONDS = 1.0
"""The view counts as still when this time has passed since the last picture of a moving view."""

CURSOR_SECONDS = 0.1
"""The time between two readings under a cursor: people cannot read numbers faster."""

TROUBLES = 50
"""The most different errors that are sent to a client: a text with a counter would never end."""

PHOTO_SIZE = (1280, 720)
"""A photo fits into this size for a client that has not said how large its canvas is."""


@dataclass(frozen=True)
class _Task:
    """A picture to be made; with a `cursor`, a pixel of a picture that is there to be read.

    `limited` is as `FrameRequest` has it, at the moment when the task was begun.
    """

    client: Client
    camera: ClientCamera
    camera_id: int
    display: DisplayOptions
    request: FrameRequest
    scene: CurrentScene
    limited: bool
    cursor: tuple[float, float] | None = None


class Renderer:
    """The clients, and the thread that makes their pictures.

    Attributes:
        lock: To be held by everybody who touches a client; `stir` notifies it.
        clients: All clients.
        resting: Whether the thread has nothing to do for now.
    """

    def __init__(
        self,
        callbacks: StreamCallbacks,
        *,
        threads: Callable[[], int],
        moving: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A thread that starts when the first client comes; for the arguments see `Streams`."""
        self.lock = threading.Condition()
        self.clients: list[Client] = []
        self.resting = False
        self._callbacks, self._threads, self._clock = callbacks, threads, clock
        self._say_moving, self._moving = moving, False
        self._photos = ThreadPoolExecutor(1, "photos")
        self._turns = Turns()
        self._task: _Task | None = None  # the one that is being done
        self._stirred = False  # something has happened since the thread last looked
        self._closed = False
        self._thread: threading.Thread | None = None
        self._wanted = -math.inf  # when a newer scene was last asked for
        self._moved = -math.inf  # when a passing picture was last begun
        self._version: int | None = None  # of the scene when the thread last looked

    def enter(self, client: Client) -> None:
        """Adds a client."""
        with self.lock:
            self.clients.append(client)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="renderer", daemon=True)
                self._thread.start()

    def leave(self, client: Client) -> None:
        """Removes a client, and gives up the picture that is being made for it."""
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
        """Has the thread look for something to do; under the lock."""
        self._stirred = True
        self.lock.notify_all()

    def asked(self, client: Client, now: float) -> None:
        """Has the thread look at a request, or later if the guest must wait; under the lock."""
        if not client.schedule.guest or self._turns.free_at(self._schedules, now) <= now:
            self.stir()

    def moved(self, client: Client) -> None:
        """Gives up a picture that the client's new view makes useless; under the lock.

        That is its own final picture of the view before, and a guest's picture if the client is in
        control, unless the guest has waited for its share of the time.
        """
        if client.final is not None and client.schedule.stale(client.final):
            client.stop.fill_(1)
        task = self._task
        if client.schedule.guest or task is None or task.limited:
            return
        if task.client.schedule.guest:
            task.client.stop.fill_(1)

    def note(self, client: Client, kind: str, text: str) -> None:
        """Sends a client a note."""
        with self.lock:
            client.notes.append(json.dumps({"t": "note", "kind": kind, "text": text}))
        client.wake_up()

    def _work(self) -> None:
        """Does one task after the other."""
        while not self._closed:
            try:
                if task := self._find():
                    self._do(task)
                del task  # a scene is not held while there is nothing to do
                self._rest()
            except Exception as error:  # of a callback; the next call may succeed
                for client in list(self.clients):
                    self._trouble(client, error)
                with self.lock:
                    if not self._stirred:
                        self.lock.wait(1)

    def _find(self) -> _Task | None:
        """The next task, if there is one."""
        with self.lock:
            self._stirred = False
            now = self._clock()
            wanted = now >= self._wants(now)
        if wanted:
            self._wanted = now
            self._callbacks.want_scene()
        scene = self._callbacks.scene()
        with self.lock:
            now = self._clock()
            self._version = None if scene is None else scene.version
            self._start_photos(now)
            self._task = None if scene is None else self._turn(scene, now)
            self._stirred |= self._task is not None  # there may be more
            return self._task

    def _turn(self, scene: CurrentScene, now: float) -> _Task | None:
        """The task of the client that has its turn; under the lock."""
        if turn := self._turns.next(self._schedules, scene.version, now):
            client = next(each for each in self.clients if each.schedule is turn[0])
            client.stop.zero_()
            client.final = turn[1] if turn[1].final else None
            return self._task_for(client, turn[1], scene)
        # Numbers under a cursor are read when no picture is to be made.
        for client in self.clients:
            request = client.schedule.settled(scene.version)
            if request is not None and now >= self._cursor_due(client, now):
                client.cursor_read = self._cursor_of(client)
                return self._task_for(client, request, scene, client.cursor)
        return None

    def _task_for(
        self,
        client: Client,
        request: FrameRequest,
        scene: CurrentScene,
        cursor: tuple[float, float] | None = None,
    ) -> _Task:
        assert client.camera is not None
        display = client.display or DisplayOptions()
        display = replace(display, background=display.background or scene.context.background)
        limited = client.schedule.guest and self._steering()
        camera, number = client.camera, client.camera_id
        return _Task(client, camera, number, display, request, scene, limited, cursor)

    @property
    def _schedules(self) -> list[ClientSchedule]:
        return [client.schedule for client in self.clients]

    def _steering(self) -> bool:
        return self._turns.steering(self._schedules, self._clock())

    def _cursor_of(self, client: Client) -> object:
        """The pixel that a client wants to be read, and its picture; None if it wants none."""
        display, version = client.display, self._version
        still = client.schedule.settled(version) is not None
        if client.cursor is None or display is None or display.mode not in PROBED or not still:
            return None
        return client.cursor, display, version

    def _cursor_due(self, client: Client, now: float) -> float:
        """When that pixel is to be read; infinity if it was read, or none is wanted."""
        wanted = self._cursor_of(client)
        if wanted is None or wanted == client.cursor_read:
            return math.inf
        free = self._turns.free_at(self._schedules, now) if client.schedule.guest else now
        return max(client.cursor_time + CURSOR_SECONDS, free)

    def _start_photos(self, now: float) -> None:
        """Has photos read that are wanted; those of guests when guests may; under the lock."""
        free = self._turns.free_at(self._schedules, now) <= now
        for client in self.clients:
            number, may = client.photo, free or not client.schedule.guest
            if number is not None and may and not client.photo_pending and not self._closed:
                self._photos.submit(self._fetch, client, number)
                client.photo, client.photo_pending = None, True

    def _wants(self, now: float) -> float:
        """When a newer scene is to be asked for; under the lock."""
        refresh = [each.refresh for each in self._schedules if each.looking(now)]
        return self._wanted + min(refresh) if refresh else math.inf

    def _rest(self) -> None:
        """Waits until there may be something to do; reports when the views have come to rest."""
        with self.lock:
            now = self._clock()
            still = self._moving and now >= self._moved + MOVING_SECONDS
            if not still and not self._stirred and not self._closed:
                moments = [self._turns.due(self._schedules, self._version, now), self._wants(now)]
                moments += [self._cursor_due(client, now) for client in self.clients]
                free = self._turns.free_at(self._schedules, now)
                photos = any(c.photo is not None and not c.photo_pending for c in self.clients)
                moments += [free] if free > now or photos else []
                moments += [self._moved + MOVING_SECONDS] if self._moving else []
                until = min(moments)
                self.resting = True
                self.lock.notify_all()
                self.lock.wait(None if until == math.inf else max(0.0, until - now))
                self.resting = False
        if still:
            self._moving = False
            self._say_moving(False)

    def _do(self, task: _Task) -> None:
        """Does a task, and counts the time that its client has used by it."""
        began = self._clock()
        made = (self._make if task.cursor is None else self._read)(task)
        with self.lock:
            self._task = None
            self._turns.spend(
                task.client.schedule,
                self._clock() - began,
                limited=task.limited,
                megapixels=task.request.megapixels if made and task.cursor is None else None,
            )

    def _make(self, task: _Task) -> bool:
        """Makes a picture, and hands it to the client; whether it was made."""
        client, request = task.client, task.request
        made: list[str | bytes] = []
        try:
            made = self._frame(task)
        except Stopped:
            pass
        except Exception as error:
            self._trouble(client, error)
            with self.lock:
                client.schedule.failed(request)
        with self.lock:
            client.final = None
            if made:
                client.frames += 1
                if not request.final:  # of another view, and the page has dropped its numbers
                    client.cursor_read = None
                client.schedule.sent(request, client.frames, len(made[-1]), self._clock())
            client.out.extend(made)
        client.wake_up()
        return bool(made)

    def _frame(self, task: _Task) -> list[str | bytes]:
        """A picture as it is sent, after its legend if the legend has changed."""
        client, display, scene, request = task.client, task.display, task.scene, task.request
        if not request.final:
            self._moved = request.begun
            if not self._moving:
                self._moving = True
                self._say_moving(True)
        self._use_threads()
        camera = task.camera.camera(request.width, request.height, scene.context.near)
        # A passing picture is finished whatever comes, unless it is a guest's, which gives way.
        stop = client.stop if request.final or client.schedule.guest else None
        made = picture(scene.scene, camera, display, stop, scene.uncertainty)
        if display.mode == "confidence" and scene.uncertainty.confidence is None:
            self._once(client, "info", UNKNOWN)
        image = Image.fromarray(made.pixels.numpy())
        flags = request.final | request.whole << 1
        # The number that `_make` will give it: no other function counts.
        numbers = (client.frames + 1, task.camera_id, request.width, request.height, scene.step)
        header = HEADER.pack(MAGIC, FRAME, flags, *numbers, request.scale)
        legend = client.changed("legend", legend_of(display, made, scene.uncertainty))
        return [*legend, header + jpeg(image, **request.jpeg)]

    def _read(self, task: _Task) -> bool:
        """Reads a pixel of the picture that a client has, and hands it the numbers."""
        client, message = task.client, None
        try:
            message = json.dumps(self._numbers(task))
        except Exception as error:
            self._trouble(client, error)
        with self.lock:
            client.cursor_time = self._clock()
            client.cursor_ready = message if client.cursor == task.cursor else None
        client.wake_up()
        return message is not None

    def _numbers(self, task: _Task) -> dict[str, Any]:
        """The message that tells of the pixel under a cursor."""
        assert task.cursor is not None
        self._use_threads()
        (x, y), request, scene = task.cursor, task.request, task.scene
        background = task.display.behind
        pixel = read_pixel(
            scene.scene,
            task.camera.camera(request.width, request.height, scene.context.near),
            min(int(x * request.width), request.width - 1),
            min(int(y * request.height), request.height - 1),
            rate=scene.uncertainty.rate,
            background=background,
        )
        # The intervals hold before the scene's own background.
        own = background == scene.context.background
        return pixel_message(pixel, task.cursor, scene.uncertainty.calibration if own else None)

    def _use_threads(self) -> None:
        threads = self._threads()
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def _fetch(self, client: Client, number: int) -> None:
        """Reads a photo, and hands it to the client; in the thread of photos."""
        made, began = None, self._clock()
        try:
            made = self._photo(client, number)
        except Exception as error:  # it answers a click, so it is sent each time
            self.note(client, "error", sentence_of(error))
        with self.lock:
            seconds = self._clock() - began
            limited = client.schedule.guest and self._steering()
            self._turns.spend(client.schedule, seconds, limited=limited)
            client.photo_ready, client.photo_pending = made, made is not None
            self.stir()
        client.wake_up()

    def _photo(self, client: Client, number: int) -> bytes | None:
        """A photo as it is sent, no larger than the client's canvas."""
        photo, camera = self._callbacks.photo(number), client.camera
        if photo is None:
            self.note(client, "info", "The scene that is shown has no such camera.")
            return None
        image = Image.fromarray(photo.numpy())
        size = PHOTO_SIZE if camera is None else (camera.width, camera.height)
        image.thumbnail(size, Image.Resampling.BOX)
        scale = image.width / photo.shape[1]
        header = HEADER.pack(MAGIC, PHOTO, 3, number, 0, image.width, image.height, 0, scale)
        return header + jpeg(image, quality=88, subsampling=0)

    def _trouble(self, client: Client, error: Exception) -> None:
        """Sends a client an error, once."""
        self._once(client, "error", sentence_of(error))

    def _once(self, client: Client, kind: str, text: str) -> None:
        """Sends a client a note, unless it had the same one before."""
        if text not in client.sent_errors and len(client.sent_errors) < TROUBLES:
            client.sent_errors.add(text)
            self.note(client, kind, text)
