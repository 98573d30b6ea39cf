"""The stream: what each client gets, and that no client, source or picture harms another."""

import asyncio
import gc
import io
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from lumigraph.app.viewer import renderer as rendering
from lumigraph.app.viewer.client import Client, IncomingFile, StreamCallbacks
from lumigraph.app.viewer.controls import KEYS
from lumigraph.app.viewer.gate import Role
from lumigraph.app.viewer.limits import StreamSocket
from lumigraph.app.viewer.picture import NOTHING_KNOWN, Picture, SceneUncertainty, picture
from lumigraph.app.viewer.pixel import UNKNOWN, PixelMoments, read_pixel
from lumigraph.app.viewer.protocol import ClientCamera, DisplayOptions
from lumigraph.app.viewer.renderer import FRAME, HEADER, PHOTO
from lumigraph.app.viewer.scene import CurrentScene, SceneContext
from lumigraph.app.viewer.scheduling import SILENCE
from lumigraph.app.viewer.stream import Streams
from lumigraph.kernels import Stopped
from lumigraph.render import Camera, Splats, render_color
from lumigraph.uncertainty import Calibration, exact

PATIENCE = 30.0
"""Seconds that a test waits for what should come at once; only a failing one does."""

IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]


def scene_of(count: int = 50) -> Splats:
    generator = torch.Generator().manual_seed(count)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Splats(
        means=numbers(count, 3) * torch.tensor([1.0, 0.5, 1.0]) + torch.tensor([0, 0, 5.0]),
        quaternions=numbers(count, 4),
        log_scales=numbers(count, 3) * 0.5 - 1,
        opacity_logits=numbers(count) + 2,
        base=numbers(count, 3),
        rest=torch.zeros(count, 0, 3),
    )


def shown_scene(
    scene: Splats | None = None,
    *,
    version: int = 1,
    step: int = 300,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    uncertainty: SceneUncertainty = NOTHING_KNOWN,
) -> CurrentScene:
    """A scene as the state hands it out."""
    scene = scene_of() if scene is None else scene
    context = SceneContext("x", "x", background, (), torch.zeros(3), 0.01, {})
    return CurrentScene(scene, version, step, context, uncertainty)


@dataclass
class File:
    """An upload that keeps what it gets."""

    name: str
    size: int
    data: bytes = b""
    dropped: bool = False
    finished: bool = False
    calls: list[str] = field(default_factory=list)
    adding: threading.Event = field(default_factory=threading.Event)
    finishing: threading.Event = field(default_factory=threading.Event)
    may_add: threading.Event = field(default_factory=threading.Event)
    may_finish: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if not self.name.startswith("slow "):
            self.may_add.set()
            self.may_finish.set()

    def add(self, data: bytes) -> bool:
        """See `IncomingFile.add`."""
        self.calls.append("add")
        self.adding.set()
        assert self.may_add.wait(PATIENCE)
        self.calls.append("added")
        self.data += data
        if len(self.data) > self.size:
            raise ValueError(f"{self.name} is larger than announced")
        return len(self.data) == self.size

    def finish(self) -> None:
        """See `IncomingFile.finish`."""
        self.finishing.set()
        assert self.may_finish.wait(PATIENCE)
        if self.name.endswith("broken.zip"):
            self.finished = True
            raise ValueError(f"{self.name} is broken")
        self.finished = True

    def drop(self) -> None:
        """See `IncomingFile.drop`."""
        if len(self.data) == self.size:
            return
        self.calls.append("drop")
        self.dropped = True
        self.gone.set()


@dataclass
class FakeViewer:
    """State and actions that a test sets."""

    shown: CurrentScene | None = field(default_factory=shown_scene)
    news: dict[str, Any] = field(default_factory=lambda: {"jobs": []})
    photos: dict[int, Tensor] = field(default_factory=dict)
    done: list[tuple[str, Any]] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    wanted: threading.Event = field(default_factory=threading.Event)
    broken: str = ""
    shots: list[dict[str, Any]] = field(default_factory=lambda: [{"number": 0}])
    asked: list[int] = field(default_factory=list)
    collected: int = 0
    reading: threading.Event = field(default_factory=threading.Event)
    may_read: threading.Event | None = None

    def scene(self) -> CurrentScene | None:
        """See `StreamCallbacks.scene`."""
        if self.broken:
            raise ValueError(self.broken)
        return self.shown

    def want_scene(self) -> None:
        """See `StreamCallbacks.want_scene`."""
        self.wanted.set()

    def state(self) -> dict[str, Any]:
        """See `StreamCallbacks.state`."""
        return self.news

    def controls(self) -> list[dict[str, Any]]:
        """See `StreamCallbacks.controls`."""
        return [{"id": "start"}]

    def frusta(self) -> str:
        """See `StreamCallbacks.frusta`."""
        self.collected += 1
        return json.dumps(self.shots)

    def photo(self, index: int) -> Tensor | None:
        """See `StreamCallbacks.photo`."""
        self.asked.append(index)
        self.reading.set()
        if self.may_read is not None:
            assert self.may_read.wait(PATIENCE)
        return self.photos.get(index)

    def do(self, id: str, value: Any) -> None:
        """See `StreamCallbacks.do`."""
        if id == "forbidden":
            raise ValueError("That cannot be done now")
        self.done.append((id, value))

    def upload(self, name: str, size: int) -> IncomingFile:
        """See `StreamCallbacks.upload`."""
        if name.endswith(".exe"):
            raise ValueError(f"{name} is not taken")
        self.files.append(file := File(name, size))
        return IncomingFile(file.add, file.finish, file.drop)

    @property
    def callbacks(self) -> StreamCallbacks:
        """The methods."""
        return StreamCallbacks(**{f.name: getattr(self, f.name) for f in fields(StreamCallbacks)})


@dataclass
class Received:
    """A picture that came, with its header."""

    kind: int
    final: bool
    whole: bool
    number: int
    view: int
    size: tuple[int, int]
    step: int
    scale: float
    pixels: np.ndarray


