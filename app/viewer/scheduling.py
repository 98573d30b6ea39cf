"""Which pictures a client gets, and when: the policy of the stream, as data without a clock.

Times are seconds of any one clock, and are passed in.

| the client                                                  | gets                               |
|-------------------------------------------------------------|------------------------------------|
| has as many unacknowledged frames as its credit allows      | nothing until it acknowledges one  |
| asks for another view than it has                           | a passing picture, at once         |
| has a passing picture of the view, for `SETTLE` seconds     | the final one                      |
| has the final one of an older scene, for `refresh` seconds  | the final one of the scene now     |
| has the final one                                           | nothing until something changes    |

A passing picture is as large as is quick enough, a final one is whole and of good quality. `turns`
decides between the clients.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from statistics import median

CREDIT = 2
"""Frames on their way at once: with one the server would wait while the client draws, and with
three each would be older by a frame when it is seen."""

SLOW_PAINT = 0.05
"""Seconds to decode and paint from which a client has a credit of one: painting is the bottleneck
then, and a second frame would only grow old in its queue."""

SCALES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Scales of a passing picture's sides. Below a quarter nothing can be recognised."""

BUDGETS = ((0.2304, 1 / 30), (0.9216, 1 / 12))
"""Megapixels of a client's view, and the seconds that a frame of it may take: 30 a second look
smooth at 640x360, and at 1280x720 and above 12 sharp ones are liked better than 30 blurred."""

SLACK, MARGIN = 1.25, 0.8
"""A smaller scale is chosen when a frame takes `SLACK` times the budget (frames come when a screen
is redrawn, 60 times a second, and this lies between two such times and three), a larger one when
it takes less than `MARGIN` of the budget, so that the scale does not change to and fro."""

HOLD = 0.5
"""Seconds from a change of scale to the next larger one."""

GAIN = 1.25
"""A smaller scale is chosen only if it is quicker by this factor: most of a frame's time may not
depend on its pixels."""

FREE = 1.1
"""A larger scale that takes at most this multiple of the time is always chosen."""

SETTLE = 0.15
"""Seconds without another view after which a view is still: a hand on the mouse hesitates less."""

REFRESH = 0.4
"""Seconds from one picture of a still view to the next, while the scene is in training."""

WATCHING = 0.2
"""The largest part of the time that such pictures take: training needs the processor more."""

ABSENT, SILENCE = 2.0, 30.0
"""Seconds without an acknowledgement after which a client seems to look away, and after which it is
given up."""

PIXELS, GUEST_PIXELS = 3840 * 2160, 1280 * 720
"""The most pixels of a picture, for a client in control and for a guest: the picture is smaller
than the view where that has more."""

STEERING = 0.5
"""Seconds after its last view in which a client in control steers: longer than a hand hesitates."""

GUEST_SECONDS = 0.05
"""The seconds that a guest's picture may take while a client steers, which waits for it, and the
most that guests may save up of their share. At the smallest scale it may take longer."""

AWAY, WINDOW, SMOOTHING, FORGETTING = 2.0, 5, 0.4, 0.99
"""Of the estimate of a frame's time. A longer time than `AWAY` counts as that: the client was away.
The median of `WINDOW` frames counts, so that one or two outliers do not. `SMOOTHING` is the weight
of the newest one. `FORGETTING` is the part of a slope that is kept after each frame: what was
learned of the price of pixels is tried again within ten seconds, even while the view moves."""


