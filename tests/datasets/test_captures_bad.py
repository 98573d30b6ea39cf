"""Each fault of a capture is told in one sentence that names the file."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumigraph.datasets import colmap_files, load_capture
from lumigraph.datasets.colmap_files import check_model
from lumigraph.datasets.lens import colmap
from lumigraph.datasets.points import read_points

pycolmap = colmap()

MODEL = ("cameras", "images", "points3D", "rigs", "frames")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIGRAPH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """The folder of the model in a sound COLMAP capture of three photos."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", 20.0, 16, 12)
    model.add_camera_with_trivial_rig(camera)
    write_photos(tmp_path / "images")
    for i in range(3):
        image = pycolmap.Image(name=f"{i}.png", camera_id=1, image_id=i + 1)
        image.points2D = [pycolmap.Point2D(np.array([1.0, 2.0])) for _ in range(5)]
        pose = pycolmap.Rigid3d(np.hstack([np.eye(3), [[i], [0], [5]]]))
        model.add_image_with_trivial_frame(image, pose)
    for i in range(4):
        track = pycolmap.Track()
        track.add_element(1, i)
        track.add_element(2, i)
        model.add_point3D(np.array([0.0, 0, i]), track, np.zeros(3, np.uint8))
    folder = tmp_path / "sparse" / "0"
    folder.mkdir(parents=True)
    model.write_binary(str(folder))
    load_capture(tmp_path)
    return folder


def write_photos(folder: Path) -> None:
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (16, 12), "red").save(folder / f"{i}.png")


