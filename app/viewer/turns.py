"""Which client gets the next picture: the policy between clients, as data without a clock.

Rendering time is shared by seconds, and clients in control come before guests:

| a client in control                                         | guests                             |
|-------------------------------------------------------------|------------------------------------|
| steers: it asked for a view less than `STEERING` s ago      | share `GUEST_SHARE` of the time    |
| begins to steer while a guest's picture is made             | the picture gives way              |
| has a picture due without steering                          | wait until it is made              |
| has no picture due                                          | share all of the time              |
"""

import math
from collections.abc import Sequence

from lumigraph.app.viewer.scheduling import GUEST_SECONDS, ClientSchedule, FrameRequest

GUEST_SHARE = 0.1
"""The part of the rendering time that all guests share while a client steers: this part of the
frames is lost at most, and the guests still see something."""


class Turns:
    """Decides which client gets the next picture; see the table above. One thread at a time.

    Clients of one kind take turns by start-time fair queueing (Goyal et al. 1996): the one that has
    used the fewest seconds is next, and one that comes back after a rest gets nothing for it.

    Attributes:
        saved: Seconds of rendering that guests may take while a client steers; below 0 they wait.
    """

    def __init__(self) -> None:
        """No client has had a picture yet."""
        self.saved = 0.0
        self._now = math.inf  # when `saved` was brought up to date
        self._floor = {False: 0.0, True: 0.0}  # by `guest`: what the last one had used by its turn

    def steering(self, schedules: Sequence[ClientSchedule], now: float) -> bool:
        """Whether a client in control steers."""
        return any(now < each.steers_until and each.looking(now) for each in schedules)

    def free_at(self, schedules: Sequence[ClientSchedule], now: float) -> float:
        """When guests may use the processor, as things are now; `now` or earlier if at once."""
        self._save(now)
        if self.saved >= 0 or not self.steering(schedules, now):
            return now
        ends = max(each.steers_until for each in schedules)
        return min(ends, now - self.saved / GUEST_SHARE)

    def next(
        self, schedules: Sequence[ClientSchedule], version: int | None, now: float
    ) -> tuple[ClientSchedule, FrameRequest] | None:
        """The client that has its turn, and the picture to be made for it; None if none is due."""
        steering, free = self.steering(schedules, now), self.free_at(schedules, now) <= now
        ready = [
            each
            for each in schedules
            if each.due(version, limited=each.guest and steering) <= now
            and (free or not each.guest)
        ]
        if not ready:
            return None
        # While a client steers, guests who may have a picture have waited for their share.
        used = [(each.guest != steering, self._start(each)) for each in ready]
        chosen = ready[used.index(min(used))]
        chosen.used = self._floor[chosen.guest] = self._start(chosen)
        request = chosen.next(version, now, limited=chosen.guest and steering)
        return None if request is None else (chosen, request)

    def spend(
        self,
        schedule: ClientSchedule,
        seconds: float,
        *,
        limited: bool,
        megapixels: float | None = None,
    ) -> None:
        """The client has used seconds of the processor.

        Args:
            schedule: Of the client.
            seconds: The time that was used.
            limited: Whether it was used by a guest, or for one, while a client steered.
            megapixels: Of the picture that was made; None if none was finished.
        """
        schedule.used += seconds
        if megapixels is not None:
            schedule.rendering.add(seconds, megapixels)
        if limited:
            self.saved -= seconds

    def due(self, schedules: Sequence[ClientSchedule], version: int | None, now: float) -> float:
        """When the next picture is due if nothing changes until then."""
        if not self.steering(schedules, now):
            return min((each.due(version) for each in schedules), default=math.inf)
        free, ends = self.free_at(schedules, now), max(each.steers_until for each in schedules)
        # A guest's picture is limited while a client steers, and may be due anew after that.
        return min(
            min(max(each.due(version, limited=True), free), max(each.due(version), ends))
            if each.guest
            else each.due(version)
            for each in schedules
        )

    def _start(self, schedule: ClientSchedule) -> float:
        return max(schedule.used, self._floor[schedule.guest])

    def _save(self, now: float) -> None:
        """Saves up the guests' share of the time since the last call."""
        passed, self._now = max(0.0, now - self._now), now
        self.saved = min(GUEST_SECONDS, self.saved + GUEST_SHARE * passed)
