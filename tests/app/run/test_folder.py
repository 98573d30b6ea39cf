"""The run folder: it is read as it was written, survives moves, and checks every file."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumigraph.app.run.cameras import picture_name, read_picture
from lumigraph.app.run.files import finite
from lumigraph.app.run.film import claim
from lumigraph.app.run.folder import Run, clear_run, create_run, next_folder, open_run
from lumigraph.app.run.metrics import open_log, read_log, rewind_log
from lumigraph.app.run.pictures import (
    colored,
    depth_colors,
    write_picture,
)
from lumigraph.app.run.record import Selection
from lumigraph.app.run.report import write_report
from lumigraph.datasets import Capture, Frame
from lumigraph.datasets.files import printable
from lumigraph.render import Camera, Similarity, look_at

RECORD = {
    "capture": "mill",
    "asked": {"seed": 0},
    "plan": {"steps": 5},
    "steps": 5,
    "inputs": {},
    "versions": {},
}


def make_capture(names: tuple[str, ...] = ("a/1.jpg", "b/1.jpg", "2.jpg")) -> Capture:
    """A capture of noise; its last two frames are test frames."""
    torch.manual_seed(0)
    frames = []
    for i, name in enumerate(names):
        place = torch.tensor([math.sin(i), 0.1 * i, math.cos(i)], dtype=torch.float64)
        matrix = look_at(place, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
        camera = Camera(matrix, (20.5, 21.0 / 3), (8.1, 6.2), 17, 13, near=0.01)
        photo = torch.randint(256, (13, 17, 3), dtype=torch.uint8)
        frames.append(Frame(name, camera, lambda photo=photo: photo))
    return Capture(
        name="mill",
        train=tuple(frames[:1]),
        test=tuple(frames[1:]),
        points=torch.rand(5, 3).double(),
        colors=torch.zeros(5, 3, dtype=torch.uint8),
        similarity=Similarity(torch.tensor([1.0, 2.0, 3.0]).double() / 3, 0.7),
        up=torch.tensor([0.0, 1.0, 0.0]).double(),
        background=(1.0, 0.5, 0.0),
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path / "run", capture=make_capture(), record=RECORD)


def edit(path: Path, change) -> None:
    """Changes a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_frames_come_back_bit_for_bit_after_a_move(run, tmp_path):
    moved = run.folder.rename(tmp_path / "else where")
    written, read = make_capture(), open_run(moved).capture()
    assert read.name == written.name
    assert read.background == (1.0, 0.5, 0.0)
    assert read.similarity.scale == written.similarity.scale
    assert torch.equal(read.similarity.origin, written.similarity.origin)
    for split in ("train", "test"):
        for mine, yours in zip(getattr(written, split), getattr(read, split), strict=True):
            assert mine.name == yours.name
            assert mine.camera.view == yours.camera.view
    for mine, yours in zip(written.test, read.test, strict=True):
        assert torch.equal(mine.image(), yours.image())


def make_calibrated() -> Capture:
    """A capture with a training frame, a test frame and two calibration frames."""
    capture = make_capture(("a/1.jpg", "b/1.jpg", "2.jpg", "b/3.jpg"))
    return replace(capture, test=capture.test[:1], calibration=capture.test[1:])


def test_frames_set_aside_come_back_bit_for_bit_after_a_move(tmp_path):
    run = create_run(tmp_path / "run", capture=make_calibrated(), record=RECORD)
    kept = sorted(path.name for path in (run.folder / "calibration" / "photos").iterdir())
    assert kept == ["0000_2.png", "0001_3.png"]
    assert [path.name for path in (run.folder / "eval" / "photos").iterdir()] == ["0000_1.png"]
    written = make_calibrated()
    read = open_run(run.folder.rename(tmp_path / "else where")).capture()
    assert [len(split) for split in (read.train, read.test, read.calibration)] == [1, 1, 2]
    for mine, yours in zip(written.frames, read.frames, strict=True):
        assert mine.name == yours.name
        assert mine.camera.view == yours.camera.view
    for mine, yours in zip(written.calibration, read.calibration, strict=True):
        assert torch.equal(mine.image(), yours.image())


def test_frames_set_aside_move_to_the_fit_s_frame(tmp_path):
    run = create_run(tmp_path / "run", capture=make_calibrated(), record=RECORD)
    similarity = run.capture().similarity
    for before, after in zip(run.capture().calibration, run.views().calibration, strict=True):
        assert torch.equal(
            after.camera.world_to_camera, similarity.camera(before.camera).world_to_camera
        )
        assert torch.equal(after.image(), before.image())


def test_another_run_in_the_folder_does_not_keep_the_photos_set_aside(tmp_path):
    run = create_run(tmp_path / "run", capture=make_calibrated(), record=RECORD)
    run = create_run(run.folder, capture=make_capture(), record=RECORD, overwrite=True)
    assert not (run.folder / "calibration").exists()
    assert run.capture().calibration == ()