@dataclass(frozen=True)
class FrameRequest:
    """A picture to be made.

    Attributes:
        view: Number of the view that it shows.
        version: Of the scene.
        final: Whether it is of good quality and stays; else it is passing.
        scale: Of its sides, to those that the view asks for.
        width: In pixels.
        height: In pixels.
        begun: When its making began.
        asked: When the view was asked for.
        limited: Whether it is a guest's while a client steers: it is rendered again after that.
    """

    view: int
    version: int
    final: bool
    scale: float
    width: int
    height: int
    begun: float
    asked: float
    limited: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is at full scale."""
        return self.scale == 1.0

    @property
    def megapixels(self) -> float:
        """Its size."""
        return self.width * self.height / 1e6

    @property
    def jpeg(self) -> dict[str, int]:
        """Its compression: a passing picture loses details that are not seen in motion."""
        if self.final:
            return {"quality": 88, "subsampling": 0}  # 4:4:4: coloured edges stay sharp
        return {"quality": 55, "subsampling": 2}


@dataclass(frozen=True)
class Stats:
    """What a client got in about a second.

    Attributes:
        fps: Frames per second.
        latency_ms: Median from a view being asked for to its first frame being painted; None if
            no frame was painted.
        scale: Of the last frame.
        width: Of the last frame.
        height: Of the last frame.
        kbytes: Kilobytes per second.
    """

    fps: float
    latency_ms: float | None
    scale: float
    width: int
    height: int
    kbytes: float


@dataclass(frozen=True)
class _Sent:
    """A frame on its way: its number, its request, its bytes, and when it was sent."""

    frame: int
    request: FrameRequest
    size: int
    at: float


@dataclass
class Cost:
    """The time of a frame by its megapixels: a fixed part, and one that grows with the pixels.

    Exponentially weighted means and covariance of the seconds and megapixels of the last frames
    give a line through their means (West 1979).
    """

    seconds: float | None = None
    megapixels: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    slope: float | None = None
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, seconds: float, megapixels: float) -> None:
        """Learns from a frame."""
        self.recent.append((min(seconds, AWAY), megapixels))
        seconds, megapixels = sorted(self.recent)[len(self.recent) // 2]
        if self.seconds is None:
            self.seconds, self.megapixels = seconds, megapixels
            return
        dx, dy = megapixels - self.megapixels, seconds - self.seconds
        self.megapixels += SMOOTHING * dx
        self.seconds += SMOOTHING * dy
        self.variance = (1 - SMOOTHING) * (self.variance + SMOOTHING * dx * dx)
        self.covariance = (1 - SMOOTHING) * (self.covariance + SMOOTHING * dx * dy)
        # Sizes that hardly differ say nothing about the slope: the slope learned before remains.
        if self.variance > (0.2 * self.megapixels) ** 2:
            self.slope = max(0.0, self.covariance / self.variance)
        elif self.slope is not None:
            self.slope *= FORGETTING

    def of(self, megapixels: float) -> float:
        """The expected seconds of a frame; 0 if nothing is known."""
        if self.seconds is None:
            return 0.0
        steepest = self.seconds / self.megapixels  # without a fixed part
        slope = steepest / 2 if self.slope is None else min(self.slope, steepest)
        return self.seconds + slope * (megapixels - self.megapixels)


class ClientSchedule:
    """The state of one client; see the table above. One thread at a time.

    Attributes:
        guest: Whether the client can only look.
        scale: Of its passing pictures.
        cost: Of its frames, from the begin of their making to their acknowledgement.
        rendering: Of its frames, the seconds of rendering alone.
        used: Seconds of rendering that it has had, as `Turns` counts them.
    """

    def __init__(self, *, guest: bool = False) -> None:
        """A client that has asked for nothing."""
        self.guest = guest
        self.scale = 1.0
        self.cost, self.rendering = Cost(), Cost()
        self.used = 0.0
        self._size: tuple[int, int] | None = None
        self._view = 0
        self._asked = -math.inf  # when the view was asked for
        self._shown: FrameRequest | None = None
        self._begun = -math.inf
        self._sent: deque[_Sent] = deque()
        self._painted = -math.inf  # when the last acknowledgement came
        self._paint_seconds = 0.0
        self._rescaled = -math.inf
        self._tally: list[tuple[_Sent, float]] = []  # the frames that were painted, and when
        self._counted: float | None = None  # when the tally was last read

    def see(self, width: int, height: int, now: float) -> None:
        """The client asks for another view than before, of this size in pixels."""
        self._size = (width, height)
        self._view += 1
        self._asked = now

    def see_differently(self, now: float) -> None:
        """The client asks for another mode: its pictures may take a quite different time."""
        self.rendering = Cost()
        if self._size is not None:
            self.see(*self._size, now)

    def due(self, version: int | None, *, limited: bool = False) -> float:
        """When the next picture is to be begun; infinity if not before something happens.

        Args:
            version: Of the scene as it is now; None without a scene.
            limited: Whether the client is a guest while another client steers.
        """
        if self._size is None or version is None or len(self._sent) >= self.credit:
            return math.inf
        if self._shown is None or self._shown.view != self._view:
            return -math.inf
        if not self._shown.final:
            return self._asked + SETTLE
        if self._shown.version != version:
            return self._begun + self.refresh
        return -math.inf if self._shown.limited and not limited else math.inf

    def next(
        self, version: int | None, now: float, *, limited: bool = False
    ) -> FrameRequest | None:
        """The picture to be made now, if there is one."""
        if self._size is None or version is None or now < self.due(version, limited=limited):
            return None
        final = self._shown is not None and self._shown.view == self._view
        self.scale = self.scale if final else self._fitting(now)
        scale = 1.0 if final else self.scale
        scale = min(scale, self._limited_scale()) if limited else scale
        width, height = self._sized(scale)
        self._begun = now
        return FrameRequest(
            self._view, version, final, scale, width, height, now, self._asked, limited
        )

    def settled(self, version: int | None) -> FrameRequest | None:
        """The final picture of the view and this version of the scene, if the client has it."""
        shown = self._shown
        if shown is None or not shown.final or (shown.view, shown.version) != (self._view, version):
            return None
        return shown

    def stale(self, request: FrameRequest) -> bool:
        """Whether this is a final picture of a view that the client has left."""
        return request.final and request.view != self._view

    def sent(self, request: FrameRequest, frame: int, size: int, now: float) -> None:
        """The picture is on its way, as frame number `frame` of `size` bytes."""
        self._shown = request
        self._sent.append(_Sent(frame, request, size, now))

    def failed(self, request: FrameRequest) -> None:
        """The picture cannot be made: no other one of this view and scene is tried."""
        self._shown = replace(request, final=True, limited=False)

    def acknowledge(self, frame: int, paint_seconds: float, now: float) -> bool:
        """The client has painted the frame and those before it; whether it was on its way."""
        if not any(sent.frame == frame for sent in self._sent):
            return False
        painted = self._sent.popleft()
        while painted.frame != frame:
            painted = self._sent.popleft()
        self._tally.append((painted, now))
        self.cost.add(now - max(painted.request.begun, self._painted), painted.request.megapixels)
        self._paint_seconds += SMOOTHING * (paint_seconds - self._paint_seconds)
        self._painted = now
        return True

    @property
    def credit(self) -> int:
        """Frames that may be on their way at once."""
        return 1 if self._paint_seconds > SLOW_PAINT else CREDIT

    @property
    def refresh(self) -> float:
        """Seconds between pictures of a still view while the scene changes."""
        if self._size is None:
            return REFRESH
        width, height = self._sized(1.0)
        return max(REFRESH, self.cost.of(width * height / 1e6) / WATCHING)

    @property
    def steers_until(self) -> float:
        """When the client stops to steer, if it asks for no other view."""
        return -math.inf if self.guest else self._asked + STEERING

    def looking(self, now: float) -> bool:
        """Whether the client seems to look: it asked for a view and acknowledges frames."""
        return self._size is not None and self._unanswered(now) < ABSENT

    def gone(self, now: float) -> bool:
        """Whether the client is to be given up."""
        return self._unanswered(now) >= SILENCE

    def stats(self, now: float) -> Stats | None:
        """What was painted since the last call; None if there was nothing."""
        since, self._counted = self._counted, now
        tally, self._tally = self._tally, []
        if since is None or now <= since or not tally:
            return None
        # A final picture is begun when its view has been still for a while: that is no latency.
        latencies = [at - s.request.asked for s, at in tally if not s.request.final]
        last = tally[-1][0].request
        return Stats(
            fps=round(len(tally) / (now - since), 1),
            latency_ms=round(1e3 * median(latencies), 1) if latencies else None,
            scale=last.scale,
            width=last.width,
            height=last.height,
            kbytes=round(sum(sent.size for sent, _ in tally) / 1024 / (now - since), 1),
        )

    def _unanswered(self, now: float) -> float:
        """Seconds that the oldest frame has been on its way."""
        return now - self._sent[0].at if self._sent else 0.0

    def _sized(self, scale: float) -> tuple[int, int]:
        """The size of a picture at that scale."""
        assert self._size is not None
        width, height = self._size
        scale *= min(1.0, math.sqrt((GUEST_PIXELS if self.guest else PIXELS) / (width * height)))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _expected(self, cost: Cost, scale: float) -> float:
        width, height = self._sized(scale)
        return cost.of(width * height / 1e6)

    def _limited_scale(self) -> float:
        """The largest scale that is rendered in `GUEST_SECONDS`; the smallest if none is known."""
        if self.rendering.seconds is None:
            return SCALES[-1]
        fitting = [s for s in SCALES if self._expected(self.rendering, s) <= GUEST_SECONDS]
        return max(fitting, default=SCALES[-1])

    def _fitting(self, now: float) -> float:
        """The scale at which a passing picture is quick enough."""

        def expected(scale: float) -> float:
            return self._expected(self.cost, scale)

        width, height = self._sized(1.0)
        limit = max(budget(width * height / 1e6), GAIN * expected(SCALES[-1]))
        if expected(self.scale) > SLACK * limit:
            smaller = [s for s in SCALES if s < self.scale and expected(s) <= limit]
            chosen = max(smaller, default=SCALES[-1])
        elif now - self._rescaled >= HOLD:
            price = max(MARGIN * limit, FREE * expected(self.scale))
            larger = [s for s in SCALES if s > self.scale and expected(s) <= price]
            chosen = max(larger, default=self.scale)
        else:
            return self.scale
        if chosen != self.scale:
            self._rescaled = now
        return chosen


def budget(megapixels: float) -> float:
    """Seconds that a frame of a view of that size may take."""
    (small, short), (large, long) = BUDGETS
    share = min(1.0, max(0.0, (megapixels - small) / (large - small)))
    return short + share * (long - short)
