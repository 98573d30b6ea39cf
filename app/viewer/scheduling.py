"""When a client gets which picture: the policy of the stream, as data and without a clock.

Times are seconds of any one clock and are passed in. What the client has decides what it gets:

| the client                                                  | gets                               |
|-------------------------------------------------------------|------------------------------------|
| has as many frames to acknowledge as it has credit          | nothing until it does              |
| asks for another view than it has                           | a passing picture, at once         |
| has a passing picture of the view, for `SETTLE` seconds     | the final one                      |
| has the final one of an older scene, for `refresh` seconds  | the final one of the scene now     |
| has the final one                                           | nothing until something changes    |

A passing picture is as large as is quick enough, the final one is whole and of good quality.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from statistics import median

CREDIT = 2
"""Frames under way at once: with one the server would wait while the client draws, and with three
each would be older by a frame when it is seen."""

SLOW_PAINT = 0.05
"""Seconds to decode and paint from which a client has a credit of one: it is what all wait for, and
a second frame would only grow old in its queue."""

SCALES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Of a passing picture's sides. Below a quarter nothing can be made out."""

BUDGETS = ((0.2304, 1 / 30), (0.9216, 1 / 12))
"""Megapixels of a client's view, and the seconds that a frame of it may take: 30 a second look
smooth at 640x360, and at 1280x720 and above 12 sharp ones are liked better than 30 blurred."""

SLACK = 1.25
"""So many times the budget must a frame take before a smaller scale is chosen: frames come when a
screen is drawn anew, 60 times a second, and this lies between two such times and three ..."""

MARGIN = 0.8
"""... and less than this part of it before a larger one is, lest it change to and fro."""

HOLD = 0.5
"""Seconds from a change of scale to the next larger one."""

GAIN = 1.25
"""A scale is not left for a smaller one that is not even this much quicker: most of its time does
not go by pixels."""

SETTLE = 0.15
"""Seconds without another view after which nobody moves: a hand on the mouse hesitates less."""

REFRESH = 0.4
"""Seconds from one picture of a still view to the next, while the scene is in training."""

WATCHING = 0.2
"""At most this part of the time goes into such pictures: training needs the processor more."""

ABSENT = 2.0
"""Seconds without an acknowledgement after which nobody seems to be looking."""

SILENCE = 30.0
"""Seconds without an acknowledgement after which a client is given up."""

PIXELS = 3840 * 2160
"""Of a whole picture at most: it is smaller than its view asks for where that has more."""

FREE = 1.1
"""A larger scale that takes at most so many times as long is always taken."""

AWAY = 2.0
"""Seconds that a frame can take in our estimate; after a longer time the client was elsewhere."""

WINDOW = 5
"""Frames of which the middle one counts: one or two hiccups do not."""

SMOOTHING = 0.4
"""Weight of the newest frame in the estimate: it follows in a few frames."""

FORGETTING = 0.99
"""What is left of a slope after each frame. What once was taken for the price of pixels is tried
anew within ten seconds, even by who never stands still."""


@dataclass(frozen=True)
class Order:
    """A picture to be made.

    Attributes:
        view: Number of the view it shows.
        version: Of the scene.
        final: Whether it is of good quality and stays; else it passes.
        scale: Of its sides, to those that the view asks for.
        width: In pixels.
        height: In pixels.
        begun: When it was ordered.
        asked: When the view was asked for.
    """

    view: int
    version: int
    final: bool
    scale: float
    width: int
    height: int
    begun: float
    asked: float

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
        """How it is compressed: what passes loses what is not seen in motion, half the bytes."""
        if self.final:
            return {"quality": 88, "subsampling": 0}  # 4:4:4: coloured edges stay sharp
        return {"quality": 55, "subsampling": 2}


@dataclass(frozen=True)
class Stats:
    """What a client got in about a second.

    Attributes:
        fps: Frames a second.
        latency_ms: From a view being asked for to its first frame being painted, the median; None
            if none was.
        scale: Of the last frame.
        width: Of the last frame.
        height: Of the last frame.
        kbytes: Kilobytes a second.
    """

    fps: float
    latency_ms: float | None
    scale: float
    width: int
    height: int
    kbytes: float


@dataclass(frozen=True)
class _Sent:
    """A frame on its way: its number, what it is, its bytes, and since when."""

    frame: int
    order: Order
    size: int
    at: float


