"""Every format gives the same capture, and its cameras agree with its photos."""

import json
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.datasets import Capture, Frame, load_capture, random_points
from lumigraph.datasets.lens import colmap
from lumigraph.datasets.load import _set_aside
from lumigraph.render import Camera, look_at

pycolmap = colmap()

WIDTH, HEIGHT = 64, 48

LENSES = {
    "SIMPLE_PINHOLE": [50.0, 31, 25],
    "PINHOLE": [50.0, 52, 31, 25],
    "SIMPLE_RADIAL": [50.0, 31, 25, 0.1],
    "RADIAL": [50.0, 31, 25, 0.08, -0.03],
    "OPENCV": [50.0, 52, 31, 25, 0.06, -0.08, 0.002, -0.003],
    "FULL_OPENCV": [50.0, 52, 31, 25, 0.06, -0.08, 0.002, -0.003, 0.01, 0.02, 0.01, 0.0],
    "SIMPLE_RADIAL_FISHEYE": [50.0, 31, 25, 0.02],
    "RADIAL_FISHEYE": [50.0, 31, 25, 0.02, -0.01],
    "OPENCV_FISHEYE": [50.0, 52, 31, 25, 0.02, -0.01, 0.004, 0.001],
    "SIMPLE_FISHEYE": [50.0, 31, 25],
    "FISHEYE": [50.0, 52, 31, 25],
    "THIN_PRISM_FISHEYE": [50.0, 52, 31, 25, 0.02, -0.01, 0.002, -0.001, 0.0, 0.0, 0.001, 0.001],
    "RAD_TAN_THIN_PRISM_FISHEYE": [50.0, 52, 31, 25, 0.02, -0.01] + [0.0] * 4 + [0.001] * 6,
    "FOV": [50.0, 52, 31, 25, 0.4],
    "SIMPLE_DIVISION": [50.0, 31, 25, -0.05],
    "DIVISION": [50.0, 52, 31, 25, -0.05],
    "EUCM": [50.0, 52, 31, 25, 0.5, 1.0],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIGRAPH_CACHE", str(tmp_path / "cache"))


def poses(count: int) -> list[torch.Tensor]:
    """World-to-camera matrices of cameras on a ring that look at the origin. [4, 4] each"""
    matrices = []
    for i in range(count):
        angle = math.tau * i / count
        eye = torch.tensor([3 * math.cos(angle), 3 * math.sin(angle), 1.0], dtype=torch.float64)
        up = torch.tensor([0.0, 0, 1], dtype=torch.float64)
        matrices.append(look_at(eye, torch.zeros(3, dtype=torch.float64), up))
    return matrices


def lens(model: str, params: list[float]):
    camera = pycolmap.Camera.create_from_model_name(1, model, 1.0, WIDTH, HEIGHT)
    camera.params = params
    return camera


def colors_of(rays: np.ndarray) -> np.ndarray:
    """A smooth picture of the sky: the colour seen along (x, y, 1). uint8 [..., 3]"""
    waves = np.stack([rays[..., 0] * 3, rays[..., 1] * 4, rays.sum(-1) * 2 + 1], -1)
    return (127 + 100 * np.sin(waves)).round().astype(np.uint8)


def photo(camera) -> np.ndarray:
    """The photo of that sky with the distortion of `camera`. uint8 [height, width, 3]"""
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    places = np.stack([columns.ravel(), rows.ravel()], 1)
    return colors_of(np.asarray(camera.cam_from_img(places))).reshape(*rows.shape, 3)


def write_photos(folder: Path, count: int, pixels: np.ndarray) -> list[str]:
    folder.mkdir(parents=True)
    names = [f"{i:03}.png" for i in range(count)]
    for name in names:
        Image.fromarray(pixels).save(folder / name)
    return names


def model_of(camera, names: list[str], matrices: list[torch.Tensor]):
    """A COLMAP model with points and one rig of one camera."""
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera)
    for index, (name, matrix) in enumerate(zip(names, matrices, strict=True), 1):
        image = pycolmap.Image(name=name, camera_id=camera.camera_id, image_id=index)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(matrix[:3].numpy()))
    for point in np.random.default_rng(0).normal(size=(60, 3)) * 0.3:
        model.add_point3D(point, pycolmap.Track(), np.array([10, 20, 30], np.uint8))
    return model


