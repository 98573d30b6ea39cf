"""The messages that browsers may send, to our stream and to viser, and the checks of every field.

A message that is malformed, unknown or not allowed for a role is dropped; the client stays
connected. msgspec checks kinds, ranges and lengths while it decodes.
"""

import math
from collections.abc import Callable
from operator import mul
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta, Struct

from lumigraph.render import Camera

TEXT_LIMIT = 64 << 10
"""Characters of a message of the stream; a camera has 400."""

SIDE = 8192
"""The largest side of a picture in pixels: a wall of four 4K screens has it."""

FAR = 1e9
"""The largest coordinate, and the largest end of a range, in the units of the scene."""

SKEW = 1e-3
"""How far the products of a rotation's rows may be from 0 and 1: a page computes in 64 bits, but
may send fewer digits."""

Coordinate = Annotated[float, Meta(ge=-FAR, le=FAR)]
Share = Annotated[float, Meta(ge=0, le=1)]
Pixels = Annotated[int, Meta(ge=1, le=SIDE)]
Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]
"""The number of a view, a frame or a camera: it is sent back in 32 bits."""

DisplayColor = tuple[Share, Share, Share]
Mode = Literal[
    "color", "depth", "opacity", "normals", "centers", "ellipses", "uncertainty", "confidence"
]
ColorMap = Literal["turbo", "viridis", "gray"]
Scalar = (
    bool
    | Annotated[int, Meta(ge=-(2**53), le=2**53)]
    | Annotated[float, Meta(ge=-1e300, le=1e300)]
    | Annotated[str, Meta(max_length=4096)]
    | None
)
"""The value of a control."""


# Messages of the stream, in JSON ------------------------------------------------------------------


class ClientCamera(Struct, frozen=True):
    """The camera that a client looks through.

    Attributes:
        matrix: Upper three rows of world-to-camera, OpenCV axes, in the scene's frame.
        fov: Vertical field of view in radians.
        width: Of the picture at full scale, in pixels.
        height: Of the picture at full scale, in pixels.
        center: Principal point, in parts of the width and the height.
        stretch: Horizontal over vertical focal length; 1 where pixels are square.
    """

    matrix: Annotated[tuple[Coordinate, ...], Meta(min_length=12, max_length=12)]
    fov: Annotated[float, Meta(ge=0.01, le=3.0)]
    width: Pixels
    height: Pixels
    center: tuple[Annotated[float, Meta(ge=-10, le=10)], Annotated[float, Meta(ge=-10, le=10)]] = (
        0.5,
        0.5,
    )
    stretch: Annotated[float, Meta(ge=0.1, le=10)] = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError unless the matrix holds a rotation without a reflection."""
        a, b, c = rows = [self.matrix[i : i + 3] for i in (0, 4, 8)]
        for i, row in enumerate(rows):
            for k, other in enumerate(rows):
                product = sum(map(mul, row, other))
                if abs(product - (i == k)) > SKEW:
                    raise ValueError("The camera's matrix should hold a rotation")
        if sum(a[n] * (b[n - 2] * c[n - 1] - b[n - 1] * c[n - 2]) for n in range(3)) <= 0:
            raise ValueError("The camera's matrix should hold a rotation, but reflects the scene")

    def camera(self, width: int, height: int, near: float) -> Camera:
        """The camera for a picture of another size, which draws nothing nearer than `near`."""
        rows = torch.tensor([*self.matrix, 0, 0, 0, 1], dtype=torch.float64).view(4, 4)
        focal = height / 2 / math.tan(self.fov / 2)
        center = (self.center[0] * width, self.center[1] * height)
        # Sides are rounded: what is square on the client's screen is square at its size.
        across = focal * self.stretch * (width / height) / (self.width / self.height)
        return Camera(rows, (across, focal), center, width, height, near)


class CameraMessage(Struct, frozen=True, tag="camera", tag_field="t"):
    """The client looks through another camera, which it calls by the number `id`."""

    id: Count
    view: ClientCamera


class Ack(Struct, frozen=True, tag="ack", tag_field="t"):
    """The client has painted a frame, `ms` milliseconds after the frame had come."""

    frame: Count
    ms: Annotated[float, Meta(ge=0, le=1e9)]


class DisplayOptions(Struct, frozen=True, tag="display", tag_field="t"):
    """What a client wants to see of a scene.

    Attributes:
        mode: The quantity that is shown.
        color_map: The colours of a quantity that is one number per pixel.
        low: The number that has the map's first colour; None takes it from the picture.
        high: The number that has the map's last colour; None takes it from the picture.
        background: The colour behind the splats; None is the scene's own.
        over: How much of the colours is laid over the uncertainty.
        threshold: Pixels with less uncertainty than this are shown in their colours.
    """

    mode: Mode = "color"
    color_map: ColorMap = msgspec.field(default="turbo", name="map")
    low: Coordinate | None = None
    high: Coordinate | None = None
    background: DisplayColor | None = None
    over: Share = 0.0
    threshold: Annotated[float, Meta(ge=0, le=FAR)] = 0.0

    @property
    def behind(self) -> DisplayColor:
        """The background; black if none is chosen."""
        return self.background or (0.0, 0.0, 0.0)


class ControlMessage(Struct, frozen=True, tag="control", tag_field="t"):
    """A control of the page was used."""

    id: Annotated[str, Meta(min_length=1, max_length=100)]
    value: Scalar


class PhotoRequest(Struct, frozen=True, tag="photo", tag_field="t"):
    """The client wants the photo of a camera of the capture, by the camera's number."""

    camera: Count