@dataclass
class Cost:
    """What a frame of so many megapixels takes: a fixed part, and one that goes by pixels.

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
        """Learns of a frame."""
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
        # Sizes that are all but the same say nothing of it, and what was learned before remains.
        if self.variance > (0.2 * self.megapixels) ** 2:
            self.slope = max(0.0, self.covariance / self.variance)
        elif self.slope is not None:
            self.slope *= FORGETTING

    def of(self, megapixels: float) -> float:
        """The seconds that a frame is expected to take; 0 if nothing is known."""
        if self.seconds is None:
            return 0.0
        steepest = self.seconds / self.megapixels  # nothing would be fixed
        slope = steepest / 2 if self.slope is None else min(self.slope, steepest)
        return self.seconds + slope * (megapixels - self.megapixels)


class Pace:
    """The state of one client; see the table above. One thread at a time."""

    def __init__(self) -> None:
        """A client that has asked for nothing."""
        self.scale = 1.0
        self.cost = Cost()
        self._size: tuple[int, int] | None = None
        self._view = 0
        self._asked = -math.inf  # when the view was asked for
        self._shown: Order | None = None
        self._begun = -math.inf
        self._sent: deque[_Sent] = deque()
        self._painted = -math.inf  # when the last acknowledgement came
        self._paint_seconds = 0.0
        self._rescaled = -math.inf
        self._tally: list[tuple[_Sent, float]] = []  # what was painted, and when
        self._counted: float | None = None  # when that was last looked at

    def see(self, width: int, height: int, now: float) -> None:
        """The client asks for another view than before, of so many pixels."""
        self._size = (width, height)
        self._view += 1
        self._asked = now

    def due(self, version: int | None) -> float:
        """When the next picture is to be begun; infinity if not before something happens.

        Args:
            version: Of the scene as it is now; None without one.
        """
        if self._size is None or version is None or len(self._sent) >= self.credit:
            return math.inf
        if self._shown is None or self._shown.view != self._view:
            return -math.inf
        if not self._shown.final:
            return self._asked + SETTLE
        return math.inf if self._shown.version == version else self._begun + self.refresh

    def next(self, version: int | None, now: float) -> Order | None:
        """The picture to be made now, if there is one."""
        if self._size is None or version is None or now < self.due(version):
            return None
        final = self._shown is not None and self._shown.view == self._view
        self.scale = self.scale if final else self._fitting(now)
        scale = 1.0 if final else self.scale
        width, height = self._sized(scale)
        self._begun = now
        return Order(self._view, version, final, scale, width, height, now, self._asked)

    def settled(self, version: int | None) -> Order | None:
        """The final picture of the view and that scene, if the client has it."""
        shown = self._shown
        if shown is None or not shown.final or (shown.view, shown.version) != (self._view, version):
            return None
        return shown

    def stale(self, order: Order) -> bool:
        """Whether the client asks for another view by now, so that a final picture is not it."""
        return order.final and order.view != self._view

    def sent(self, order: Order, frame: int, size: int, now: float) -> None:
        """The picture is on its way, as frame number `frame` of `size` bytes."""
        self._shown = order
        self._sent.append(_Sent(frame, order, size, now))

    def failed(self, order: Order) -> None:
        """The picture cannot be made: none of this view and scene is tried again."""
        self._shown = replace(order, final=True)

    def acknowledge(self, frame: int, paint_seconds: float, now: float) -> bool:
        """The client has painted the frame, and those before it; whether it was on its way."""
        if not any(sent.frame == frame for sent in self._sent):
            return False
        painted = self._sent.popleft()
        while painted.frame != frame:
            painted = self._sent.popleft()
        self._tally.append((painted, now))
        self.cost.add(now - max(painted.order.begun, self._painted), painted.order.megapixels)
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

    def looking(self, now: float) -> bool:
        """Whether somebody seems to look: a view was asked for, and frames are acknowledged."""
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
        # A final picture is begun when its view has been seen for a while: that is no latency.
        latencies = [at - sent.order.asked for sent, at in tally if not sent.order.final]
        last = tally[-1][0].order
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
        scale *= min(1.0, math.sqrt(PIXELS / (width * height)))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _fitting(self, now: float) -> float:
        """The scale at which a passing picture is quick enough."""

        def expected(scale: float) -> float:
            width, height = self._sized(scale)
            return self.cost.of(width * height / 1e6)

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