def write_colmap(folder: Path, camera, count: int = 9, *, text: bool = False) -> Path:
    names = write_photos(folder / "images", count, photo(camera))
    (folder / "sparse" / "0").mkdir(parents=True)
    model = model_of(camera, names, poses(count))
    (model.write_text if text else model.write_binary)(str(folder / "sparse" / "0"))
    return folder


def opengl(matrix: torch.Tensor) -> list[list[float]]:
    """The pose as in transforms.json: camera to world, with axes right, up, back."""
    return (
        torch.linalg.inv(matrix) @ torch.diag(torch.tensor([1.0, -1, -1, 1.0]).double())
    ).tolist()


def write_transforms(folder: Path, facts: dict, count: int = 9, camera=None) -> Path:
    names = write_photos(
        folder / "images", count, photo(camera or lens("OPENCV", LENSES["OPENCV"]))
    )
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": opengl(matrix)}
        for name, matrix in zip(names, poses(count), strict=True)
    ]
    (folder / "transforms.json").write_text(json.dumps({**facts, "frames": frames}))
    return folder


OPENCV_FACTS = dict(
    zip(("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"), LENSES["OPENCV"], strict=True),
    w=WIDTH,
    h=HEIGHT,
)


def edited(folder: Path, **facts: object) -> Path:
    """The folder, after some values of its transforms.json were changed."""
    path = folder / "transforms.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return folder


def frames_of(capture: Capture):
    return sorted((*capture.train, *capture.test), key=lambda frame: frame.name)


def rays_of(camera) -> np.ndarray:
    """(x, y, 1) through the pixel centres of a pinhole camera. [height, width, 2]"""
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    x, y = (
        (columns - camera.center[0]) / camera.focal[0],
        (rows - camera.center[1]) / camera.focal[1],
    )
    return np.stack([x, y], -1)


def check_rays(capture: Capture, tolerance: float = 2.5) -> None:
    """Checks that every pixel has the colour of the sky in its direction; no border is blank."""
    frame = capture.train[0]
    difference = frame.image().numpy().astype(int) - colors_of(rays_of(frame.camera))
    assert abs(difference).max() <= tolerance


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("model", LENSES)
def test_every_pixel_keeps_its_ray_for_every_lens(tmp_path, model, downscale):
    write_colmap(tmp_path / "a", lens(model, LENSES[model]), 3)
    check_rays(load_capture(tmp_path / "a", downscale=downscale), 2.5 * downscale)


def test_all_lenses_of_colmap_are_tried():
    names = set(pycolmap.CameraModelId.__members__) - {"INVALID", "EQUIRECTANGULAR"}
    assert names == set(LENSES)


def test_points_appear_where_colmap_puts_them(tmp_path):
    camera = lens("OPENCV", LENSES["OPENCV"])
    capture = load_capture(write_colmap(tmp_path / "a", camera))
    straight = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), camera)
    model = pycolmap.Reconstruction(str(tmp_path / "a" / "sparse" / "0"))
    for frame in frames_of(capture):
        image = model.find_image_with_name(frame.name)
        local = capture.points.numpy() @ image.cam_from_world().rotation.matrix().T
        local = local + image.cam_from_world().translation
        pixels, depth = frame.camera.project(capture.points)
        assert np.allclose(pixels, straight.img_from_cam(local), atol=1e-6)
        assert np.allclose(depth, local[:, 2])


def test_the_same_scene_in_every_format_has_the_same_cameras(tmp_path):
    camera = lens("OPENCV", LENSES["OPENCV"])
    write_colmap(tmp_path / "bin", camera)
    write_colmap(tmp_path / "txt", camera, text=True)
    write_transforms(tmp_path / "json", OPENCV_FACTS)
    loaded = [frames_of(load_capture(tmp_path / name)) for name in ("bin", "txt", "json")]
    for first, *others in zip(*loaded, strict=True):
        for other in others:
            assert other.name == first.name
            assert torch.allclose(
                other.camera.world_to_camera, first.camera.world_to_camera, atol=1e-9
            )
            assert other.camera.focal == pytest.approx(first.camera.focal)
            assert other.camera.center == pytest.approx(first.camera.center)
            assert torch.equal(other.image(), first.image())