def received(data: bytes) -> Received:
    magic, kind, flags, number, view, width, height, step, scale = HEADER.unpack_from(data)
    assert HEADER.size == 24
    assert magic == 0x4C
    assert flags in (0, 1, 2, 3)
    image = Image.open(io.BytesIO(data[24:]))
    assert image.format == "JPEG"
    assert image.size == (width, height)
    size = (width, height)
    final, whole = bool(flags & 1), bool(flags & 2)
    return Received(kind, final, whole, number, view, size, step, scale, np.asarray(image))


class Page:
    """A client: its socket as the server sees it, and what came through it."""

    def __init__(self, role: Role = "control", *, acknowledges: bool = True) -> None:
        self.role: Role = role
        self.acknowledges = acknowledges
        self.texts: list[dict[str, Any]] = []
        self.shots: list[Received] = []
        self.reason: str | None = None
        self.stuck = False
        self.ids = 0
        self.streams: Streams | None = None
        self._incoming: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self._came = asyncio.Condition()

    async def recv(self) -> str | bytes:
        """See `StreamSocket.recv`."""
        message = await self._incoming.get()
        if message is None:
            raise EOFError
        return message

    async def send(self, message: str | bytes) -> None:
        """See `StreamSocket.send`."""
        if self.stuck:
            await asyncio.Event().wait()
        if isinstance(message, str):
            self.texts.append(json.loads(message))
        else:
            shot = received(message)
            self.shots.append(shot)
            if self.acknowledges and shot.kind == FRAME:
                self.say(t="ack", frame=shot.number, ms=3.0)
        async with self._came:
            self._came.notify_all()

    async def close(self, reason: str) -> None:
        """See `StreamSocket.close`."""
        self.reason = reason
        self.leave()

    def say(self, **message: Any) -> None:
        """Sends a message to the server."""
        self._incoming.put_nowait(json.dumps(message))

    def give(self, data: bytes) -> None:
        """Sends a piece of a file to the server."""
        self._incoming.put_nowait(data)

    def look(self, x: float = 0.0, *, width: int = 64, height: int = 36) -> int:
        """Asks for the view from a place; the number of that."""
        self.ids += 1
        matrix = [*IDENTITY[:3], x, *IDENTITY[4:]]
        view = {"matrix": matrix, "fov": 0.8, "width": width, "height": height}
        self.say(t="camera", id=self.ids, view=view)
        return self.ids

    def leave(self) -> None:
        """Ends the socket, as a page that is closed does."""
        self._incoming.put_nowait(None)

    async def until(self, holds: Callable[[], Any]) -> Any:
        """Waits until something holds of what came."""
        async with asyncio.timeout(PATIENCE), self._came:
            await self._came.wait_for(holds)
        return holds()

    async def final(self, view: int) -> Received:
        """The final picture of a view."""
        return await self.until(
            lambda: next((s for s in self.shots if s.final and s.view == view), None)
        )

    def answers(self) -> list[tuple[str, bool]]:
        """Which of the files that were announced are taken."""
        return [(t["name"], t["taken"]) for t in self.texts if t["t"] == "upload"]

    def notes(self, kind: str = "error") -> list[str]:
        """What it was told."""
        return [t["text"] for t in self.texts if t["t"] == "note" and t["kind"] == kind]

    def last(self, kind: str) -> dict[str, Any]:
        """The newest message of a kind."""
        return [text for text in self.texts if text["t"] == kind][-1]

    async def photographed(self) -> None:
        """Asks for a photo and waits for it: by then all that was said before it is known."""
        before = sum(shot.kind == PHOTO for shot in self.shots)
        self.say(t="photo", camera=0)
        await self.until(lambda: sum(shot.kind == PHOTO for shot in self.shots) > before)

    async def settled(self) -> None:
        """Waits until all that was asked for is drawn and has come."""
        await self.photographed()
        assert self.streams is not None
        await asyncio.to_thread(drawn, self.streams)
        await self.photographed()


def drawn(streams: Streams) -> None:
    """Waits until the thread that draws has nothing to do."""
    renderer = streams._renderer
    with renderer.lock:
        rests = renderer.lock.wait_for(lambda: renderer.resting and not renderer._stirred, PATIENCE)
    assert rests


