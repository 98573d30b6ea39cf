"""What clients of the stream may ask for: every field, and what is not taken."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lumigraph.app.viewer.picture import Look
from lumigraph.app.viewer.protocol import Ack, Do, Move, Probe, SeePhoto, SendFile, View, parse

MATRIX = [1.0, 0.0, 0.0, 0.5, 0.0, 0.6, -0.8, -1.0, 0.0, 0.8, 0.6, 2]
CAMERA = {
    "t": "camera",
    "id": 7,
    "matrix": MATRIX,
    "fov": 0.8,
    "width": 640,
    "height": 360,
    "moving": True,
}
LOOK = {
    "t": "look",
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


def without(message: dict[str, Any], field: str) -> str:
    return json.dumps({key: value for key, value in message.items() if key != field})


def test_every_wish_is_read():
    view = View(tuple(map(float, MATRIX)), 0.8, (0.5, 0.5), 640, 360)
    assert parse(json.dumps(CAMERA)) == Move(7, view)
    look = Look("depth", "viridis", None, 4.0, (0.0, 0.5, 1.0), 0.25, 0.02)
    assert parse(json.dumps(LOOK)) == look
    assert parse(changed(LOOK, background=None)) == replace(look, background=None)
    assert parse('{"t": "ack", "frame": 3, "ms": 12.5}') == Ack(3, 0.0125)
    assert parse('{"t": "photo", "frame": 5}') == SeePhoto(5)
    assert parse('{"t": "probe", "x": 0.25, "y": 1}') == Probe((0.25, 1.0))
    assert parse('{"t": "probe", "x": null, "y": null}') == Probe(None)
    assert parse('{"t": "upload", "name": "a b.zip", "size": 9}') == SendFile("a b.zip", 9)
    # An empty one is to be refused in words, and not to go without an answer.
    assert parse('{"t": "upload", "name": "a.ply", "size": 0}') == SendFile("a.ply", 0)
    for value in (None, True, 3, 0.5, "three"):
        assert parse(json.dumps({"t": "do", "id": "x", "value": value})) == Do("x", value)


def test_a_principal_point_may_be_given():
    wish = parse(changed(CAMERA, center=[0.25, 0.75]))
    assert isinstance(wish, Move)
    camera = wish.view.camera(320, 180, 0.5)
    assert camera.center == (80, 135)


@pytest.mark.parametrize("size", [(640, 360), (320, 180), (160, 90), (224, 126), (213, 121)])
def test_a_view_is_the_same_at_any_size(size: tuple[int, int]):
    wish = parse(json.dumps(CAMERA))
    assert isinstance(wish, Move)
    camera = wish.view.camera(*size, 0.01)
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
    "a long number": '{"t": "photo", "frame": ' + "9" * 5000 + "}",
    "a long message": changed(CAMERA, more="x" * 70_000),
    "no matrix": without(CAMERA, "matrix"),
    "half a matrix": changed(CAMERA, matrix=MATRIX[:6]),
    "a matrix of text": changed(CAMERA, matrix=["1"] * 12),
    "a matrix of truths": changed(CAMERA, matrix=[True, *MATRIX[1:]]),
    "a matrix by name": changed(CAMERA, matrix={str(i): v for i, v in enumerate(MATRIX)}),
    "NaN": changed(CAMERA, matrix=[*MATRIX[:3], math.nan, *MATRIX[4:]]),
    "infinity": changed(CAMERA, matrix=[*MATRIX[:3], math.inf, *MATRIX[4:]]),
    "too large a float": json.dumps(CAMERA).replace("-1.0", "1e999"),
    "too far away": changed(CAMERA, matrix=[*MATRIX[:3], 1e10, *MATRIX[4:]]),
    "no rotation": changed(CAMERA, matrix=[2 * v for v in MATRIX]),
    "skewed": changed(CAMERA, matrix=[*MATRIX[:1], 0.01, *MATRIX[2:]]),
    "mirrored": changed(CAMERA, matrix=[-v for v in TURNED]),
    "all zeros": changed(CAMERA, matrix=[0] * 12),
    "no angle": changed(CAMERA, fov=0.01 - 1e-9),
    "too wide an angle": changed(CAMERA, fov=3.1),
    "an angle of text": changed(CAMERA, fov="0.8"),
    "no width": changed(CAMERA, width=0),
    "half a pixel": changed(CAMERA, width=640.5),
    "too many pixels": changed(CAMERA, height=8193),
    "a negative height": changed(CAMERA, height=-360),
    "a principal point far away": changed(CAMERA, center=[1e6, 0]),
    "half a principal point": changed(CAMERA, center=[0.5]),
    "a negative id": changed(CAMERA, id=-1),
    "an id of more than 32 bits": changed(CAMERA, id=2**32),
    "an id of text": changed(CAMERA, id="7"),
    "an unknown mode": changed(LOOK, mode="x-ray"),
    "a mode that is a list": changed(LOOK, mode=["color"]),
    "an unknown map": changed(LOOK, map="jet"),
    "a range without an end": changed(LOOK, low="0"),
    "a range of NaN": changed(LOOK, high=math.nan),
    "more than all colours": changed(LOOK, over=1.5),
    "a threshold below nothing": changed(LOOK, threshold=-1),
    "a background of two": changed(LOOK, background=[0, 0]),
    "too bright a background": changed(LOOK, background=[0, 0, 1.1]),
    "an ack of nothing": '{"t": "ack", "ms": 3}',
    "an ack of NaN": '{"t": "ack", "frame": 3, "ms": NaN}',
    "an ack before its time": '{"t": "ack", "frame": 3, "ms": -1}',
    "a control's list": '{"t": "do", "id": "x", "value": [1]}',
    "a control's object": '{"t": "do", "id": "x", "value": {}}',
    "a control's infinity": '{"t": "do", "id": "x", "value": Infinity}',
    "a control without a value": '{"t": "do", "id": "x"}',
    "a control without a name": '{"t": "do", "id": "", "value": 1}',
    "a control of a long name": json.dumps({"t": "do", "id": "x" * 101, "value": 1}),
    "a control's long text": json.dumps({"t": "do", "id": "x", "value": "y" * 4097}),
    "half a photo": '{"t": "photo", "frame": 0.5}',
    "a negative photo": '{"t": "photo", "frame": -1}',
    "a place beyond the picture": '{"t": "probe", "x": 1.1, "y": 0}',
    "a place before it": '{"t": "probe", "x": 0, "y": -0.1}',
    "a place of NaN": '{"t": "probe", "x": NaN, "y": 0}',
    "a place of truths": '{"t": "probe", "x": true, "y": 0}',
    "half a place": '{"t": "probe", "x": 0.5, "y": null}',
    "a place of text": '{"t": "probe", "x": "0.5", "y": 0.5}',
    "no place": '{"t": "probe", "x": 0.5}',
    "a file without a name": '{"t": "upload", "name": "", "size": 1}',
    "a file of less than nothing": '{"t": "upload", "name": "a.ply", "size": -1}',
    "a file of a long name": json.dumps({"t": "upload", "name": "x" * 256, "size": 1}),
    "a file of no size": '{"t": "upload", "name": "a.ply"}',
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_malformed_is_no_wish(what: str):
    assert parse(BAD[what]) is None


def test_a_rotation_that_was_rounded_is_one():
    rounded = [round(v, 4) for v in (0.36, 0.48, -0.8, 0, -0.8, 0.6, 0, 0, 0.48, 0.64, 0.6, 0)]
    assert isinstance(parse(changed(CAMERA, matrix=rounded)), Move)
    assert isinstance(parse(changed(CAMERA, matrix=TURNED)), Move)