def test_points_and_colors_of_colmap(tmp_path):
    capture = load_capture(write_colmap(tmp_path / "a", lens("PINHOLE", LENSES["PINHOLE"])))
    expected = np.random.default_rng(0).normal(size=(60, 3)) * 0.3
    assert capture.points.dtype == torch.float64
    assert np.allclose(capture.points, expected)
    assert capture.colors.unique(dim=0).tolist() == [[10, 20, 30]]
    assert capture.background == (0, 0, 0)


def test_rigs_give_every_sensor_its_own_pose(tmp_path):
    left, right = (lens("PINHOLE", LENSES["PINHOLE"]) for _ in range(2))
    right.camera_id = 2
    model = pycolmap.Reconstruction()
    rig = pycolmap.Rig(rig_id=1)
    offset = pycolmap.Rigid3d(np.hstack([np.eye(3), [[-0.5], [0], [0]]]))
    model.add_camera(left)
    model.add_camera(right)
    rig.add_ref_sensor(left.sensor_id)
    rig.add_sensor(right.sensor_id, offset)
    model.add_rig(rig)
    names, matrices = write_photos(tmp_path / "images", 4, photo(left)), poses(2)
    for i, matrix in enumerate(matrices):
        frame = pycolmap.Frame(frame_id=i + 1, rig_id=1)
        frame.rig_from_world = pycolmap.Rigid3d(matrix[:3].numpy())
        images = [
            pycolmap.Image(name=names[2 * i + j], camera_id=j + 1, image_id=2 * i + j + 1)
            for j in range(2)
        ]
        for image in images:
            image.frame_id = i + 1
            frame.add_data_id(image.data_id)
        model.add_frame(frame)
        for image in images:
            model.add_image(image)
        model.register_frame(i + 1)
    (tmp_path / "sparse").mkdir()
    model.write_binary(str(tmp_path / "sparse"))
    frames = frames_of(load_capture(tmp_path))
    for i, matrix in enumerate(matrices):
        assert torch.allclose(frames[2 * i].camera.world_to_camera, matrix, atol=1e-12)
        moved = torch.tensor([-0.5, 0, 0, 0]).double()
        assert torch.allclose(
            frames[2 * i + 1].camera.world_to_camera[:, 3], matrix[:, 3] + moved, atol=1e-12
        )


def test_the_largest_of_several_models_is_used(tmp_path):
    camera = lens("PINHOLE", LENSES["PINHOLE"])
    write_colmap(tmp_path, camera, 9)
    (tmp_path / "sparse" / "1").mkdir()
    (tmp_path / "sparse" / "0").rename(tmp_path / "sparse" / "2")
    names = [f"{i:03}.png" for i in range(3)]
    model_of(camera, names, poses(3)).write_binary(str(tmp_path / "sparse" / "1"))
    capture = load_capture(tmp_path)
    assert len(frames_of(capture)) == 9
    assert any("2 separate models" in note and "sparse/2" in note for note in capture.notes)


def test_every_eighth_is_held_out_by_name(tmp_path):
    write_colmap(tmp_path, lens("PINHOLE", LENSES["PINHOLE"]), 18)
    held = [frame.name for frame in load_capture(tmp_path).test]
    assert held == ["000.png", "008.png", "016.png"]
    assert load_capture(tmp_path, test_every=0).test == ()
    chosen = load_capture(tmp_path, test=["003.png"])
    assert [frame.name for frame in chosen.test] == ["003.png"]
    assert len(chosen.train) == 17
    (tmp_path / "test_list.txt").write_text("005.png\n\n001.png\n")
    assert [frame.name for frame in load_capture(tmp_path).test] == ["001.png", "005.png"]