class PixelRequest(Struct, frozen=True, tag="pixel", tag_field="t"):
    """The client wants the numbers of the pixel under its cursor.

    Attributes:
        x: In parts of the picture's width; None when the cursor has left the picture.
        y: In parts of the picture's height; None exactly where `x` is.
    """

    x: Share | None
    y: Share | None

    def __post_init__(self) -> None:
        """Raises ValueError if only one coordinate is given."""
        if (self.x is None) != (self.y is None):
            raise ValueError("The cursor needs both coordinates or neither")

    @property
    def place(self) -> tuple[float, float] | None:
        """Both coordinates; None when the cursor has left the picture."""
        return None if self.x is None or self.y is None else (self.x, self.y)


class UploadRequest(Struct, frozen=True, tag="upload", tag_field="t"):
    """A file of `size` bytes will come in pieces. One of no bytes is refused in words, later."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    size: Annotated[int, Meta(ge=0, le=2**53)]


ClientMessage = (
    CameraMessage
    | Ack
    | DisplayOptions
    | ControlMessage
    | PhotoRequest
    | PixelRequest
    | UploadRequest
)
_DECODER = msgspec.json.Decoder(ClientMessage)


def parse(text: str) -> ClientMessage | None:
    """The message in a text; None if the text is not one of the protocol's messages."""
    if len(text) > TEXT_LIMIT:
        return None
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None


# Messages to viser, in msgpack --------------------------------------------------------------------
# viser itself believes what a client sends: it would set any attribute of a control, pass on a
# camera of infinite size, keep uploads of any length, and open a public tunnel. So only the
# messages below pass, and each is encoded anew from the decoded fields: viser cannot read it in
# another way than we did, as it could a key that comes twice.

Real = Annotated[float, Meta(ge=-1e15, le=1e15)]
"""A finite number; its square fits into 32 bits of float."""

Whole = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Word = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]
ViserSide = Annotated[float, Meta(ge=1, le=SIDE)]
Point = tuple[Real, Real, Real]
Item = bool | Whole | Real | Text | None
Items = Annotated[list[Item], Meta(max_length=16)]


class ViserCamera(Struct, tag="ViewerCameraMessage", tag_field="type", forbid_unknown_fields=True):
    """The browser's camera has moved."""

    wxyz: tuple[Real, Real, Real, Real]
    position: Point
    fov: Annotated[float, Meta(gt=0, lt=3.1416)]
    near: Annotated[float, Meta(ge=0, le=1e15)]
    far: Annotated[float, Meta(ge=0, le=1e15)]
    image_height: ViserSide
    image_width: ViserSide
    look_at: Point
    up_direction: Point


