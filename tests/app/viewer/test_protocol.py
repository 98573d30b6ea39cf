"""What clients of the stream may ask for: every field, and what is not taken."""

import json
import math
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from lumigraph.app.viewer.protocol import (
    Ack,
    CameraMessage,
    ClientCamera,
    ControlMessage,
    DisplayOptions,
    PhotoRequest,
    PixelRequest,
    UploadRequest,
    parse,
)

MATRIX = [1.0, 0.0, 0.0, 0.5, 0.0, 0.6, -0.8, -1.0, 0.0, 0.8, 0.6, 2]
VIEW = {"matrix": MATRIX, "fov": 0.8, "width": 640, "height": 360, "moving": True}
CAMERA = {"t": "camera", "id": 7, "view": VIEW}
DISPLAY = {
    "t": "display",
    "mode": "depth",
    "map": "viridis",
    "low": None,
    "high": 4,
    "background": [0, 0.5, 1],
    "over": 0.25,
    "threshold": 0.02,
}


def changed(message: dict[str, Any], **fields: Any) -> str:
    return json.dumps({**message, **fields})


def seen(**fields: Any) -> str:
    return changed(CAMERA, view={**VIEW, **fields})


def without(message: dict[str, Any], field: str) -> str:
    return json.dumps({key: value for key, value in message.items() if key != field})


def test_every_message_is_read():
    view = ClientCamera(tuple(map(float, MATRIX)), 0.8, 640, 360)
    assert parse(json.dumps(CAMERA)) == CameraMessage(7, view)
    display = DisplayOptions("depth", "viridis", None, 4.0, (0.0, 0.5, 1.0), 0.25, 0.02)
    assert parse(json.dumps(DISPLAY)) == display
    assert parse(changed(DISPLAY, background=None)) == replace(display, background=None)
    assert parse('{"t": "ack", "frame": 3, "ms": 12.5}') == Ack(3, 12.5)
    assert parse('{"t": "photo", "camera": 5}') == PhotoRequest(5)
    assert parse('{"t": "pixel", "x": 0.25, "y": 1}') == PixelRequest(0.25, 1.0)
    assert parse('{"t": "pixel", "x": null, "y": null}') == PixelRequest(None, None)
    assert parse('{"t": "upload", "name": "a b.zip", "size": 9}') == UploadRequest("a b.zip", 9)
    # An empty one is to be refused in words, and not to go without an answer.
    assert parse('{"t": "upload", "name": "a.ply", "size": 0}') == UploadRequest("a.ply", 0)
    for value in (None, True, 3, 0.5, "three"):
        assert parse(json.dumps({"t": "control", "id": "x", "value": value})) == ControlMessage(
            "x", value
        )


def test_a_principal_point_may_be_given():
    message = parse(seen(center=[0.25, 0.75]))
    assert isinstance(message, CameraMessage)
    camera = message.view.camera(320, 180, 0.5)
    assert camera.center == (80, 135)


@pytest.mark.parametrize("size", [(640, 360), (320, 180), (160, 90), (224, 126), (213, 121)])
def test_a_view_is_the_same_at_any_size(size: tuple[int, int]):
    message = parse(json.dumps(CAMERA))
    assert isinstance(message, CameraMessage)
    camera = message.view.camera(*size, 0.01)
    assert (camera.width, camera.height) == size
    assert camera.world_to_camera.dtype == torch.float64
    assert camera.world_to_camera[:3].flatten().tolist() == MATRIX
    # What is on the upper border at full size is so at any, and what is on the left one.
    assert camera.focal[1] / size[1] == pytest.approx(0.5 / math.tan(0.4))
    assert camera.focal[0] / size[0] == pytest.approx(camera.focal[1] / size[1] * 360 / 640)


TURNED = [0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]