@dataclass
class Clock:
    """Seconds that pass as a test says."""

    now: float = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Visit:
    """Some pages that look at a viewer."""

    def __init__(self, viewer: FakeViewer, streams: Streams) -> None:
        self.viewer, self.streams = viewer, streams
        self.served: list[asyncio.Task[None]] = []

    def open(self, page: Page) -> Page:
        """Has the page served."""
        page.streams = self.streams
        self.served.append(asyncio.create_task(self.streams.handle(cast(StreamSocket, page))))
        return page

    async def gone(self) -> None:
        """Waits until every page is served to the end."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self.served)


def visit(
    scenario: Callable[[Visit], Awaitable[None]], viewer: FakeViewer | None = None, **options: Any
) -> None:
    """Runs a scenario, ends all pages, and checks that nothing of them is left."""
    viewer = viewer or FakeViewer()
    viewer.photos.setdefault(0, torch.zeros(4, 6, 3, dtype=torch.uint8))
    threads = set(threading.enumerate())

    async def run() -> None:
        streams = Streams(viewer.callbacks, **options)
        there = Visit(viewer, streams)
        try:
            await scenario(there)
        finally:
            for task in there.served:
                task.cancel()
            outcomes = await asyncio.gather(*there.served, return_exceptions=True)
            streams.close()
        assert streams.count == 0
        assert not [o for o in outcomes if isinstance(o, Exception)]

    asyncio.run(run())
    assert set(threading.enumerate()) <= threads


# Pictures -------------------------------------------------------------------------------------


def test_a_new_client_gets_the_state_controls_and_cameras():
    async def scenario(there: Visit) -> None:
        page = there.open(Page("view"))
        await page.until(lambda: len(page.texts) >= 4)
        assert page.texts[0] == {"t": "hello", "version": 2, "role": "view"}
        assert page.texts[1] == {"t": "state", "jobs": [], "notes": [], "history": {}}
        assert page.texts[2] == {"t": "controls", "items": [{"id": "start"}], "keys": KEYS}
        assert page.texts[3] == {"t": "cameras", "items": [{"number": 0}]}

    visit(scenario)


def test_a_view_is_drawn_at_once_and_then_at_full_size_and_quality():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        view = page.look(0.2)
        final = await page.final(view)
        assert not page.shots[0].final
        assert page.shots[0].view == view
        assert [shot.number for shot in page.shots] == list(range(1, len(page.shots) + 1))
        assert final.kind == FRAME
        assert final.whole
        assert final.scale == 1.0
        assert final.size == (64, 36)
        assert final.step == 300
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[0, 3] = 0.2
        focal = 18 / np.tan(0.4)
        camera = Camera(matrix, (focal, focal), (32, 18), 64, 36)
        expected = picture(scene_of(), camera, DisplayOptions()).pixels.numpy().astype(int)
        assert abs(final.pixels.astype(int) - expected).mean() < 4

    visit(scenario)


def test_nothing_is_sent_when_nothing_has_changed():
    display = {"t": "display", "mode": "color", "map": "gray", "background": [0, 0, 0]}

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(**display)
        await page.final(page.look(0.2))
        await page.settled()
        frames = [shot.number for shot in page.shots if shot.kind == FRAME]
        page.look(0.2)
        page.say(**display)
        there.streams.changed()
        await page.settled()
        assert [shot.number for shot in page.shots if shot.kind == FRAME] == frames
        assert [text["t"] for text in page.texts].count("state") == 1
        page.say(**display, low=1)
        await page.until(lambda: page.shots[-1].final and page.shots[-1].number > frames[-1])

    visit(scenario)


def test_without_a_scene_there_is_no_picture_until_there_is_one():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        view = page.look()
        await page.settled()
        assert all(shot.kind == PHOTO for shot in page.shots)
        there.viewer.shown = shown_scene()
        there.streams.changed()
        await page.final(view)

    visit(scenario, FakeViewer(shown=None))


def test_a_scene_in_training_is_asked_for_and_shown_again():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        view = page.look()
        await page.final(view)
        for version in range(2, 5):
            there.viewer.wanted.clear()
            assert await asyncio.to_thread(there.viewer.wanted.wait, PATIENCE)
            there.viewer.shown = shown_scene(version=version, step=version * 100)
            there.streams.changed()
            await page.until(lambda v=version: page.shots[-1].step == v * 100)
            assert page.shots[-1].final
            assert page.shots[-1].view == view

    visit(scenario)


def test_no_scene_is_requested_while_no_client_looks():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        await page.settled()
        assert not there.viewer.wanted.is_set()

    visit(scenario)


def test_the_background_is_that_of_the_scene_until_the_client_chooses_another():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        first = await page.final(page.look())
        assert abs(first.pixels.astype(int) - [255, 128, 0]).max() < 6
        page.say(t="display", mode="color", map="turbo", low=None, high=None, background=[0, 0, 1])
        second = await page.final(page.look(0.1))
        assert abs(second.pixels.astype(int) - [0, 0, 255]).max() < 6
        page.say(t="display", mode="color", map="turbo", low=None, high=None, background=None)
        third = await page.final(page.look(0.2))
        assert abs(third.pixels.astype(int) - [255, 128, 0]).max() < 6

    visit(scenario, FakeViewer(shown=shown_scene(scene_of()[:0], background=(1.0, 0.5, 0.0))))


def test_a_legend_gives_the_range_and_is_sent_only_after_a_change():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        await page.final(page.look())
        assert page.last("legend") == {
            "t": "legend",
            "mode": "color",
            "map": "turbo",
            "low": None,
            "high": None,
            "colors": None,
            "text": "",
        }
        display = {"t": "display", "mode": "depth", "map": "gray", "background": [0, 0, 0]}
        page.say(**display, low=1, high=None)
        await page.final(page.look(0.1))
        legend = page.last("legend")
        assert legend["mode"] == "depth"
        assert legend["low"] == 1
        assert legend["colors"][0] == [0, 0, 0]
        assert legend["colors"][-1] == [255, 255, 255]
        assert 3 < legend["high"] < 9
        page.say(**display, low=1, high=4)
        for x in (0.2, 0.3):
            await page.final(page.look(x))
        assert page.last("legend") == {**legend, "high": 4}
        assert [text["t"] for text in page.texts].count("legend") <= 5

    visit(scenario)


def test_figures_come_while_frames_flow():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.look()
        while not any(text["t"] == "stats" for text in page.texts):
            shots = len(page.shots)
            page.look(0.001 * page.ids)
            await page.until(lambda shots=shots: len(page.shots) > shots)
        stats = page.last("stats")
        assert stats["fps"] > 0
        assert stats["latency_ms"] > 0
        assert stats["kbytes"] > 0
        assert 16 <= stats["width"] <= 64
        assert 0.25 <= stats["scale"] <= 1

    visit(scenario)


# Several clients ------------------------------------------------------------------------------


def test_clients_are_served_in_turn_each_with_its_own_view():
    async def scenario(there: Visit) -> None:
        pages = [there.open(Page("view")) for _ in range(3)]
        wide = [64, 48, 32]
        for page, width in zip(pages, wide, strict=True):
            page.look(width=width)
        for page, width in zip(pages, wide, strict=True):
            assert (await page.final(1)).size == (width, 36)

    visit(scenario)


def test_a_client_that_never_acknowledges_gets_two_frames_and_delays_no_other():
    async def scenario(there: Visit) -> None:
        mute, page = there.open(Page(acknowledges=False)), there.open(Page())
        for n in range(20):
            mute.look(0.01 * n)
            await page.final(page.look(0.01 * n)) if n % 10 == 0 else None
        await page.settled()
        await mute.settled()
        frames = [shot for shot in mute.shots if shot.kind == FRAME]
        assert [shot.number for shot in frames] == [1, 2]

    visit(scenario)


def test_a_client_that_is_silent_for_long_is_disconnected():
    async def scenario(there: Visit) -> None:
        page, other = there.open(Page(acknowledges=False)), there.open(Page())
        page.look()
        other.look()
        await page.until(lambda: page.shots)
        await other.settled()  # what it got is acknowledged: it is not silent
        clock.now += SILENCE + 1
        there.streams.changed()
        async with asyncio.timeout(PATIENCE):
            await there.served[0]
        assert page.reason is not None
        assert "30 s" in page.reason
        await other.settled()
        assert there.streams.count == 1

    clock = Clock()
    visit(scenario, clock=clock)


def test_a_client_that_reads_nothing_does_not_delay_the_others():
    async def scenario(there: Visit) -> None:
        stuck, page = there.open(Page()), there.open(Page())
        stuck.stuck = True
        for n in range(5):
            stuck.look(0.1 * n)
            stuck.say(t="photo", camera=0)
            stuck.say(t="control", id="forbidden", value=n)
        await page.final(page.look())
        await page.settled()
        assert not stuck.shots

    visit(scenario)


def test_a_hundred_visits_leave_nothing_behind():
    async def scenario(there: Visit) -> None:
        for n in range(100):
            page = there.open(Page())
            page.look(0.01 * n)
            if n % 3 == 0:
                await page.until(lambda page=page: page.shots)
            if n % 2 == 0:
                page.leave()
            else:
                await asyncio.sleep(0)
                there.served[-1].cancel()
            await asyncio.gather(there.served.pop(), return_exceptions=True)
            assert there.streams.count == 0
            threads.add(threading.active_count())
        last = there.open(Page())
        await last.final(last.look())
        gc.collect()
        assert sum(type(o) is Client for o in gc.get_objects()) <= 2
        assert len(asyncio.all_tasks()) <= 4

    threads: set[int] = set()
    visit(scenario)
    assert len(threads) == 1


# What is known of the scene's uncertainty ------------------------------------------------------

CALIBRATION = Calibration(alpha=0.1, beta=0.2, q=3.0, views=9)
DISPLAY = {"t": "display", "mode": "uncertainty", "map": "gray", "background": [0, 0, 0]}


async def read(page: Page, count: int) -> dict[str, Any]:
    """The numbers that come as the so manyth."""
    return (await page.until(lambda: probes(page)[count - 1 :]))[0]


def probes(page: Page) -> list[dict[str, Any]]:
    return [text for text in page.texts if text["t"] == "pixel"]


@pytest.mark.parametrize("role", ["control", "view"])
def test_numbers_under_the_cursor_are_those_of_the_exact_picture(role: Role):
    async def scenario(there: Visit) -> None:
        page = there.open(Page(role))
        page.say(**DISPLAY)
        page.say(t="pixel", x=1.0, y=0.26)
        await page.final(page.look(0.3))
        message = await read(page, 1)
        assert page.shots[-1].final
        matrix = [*IDENTITY[:3], 0.3, *IDENTITY[4:]]
        camera = ClientCamera(tuple(map(float, matrix)), 0.8, 64, 36).camera(64, 36, 0.01)
        spread, colors = exact(shown.scene, camera, 0.3), render_color(shown.scene, camera)
        assert (message["x"], message["y"]) == (1.0, 0.26)
        color, std = colors[9, 63].tolist(), spread.std[9, 63].tolist()
        assert message["color"] == pytest.approx(color, abs=1e-4)
        assert message["std"] == pytest.approx(std, abs=1e-4)
        assert message["low"] == pytest.approx(
            [max(0, m - 3 * s) for m, s in zip(color, std, strict=True)], abs=1e-4
        )
        assert (message["level"], message["within"]) == pytest.approx((0.9, 0.8))
        assert message["depth"] == pytest.approx(float(spread.depth[9, 63]), rel=1e-3)

    shown = shown_scene(
        scene_of(400), uncertainty=SceneUncertainty(rate=0.3, calibration=CALIBRATION)
    )
    visit(scenario, FakeViewer(shown))


def test_intervals_hold_before_the_scenes_own_background_alone():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="pixel", x=0.5, y=0.5)
        page.look()
        for count, (background, known) in enumerate([([0, 0, 0], True), ([1, 1, 1], False)], 1):
            page.say(**{**DISPLAY, "background": background})
            assert (await read(page, count))["calibrated"] is known

    visit(scenario, FakeViewer(shown_scene(uncertainty=SceneUncertainty(calibration=CALIBRATION))))


def test_numbers_are_read_again_when_the_view_or_the_scene_is_another():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(**DISPLAY)
        page.say(t="pixel", x=0.5, y=0.5)
        first = page.look(0.1)
        await page.final(first)
        seen = [(await read(page, 1))["color"]]
        await page.final(page.look(0.4))
        seen.append((await read(page, 2))["color"])
        there.viewer.shown = shown_scene(scene_of(60), version=2)
        there.streams.changed()
        seen.append((await read(page, 3))["color"])
        page.say(**{**DISPLAY, "mode": "depth"})
        assert (await read(page, 4))["color"] == seen[-1]
        assert len(set(map(tuple, seen))) == 3
        # Nothing is another: nothing more is read.
        await page.settled()
        assert len(probes(page)) == 4
        # It is no place any more, or one in a picture that has no such numbers.
        page.say(t="pixel", x=None, y=None)
        await page.final(page.look(0.2))
        page.say(t="pixel", x=0.5, y=0.5)
        page.say(**{**DISPLAY, "mode": "color"})
        await page.final(page.look(0.3))
        await page.settled()
        assert len(probes(page)) == 4
        # Each question gets its answer, also the same one again.
        page.say(**DISPLAY)
        await read(page, 5)
        page.say(t="pixel", x=0.5, y=0.5)
        await read(page, 6)

    visit(scenario)


def test_nothing_is_read_while_the_view_moves_nor_more_than_the_newest_place(monkeypatch):
    read_of: list[tuple[int, int]] = []

    def counted(scene: Splats, camera: Camera, column: int, row: int, **rest: Any) -> PixelMoments:
        read_of.append((column, row))
        return read_pixel(scene, camera, column, row, **rest)

    monkeypatch.setattr(rendering, "read_pixel", counted)

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(**DISPLAY)
        page.say(t="pixel", x=0.5, y=0.5)
        clock.standing = True  # no view comes to rest
        view = 0
        for n in range(5):
            view = page.look(n / 100)
            await page.until(lambda view=view: [s for s in page.shots if s.view == view])
        await page.photographed()
        assert not read_of
        clock.standing = False
        await page.photographed()
        await page.final(view)
        await read(page, 1)
        # The clock stands still: after one reading the next one has to wait.
        clock.standing = True
        for n in range(5):
            page.say(t="pixel", x=n / 64, y=0)
            await page.settled()
        assert len(read_of) <= 2
        clock.standing = False
        page.say(t="pixel", x=50 / 64, y=0)
        await page.until(lambda: probes(page)[-1]["x"] == 50 / 64)
        assert read_of[-1] == (50, 0)

    clock = Standing()
    visit(scenario, clock=clock)


@dataclass
class Standing:
    """A clock that can be stopped."""

    standing: bool = False
    last: float = 0.0

    def __call__(self) -> float:
        """Seconds."""
        if not self.standing:
            self.last = time.monotonic()
        return self.last


def test_a_failed_reading_of_a_pixel_is_reported_and_the_picture_stays(monkeypatch):
    def fail(*_: Any, **__: Any) -> PixelMoments:
        raise ValueError("The moon has no depth")

    monkeypatch.setattr(rendering, "read_pixel", fail)

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(**DISPLAY)
        await page.final(page.look())
        page.say(t="pixel", x=0.5, y=0.5)
        await page.until(lambda: page.notes() == ["The moon has no depth"])
        await page.final(page.look(0.1))
        await page.settled()
        assert not probes(page)

    visit(scenario)


def test_the_legend_of_uncertainty_says_what_it_is_and_how_it_is_known():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(**DISPLAY)
        page.look()
        await page.until(lambda: any(t["t"] == "legend" for t in page.texts))
        text = "Standard deviation of the colours; drop rate 0.21"
        assert page.last("legend")["text"] == text
        there.viewer.shown = shown_scene(
            version=2, uncertainty=SceneUncertainty(0.21, calibrated=False)
        )
        there.streams.changed()
        await page.until(lambda: page.last("legend")["text"] == f"{text}, not calibrated")

    visit(scenario, FakeViewer(shown_scene(uncertainty=SceneUncertainty(0.21, calibrated=True))))


def test_confidence_is_shown_if_it_is_known_and_else_the_reason():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(**{**DISPLAY, "mode": "confidence"})
        shot = await page.final(page.look())
        assert shot.pixels.max() == 0
        assert page.last("legend")["text"] == UNKNOWN
        assert page.last("legend")["colors"] is None
        assert page.notes("info") == [UNKNOWN]
        there.viewer.shown = shown_scene(
            version=2, uncertainty=SceneUncertainty(confidence=torch.ones(50))
        )
        there.streams.changed()
        shot = await page.until(lambda: next((s for s in page.shots if s.pixels.max() > 250), None))
        assert (page.last("legend")["low"], page.last("legend")["high"]) == (0.0, 1.0)
        assert page.last("legend")["text"] == "Confidence of the splats"
        await page.settled()
        assert page.notes("info") == [UNKNOWN]

    visit(scenario)


# Trouble --------------------------------------------------------------------------------------


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What happens when a picture is made: `before(stop)` is called first, if there is one."""
    hooks: dict[str, Any] = {"before": None}

    def hooked(
        scene: Splats,
        camera: Camera,
        display: DisplayOptions,
        stop: Tensor | None,
        uncertainty: SceneUncertainty,
    ) -> Picture:
        if hooks["before"] is not None:
            hooks["before"](stop)
        return picture(scene, camera, display, stop, uncertainty)

    monkeypatch.setattr(rendering, "picture", hooked)
    return hooks


