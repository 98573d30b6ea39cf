"""Uploads: which files are accepted and refused; none is written outside or left behind."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lumigraph.app.viewer import uploads
from lumigraph.app.viewer.uploads import Sitting, safe_name


@pytest.fixture
def sitting(tmp_path: Path) -> Iterator[Sitting]:
    """A sitting with an empty folder; uploads that a test leaves unfinished are dropped."""
    begun = Sitting(tmp_path / "up")
    yield begun
    for upload in begun._coming:
        begun.drop(upload)


NAMES = {
    "a.jpg": "a.jpg",
    "../../etc/passwd.jpg": "passwd.jpg",
    "C:\\photos\\b.png": "b.png",
    "/abs/c.ply": "c.ply",
    "CON.jpg": "file_CON.jpg",
    "com1.tar.jpg": "file_com1.tar.jpg",
    "lpt9.png": "file_lpt9.png",
    "a:b.jpg": "a_b.jpg",
    "a\0b.jpg": "a_b.jpg",
    "\x1b[31ma.jpg": "__31ma.jpg",
    ".jpg": "jpg",
    "two\nlines.jpg": "two_lines.jpg",
    "\u202egpj.jpg": "_gpj.jpg",
    "fox <img onerror=x>.jpg": "fox _img onerror_x_.jpg",
    "e\u0301.jpg": "\u00e9.jpg",
    "x" * 300 + ".jpg": "x" * 80 + ".jpg",
    "\U00020000" * 80 + ".jpg": "\U00020000" * 20 + ".jpg",
    "a." + "\U00020000" * 80: "a.\U00020000",
    "\ud800.jpg": "_.jpg",
    "": "file_",
    "..": "file_",
}


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(("name", "safe"), NAMES.items())
def test_names_are_cleaned(name: str, safe: str):
    assert safe_name(name) == safe


def test_a_file_is_received_in_pieces(tmp_path: Path):
    sitting = Sitting(tmp_path / "up")
    upload = sitting.begin("../a.ply", 6)
    assert not upload.add(b"abc")
    assert upload.add(b"def")
    sitting.drop(upload)  # It is complete, and stays.
    assert upload.path == tmp_path / "up" / "a.ply"
    assert upload.path.read_bytes() == b"abcdef"
    again = sitting.begin("a.ply", 1)
    assert again.path.name == "a_2.ply"
    sitting.drop(again)
    assert [p.name for p in (tmp_path / "up").iterdir()] == ["a.ply"]


def test_dropping_an_upload_twice_leaves_later_files_alone(tmp_path: Path):
    sitting = Sitting(tmp_path)
    first = sitting.begin("a.ply", 2)
    sitting.drop(first)
    second = sitting.begin("a.ply", 2)
    sitting.drop(first)
    assert second.path.exists()
    assert second.add(b"ab")


def test_the_longest_name_can_be_written(tmp_path: Path):
    upload = Sitting(tmp_path).begin("\U00020000" * 80 + ".jpg", 1)
    assert upload.add(b"x")


def test_more_than_was_announced_is_refused(tmp_path: Path):
    sitting = Sitting(tmp_path)
    upload = sitting.begin("a.ply", 2)
    with pytest.raises(ValueError, match="larger than the 2 bytes"):
        upload.add(b"abc")
    sitting.drop(upload)


@pytest.mark.parametrize(
    "name", ["a.exe", "a", "a.html", "a.jpg.sh", ".htaccess", "notes.txt", "cameras.json", "a.bin"]
)
def test_other_kinds_are_refused(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="is not accepted"):
        Sitting(tmp_path).begin(name, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, -1, uploads.FILE_BYTES + 1])
def test_sizes_are_checked(tmp_path: Path, size: int):
    with pytest.raises(ValueError, match="bytes, expected 1 to"):
        Sitting(tmp_path).begin("a.jpg", size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk whose free space a test sets."""
    space = SimpleNamespace(free=1 << 50)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: space)
    return space