@pytest.fixture
def transforms(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes a capture of three photos with changed values."""
    write_photos(tmp_path / "images")

    def write(frame: dict | None = None, **facts: object) -> Path:
        frames = [
            {"file_path": f"images/{i}.png", "transform_matrix": np.eye(4).tolist()}
            for i in range(3)
        ]
        frames[1].update(frame or {})
        document = {"fl_x": 20.0, "w": 16, "h": 12, "frames": frames, **facts}
        (tmp_path / "transforms.json").write_text(json.dumps(document))
        return tmp_path

    load_capture(write())
    return write


@pytest.mark.parametrize("name", MODEL)
def test_colmap_files_cut_anywhere_are_refused(sparse, name):
    path = sparse / f"{name}.bin"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{name}\.bin (was cut|has \d+ bytes)"):
            check_model(sparse)
    with pytest.raises(ValueError, match=rf"{name}\.bin"):
        load_capture(sparse.parent.parent)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="expected"):
        check_model(sparse)


@pytest.mark.parametrize("name", MODEL)
def test_colmap_counts_are_not_believed(sparse, name):
    path = sparse / f"{name}.bin"
    path.write_bytes(struct.pack("<Q", 1 << 62) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match=rf"{name}\.bin was cut.*4611686018427387904 entries"):
        load_capture(sparse.parent.parent)


def test_colmap_camera_of_an_unknown_model(sparse):
    data = bytearray((sparse / "cameras.bin").read_bytes())
    data[12:16] = struct.pack("<i", 77)
    (sparse / "cameras.bin").write_bytes(data)
    with pytest.raises(ValueError, match="model number 77"):
        load_capture(sparse.parent.parent)


@pytest.mark.parametrize("value", [0.0, -3.0, float("nan"), float("inf")])
def test_colmap_focal_length_that_is_impossible(sparse, value):
    data = bytearray((sparse / "cameras.bin").read_bytes())
    data[32:40] = struct.pack("<d", value)
    (sparse / "cameras.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"camera 1 in .*(focal length|not finite)"):
        load_capture(sparse.parent.parent)


def test_colmap_panorama(sparse):
    for path in sparse.iterdir():
        path.unlink()
    (sparse / "cameras.txt").write_text("1 EQUIRECTANGULAR 16 8 0\n")
    (sparse / "images.txt").write_text("1 1 0 0 0 0 0 0 1 0.png\n\n")
    (sparse / "points3D.txt").write_text("")
    with pytest.raises(ValueError, match=r"camera|EQUIRECTANGULAR"):
        load_capture(sparse.parent.parent)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cameras", "1 NO_SUCH_MODEL 16 12 20 8 6\n"),
        ("cameras", "1 PINHOLE 16 12 twenty 20 8 6\n"),
        ("cameras", "1 PINHOLE 16\n"),
        ("images", "1 1 0 0 0 0 0 0 9 0.png\n\n"),
        ("images", "1 1 0 0 nan 0 nan 0 1 0.png\n\n"),
        ("images", "1 nan 0 0 0 0 0 0 1 0.png\n\n"),
        ("images", "nonsense\n"),
        ("images", "1 1 0 0 0 0 0 0 1 ../../0.png\n\n"),
        ("images", "1 1 0 0 0 0 0 0 1 0.png\n\n2 1 0 0 0 0 0 0 1 0.png\n\n"),
        ("points3D", "1 0 0\n"),
        ("points3D", "1 0 0 0 1 2 3 0.5 7 7\n"),
    ],
)
def test_colmap_text_that_is_damaged(sparse, name, text):
    for path in sparse.iterdir():
        path.unlink()
    (sparse / "cameras.txt").write_text("1 PINHOLE 16 12 20 20 8 6\n")
    (sparse / "images.txt").write_text("1 1 0 0 0 0 0 0 1 0.png\n\n")
    (sparse / "points3D.txt").write_text("")
    load_capture(sparse.parent.parent)
    (sparse / f"{name}.txt").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=str(sparse.parent.parent)):
        load_capture(sparse.parent.parent)


def test_colmap_without_its_photos(sparse):
    folder = sparse.parent.parent
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"none of the 3 .* in {folder}/images.*0.png"):
        load_capture(folder)
    (folder / "images").rmdir()
    with pytest.raises(FileNotFoundError, match=f"{folder}/images is not there"):
        load_capture(folder)
    (folder / "images").write_text("../nowhere")
    with pytest.raises(FileNotFoundError, match="is not there"):
        load_capture(folder)


@pytest.mark.parametrize("linked", ["images/1.png", "masks/1.png", "masks"])
def test_colmap_links_out_of_the_capture(sparse, tmp_path_factory, linked):
    folder, away = sparse.parent.parent, tmp_path_factory.mktemp("away")
    Image.new("RGB", (16, 12)).save(away / "1.png")
    path = folder / linked
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(away / path.name if path.suffix else away)
    with pytest.raises(ValueError, match=rf"1\.png, which {sparse} lists, is a link to {away}"):
        load_capture(folder)


@pytest.mark.parametrize(
    "text", ["{away}", "{folder}", "../../{away.parent.name}", "..\n..", "..\0", "", "a" * 4000]
)
def test_colmap_text_of_a_link_that_leads_too_far(sparse, tmp_path_factory, text):
    folder, away = sparse.parent.parent, tmp_path_factory.mktemp("away")
    shutil.rmtree(folder / "images")
    write_photos(away / "images")
    inner = folder / "inner"
    inner.mkdir()
    (folder / "sparse").rename(inner / "sparse")
    (inner / "images").write_text(text.format(away=away / "images", folder=folder))
    with pytest.raises((ValueError, FileNotFoundError), match=f"{inner}/images"):
        load_capture(inner)


def test_colmap_link_to_the_text_of_a_link(sparse):
    folder = sparse.parent.parent
    (folder / "images").rename(folder / "photos")
    (folder / "text").write_text("photos")
    (folder / "images").symlink_to("text")
    with pytest.raises(FileNotFoundError, match=f"{folder}/images is not there"):
        load_capture(folder)


@pytest.mark.parametrize(
    ("frame", "linked"),
    [({}, "images/1.png"), ({"mask_path": "mask.png"}, "mask.png"), ({}, "points.ply")],
)
def test_transforms_links_out_of_the_capture(transforms, tmp_path_factory, frame, linked):
    folder, away = transforms(frame, ply_file_path="points.ply"), tmp_path_factory.mktemp("away")
    (folder / linked).unlink(missing_ok=True)
    (away / "secret").write_text("")
    (folder / linked).symlink_to(away / "secret")
    if "mask_path" in frame:
        (folder / "points.ply").write_text(PLY.format(0) + XYZ + "end_header\n")
    with pytest.raises(ValueError, match=rf"{linked}, which .*transforms\.json lists, is a link"):
        load_capture(folder)


def test_nothing_to_load(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_capture(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"holds no capture.*sparse/0.*transforms\.json"):
        load_capture(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"expected a folder or a transforms\.json"):
        load_capture(tmp_path / "a.txt")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"frames": 3}', "[" * 100_000, "\xff"])
def test_transforms_that_are_not_what_they_should_be(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"transforms\.json (is not JSON|has no list 'frames')"):
        load_capture(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"frames": [' + b"[]," * 1_100_000 + b"{}]}", "has 1100003 lists and objects"),
        (b'{"frames": [], "a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b" " * ((1 << 26) + 1), "has more than 67108864 bytes"),
        (b'{"frames": [[[[[1]]]]]}', r"frame 0 of .* is \[\[\[\[1\]\]\]\], expected an object"),
    ],
    ids=["lists", "digits", "bytes", "nested"],
)
def test_transforms_that_would_fill_the_memory(tmp_path, content, message):
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"transforms\.json {message}|{message}"):
        load_capture(tmp_path)


def test_lists_of_test_views_that_are_no_lists(transforms):
    folder = transforms()
    (folder / "test_list.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(
        ValueError, match=r"test_list\.txt name 'caf.*' and 0 more photos"
    ) as caught:
        load_capture(folder)
    assert str(caught.value).isprintable()
    os.truncate(folder / "test_list.txt", (1 << 26) + 1)
    with pytest.raises(ValueError, match=r"test_list\.txt has more than 67108864 bytes"):
        load_capture(folder)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_colmap_text_without_line_breaks(sparse, monkeypatch, name):
    for path in sparse.iterdir():
        path.unlink()
    (sparse / "cameras.txt").write_text("1 PINHOLE 16 12 20 20 8 6\n")
    (sparse / "images.txt").write_text("1 1 0 0 0 0 0 0 1 0.png\n\n")
    (sparse / "points3D.txt").write_text("")
    monkeypatch.setattr(colmap_files, "LINE_LIMIT", 1000)
    load_capture(sparse.parent.parent)
    (sparse / f"{name}.txt").write_text("1 " * 1000)
    with pytest.raises(ValueError, match=rf"{name}\.txt has a line of 1000 bytes or more"):
        load_capture(sparse.parent.parent)


@pytest.mark.parametrize("name", MODEL)
def test_colmap_files_with_any_byte_changed_are_read_or_named(sparse, name):
    path, refused = sparse / f"{name}.bin", []
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        try:
            load_capture(sparse.parent.parent)
        except (ValueError, FileNotFoundError) as error:
            refused.append(str(error))
    assert refused
    assert all(str(sparse.parent.parent) in sentence for sentence in refused)


def test_transforms_without_frames(tmp_path):
    (tmp_path / "transforms.json").write_text('{"frames": []}')
    with pytest.raises(FileNotFoundError, match="lists no photos"):
        load_capture(tmp_path)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"file_path": "../images/1.png"}, "not inside"),
        ({"file_path": "/etc/passwd"}, "not inside"),
        ({"file_path": "images/../../x.png"}, "not inside"),
        ({"file_path": "a\0b"}, "not inside"),
        ({"file_path": ""}, "expected a path"),
        ({"file_path": 7}, "expected a path"),
        ({"file_path": "images/2.png"}, "more than once"),
        ({"transform_matrix": None}, "shape"),
        ({"transform_matrix": [[1, 0], [0, 1]]}, "shape"),
        ({"transform_matrix": "eye"}, "shape"),
        ({"transform_matrix": np.full((4, 4), np.nan).tolist()}, "not finite"),
        ({"transform_matrix": (2 * np.eye(4)).tolist()}, "no rotation"),
        ({"transform_matrix": np.zeros((4, 4)).tolist()}, "no rotation"),
        ({"transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}, "no rotation"),
        ({"fl_x": 0}, "focal length 0"),
        ({"fl_x": -1.5}, "focal length -1.5"),
        ({"fl_x": float("nan")}, "not finite"),
        ({"fl_x": "wide"}, "expected a number"),
        ({"fl_x": None}, "no focal length"),
        ({"fl_x": None, "camera_angle_x": 4}, "expected 0 to pi"),
        ({"w": 0}, "0x12 pixels"),
        ({"w": float("inf")}, "w = inf, expected a number"),
        ({"w": float("nan")}, "nanx12.0 pixels"),
        ({"w": 10**400}, "w = 1000.*, expected a number"),
        ({"fl_x": 1e30}, "expected a number of at most 1e"),
        ({"k1": -1e300}, "expected a number of at most 1e"),
        ({"transform_matrix": [[10**400, 0, 0, 0]] * 4}, "shape"),
        (
            {"transform_matrix": (np.eye(4) + 1e13 * np.eye(4, k=3)).tolist()},
            "away from the origin",
        ),
        ({"file_path": "a" * 5000}, "not inside"),
        ({"file_path": ["x" * 10_000]}, "expected a path"),
        ({"camera_model": "\x1b[31m" * 10_000}, "camera model"),
        ({"w": 16, "h": 16}, "16x12 but its camera says 16x16"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"camera_model": ["OPENCV"]}, "camera model"),
        ({"k4": 0.1}, "k4"),
        ({"mask_path": "masks/none.png"}, "not there"),
        ({"mask_path": "../mask.png"}, "not inside"),
    ],
)
def test_a_frame_with_an_impossible_value(transforms, frame, message):
    folder = transforms(frame)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_capture(folder)
    assert str(folder) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500 + len(str(folder))


def test_all_photos_absent_or_held_out(transforms):
    folder = transforms()
    with pytest.raises(ValueError, match="all 3 photos are held out"):
        load_capture(folder, test=[f"{i}.png" for i in range(3)])
    with pytest.raises(ValueError, match=r"7\.png.*does not have"):
        load_capture(folder, test=["7.png"])
    with pytest.raises(ValueError, match="downscale is 0"):
        load_capture(folder, downscale=0)
    with pytest.raises(ValueError, match="too small for --downscale 13"):
        load_capture(folder, downscale=13)
    shutil.rmtree(folder / "images")
    with pytest.raises(FileNotFoundError, match=f"none of the 3 listed photos is in {folder}"):
        load_capture(folder)


def test_a_photo_that_is_no_image(transforms):
    folder = transforms()
    (folder / "images" / "1.png").write_text("hello")
    with pytest.raises(ValueError, match=r"images/1\.png is not an image"):
        load_capture(folder)


def test_a_photo_that_is_cut(transforms):
    folder = transforms()
    path = folder / "images" / "1.png"
    Image.effect_noise((16, 12), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:150])
    capture = load_capture(folder)
    with pytest.raises(ValueError, match=r"images/1\.png is not an image that can be read"):
        capture.train[0].image()


def test_a_photo_that_changes_after_loading(transforms):
    folder = transforms()
    capture = load_capture(folder)
    Image.new("RGB", (20, 12)).save(folder / "images" / "1.png")
    with pytest.raises(ValueError, match="is 20x12, expected 16x12"):
        capture.train[0].image()


def test_a_mask_of_another_shape(transforms):
    folder = transforms({"mask_path": "mask.png"})
    Image.new("L", (16, 16)).save(folder / "mask.png")
    mask = load_capture(folder).train[0].mask
    assert mask is not None
    with pytest.raises(ValueError, match=r"mask\.png is 16x16, expected 16x12"):
        mask()


PLY = "ply\nformat binary_little_endian 1.0\nelement vertex {}\n"
XYZ = "".join(f"property float {name}\n" for name in "xyz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"ply\n",
        b"ply\n" + b"comment x\n" * 10_000,
        (PLY.format(2) + XYZ).encode(),
        (PLY.format(2) + "property float x\nend_header\n").encode() + bytes(100),
        (PLY.format(2) + "property list uchar int x\nend_header\n").encode() + bytes(100),
        (PLY.format(2) + XYZ + "end_header\n").encode() + bytes(23),
        (PLY.format(10**18) + XYZ + "end_header\n").encode() + bytes(24),
        (PLY.format(-1) + XYZ + "end_header\n").encode(),
        b"ply\nformat ascii 1.0\nelement vertex 2\n" + XYZ.encode() + b"end_header\n1 2 3\n",
        b"ply\nformat ascii 1.0\nelement vertex 1\n" + XYZ.encode() + b"end_header\n1 b 3\n",
        b"ply\nformat ascii 1.0\nelement vertex 2\n" + XYZ.encode() + b"end_header\n1000 2 3\n",
        b"ply\nformat ascii 1.0\nelement vertex 2\n"
        + XYZ.encode()
        + b"end_header\n"
        + b"1 " * 40_000,
        b"ply\nformat ascii 1.0\nelement vertex 1\n"
        + XYZ.encode()
        + b"end_header\n"
        + b"x" * 10_000,
    ],
)
def test_points_that_are_damaged(tmp_path, content):
    path = tmp_path / "points.ply"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"points\.ply") as caught:
        read_points(path)
    assert len(str(caught.value)) < 500 + len(str(path))


@pytest.mark.parametrize("kind", ["ascii 1.0", "binary_big_endian 1.0"])
def test_points_that_are_not_finite_or_too_far_away_are_left_out(tmp_path, kind):
    rows = np.array([[1, 2, 3], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, -1e30], [4, 5, 6]], ">f4")
    body = rows.tobytes()
    if kind.startswith("ascii"):
        body = "".join(f"{x} {y} {z}\n" for x, y, z in rows.tolist()).encode()
    head = (PLY.format(5) + XYZ + "end_header\n").replace("binary_little_endian 1.0", kind)
    (tmp_path / "points.ply").write_bytes(head.encode() + body)
    points, colors = read_points(tmp_path / "points.ply")
    assert points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert colors.tolist() == [[128] * 3] * 2