SELECTED = {"downscale": 2, "test": None, "test_every": 8}


def test_a_run_of_an_older_version_has_no_views_set_aside(tmp_path):
    run = create_run(tmp_path / "run", capture=make_capture(), record={**RECORD, "asked": SELECTED})
    assert run.selection() == Selection(2, None, 8, 0)
    assert run.with_record(asked={**SELECTED, "calibration": 9}).selection().calibration == 9


@pytest.mark.parametrize("count", [-1, "9", True, None, 1.0, 10**9])
def test_an_invalid_number_of_views_set_aside_is_refused(run, count):
    run = run.with_record(asked={**SELECTED, "calibration": count})
    with pytest.raises(
        ValueError, match=r'run\.json, "asked", is malformed: .* under `calibration`'
    ):
        run.selection()


def test_a_run_without_a_background_has_a_black_one(run):
    edit(run.folder / "cameras.json", lambda data: data.pop("background"))
    assert run.capture().background == (0.0, 0.0, 0.0)


def test_views_of_a_run_see_the_fit_s_frame_as_those_of_the_capture_see_theirs(run):
    capture, views = run.capture(), run.views()
    points = torch.rand(20, 3, dtype=torch.float64)
    for before, after in zip(capture.test, views.test, strict=True):
        pixels, depth = before.camera.project(points)
        moved, moved_depth = after.camera.project(capture.similarity.points(points))
        torch.testing.assert_close(moved, pixels)
        torch.testing.assert_close(moved_depth, depth * capture.similarity.scale)
    assert views.similarity.scale == 1


def test_a_train_photo_is_not_in_the_run(run):
    with pytest.raises(FileNotFoundError, match="--data"):
        run.capture().train[0].image()


def test_a_taken_folder_is_left_alone(run):
    before = sorted(run.folder.rglob("*"))
    with pytest.raises(FileExistsError, match="--resume"):
        create_run(run.folder, capture=make_capture(), record=RECORD)
    assert sorted(run.folder.rglob("*")) == before


def test_a_run_that_cannot_be_made_leaves_nothing(tmp_path):
    capture = make_capture()

    def broken() -> torch.Tensor:
        raise ValueError("unreadable")

    frame = Frame("x", capture.test[0].camera, broken)
    bad = Capture("mill", (), (frame,), capture.points, capture.colors, capture.similarity)
    with pytest.raises(ValueError, match="unreadable"):
        create_run(tmp_path / "run", capture=bad, record=RECORD)
    assert not any((tmp_path / "run").iterdir())


def test_only_a_run_is_cleared(run, tmp_path):
    (run.folder / "mine.txt").write_text("keep")
    clear_run(run.folder)
    assert [path.name for path in run.folder.iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        clear_run(run.folder)


def test_new_folders_count_up(tmp_path):
    names = [next_folder(tmp_path / "runs").name for _ in range(3)]
    assert names == ["001", "002", "003"]


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no run\.json"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\xff\xfe", "not valid JSON"),
        ("[]", "Lumigraph did not write it"),
        ('{"format": "lumigraph run", "version": 3}', "upgrade"),
        ('{"format": "lumigraph run", "version": 1}', "train again"),
        ('{"format": "lumigraph run", "version": "1"}', "whole number"),
        ('{"format": "lumigraph run", "version": 2}', "field `capture`"),
    ],
)
def test_a_run_json_of_another_program_is_refused(run, text, message):
    (run.folder / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        open_run(run.folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state", "done"),
        ("state", ["finished"]),
        ("seconds", -1),
        ("steps", "5"),
        ("asked", []),
        ("step", True),
        ("splats", "many"),
        ("timings", [1]),
        ("timings", {"training": "long"}),
        ("metrics", 7),
        ("metrics", {"psnr": [30.0]}),
    ],
)
def test_a_wrong_entry_of_run_json_is_named(run, key, value):
    edit(run.folder / "run.json", lambda record: record.update({key: value}))
    with pytest.raises(ValueError, match=key):
        open_run(run.folder)