def test_a_failed_picture_is_reported_once_and_the_next_one_is_made(drawing):
    def fail(stop: Tensor | None) -> None:
        raise ValueError("The moon is not made of splats")

    async def scenario(there: Visit) -> None:
        drawing["before"] = fail
        page = there.open(Page())
        for n in range(4):
            page.look(0.1 * n)
            await page.settled()
        assert page.notes() == ["The moon is not made of splats"]
        drawing["before"] = None
        await page.final(page.look(2.0))

    visit(scenario)


def test_a_final_picture_is_given_up_when_the_client_looks_elsewhere(drawing):
    begun, given_up = threading.Event(), threading.Event()

    def wait(stop: Tensor | None) -> None:
        if stop is None or begun.is_set():
            return
        begun.set()
        pause = threading.Event()
        while not stop.any():
            pause.wait(0.001)
        given_up.set()
        raise Stopped

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        drawing["before"] = wait
        first = page.look(0.1)
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        second = page.look(0.2)
        assert await asyncio.to_thread(given_up.wait, PATIENCE)
        await page.final(second)
        assert not [shot for shot in page.shots if shot.view == first and shot.final]
        assert not page.notes()

    visit(scenario)


def test_a_final_picture_is_given_up_when_its_client_leaves(drawing):
    begun, given_up = threading.Event(), threading.Event()

    def wait(stop: Tensor | None) -> None:
        if stop is None or begun.is_set():
            return
        begun.set()
        pause = threading.Event()
        while not stop.any():
            pause.wait(0.001)
        given_up.set()
        raise Stopped

    async def scenario(there: Visit) -> None:
        drawing["before"] = wait
        page = there.open(Page())
        page.look()
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        page.leave()
        await there.gone()
        assert await asyncio.to_thread(given_up.wait, PATIENCE)
        other = there.open(Page())
        await other.final(other.look())

    visit(scenario)