def test_views_are_set_aside_by_chance_from_those_that_are_not_test_views(tmp_path):
    write_colmap(tmp_path, lens("PINHOLE", LENSES["PINHOLE"]), 18)
    whole, capture = load_capture(tmp_path), load_capture(tmp_path, calibration=3)
    aside = [frame.name for frame in capture.calibration]
    assert aside == ["004.png", "007.png", "017.png"]  # the same for ever: runs are resumed
    names = [frame.name for frame in whole.train if frame.name not in aside]
    assert [frame.name for frame in capture.train] == names
    assert [frame.name for frame in capture.test] == [frame.name for frame in whole.test]
    assert {frame.name for frame in capture.frames} == {frame.name for frame in whole.frames}
    assert whole.calibration == ()
    assert capture.similarity.scale == whole.similarity.scale
    assert torch.equal(capture.similarity.origin, whole.similarity.origin)
    assert torch.equal(capture.points, whole.points)
    before: set[str] = set()
    for count in range(1, 15):
        some = load_capture(tmp_path, calibration=count)
        assert (len(some.train), len(some.calibration)) == (15 - count, count)
        drawn = {frame.name for frame in some.calibration}
        assert before < drawn
        before = drawn


def test_each_place_in_the_list_is_as_likely_to_be_set_aside():
    """Over many captures of other names: as often as a draw without replacement, in any pair."""
    captures, places, count = 2000, 10, 3
    camera = Camera(torch.eye(4, dtype=torch.float64), (1.0, 1.0), (0.5, 0.5), 1, 1)
    single, pairs = torch.zeros(places), torch.zeros(places, places)
    for number in range(captures):
        frames = tuple(
            Frame(f"{number}/{k}.jpg", camera, lambda: torch.zeros(1)) for k in range(places)
        )
        drawn = {frame.name for frame in _set_aside(frames, count)[1]}
        chosen = torch.tensor([float(frame.name in drawn) for frame in frames])
        single += chosen
        pairs += chosen[:, None] * chosen
    share = count / places
    assert (single / captures - share).abs().max() < 4 * math.sqrt(share * (1 - share) / captures)
    both = share * (count - 1) / (places - 1)
    neighbours = torch.stack([pairs[i, i + 1] for i in range(places - 1)]) / captures
    assert (neighbours - both).abs().max() < 4 * math.sqrt(both * (1 - both) / captures)


def test_views_are_set_aside_by_name(tmp_path):
    write_colmap(tmp_path, lens("PINHOLE", LENSES["PINHOLE"]), 18)
    capture = load_capture(tmp_path, calibration=["009.png", "003.png"])
    assert [frame.name for frame in capture.calibration] == ["003.png", "009.png"]
    assert len(capture.train) == 13
    assert load_capture(tmp_path, calibration=[]).calibration == ()
    for name in ("nothing.png", "008.png"):  # a test view
        with pytest.raises(ValueError, match=f"{name} was set aside .* give the same capture"):
            load_capture(tmp_path, calibration=["003.png", name])


@pytest.mark.parametrize(("count", "every", "most"), [(-1, 8, 14), (15, 8, 14), (1, 1, 0)])
def test_views_set_aside_leave_some_to_learn_from(tmp_path, count, every, most):
    write_transforms(tmp_path, {"fl_x": 50.0}, 18)
    sentence = f"{count} views cannot be set aside .* ask for 0 to {most}"
    with pytest.raises(ValueError, match=sentence):
        load_capture(tmp_path, test_every=every, calibration=count)


def test_a_single_photo_is_a_training_view(tmp_path):
    write_transforms(tmp_path, {"fl_x": 50.0}, 1)
    capture = load_capture(tmp_path)
    assert (len(capture.train), len(capture.test)) == (1, 0)
    # What it looks at is guessed to lie before it, and brought to a distance of one.
    pixel, depth = capture.train[0].camera.project(capture.similarity.origin)
    assert torch.allclose(pixel, torch.tensor(capture.train[0].camera.center).double())
    assert depth * capture.similarity.scale == pytest.approx(1)
    assert random_points(capture, 20, 0).isfinite().all()
    with pytest.raises(ValueError, match="none is left to learn from"):
        load_capture(tmp_path, test=["000.png"])


def test_all_photos_are_held_out_only_if_that_is_asked_for(tmp_path):
    write_transforms(tmp_path, {"fl_x": 50.0}, 3)
    capture = load_capture(tmp_path, test_every=1)
    assert (len(capture.train), len(capture.test)) == (0, 3)
    with pytest.raises(ValueError, match="no frames to learn from"):
        random_points(capture, 20, 0)
    (tmp_path / "test_list.txt").write_text("000.png\n001.png\n002.png\n")
    with pytest.raises(ValueError, match="all 3 photos are held out"):
        load_capture(tmp_path)
    (tmp_path / "test_list.txt").unlink()
    edited(tmp_path, test_filenames=[f"images/{i:03}.png" for i in range(3)])
    with pytest.raises(ValueError, match="all 3 photos are held out"):
        load_capture(tmp_path)