@pytest.mark.parametrize("text", ["[]", "7", '{"psnr": "high"}', '{"ssim": true}'])
def test_metrics_that_are_none_are_refused(run, text):
    (run.folder / "eval" / "metrics.json").write_text(text)
    write_report(run)  # it has not been evaluated
    with pytest.raises(ValueError, match=r"metrics\.json is malformed: .* again"):
        write_report(run.with_record(metrics={"psnr": 30.0}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", 10**9),
        ("width", 0),
        ("width", 17.0),
        ("height", None),
        ("name", 7),
        ("name", "a/1.jpg"),
        ("split", "../train"),
        ("focal", [0, 1]),
        ("focal", [1, 1, 1]),
        ("center", [float("nan"), 1]),
        ("near", -1),
        ("world_to_camera", [[1, 0, 0, 0]] * 4),
        ("world_to_camera", [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
        ("world_to_camera", "identity"),
    ],
)
def test_a_hostile_camera_is_refused(run, key, value):
    edit(run.folder / "cameras.json", lambda data: data["frames"][2].update({key: value}))
    with pytest.raises(ValueError, match=r"cameras\.json.* (under `)?frames\[2\]"):
        run.capture()


def test_a_photo_of_another_size_is_refused(run):
    path = run.folder / "eval" / "photos" / "0000_1.png"
    write_picture(path, torch.zeros(9, 9, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="9x9 but its camera says 17x13"):
        run.capture().test[0].image() if path.name.startswith("0000") else run.capture().test[
            1
        ].image()


@pytest.mark.parametrize("link", ["renders", "renders/orbit"])
@pytest.mark.parametrize("inside", [True, False])
def test_links_in_a_run_are_refused(run, tmp_path, link, inside):
    (run.folder / "renders").rmdir()
    target = run.folder / "eval/photos" if inside else tmp_path
    (run.folder / link).parent.mkdir(exist_ok=True)
    (run.folder / link).symlink_to(target)
    before = sorted(target.iterdir())
    with pytest.raises(ValueError, match="remove that link"):
        run.part("renders/orbit")
    assert sorted(target.iterdir()) == before


def test_no_name_leads_out_of_a_run(run):
    with pytest.raises(ValueError, match="leads out of its folder"):
        run.part("renders/../../elsewhere")


def test_pictures_replace_only_files_that_render_made(tmp_path):
    claim(tmp_path / "new" / "orbit")
    folder = tmp_path / "new" / "orbit"
    for name in ("0000.png", "0001_a-b.png", "mine.png", "0001.txt", "x0001.png"):
        (folder / name).write_bytes(b"")
    (folder / "0002.png").symlink_to(folder / "mine.png")
    claim(folder)
    assert {path.name for path in folder.iterdir()} == {
        ".lumigraph-render",
        "mine.png",
        "0001.txt",
        "x0001.png",
    }


def test_pictures_are_not_written_where_others_lie(tmp_path):
    (tmp_path / "0000.png").write_bytes(b"photo")
    with pytest.raises(FileExistsError, match="choose another folder"):
        claim(tmp_path)
    assert (tmp_path / "0000.png").read_bytes() == b"photo"
    (tmp_path / "ours").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    with pytest.raises(ValueError, match="is a link"):
        claim(tmp_path / "link")


def test_names_of_frames_cannot_choose_where_files_go():
    names = ["../../etc/passwd", "a\\b.png", "x/" * 50 + "y.jpg", "", "\x1b[31m.png", "é" * 300]
    for name in names:
        written = picture_name(3, name)
        assert written.startswith("0003_")
        assert "/" not in written
        assert ".." not in written
        assert len(written) < 80
        assert written.isascii()


def test_what_is_printed_cannot_take_over_a_terminal():
    assert printable("a\x1b[31mb\r\nc") == "a?[31mb??c"


def test_json_has_no_infinities():
    assert finite({"a": [math.inf, 1.5], "b": (math.nan,)}) == {"a": [None, 1.5], "b": [None]}


def test_pictures_come_back_bit_for_bit(tmp_path):
    pixels = torch.randint(256, (5, 7, 3), dtype=torch.uint8)
    write_picture(tmp_path / "x.png", pixels)
    assert torch.equal(read_picture(tmp_path / "x.png", 7, 5), pixels)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"is not an image .*: restore the run"):
        read_picture(tmp_path / "x.png", 7, 5)


def test_nearer_is_brighter_and_nothing_is_black():
    depth = torch.tensor([[1.0, 2.0, 4.0, 0.0]])
    brightness = depth_colors(depth, 1.0, 4.0).float().sum(-1)[0]
    assert brightness[0] > brightness[1] > brightness[2] > brightness[3] == 0
    assert torch.equal(colored(torch.tensor(-1.0)), colored(torch.tensor(0.0)))


def test_the_log_is_rewound_to_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open_log(path, pytest.fail) as append:
        for step in range(1, 6):
            append({"step": step, "seconds": step / 2, "loss": math.nan})
    with open(path, "ab") as file:
        file.write(b'{"step": 6, "sec')
    assert [entry["step"] for entry in read_log(path)] == [1, 2, 3, 4, 5]
    assert rewind_log(path, 3) == 1.5
    assert [entry["step"] for entry in read_log(path)] == [1, 2, 3]


def test_a_hostile_log_is_read_in_bounds(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "[" * 50_000 + "\n" + '{"step": "1"}\n7\n{"step": 2}\n{"step": 1%s}\n' % ("0" * 400)
    )
    assert read_log(path) == [{"step": 2}]
