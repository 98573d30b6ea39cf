"""The policy between clients: a table of who is next, and laws of what others can take from one."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from lumigraph.app.viewer.scheduling import (
    GUEST_PIXELS,
    GUEST_SECONDS,
    SCALES,
    SETTLE,
    STEERING,
    ClientSchedule,
    FrameRequest,
)
from lumigraph.app.viewer.turns import GUEST_SHARE, Turns

SIZE = (640, 360)
FRAME = 1 / 60
"""Seconds between the views of a hand that moves, as a screen draws them."""

ACK, STOP = 0.005, 0.002
"""Seconds from a picture that is sent to its acknowledgement, and until a stopped picture ends."""


@dataclass(eq=False)
class Simulated:
    """A client that moves its view all the time, or never, and acknowledges at once.

    Attributes:
        cost: Seconds of rendering by megapixels.
        frames: The pictures that it got, with the moments when they were sent.
    """

    cost: Callable[[float], float]
    guest: bool = False
    moves: bool = True
    size: tuple[int, int] = SIZE
    schedule: ClientSchedule = field(init=False)
    frames: list[tuple[float, FrameRequest]] = field(default_factory=list)
    acks: list[tuple[float, int]] = field(default_factory=list)
    asks: float = 0.0

    def __post_init__(self) -> None:
        self.schedule = ClientSchedule(guest=self.guest)

    def next_event(self) -> float:
        """When it asks or acknowledges next."""
        return min([self.asks, *(at for at, _ in self.acks)])

    def happen(self, now: float) -> None:
        """Asks and acknowledges what is due."""
        while self.acks and self.acks[0][0] <= now:
            at, frame = self.acks.pop(0)
            self.schedule.acknowledge(frame, 0.002, at)
        if self.asks <= now:
            self.schedule.see(*self.size, now)
            self.asks = now + FRAME if self.moves else math.inf


def run(clients: list[Simulated], seconds: float, turns: Turns | None = None) -> None:
    """Serves the clients as the renderer does, on a clock that goes as told."""
    turns, now, schedules = turns or Turns(), 0.0, [client.schedule for client in clients]
    while now < seconds:
        for client in clients:
            client.happen(now)
        turn = turns.next(schedules, 1, now)
        if turn is None:
            moments = [*(client.next_event() for client in clients), turns.due(schedules, 1, now)]
            now = max(now + 1e-6, min(moments))
            continue
        client, request = next(c for c in clients if c.schedule is turn[0]), turn[1]
        took, stopped = client.cost(request.megapixels), False
        if client.guest and not request.limited:
            ask = min((c.asks for c in clients if not c.guest), default=math.inf)
            if stopped := ask + STOP < now + took:
                took = max(ask - now, 0.0) + STOP
        now += took
        done = None if stopped else request.megapixels
        limited = client.guest and request.limited
        turns.spend(client.schedule, took, limited=limited, megapixels=done)
        if not stopped:
            client.frames.append((now, request))
            client.schedule.sent(request, len(client.frames), 1000, now)
            client.acks.append((now + ACK, len(client.frames)))


def fast(megapixels: float) -> float:
    """Colours: a fixed part and one for the pixels."""
    return 0.003 + 0.01 * megapixels


def slow(megapixels: float) -> float:
    """Uncertainty: 0.4 s at 640x360."""
    return 0.02 + 1.65 * megapixels


# The table ------------------------------------------------------------------------------------


def asked(*, guest: bool, now: float = 0.0) -> ClientSchedule:
    """A client that asks for a view."""
    schedule = ClientSchedule(guest=guest)
    schedule.see(*SIZE, now)
    return schedule


def test_a_client_in_control_comes_first():
    guest, control = asked(guest=True), asked(guest=False, now=-10.0)
    turns = Turns()
    assert not turns.steering([guest, control], 0.0)
    turn = turns.next([guest, control], 1, 0.0)
    assert turn is not None
    assert turn[0] is control
    for frame in (1, 2):  # the passing one and, as it was asked for long ago, the final one
        turn = turns.next([guest, control], 1, 0.0)
        assert turn is not None
        assert turn[0] is control
        control.sent(turn[1], frame, 1000, 0.0)
        control.acknowledge(frame, 0.0, 0.0)
    turn = turns.next([guest, control], 1, 0.0)
    assert turn is not None
    assert turn[0] is guest
    assert not turn[1].limited


def test_guests_wait_for_their_share_while_a_client_steers():
    guest, control, turns = asked(guest=True), asked(guest=False), Turns()
    assert turns.steering([guest, control], 0.0)
    turn = turns.next([guest, control], 1, 0.0)
    assert turn is not None, "a guest that has taken nothing has its share"
    assert turn[0] is guest
    assert turn[1].limited
    assert turn[1].scale == SCALES[-1], "nothing is known of the cost"
    turns.spend(guest, 0.04, limited=True, megapixels=turn[1].megapixels)
    for _ in range(2):
        turn = turns.next([guest, control], 1, 0.0)
        assert turn is not None
        assert turn[0] is control
    control.sent(turn[1], 1, 1000, 0.0)
    assert turns.next([guest], 1, 0.0) is not None, "nobody steers without the one in control"
    assert turns.free_at([guest, control], 0.0) == pytest.approx(0.04 / GUEST_SHARE)
    turn = turns.next([guest, control], 1, 0.04 / GUEST_SHARE + 1e-9)
    assert turn is not None
    assert turn[0] is guest


def test_guests_have_all_the_time_again_when_no_client_steers():
    guest, control, turns = asked(guest=True), asked(guest=False), Turns()
    turns.spend(guest, 1.0, limited=True)
    assert turns.free_at([guest, control], 0.0) == STEERING
    assert turns.free_at([guest, control], STEERING) == STEERING
    assert turns.due([guest], 1, 0.0) == -math.inf


def test_requests_of_a_guest_are_not_steering():
    guests = [asked(guest=True) for _ in range(3)]
    assert not Turns().steering(guests, 0.0)


# Laws -----------------------------------------------------------------------------------------

SECONDS = 20.0


def alone() -> int:
    """The pictures of a client in control who moves and is alone."""
    control = Simulated(fast)
    run([control], SECONDS)
    return len(control.frames)


@pytest.mark.parametrize("moves", [True, False], ids=["moving", "still"])
@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("cost", [fast, slow, lambda mp: 10 * slow(mp)], ids=["1", "100", "1000"])
def test_guests_take_little_time_from_the_client_that_steers(cost, count: int, moves: bool):
    control = Simulated(fast)
    guests = [Simulated(cost, guest=True, moves=moves) for _ in range(count)]
    run([control, *guests], SECONDS)
    # At the smallest scale a guest's picture may take longer than its part; it is paid back.
    smallest = cost(SCALES[-1] ** 2 * SIZE[0] * SIZE[1] / 1e6)
    over = max(0.0, smallest - GUEST_SECONDS) / SECONDS
    assert len(control.frames) >= (1 - GUEST_SHARE - 0.02 - over) * alone()
    taken = sum(guest.schedule.used for guest in guests)
    assert taken <= GUEST_SHARE * SECONDS + GUEST_SECONDS + smallest + 1e-9


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("cost", [fast, slow])
def test_no_guest_starves_while_a_client_steers(cost, count: int):
    control = Simulated(fast)
    guests = [Simulated(cost, guest=True) for _ in range(count)]
    run([control, *guests], SECONDS)
    for guest in guests:
        times = [0.0, *(at for at, _ in guest.frames), SECONDS]
        longest = max(b - a for a, b in pairwise(times))
        taken = cost(SCALES[-1] ** 2 * SIZE[0] * SIZE[1] / 1e6) + GUEST_SECONDS
        assert longest <= (count + 1) * taken / GUEST_SHARE


@pytest.mark.parametrize("guest", [True, False])
def test_clients_of_one_kind_share_by_seconds(guest: bool):
    quick, costly = Simulated(fast, guest=guest), Simulated(slow, guest=guest)
    run([quick, costly], SECONDS)
    assert quick.schedule.used <= costly.schedule.used + 2 * slow(SIZE[0] * SIZE[1] / 1e6)
    longest = max(b - a for (a, _), (b, _) in pairwise(quick.frames))
    assert longest <= slow(SIZE[0] * SIZE[1] / 1e6) + 0.1
    assert len(costly.frames) > 0.2 * SECONDS


@pytest.mark.parametrize("guest", [False, True])
def test_a_client_that_returns_gets_no_credit_for_its_rest(guest: bool):
    first, second = Simulated(slow, guest=guest), Simulated(slow, guest=guest)
    second.asks = 10.0
    run([first, second], 20.0)
    assert not any(at < 10.0 for at, _ in second.frames)
    picture = slow(SIZE[0] * SIZE[1] / 1e6)
    assert first.schedule.used == pytest.approx(15.0, abs=2 * picture)
    assert second.schedule.used == pytest.approx(15.0, abs=2 * picture), "counted from the other's"


def test_a_limited_picture_is_rendered_in_full_when_no_client_steers():
    control, guest = Simulated(fast), Simulated(slow, guest=True, moves=False)
    turns = Turns()
    run([control, guest], 5.0, turns)
    assert all(request.limited for _, request in guest.frames)
    assert guest.frames[-1][1].scale < 1
    control.asks = math.inf
    schedules = [control.schedule, guest.schedule]
    guest.happen(6.0)
    control.happen(6.0)
    turn = turns.next(schedules, 1, 6.0)
    while turn is not None and turn[0] is control.schedule:
        control.schedule.sent(turn[1], 10**6, 1000, 6.0)
        control.schedule.acknowledge(10**6, 0.0, 6.0)
        turn = turns.next(schedules, 1, 6.0)
    assert turn is not None
    assert turn[0] is guest.schedule
    assert turn[1].final
    assert turn[1].whole
    assert not turn[1].limited
    guest.schedule.sent(turn[1], 10**6, 1000, 6.0)
    guest.schedule.acknowledge(10**6, 0.0, 6.0)
    assert guest.schedule.due(1) == math.inf
    assert guest.schedule.due(1, limited=True) == math.inf


def test_a_guest_has_no_more_pixels_than_a_screen_has():
    for guest, most in ((True, GUEST_PIXELS), (False, 3840 * 2160)):
        schedule = ClientSchedule(guest=guest)
        schedule.see(3840, 2160, 0.0)
        request = schedule.next(1, 0.0)
        assert request is not None
        assert request.width * request.height <= most * 1.001
        assert request.width / request.height == pytest.approx(16 / 9, rel=1e-3)


def test_due_is_the_moment_of_the_next_picture():
    """A renderer that sleeps until `due` misses nothing: at that moment there is a picture."""
    control, guest, turns = asked(guest=False), asked(guest=True), Turns()
    schedules = [control, guest]
    turns.spend(guest, 0.02, limited=True)
    turn = turns.next(schedules, 1, 0.0)
    assert turn is not None
    control.sent(turn[1], 1, 1000, 0.0)
    control.acknowledge(1, 0.0, 0.0)
    now, moments = 0.0, []
    for frame in (2, 3):
        assert turns.next(schedules, 1, now) is None
        now = turns.due(schedules, 1, now)
        assert turns.next(schedules, 1, now - 1e-6) is None
        turn = turns.next(schedules, 1, now)
        assert turn is not None
        moments.append((turn[0], pytest.approx(now)))
        turn[0].sent(turn[1], frame, 1000, now)
        turn[0].acknowledge(frame, 0.0, now)
        turns.spend(turn[0], 0.02, limited=turn[1].limited)
    assert moments == [(control, SETTLE), (guest, 0.02 / GUEST_SHARE)]
    assert turns.due(schedules, 1, now) == pytest.approx(now + 0.02 / GUEST_SHARE)