def test_a_picture_of_a_guest_gives_way_to_a_client_that_begins_to_steer(drawing):
    begun, given_up = threading.Event(), threading.Event()

    def wait(stop: Tensor | None) -> None:
        if begun.is_set():
            return
        begun.set()
        assert stop is not None
        pause = threading.Event()
        while not stop.any():
            pause.wait(0.001)
        given_up.set()
        raise Stopped

    async def scenario(there: Visit) -> None:
        guest, other, control = (there.open(Page(role)) for role in ("view", "view", "control"))
        await control.photographed()
        drawing["before"] = wait
        view = guest.look()
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        other.look()
        while sum(client.camera is not None for client in there.streams._renderer.clients) < 2:
            await asyncio.sleep(0)
        assert not given_up.is_set(), "a guest does not give way to a guest"
        await control.final(control.look())
        assert given_up.is_set()
        await guest.final(view)
        await other.final(1)

    visit(scenario)


def test_a_picture_of_a_moving_view_is_always_finished(drawing):
    stops: list[Tensor | None] = []

    async def scenario(there: Visit) -> None:
        drawing["before"] = stops.append
        page = there.open(Page())
        await page.final(page.look())
        assert stops[0] is None
        assert stops[-1] is not None

    visit(scenario)


def test_a_failing_source_of_scenes_is_reported_and_asked_again():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        view = page.look()
        await page.until(lambda: page.notes() == ["The disk is on fire"])
        there.viewer.broken = ""
        there.streams.changed()
        await page.final(view)

    visit(scenario, FakeViewer(broken="The disk is on fire"))


