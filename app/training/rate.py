"""The rate of a training's steps, and the time that is left."""

from collections import deque

RATE_SECONDS = 5.0
"""The rate is measured over this time: long enough to be steady, short enough to follow changes."""

WARM_PART, WARM_STEPS, LEFT_SECONDS = 50, 200, 2.0
"""The first steps say little about the others, since they decode photos and fill caches: one
part in `WARM_PART` of all steps, or `WARM_STEPS` if that is fewer. The time left is known as soon
as the steps after these took `LEFT_SECONDS`, or are as many as these."""


class StepRate:
    """The rate of the last steps, and the time that the remaining steps will take.

    Attributes:
        rate: Steps per second over the last `RATE_SECONDS`; None before the second step.
        left: Seconds to the last step; None until enough steps were measured.
    """

    def __init__(self, warm: int = 0) -> None:
        """A rate before the first step; at least `warm` steps are not counted for the time left."""
        self.rate: float | None = None
        self.left: float | None = None
        self._warm, self._first = warm, -1
        self._measured: int | None = None  # the step from which on the time left is measured
        self._recent: deque[tuple[float, int]] = deque()

    def add(self, step: int, steps: int, seconds: float) -> None:
        """Adds a step: its number, the number of all steps, and the time at its end."""
        self._first = step if self._first < 0 else self._first
        self._recent.append((seconds, step))
        while len(self._recent) > 2 and seconds - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()
        (start, first), part = self._recent[0], min(steps // WARM_PART, WARM_STEPS)
        if seconds > start:
            self.rate = (step - first) / (seconds - start)
        if self._measured is None:
            if step - self._first >= max(self._warm, part):
                self._measured = step
                self._recent = deque([(seconds, step)])
        elif self.rate and (seconds - start >= LEFT_SECONDS or step - self._measured >= part):
            self.left = (steps - step) / self.rate