def test_photos_without_a_file_are_left_out_and_counted(tmp_path):
    write_transforms(tmp_path, OPENCV_FACTS)
    for name in ("002.png", "005.png"):
        (tmp_path / "images" / name).unlink()
    capture = load_capture(tmp_path)
    assert len(frames_of(capture)) == 7
    assert any(note.startswith("2 of 9 listed photos") for note in capture.notes)


def test_evenly_smaller_photos_scale_the_intrinsics(tmp_path):
    camera = lens("PINHOLE", LENSES["PINHOLE"])
    write_colmap(tmp_path, camera, 3)
    camera.rescale(WIDTH // 4, HEIGHT // 4)
    for path in (tmp_path / "images").iterdir():
        Image.fromarray(photo(camera)).save(path)
    first = load_capture(tmp_path).train[0].camera
    assert (first.width, first.height) == (WIDTH // 4, HEIGHT // 4)
    assert first.focal == (50 / 4, 52 / 4)
    assert first.center == (31 / 4, 25 / 4)
    check_rays(load_capture(tmp_path))


def test_downscale_divides_intrinsics_exactly(tmp_path):
    write_colmap(tmp_path, lens("PINHOLE", LENSES["PINHOLE"]), 3)
    camera = load_capture(tmp_path, downscale=5).train[0].camera
    assert (camera.width, camera.height) == (12, 9)
    assert camera.focal == (10.0, 10.4)
    assert camera.center == (6.2, 5.0)


def test_rotated_photos_are_taken_as_the_camera_says(tmp_path):
    camera = lens("PINHOLE", LENSES["PINHOLE"])
    write_colmap(tmp_path, camera, 2)
    exif = Image.Exif()
    exif[0x0112] = 8  # Stored turned to the right: to be turned to the left by 90 degrees.
    for path in (tmp_path / "images").iterdir():
        stored = np.rot90(photo(camera), -1)
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    check_rays(load_capture(tmp_path))
    for path in (tmp_path / "images").iterdir():  # The size agrees as stored: EXIF is ignored.
        Image.fromarray(photo(camera)).save(path, exif=exif)
    check_rays(load_capture(tmp_path))


def test_masks_of_colmap_keep_white(tmp_path):
    write_colmap(tmp_path, lens("PINHOLE", LENSES["PINHOLE"]), 3)
    (tmp_path / "masks").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, 33:] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "000.png.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "001.png")
    first, second, third = frames_of(load_capture(tmp_path, downscale=2))
    assert third.mask is None
    for frame in (first, second):
        assert frame.mask is not None
        kept = frame.mask()
        assert kept.dtype == torch.bool
        assert kept.shape == frame.image().shape[:2]
        # The pixel that covers both halves is not kept.
        assert kept[0].nonzero().flatten().tolist() == list(range(17, 32))


def test_masks_and_points_of_nerfstudio(tmp_path):
    write_transforms(tmp_path, {**OPENCV_FACTS, "camera_model": "OPENCV"}, 3)
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "mask.png")
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    frames[1]["mask_path"] = "mask.png"
    edited(tmp_path, frames=frames, ply_file_path="points.ply")
    head = "ply\nformat ascii 1.0\nelement vertex 2\n"
    head += "".join(f"property float {n}\n" for n in "xyz")
    head += "".join(f"property uchar {n}\n" for n in ("red", "green", "blue"))
    (tmp_path / "points.ply").write_text(head + "end_header\n1 2 3 4 5 6\n7 8 9 255 0 1\n")
    capture = load_capture(tmp_path)
    assert capture.points.tolist() == [[1, 2, 3], [7, 8, 9]]
    assert capture.colors.tolist() == [[4, 5, 6], [255, 0, 1]]
    first, second, _ = frames_of(capture)
    assert first.mask is None
    assert second.mask is not None
    assert second.mask().all()