def test_all_files_together_have_a_limit(sitting: Sitting, disk: SimpleNamespace):
    """30 files of 4 GB were all accepted."""
    size = uploads.FILE_BYTES
    coming = [sitting.begin("a.zip", size) for _ in range(uploads.SITTING_BYTES // size)]
    with pytest.raises(ValueError, match="more than 16 GB"):
        sitting.begin("b.jpg", 1)
    sitting.drop(coming[0])
    sitting.drop(coming[0])
    sitting.begin("c.zip", size)
    with pytest.raises(ValueError, match="more than 16 GB"):
        sitting.begin("b.jpg", 1)


def test_the_number_of_files_that_are_sent_has_a_limit(sitting: Sitting, monkeypatch):
    monkeypatch.setattr(uploads, "MEMBERS", 2)
    for name in ("a.jpg", "b.jpg"):
        sitting.begin(name, 1)
    with pytest.raises(ValueError, match=r"At most 2 files can be sent, and c\.jpg"):
        sitting.begin("c.jpg", 1)


def test_unfinished_uploads_need_room_too(sitting: Sitting, disk: SimpleNamespace):
    disk.free = 1000
    first = sitting.begin("a.ply", 500)
    with pytest.raises(ValueError, match=r"no room for .* b\.ply"):
        sitting.begin("b.ply", 251)
    first.add(bytes(250))
    disk.free = 750
    sitting.begin("b.ply", 250)


def test_unpacking_deletes_the_zip_and_frees_its_share(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(uploads, "SITTING_BYTES", 10_000)
    path = zipped(tmp_path / "c.zip", {"a.jpg": os.urandom(3000), "b.json": b"{}"})
    sitting = Sitting(tmp_path / "up")

    def sent() -> Path:
        upload = sitting.begin("c.zip", path.stat().st_size)
        assert upload.add(path.read_bytes())
        return upload.path

    kept = [sitting.unpack(sent()) for _ in range(2)]
    assert [(each.folder.name, each.files, each.size) for each in kept] == [
        ("c", 2, 3002),
        ("c_2", 2, 3002),
    ]
    assert sorted(p.name for p in (tmp_path / "up").iterdir()) == ["c", "c_2"]
    third = sent()
    sitting.remove(kept[0].folder)
    assert sitting.unpack(third).files == 2
    sent()  # It fits, but its content would not.
    with pytest.raises(ValueError, match="more than 0 GB"):
        sent()


def test_a_zip_that_does_not_fit_or_is_damaged_is_deleted(tmp_path: Path, disk: SimpleNamespace):
    sitting = Sitting(tmp_path / "up")
    whole = zipped(tmp_path / "c.zip", {"a.jpg": bytes(30_000)}).read_bytes()
    for data, wrong in ((whole, "would grow to 0 MB, and there is room for"), (b"PK", "no zip")):
        disk.free = 1 << 50
        upload = sitting.begin("c.zip", len(data))
        upload.add(data)
        disk.free = 29_999
        with pytest.raises(ValueError, match=wrong):
            sitting.unpack(upload.path)
        assert not list((tmp_path / "up").iterdir())


def test_photos_and_their_cameras_make_one_capture(sitting: Sitting, tmp_path: Path):
    names = ["b.JPG", "transforms.json", "a.png", "cameras.bin", "points3D.txt"]
    paths = [sitting.begin(name, 1).path for name in names]
    places = [str(path.relative_to(tmp_path / "up")) for path in paths]
    assert places == [
        "photos/images/b.JPG",
        "photos/transforms.json",
        "photos/images/a.png",
        "photos/sparse/0/cameras.bin",
        "photos/sparse/0/points3D.txt",
    ]
    assert {sitting.capture_of(path) for path in paths} == {tmp_path / "up" / "photos"}
    again = sitting.begin("a.png", 1).path
    assert again == tmp_path / "up" / "photos_2" / "images" / "a.png"
    sitting.end_capture()
    assert sitting.begin("c.png", 1).path.parents[1].name == "photos_3"


def test_a_file_that_is_sent_again_replaces_the_first(sitting: Sitting, tmp_path: Path):
    def sent(name: str, data: bytes) -> str:
        upload = sitting.begin(name, len(data))
        assert upload.add(data)
        return str(upload.path.relative_to(tmp_path / "up"))

    for data in (b"first", b"again"):
        assert sent("a.png", data) == "photos/images/a.png"
        assert (tmp_path / "up" / "photos" / "images" / "a.png").read_bytes() == data
    assert sum(sitting._held.values()) == 5
    assert sent("transforms.json", b"{}") == "photos/transforms.json"
    assert sent("transforms.json", b"{} ") == "photos/transforms.json"
    assert sum(sitting._held.values()) == 8
    assert sent("a.png", b"another") == "photos_2/images/a.png"
    sitting.end_capture()
    assert sent("a.png", b"another") == "photos_3/images/a.png"