def test_nonsense_is_dropped_and_the_client_lives():
    async def scenario(there: Visit) -> None:
        page = there.open(Page("view"))
        for text in ("", "no JSON", '{"t": "camera"}', '{"t": "run"}', "[" * 9000):
            page._incoming.put_nowait(text)
        page.give(b"a piece of nothing")
        page.say(t="control", id="start", value=True)
        page.say(t="upload", name="a.ply", size=3)
        page.give(b"ply")
        page.say(t="ack", frame=99, ms=1)
        await page.final(page.look())
        assert there.viewer.done == []
        assert there.viewer.files == []
        assert page.notes() == []

    visit(scenario)


# Controls, files and photos --------------------------------------------------------------------


def test_controls_reach_the_viewer_and_its_answer_the_client():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="control", id="steps", value=300)
        page.say(t="control", id="forbidden", value=None)
        await page.until(lambda: page.notes())
        assert there.viewer.done == [("steps", 300)]
        assert page.notes() == ["That cannot be done now"]

    visit(scenario)


def test_the_state_is_sent_when_it_has_changed():
    async def scenario(there: Visit) -> None:
        page, other = there.open(Page()), there.open(Page("view"))
        await page.until(lambda: len(page.texts) >= 4)
        there.viewer.news = {"jobs": ["one"]}
        there.streams.changed()
        for each in (page, other):
            await each.until(lambda each=each: each.last("state")["jobs"] == ["one"])
            assert [text["t"] for text in each.texts].count("controls") == 1

    visit(scenario)


def curves(count: int, start: int = 0) -> dict[str, list[float]]:
    """A history of so many points."""
    return {
        "seconds": [float(n) for n in range(start, count)],
        "loss": [1 / (1 + n) for n in range(start, count)],
        "psnr": [float(n) for n in range(start, count, 10)],
    }


def test_curves_and_notes_are_sent_once():
    def states(page: Page) -> list[dict[str, Any]]:
        return [text for text in page.texts if text["t"] == "state"]

    def followed(page: Page) -> tuple[dict[str, Any], list[str]]:
        """The curves and notes of a page that adds what comes to what it has."""
        history: dict[str, Any] = {}
        notes: list[str] = []
        for state in states(page):
            assert ("history" in state) != ("more" in state)
            history = dict(state.get("history", history))
            for name, points in state.get("more", {}).items():
                history[name] = history[name] + points
            notes += [note["text"] for note in state["notes"]]
        return history, notes

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        numbered = [{"id": n, "kind": "info", "text": f"note {n}"} for n in range(1, 9)]
        for count, told, start in (
            (0, 0, 0),
            (20, 1, 0),
            (25, 1, 0),
            (25, 3, 0),
            (30, 8, 0),
            (31, 8, 1),  # another job, or every other point was dropped
            (32, 8, 1),
        ):
            heard = len(states(page))
            history = curves(count, start)
            there.viewer.news = {"step": 7, "history": history, "notes": numbered[:told]}
            there.streams.changed()
            await page.until(lambda heard=heard: len(states(page)) > heard)
            assert followed(page) == (history, [note["text"] for note in numbered[:told]])
            late = there.open(Page())
            await late.until(lambda late=late: states(late))
            assert followed(late)[0] == history
            late.leave()
        sent = states(page)
        assert [len(s["more"]["seconds"]) for s in sent if "more" in s][-4:] == [5, 0, 5, 1]
        assert sum("history" in state for state in sent) <= 3
        there.streams.changed()
        await page.settled()
        assert states(page) == sent

    visit(scenario)


def test_the_state_is_collected_once_for_all_and_cameras_are_sent_when_they_are_others():
    async def scenario(there: Visit) -> None:
        pages = [there.open(Page()) for _ in range(3)]

        async def told(count: int) -> None:
            for page in pages:
                await page.until(
                    lambda page=page: [t["t"] for t in page.texts].count("cameras") == count
                )

        await told(1)
        for step in range(3):
            there.viewer.news = {"step": step}
            there.streams.changed()
            await pages[0].until(lambda step=step: pages[0].last("state").get("step") == step)
        there.viewer.shots = list(there.viewer.shots)  # the same, made anew
        there.streams.changed()
        await pages[0].settled()
        there.viewer.shots = [{"number": 1}]
        there.streams.changed()
        await told(2)
        assert pages[2].last("cameras") == {"t": "cameras", "items": [{"number": 1}]}
        assert there.viewer.collected <= 1 + 5, "once, and once for each change"

    visit(scenario)


