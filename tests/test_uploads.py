"""Uploads: what is taken, what is refused, and that nothing leads outside."""

import zipfile
from pathlib import Path

import pytest

from lumigraph.app.viewer import uploads
from lumigraph.app.viewer.uploads import begin_upload, safe_name, unpack

NAMES = {
    "a.jpg": "a.jpg",
    "../../etc/passwd.jpg": "passwd.jpg",
    "C:\\photos\\b.png": "b.png",
    "/abs/c.ply": "c.ply",
    "CON.jpg": "file_CON.jpg",
    ".jpg": "jpg",
    "two\nlines.jpg": "two_lines.jpg",
    "\u202egpj.jpg": "_gpj.jpg",
    "fox <img onerror=x>.jpg": "fox _img onerror_x_.jpg",
    "e\u0301.jpg": "\u00e9.jpg",
    "x" * 300 + ".jpg": "x" * 80 + ".jpg",
    "": "file_",
    "..": "file_",
}


@pytest.mark.parametrize(("name", "safe"), NAMES.items())
def test_names_are_cleaned(name: str, safe: str):
    assert safe_name(name) == safe


def test_a_file_comes_in_pieces(tmp_path: Path):
    upload = begin_upload(tmp_path / "up", "../a.ply", 6)
    assert not upload.add(b"abc")
    assert upload.add(b"def")
    upload.file.close()
    assert upload.path == tmp_path / "up" / "a.ply"
    assert upload.path.read_bytes() == b"abcdef"
    again = begin_upload(tmp_path / "up", "a.ply", 1)
    assert again.path.name == "a_2.ply"
    again.drop()
    assert [p.name for p in (tmp_path / "up").iterdir()] == ["a.ply"]


def test_more_than_was_announced_is_refused(tmp_path: Path):
    upload = begin_upload(tmp_path, "a.ply", 2)
    with pytest.raises(ValueError, match="larger than the 2 bytes"):
        upload.add(b"abc")
    upload.drop()


@pytest.mark.parametrize("name", ["a.exe", "a", "a.html", "a.jpg.sh", ".htaccess"])
def test_other_kinds_are_refused(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="is not taken"):
        begin_upload(tmp_path, name, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, -1, uploads.FILE_BYTES + 1])
def test_sizes_are_checked(tmp_path: Path, size: int):
    with pytest.raises(ValueError, match="bytes, expected 1 to"):
        begin_upload(tmp_path, "a.jpg", size)


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_gives_photos_and_cameras_only(tmp_path: Path):
    members = {"c/images/a.jpg": b"1", "c/transforms.json": b"{}", "c/run.sh": b"x", "c/x": b""}
    assert unpack(zipped(tmp_path / "c.zip", members), tmp_path / "out") == 2
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert files == ["c/images/a.jpg", "c/transforms.json"]


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:/a.jpg", "C:a.jpg"]
)
def test_a_zip_cannot_lead_outside(tmp_path: Path, name: str):
    path = zipped(tmp_path / "c.zip", {"good.jpg": b"1", name: b"2"})
    with pytest.raises(ValueError, match="leads out"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["c.zip"]


def test_links_in_a_zip_are_refused(tmp_path: Path):
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("a.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="leads out"):
        unpack(path, tmp_path / "out")


def test_bombs_and_broken_zips_are_refused(tmp_path: Path):
    bomb = zipped(tmp_path / "bomb.zip", {"a.jpg": bytes(64 << 20)})
    with pytest.raises(ValueError, match="would grow to 64 MB"):
        unpack(bomb, tmp_path / "out")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="not a zip"):
        unpack(tmp_path / "broken.zip", tmp_path / "out")
    with pytest.raises(ValueError, match="no photos"):
        unpack(zipped(tmp_path / "empty.zip", {"a.sh": b""}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_cut_off_anywhere_is_refused(tmp_path: Path):
    whole = zipped(tmp_path / "c.zip", {"a.jpg": bytes(range(200)), "b.json": b"{}"}).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.zip").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.zip"):
            unpack(tmp_path / "cut.zip", tmp_path / "out")
        assert not (tmp_path / "out").exists()
