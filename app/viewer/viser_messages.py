"""What a browser may tell viser, by role: a closed list, each message checked field by field.

viser itself believes what a client sends: it would set any attribute of a control, pass on a camera
of infinite size, keep uploads of any length, and open a public tunnel. Whatever is not listed here
is dropped. What passes is written anew from what was read, so that viser cannot read it otherwise
(a key that comes twice, say).
"""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from lumigraph.app.viewer.gate import Role
from lumigraph.app.viewer.protocol import SIDE

Real = Annotated[float, Meta(ge=-1e15, le=1e15)]
"""A finite number; its square fits into 32 bits of float."""

Whole = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Word = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]
Side = Annotated[float, Meta(ge=1, le=SIDE)]
Point = tuple[Real, Real, Real]
Item = bool | Whole | Real | Text | None
Items = Annotated[list[Item], Meta(max_length=16)]


class Camera(Struct, tag="ViewerCameraMessage", tag_field="type", forbid_unknown_fields=True):
    """The browser's camera has moved."""

    wxyz: tuple[Real, Real, Real, Real]
    position: Point
    fov: Annotated[float, Meta(gt=0, lt=3.1416)]
    near: Annotated[float, Meta(ge=0, le=1e15)]
    far: Annotated[float, Meta(ge=0, le=1e15)]
    image_height: Side
    image_width: Side
    look_at: Point
    up_direction: Point


class Click(Struct, tag="SceneNodeClickMessage", tag_field="type", forbid_unknown_fields=True):
    """Something in the scene was clicked. Who only looks may, to stand where a camera stood."""

    name: Text
    instance_index: Whole | None
    ray_origin: Point
    ray_direction: Point
    screen_pos: tuple[Real, Real]
    modifier: Word | None
    owner: Word = ""


class Stored(
    Struct,
    tag="LocalStorageGetItemResponseMessage",
    tag_field="type",
    forbid_unknown_fields=True,
):
    """What the browser had kept for us, asked for by the server."""

    value: Text | None
    error: Text | None
    request_uuid: Word


class Value(Struct, forbid_unknown_fields=True):
    """What a control was set to. Nothing else of it may be changed by a browser."""

    value: bool | Whole | Real | Text | Items | None


class Update(Struct, tag="GuiUpdateMessage", tag_field="type", forbid_unknown_fields=True):
    """A control was used."""

    uuid: Word
    updates: Value


class Hold(Struct, tag="GuiButtonHoldMessage", tag_field="type", forbid_unknown_fields=True):
    """A button is held down."""

    uuid: Word
    frequency: Real


class Submit(Struct, tag="GuiFormSubmitMessage", tag_field="type", forbid_unknown_fields=True):
    """A form was sent off."""

    uuid: Word


class Dirty(Struct, tag="GuiFormDirtyMessage", tag_field="type", forbid_unknown_fields=True):
    """A form was changed, not yet sent off."""

    uuid: Word


class Trigger(Struct, tag="CommandTriggerMessage", tag_field="type", forbid_unknown_fields=True):
    """A command was chosen from the palette or by its key."""

    uuid: Word


ALLOWED: dict[Role, msgspec.msgpack.Decoder] = {
    "view": msgspec.msgpack.Decoder(Camera | Click | Stored),
    "control": msgspec.msgpack.Decoder(
        Camera | Click | Stored | Update | Hold | Submit | Dirty | Trigger
    ),
}


def checked(
    message: str | bytes, role: Role, control_of: Callable[[str], Any | None]
) -> bytes | None:
    """The message as viser may have it, or None if somebody in this role may not send it.

    Args:
        message: What came.
        role: Of who sent it.
        control_of: viser's handle of the control with this uuid, if there is one.
    """
    if isinstance(message, str):
        return None
    try:
        content = ALLOWED[role].decode(message)
    except (msgspec.DecodeError, RecursionError):
        return None
    if isinstance(content, Update):
        control = control_of(content.uuid)
        if control is None or not fits(content.updates.value, control):
            return None
    return msgspec.msgpack.encode(content)


def fits(value: Item | list[Item], control: Any) -> bool:
    """Whether a person could have set this control of viser's to this value.

    It is not disabled, and the value is of its kind, in its range and among its options.
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
    """Whether both are truth values, both texts or both numbers."""
    kinds = (bool, str, int | float)
    kind = next((kind for kind in kinds if isinstance(old, kind)), None)
    return kind is not None and isinstance(new, kind) and isinstance(new, bool) == (kind is bool)


def _bounds(bound: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A bound for each value; viser has one for all or one for each."""
    return bound if isinstance(bound, tuple) else (bound,) * len(values)