def test_a_file_comes_in_pieces():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="upload", name="a.ply", size=7)
        page.give(b"ply\n")
        page.look()
        page.give(b"end")
        page.say(t="upload", name="b.exe", size=7)
        await page.until(lambda: page.notes())
        (file,) = there.viewer.files
        assert (file.name, file.size, file.data) == ("a.ply", 7, b"ply\nend")
        assert not file.dropped
        assert page.notes() == ["b.exe is not taken"]
        await page.until(lambda: len(page.answers()) == 2)
        assert page.answers() == [("a.ply", True), ("b.exe", False)]

    visit(scenario)


def test_a_file_that_is_larger_than_announced_is_dropped():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="upload", name="a.ply", size=3)
        page.give(b"more")
        page.give(b"and more")
        await page.until(lambda: page.notes())
        await page.settled()
        assert there.viewer.files[0].dropped
        assert there.viewer.files[0].data == b"more"

    visit(scenario)


@pytest.mark.parametrize("then", ["leaves", "sends another", "is cut off"])
def test_a_file_that_is_not_finished_is_dropped(then: str):
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="upload", name="a.ply", size=30)
        page.give(b"ply")
        await page.settled()
        if then == "leaves":
            page.leave()
        elif then == "sends another":
            page.say(t="upload", name="b.ply", size=3)
        else:
            there.served[0].cancel()
        assert await asyncio.to_thread(there.viewer.files[0].gone.wait, PATIENCE)

    visit(scenario)


def test_a_client_is_served_while_its_file_is_unpacked():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="upload", name="slow broken.zip", size=3)
        await page.until(page.answers)
        there.viewer.files[0].may_add.set()
        page.give(b"zip")
        page.say(t="upload", name="b.ply", size=6)
        page.give(b"ply")
        await page.until(lambda: len(page.answers()) == 2)
        archive, scene = there.viewer.files
        assert await asyncio.to_thread(archive.finishing.wait, PATIENCE)
        for n in range(3):
            await page.final(page.look(0.1 * n))
        page.give(b"end")
        await page.settled()
        assert scene.data == b"plyend"
        assert not scene.finished  # they are finished one after the other
        archive.may_finish.set()
        await page.until(lambda: page.notes())
        assert page.notes() == ["slow broken.zip is broken"]
        assert await asyncio.to_thread(scene.finishing.wait, PATIENCE)
        assert not archive.dropped

    visit(scenario)


@pytest.mark.parametrize("end", ["leaves", "is cut off", "the page is closed"])
def test_a_complete_file_is_received_even_if_its_client_leaves(end: str):
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="upload", name="slow a.zip", size=3)
        page.give(b"zip")
        await page.until(page.answers)
        (file,) = there.viewer.files
        assert await asyncio.to_thread(file.adding.wait, PATIENCE)
        closing: asyncio.Task[None] | None = None
        if end == "leaves":
            page.leave()
        elif end == "is cut off":
            there.served[0].cancel()
        else:
            closing = asyncio.create_task(asyncio.to_thread(there.streams.close))
        file.may_add.set()
        assert await asyncio.to_thread(file.finishing.wait, PATIENCE)
        if closing is None:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*there.served, return_exceptions=True)
        assert not file.finished
        file.may_finish.set()
        if closing is not None:
            await closing
            page.say(t="upload", name="late.ply", size=6)
            page.give(b"ply")
            page.leave()
            await there.gone()
            assert len(there.viewer.files) == 1, "nothing is begun any more"

    viewer = FakeViewer()
    visit(scenario, viewer)
    assert viewer.files[0].finished
    assert not viewer.files[0].dropped


def test_a_file_is_dropped_after_its_last_piece_is_written():
    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="upload", name="slow a.zip", size=30)
        page.give(b"zip")
        await page.until(page.answers)
        (file,) = there.viewer.files
        assert await asyncio.to_thread(file.adding.wait, PATIENCE)
        there.served[0].cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*there.served, return_exceptions=True)
        assert not file.dropped
        file.may_add.set()
        assert await asyncio.to_thread(file.gone.wait, PATIENCE)
        assert file.calls == ["add", "added", "drop"]

    visit(scenario)


def test_a_photo_fits_the_canvas():
    photo = torch.full((300, 400, 3), 200, dtype=torch.uint8)

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.look(width=64, height=36)
        page.say(t="photo", camera=3)
        shot = await page.until(lambda: next((s for s in page.shots if s.kind == PHOTO), None))
        assert shot.number == 3
        assert shot.size == (48, 36)
        assert abs(shot.pixels.astype(int) - 200).max() <= 2
        page.say(t="photo", camera=4)
        await page.until(lambda: page.notes("info"))
        await page.settled()

    visit(scenario, FakeViewer(photos={3: photo}))


def test_each_click_on_a_camera_without_a_photo_gets_the_reason():
    class Bare(FakeViewer):
        """Has the photos of no camera but the first."""

        def photo(self, index: int) -> Tensor | None:
            if index:
                raise ValueError("Give the folder of the capture as well")
            return super().photo(index)

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        for count in (1, 2):
            page.say(t="photo", camera=1)
            await page.until(lambda count=count: len(page.notes()) == count)
        assert set(page.notes()) == {"Give the folder of the capture as well"}

    visit(scenario, Bare(photos={0: torch.zeros(4, 6, 3, dtype=torch.uint8)}))