def test_lists_of_nerfstudio_choose_the_split(tmp_path):
    write_transforms(tmp_path, OPENCV_FACTS)
    edited(tmp_path, test_filenames=["images/003.png"], train_filenames=["images/001.png"])
    capture = load_capture(tmp_path)
    assert [frame.name for frame in capture.test] == ["003.png"]
    assert [frame.name for frame in capture.train] == ["001.png"]
    assert any(note.startswith("7 photos are neither") for note in capture.notes)


def test_fisheye_of_nerfstudio_and_instant_ngp(tmp_path):
    camera = lens("OPENCV_FISHEYE", LENSES["OPENCV_FISHEYE"])
    keys = ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4")
    facts = dict(zip(keys, LENSES["OPENCV_FISHEYE"], strict=True), w=WIDTH, h=HEIGHT)
    write_transforms(tmp_path / "a", {**facts, "camera_model": "OPENCV_FISHEYE"}, 3, camera)
    write_transforms(tmp_path / "b", {**facts, "is_fisheye": True}, 3, camera)
    check_rays(load_capture(tmp_path / "a"))
    check_rays(load_capture(tmp_path / "b"))


def test_intrinsics_of_a_frame_replace_those_of_the_file(tmp_path):
    write_transforms(tmp_path, {"fl_x": 50.0}, 3)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    frames[1].update(fl_x=60.0, fl_y=61.0, cx=30.0)
    edited(tmp_path, frames=frames)
    first, second, _ = (frame.camera for frame in frames_of(load_capture(tmp_path)))
    assert (first.focal, first.center) == ((50.0, 50.0), (32.0, 24.0))
    assert (second.focal, second.center) == ((60.0, 61.0), (30.0, 24.0))


def test_instant_ngp_without_suffix_and_size(tmp_path):
    write_transforms(tmp_path, {"camera_angle_x": 2 * math.atan(0.5), "aabb_scale": 4}, 3)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    for frame in frames:
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")
    edited(tmp_path, frames=frames)
    capture = load_capture(tmp_path / "transforms.json")
    assert capture.train[0].camera.focal == pytest.approx((WIDTH, WIDTH))
    assert capture.train[0].camera.center == (WIDTH / 2, HEIGHT / 2)
    assert capture.up is not None
    assert capture.up.tolist() == [0, 0, 1]


def test_blender_is_laid_over_white_and_keeps_its_split(tmp_path):
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16] = (200, 0, 0, 255)
    pixels[16:24] = (200, 0, 0, 128)
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        (tmp_path / split).mkdir()
        frames = []
        for i, matrix in enumerate(poses(count)):
            Image.fromarray(pixels).save(tmp_path / split / f"r_{i}.png")
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": opengl(matrix)})
        facts = {"camera_angle_x": 0.7, "frames": frames}
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps(facts))
    capture = load_capture(tmp_path)
    assert [frame.name for frame in capture.train] == [f"train/r_{i}.png" for i in range(3)]
    assert [frame.name for frame in capture.test] == ["test/r_0.png", "test/r_1.png"]
    image = capture.train[0].image()
    assert image[0, 0].tolist() == [200, 0, 0]
    assert image[31, 0].tolist() == [255, 255, 255]
    assert image[20, 0].tolist() == pytest.approx([227, 127, 127], abs=1)
    assert any("over white" in note for note in capture.notes)
    assert capture.background == (1, 1, 1)
    assert any("transforms_val.json is not used" in note for note in capture.notes)


def test_a_similarity_brings_the_cameras_to_the_unit_ball(tmp_path):
    camera = lens("PINHOLE", LENSES["PINHOLE"])
    with_points = load_capture(write_colmap(tmp_path / "a", camera))
    without = load_capture(write_transforms(tmp_path / "b", {"fl_x": 50.0}))
    for capture in (with_points, without):
        distance = torch.stack(
            [capture.similarity.points(f.camera.position).norm() for f in capture.train]
        )
        assert ((distance > 0.9) & (distance < 1.1)).all()
    # The optical axes meet in the origin.
    assert torch.allclose(without.similarity.origin, torch.zeros(3).double(), atol=1e-6)