BAD = {
    "no JSON": "hello",
    "nothing": "",
    "a list": "[1]",
    "a number": "3",
    "null": "null",
    "no kind": without(CAMERA, "t"),
    "a kind that is a list": changed(CAMERA, t=["camera"]),
    "an unknown kind": changed(CAMERA, t="run"),
    "deep nesting": "[" * 50_000 + "]" * 50_000,
    "a long number": '{"t": "photo", "camera": ' + "9" * 5000 + "}",
    "a long message": changed(CAMERA, more="x" * 70_000),
    "no matrix": json.dumps({**CAMERA, "view": {"fov": 0.8, "width": 640, "height": 360}}),
    "no view": without(CAMERA, "view"),
    "half a matrix": seen(matrix=MATRIX[:6]),
    "a matrix of text": seen(matrix=["1"] * 12),
    "a matrix of truths": seen(matrix=[True, *MATRIX[1:]]),
    "a matrix by name": seen(matrix={str(i): v for i, v in enumerate(MATRIX)}),
    "NaN": seen(matrix=[*MATRIX[:3], math.nan, *MATRIX[4:]]),
    "infinity": seen(matrix=[*MATRIX[:3], math.inf, *MATRIX[4:]]),
    "too large a float": json.dumps(CAMERA).replace("-1.0", "1e999"),
    "too far away": seen(matrix=[*MATRIX[:3], 1e10, *MATRIX[4:]]),
    "no rotation": seen(matrix=[2 * v for v in MATRIX]),
    "skewed": seen(matrix=[*MATRIX[:1], 0.01, *MATRIX[2:]]),
    "mirrored": seen(matrix=[-v for v in TURNED]),
    "all zeros": seen(matrix=[0] * 12),
    "no angle": seen(fov=0.01 - 1e-9),
    "too wide an angle": seen(fov=3.1),
    "an angle of text": seen(fov="0.8"),
    "no width": seen(width=0),
    "half a pixel": seen(width=640.5),
    "too many pixels": seen(height=8193),
    "a negative height": seen(height=-360),
    "a principal point far away": seen(center=[1e6, 0]),
    "half a principal point": seen(center=[0.5]),
    "a negative id": changed(CAMERA, id=-1),
    "an id of more than 32 bits": changed(CAMERA, id=2**32),
    "an id of text": changed(CAMERA, id="7"),
    "an unknown mode": changed(DISPLAY, mode="x-ray"),
    "a mode that is a list": changed(DISPLAY, mode=["color"]),
    "an unknown map": changed(DISPLAY, map="jet"),
    "a range without an end": changed(DISPLAY, low="0"),
    "a range of NaN": changed(DISPLAY, high=math.nan),
    "more than all colours": changed(DISPLAY, over=1.5),
    "a threshold below nothing": changed(DISPLAY, threshold=-1),
    "a background of two": changed(DISPLAY, background=[0, 0]),
    "too bright a background": changed(DISPLAY, background=[0, 0, 1.1]),
    "an ack of nothing": '{"t": "ack", "ms": 3}',
    "an ack of NaN": '{"t": "ack", "frame": 3, "ms": NaN}',
    "an ack before its time": '{"t": "ack", "frame": 3, "ms": -1}',
    "a control's list": '{"t": "control", "id": "x", "value": [1]}',
    "a control's object": '{"t": "control", "id": "x", "value": {}}',
    "a control's infinity": '{"t": "control", "id": "x", "value": Infinity}',
    "a control without a value": '{"t": "control", "id": "x"}',
    "a control without a name": '{"t": "control", "id": "", "value": 1}',
    "a control of a long name": json.dumps({"t": "control", "id": "x" * 101, "value": 1}),
    "a control's long text": json.dumps({"t": "control", "id": "x", "value": "y" * 4097}),
    "half a photo": '{"t": "photo", "camera": 0.5}',
    "a negative photo": '{"t": "photo", "camera": -1}',
    "a place beyond the picture": '{"t": "pixel", "x": 1.1, "y": 0}',
    "a place before it": '{"t": "pixel", "x": 0, "y": -0.1}',
    "a place of NaN": '{"t": "pixel", "x": NaN, "y": 0}',
    "a place of truths": '{"t": "pixel", "x": true, "y": 0}',
    "half a place": '{"t": "pixel", "x": 0.5, "y": null}',
    "a place of text": '{"t": "pixel", "x": "0.5", "y": 0.5}',
    "no place": '{"t": "pixel", "x": 0.5}',
    "a file without a name": '{"t": "upload", "name": "", "size": 1}',
    "a file of less than nothing": '{"t": "upload", "name": "a.ply", "size": -1}',
    "a file of a long name": json.dumps({"t": "upload", "name": "x" * 256, "size": 1}),
    "a file of no size": '{"t": "upload", "name": "a.ply"}',
}


@pytest.mark.parametrize("what", BAD)
def test_a_malformed_message_is_refused(what: str):
    assert parse(BAD[what]) is None


def test_a_rotation_that_was_rounded_is_one():
    rounded = [round(v, 4) for v in (0.36, 0.48, -0.8, 0, -0.8, 0.6, 0, 0, 0.48, 0.64, 0.6, 0)]
    assert isinstance(parse(seen(matrix=rounded)), CameraMessage)
    assert isinstance(parse(seen(matrix=TURNED)), CameraMessage)