def test_no_client_waits_while_a_photo_is_read():
    """The first one loads its whole capture."""

    async def scenario(there: Visit) -> None:
        page, other = there.open(Page()), there.open(Page())
        page.say(t="photo", camera=0)
        assert await asyncio.to_thread(there.viewer.reading.wait, PATIENCE)
        for each in (page, other):
            await each.final(each.look(0.1))
            await each.final(each.look(0.2))
        for number in range(20, 0, -1):
            page.say(t="photo", camera=number)
        await page.final(page.look(0.3))
        assert all(shot.kind == FRAME for shot in page.shots)
        may_read.set()
        await page.until(lambda: [s.number for s in page.shots if s.kind == PHOTO] == [0, 1])
        assert there.viewer.asked == [0, 1]  # the newest wish alone

    may_read = threading.Event()
    photo = torch.zeros(4, 6, 3, dtype=torch.uint8)
    viewer = FakeViewer(photos=dict.fromkeys(range(21), photo), may_read=may_read)
    visit(scenario, viewer)


# The machine ------------------------------------------------------------------------------------


def test_the_trainer_learns_when_views_begin_and_cease_to_move():
    told: list[bool] = []
    calm = threading.Event()

    def hear(moving: bool) -> None:
        told.append(moving)
        if not moving:
            calm.set()

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        for n in range(3):
            view = page.look(0.1 * n)
            await page.until(lambda view=view: page.shots and page.shots[-1].view == view)
        assert told == [True]
        clock.now += 2
        there.streams.changed()
        assert await asyncio.to_thread(calm.wait, PATIENCE)
        await page.settled()
        assert told == [True, False]

    clock = Clock()
    visit(scenario, clock=clock, moving=hear)


def test_a_picture_uses_the_given_number_of_threads(drawing):
    used: list[int] = []
    allowed = [1]

    async def scenario(there: Visit) -> None:
        drawing["before"] = lambda stop: used.append(torch.get_num_threads())
        page = there.open(Page())
        await page.final(page.look())
        assert set(used) == {1}
        allowed[0] = 2
        used.clear()
        await page.final(page.look(0.1))
        assert set(used) == {2}

    visit(scenario, threads=lambda: allowed[0])


@pytest.mark.parametrize("call", ["do", "upload", "state", "controls", "frusta", "photo"])
def test_a_call_that_takes_long_stops_neither_the_loop_nor_a_picture(call: str):
    """Each call waits here until a second client has its picture and the loop has gone on."""
    asked, may_end = threading.Event(), threading.Event()
    viewer = FakeViewer(photos={7: torch.zeros(4, 6, 3, dtype=torch.uint8)})
    genuine = getattr(viewer, call)

    def slow(*arguments: Any) -> Any:
        asked.set()
        assert may_end.wait(PATIENCE)
        return genuine(*arguments)

    setattr(viewer, call, slow)

    async def scenario(there: Visit) -> None:
        busy, other = there.open(Page()), there.open(Page("view"))
        messages = {
            "do": {"t": "control", "id": "start", "value": True},
            "upload": {"t": "upload", "name": "a.ply", "size": 3},
            "photo": {"t": "photo", "camera": 7},
        }
        if call in messages:
            busy.say(**messages[call])
        assert await asyncio.to_thread(asked.wait, PATIENCE)
        beats = 0
        for page in (other, busy) if call != "upload" else (other,):
            waiting = asyncio.create_task(page.final(page.look(0.1)))
            while not waiting.done():
                beats += 1
                await asyncio.sleep(0)
            await waiting
        assert beats > 0
        may_end.set()
        await other.until(lambda: "controls" in {text["t"] for text in other.texts})

    visit(scenario, viewer)


def test_of_the_values_of_a_control_that_wait_the_newest_is_set():
    asked, may_end = threading.Event(), threading.Event()
    viewer = FakeViewer()

    def slow(id: str, value: Any) -> None:
        asked.set()
        assert may_end.wait(PATIENCE)
        viewer.done.append((id, value))

    viewer.do = slow  # type: ignore[method-assign]

    async def scenario(there: Visit) -> None:
        page = there.open(Page())
        page.say(t="control", id="first", value=0)
        assert await asyncio.to_thread(asked.wait, PATIENCE)
        for value in range(5):
            page.say(t="control", id="steps", value=value)
            page.say(t="control", id="start", value=True)
        await page.final(page.look())
        may_end.set()
        while len(viewer.done) < 7:
            await asyncio.sleep(0.001)

    visit(scenario, viewer)
    presses = [("start", True)] * 5
    assert viewer.done == [("first", 0), ("steps", 4), *presses]


# A real connection ------------------------------------------------------------------------------


class Wire:
    """The server's end of a websocket."""

    role: Role = "control"

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection

    async def recv(self) -> str | bytes:
        """See `StreamSocket.recv`."""
        return await self.connection.recv()

    async def send(self, message: str | bytes) -> None:
        """See `StreamSocket.send`."""
        await self.connection.send(message)

    async def close(self, reason: str) -> None:
        """See `StreamSocket.close`."""
        await self.connection.close(1000, reason)


def test_pictures_come_through_a_websocket():
    async def scenario(there: Visit) -> None:
        async def serve_one(connection: ServerConnection) -> None:
            await there.streams.handle(cast(StreamSocket, Wire(connection)))

        async with serve(serve_one, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with asyncio.timeout(PATIENCE), connect(f"ws://127.0.0.1:{port}") as socket:
                view: dict[str, Any] = {"fov": 0.8, "width": 64, "height": 36}
                numbers = []
                for number in range(1, 20):
                    view["matrix"] = [*IDENTITY[:3], 0.01 * number, *IDENTITY[4:]]
                    await socket.send(json.dumps({"t": "camera", "id": number, "view": view}))
                    while isinstance(message := await socket.recv(), str):
                        pass
                    shot = received(message)
                    numbers.append(shot.number)
                    ack = {"t": "ack", "frame": shot.number, "ms": 1.0}
                    await socket.send(json.dumps(ack))
                assert numbers == sorted(set(numbers))
            async with asyncio.timeout(PATIENCE):
                while there.streams.count:
                    await asyncio.sleep(0)

    visit(scenario)