class ViserClick(Struct, tag="SceneNodeClickMessage", tag_field="type", forbid_unknown_fields=True):
    """Something in the scene was clicked. Guests may send it too: it moves only their camera."""

    name: Text
    instance_index: Whole | None
    ray_origin: Point
    ray_direction: Point
    screen_pos: tuple[Real, Real]
    modifier: Word | None
    owner: Word = ""


class ViserStored(
    Struct,
    tag="LocalStorageGetItemResponseMessage",
    tag_field="type",
    forbid_unknown_fields=True,
):
    """The browser answers the server's question for a stored value."""

    value: Text | None
    error: Text | None
    request_uuid: Word


class ViserValue(Struct, forbid_unknown_fields=True):
    """The new value of a control. A browser may change nothing else of a control."""

    value: bool | Whole | Real | Text | Items | None


class ViserUpdate(Struct, tag="GuiUpdateMessage", tag_field="type", forbid_unknown_fields=True):
    """A control was used."""

    uuid: Word
    updates: ViserValue


class ViserHold(Struct, tag="GuiButtonHoldMessage", tag_field="type", forbid_unknown_fields=True):
    """A button is held down."""

    uuid: Word
    frequency: Real


class ViserSubmit(Struct, tag="GuiFormSubmitMessage", tag_field="type", forbid_unknown_fields=True):
    """A form was sent."""

    uuid: Word


class ViserDirty(Struct, tag="GuiFormDirtyMessage", tag_field="type", forbid_unknown_fields=True):
    """A form was changed and not yet sent."""

    uuid: Word


class ViserTrigger(
    Struct, tag="CommandTriggerMessage", tag_field="type", forbid_unknown_fields=True
):
    """A command was chosen from the palette or by its key."""

    uuid: Word


_GUESTS = ViserCamera | ViserClick | ViserStored
_FROM_GUEST = msgspec.msgpack.Decoder(_GUESTS)
_FROM_CONTROL = msgspec.msgpack.Decoder(
    _GUESTS | ViserUpdate | ViserHold | ViserSubmit | ViserDirty | ViserTrigger
)


def checked(
    message: str | bytes, *, guest: bool, control_of: Callable[[str], Any | None]
) -> bytes | None:
    """The message as it is passed to viser; None if the client may not send it.

    Args:
        message: As it came.
        guest: Whether the client can only look.
        control_of: viser's handle of the control with this uuid; None if there is no such control.
    """
    if isinstance(message, str):
        return None
    try:
        content = (_FROM_GUEST if guest else _FROM_CONTROL).decode(message)
    except (msgspec.DecodeError, RecursionError):
        return None
    if isinstance(content, ViserUpdate):
        control = control_of(content.uuid)
        if control is None or not fits(content.updates.value, control):
            return None
    return msgspec.msgpack.encode(content)


def fits(value: Item | list[Item], control: Any) -> bool:
    """Whether a person could have set this control of viser's to this value.

    The control is enabled, and the value is of its kind, in its range and among its options.
    """
    several = isinstance(control.value, tuple)
    if getattr(control, "disabled", False) or several != isinstance(value, list):
        return False
    before = control.value if several else (control.value,)
    after = value if isinstance(value, list) else [value]
    lows, highs = (_bounds(getattr(control, name, None), before) for name in ("min", "max"))
    options = getattr(control, "options", None)
    return (
        len(before) == len(after)
        and all(map(_alike, before, after))
        and all(low is None or new >= low for low, new in zip(lows, after, strict=True))
        and all(high is None or new <= high for high, new in zip(highs, after, strict=True))
        and (options is None or value in options)
    )


def _alike(old: Any, new: Any) -> bool:
    """Whether both are booleans, both are texts, or both are numbers."""
    kinds = (bool, str, int | float)
    kind = next((kind for kind in kinds if isinstance(old, kind)), None)
    return kind is not None and isinstance(new, kind) and isinstance(new, bool) == (kind is bool)


def _bounds(bound: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A bound for each value; viser has one bound for all values or one for each."""
    return bound if isinstance(bound, tuple) else (bound,) * len(values)
