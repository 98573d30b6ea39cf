"""What a client of the stream may ask for: text from outside, read field by field.

Whatever is malformed or unknown is no wish: it is dropped, and costs the client nothing else.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch

from lumigraph.app.viewer.picture import ColorMap, Look, Mode
from lumigraph.render import Camera

TEXT_LIMIT = 64 << 10
"""Characters of a message; a camera has 400."""

SIDE = 8192
"""The largest side of a picture: a wall of four 4K screens has it."""

FAR = 1e9
"""The largest coordinate, and the largest end of a range, in the units of the scene."""

SKEW = 1e-3
"""How far the products of a rotation's rows may be from 0 and 1: a page computes in 64 bits, but
may send fewer digits."""

WORD, NAME, STRING = 100, 255, 4096
"""Characters of a control's id, of a file's name, and of a control's value."""

COUNT = 2**32 - 1
"""The largest number of a view, a frame or a camera: it is sent back in 32 bits."""

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class View:
    """A camera to look through.

    Attributes:
        matrix: Upper three rows of world-to-camera, OpenCV axes, in the scene's frame.
        fov: Vertical field of view in radians.
        center: Principal point, in parts of the width and the height.
        stretch: Horizontal over vertical focal length; 1 where pixels are square.
        width: Of the picture at full scale, in pixels.
        height: Of the picture at full scale, in pixels.
    """

    matrix: tuple[float, ...]
    fov: float
    center: tuple[float, float]
    width: int
    height: int
    stretch: float = 1.0

    def camera(self, width: int, height: int, near: float) -> Camera:
        """The camera for a picture of another size, which draws nothing nearer than `near`."""
        rows = torch.tensor([*self.matrix, 0, 0, 0, 1], dtype=torch.float64).view(4, 4)
        focal = height / 2 / math.tan(self.fov / 2)
        center = (self.center[0] * width, self.center[1] * height)
        # Sides are rounded: what is square on the client's screen is square at its size.
        across = focal * self.stretch * (width / height) / (self.width / self.height)
        return Camera(rows, (across, focal), center, width, height, near)


@dataclass(frozen=True)
class Move:
    """The client looks through another camera, which it calls by that number.

    What the message says of a hand that is still moving it is not read: when a view is still is
    decided by how long it has been the same.
    """

    id: int
    view: View


@dataclass(frozen=True)
class Ack:
    """A frame was painted, so many seconds after it had come."""

    frame: int
    seconds: float


@dataclass(frozen=True)
class Do:
    """A control was used."""

    id: str
    value: Scalar


@dataclass(frozen=True)
class SeePhoto:
    """The photo of a camera of the capture is wanted, by the camera's number."""

    index: int


@dataclass(frozen=True)
class Probe:
    """The numbers of a pixel are wanted.

    Attributes:
        place: In parts of the picture's width and height; None if of none any more.
    """

    place: tuple[float, float] | None


@dataclass(frozen=True)
class SendFile:
    """A file of so many bytes will come in pieces."""

    name: str
    size: int


Wish = Move | Ack | Look | Do | SeePhoto | Probe | SendFile


def parse(text: str) -> Wish | None:
    """What a message asks for; None if it is not one of the protocol's."""
    if len(text) > TEXT_LIMIT:
        return None
    try:
        message = json.loads(text)
        read = _READERS[message["t"]]
        return read(message)
    # Of JSON that is none or nests too deep, fields that lack, and checks that fail.
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _move(message: dict[str, Any]) -> Move:
    rows = _numbers(message["matrix"], 12, -FAR, FAR)
    for i in range(3):
        for k in range(i, 3):
            product = sum(rows[4 * i + n] * rows[4 * k + n] for n in range(3))
            _check(abs(product - (i == k)) <= SKEW)
    a, b, c = (rows[4 * i : 4 * i + 3] for i in range(3))
    volume = sum(a[n] * (b[n - 2] * c[n - 1] - b[n - 1] * c[n - 2]) for n in range(3))
    _check(volume > 0)  # not mirrored
    fov = _number(message["fov"], 0.01, 3.0)
    u, v = _numbers(message.get("center", [0.5, 0.5]), 2, -10, 10)
    width, height = (_whole(message[side], 1, SIDE) for side in ("width", "height"))
    stretch = _number(message.get("stretch", 1.0), 0.1, 10)
    view = View(rows, fov, (u, v), width, height, stretch)
    return Move(_whole(message["id"], 0, COUNT), view)


def _ack(message: dict[str, Any]) -> Ack:
    seconds = _number(message["ms"], 0, 1e9) / 1e3
    return Ack(_whole(message["frame"], 0, COUNT), seconds)


def _look(message: dict[str, Any]) -> Look:
    mode, color_map = message["mode"], message["map"]
    _check(mode in get_args(Mode) and color_map in get_args(ColorMap))
    ends = (message.get("low"), message.get("high"))
    low, high = (None if end is None else _number(end, -FAR, FAR) for end in ends)
    behind = message["background"]
    if behind is not None:
        red, green, blue = _numbers(behind, 3, 0, 1)
        behind = (red, green, blue)
    over = _number(message.get("over", 0.0), 0, 1)
    threshold = _number(message.get("threshold", 0.0), 0, FAR)
    return Look(mode, color_map, low, high, behind, over, threshold)


def _do(message: dict[str, Any]) -> Do:
    value = message["value"]
    match value:
        case None | bool():
            pass
        case int() | float():
            _number(value, -1e300, 1e300)
        case _:
            _text(value, 0, STRING)
    return Do(_text(message["id"], 1, WORD), value)


def _photo(message: dict[str, Any]) -> SeePhoto:
    return SeePhoto(_whole(message["frame"], 0, COUNT))


def _probe(message: dict[str, Any]) -> Probe:
    x, y = message["x"], message["y"]
    if x is None and y is None:
        return Probe(None)
    return Probe((_number(x, 0, 1), _number(y, 0, 1)))


def _upload(message: dict[str, Any]) -> SendFile:
    return SendFile(_text(message["name"], 1, NAME), _whole(message["size"], 0, 2**53))


_READERS: dict[str, Callable[[dict[str, Any]], Wish]] = {
    "camera": _move,
    "ack": _ack,
    "look": _look,
    "do": _do,
    "photo": _photo,
    "probe": _probe,
    "upload": _upload,
}


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError


def _number(value: Any, low: float, high: float) -> float:
    """A finite number in the range; comparing says no to NaN and to integers beyond floats."""
    _check(isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high)
    return float(value)


def _numbers(values: Any, count: int, low: float, high: float) -> tuple[float, ...]:
    _check(isinstance(values, list) and len(values) == count)
    return tuple(_number(value, low, high) for value in values)


def _whole(value: Any, low: int, high: int) -> int:
    _check(isinstance(value, int))
    return int(_number(value, low, high))


def _text(value: Any, shortest: int, longest: int) -> str:
    _check(isinstance(value, str) and shortest <= len(value) <= longest)
    return value