def test_random_points_are_seen_and_the_same_for_the_same_seed(tmp_path):
    capture = load_capture(write_transforms(tmp_path, {"fl_x": 50.0}))
    points = random_points(capture, 500, 3)
    assert points.shape == (500, 3)
    assert points.dtype == torch.float64
    assert torch.equal(points, random_points(capture, 500, 3))
    assert not torch.equal(points, random_points(capture, 500, 4))
    seen = torch.zeros(500)
    for frame in capture.train:
        pixels, depth = frame.camera.project(points)
        size = torch.tensor([frame.camera.width, frame.camera.height])
        seen += (depth > 0) & (pixels >= 0).all(1) & (pixels < size).all(1)
    assert (seen >= 2).all()


def test_the_text_of_a_link_is_followed_as_git_leaves_it(tmp_path):
    write_colmap(tmp_path / "a", lens("PINHOLE", LENSES["PINHOLE"]), 2)
    (tmp_path / "a" / "images").rename(tmp_path / "photos")
    (tmp_path / "a" / "images").write_text("../photos")
    capture = load_capture(tmp_path / "a")
    assert len(frames_of(capture)) == 2
    assert any("text of a link" in note for note in capture.notes)


def test_images_may_be_a_link_to_anywhere(tmp_path):
    write_colmap(tmp_path / "here" / "a", lens("PINHOLE", LENSES["PINHOLE"]), 2)
    write_transforms(tmp_path / "here" / "b", {"fl_x": 50.0}, 2)
    for name in "ab":
        (tmp_path / "here" / name / "images").rename(tmp_path / name)
        (tmp_path / "here" / name / "images").symlink_to(tmp_path / name)
        assert len(frames_of(load_capture(tmp_path / "here" / name))) == 2


def test_a_capture_may_be_reached_by_a_link_and_have_links_within(tmp_path):
    write_colmap(tmp_path / "a", lens("PINHOLE", LENSES["PINHOLE"]), 2)
    (tmp_path / "a" / "images").rename(tmp_path / "a" / "photos")
    (tmp_path / "a" / "images").mkdir()
    for name in ("000.png", "001.png"):
        (tmp_path / "a" / "images" / name).symlink_to(f"../photos/{name}")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert len(frames_of(load_capture(tmp_path / "link"))) == 2


def test_names_that_are_not_utf_8_are_read_in_every_format(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    folders = [
        write_colmap(tmp_path / f"{name} bin", lens("PINHOLE", LENSES["PINHOLE"]), 2),
        write_colmap(tmp_path / f"{name} txt", lens("PINHOLE", LENSES["PINHOLE"]), 2, text=True),
        write_transforms(tmp_path / f"{name} json", {"fl_x": 50.0}, 2),
    ]
    for folder in folders:
        (folder / "images" / "001.png").rename(folder / "images" / f"{name}.png")
        for path in (*folder.rglob("images.*"), *folder.rglob("*.json")):
            listed = b"caf\\udce9" if path.suffix == ".json" else b"caf\xe9"
            path.write_bytes(path.read_bytes().replace(b"001", listed))
        capture = load_capture(folder, test_every=0)
        assert [frame.name for frame in capture.frames] == ["000.png", f"{name}.png"]
        assert torch.equal(capture.frames[0].image(), capture.frames[1].image())
        assert capture.name.startswith("caf? ")


def test_points_that_are_too_far_away_are_left_out(tmp_path):
    write_colmap(tmp_path, lens("PINHOLE", LENSES["PINHOLE"]), 2)
    path = tmp_path / "sparse" / "0" / "points3D.bin"
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack("<d", 1e200)
    path.write_bytes(data)
    assert load_capture(tmp_path).points.shape == (59, 3)


@pytest.mark.skipif("LUMIGRAPH_DATA" not in os.environ, reason="LUMIGRAPH_DATA names no folder")
@pytest.mark.parametrize("name", ["fox", "fox_colmap"])
def test_the_fox(name):
    capture = load_capture(Path(os.environ["LUMIGRAPH_DATA"]) / name, downscale=8)
    assert (len(capture.train), len(capture.test)) == (43, 7)
    assert [frame.name for frame in capture.test][:2] == ["0001.jpg", "0012.jpg"]
    assert len(capture.points) == (0 if name == "fox" else 10839)
    image = capture.test[0].image()
    assert image.shape == (capture.test[0].camera.height, capture.test[0].camera.width, 3)
    points = capture.similarity.points(random_points(capture, 2000, 0))
    assert points.median(0).values.norm() < 0.5
