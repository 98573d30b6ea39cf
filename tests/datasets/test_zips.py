"""Zips of captures: which are unpacked and which refused; nothing is written outside."""

import shutil
import stat
import struct
import threading
import zipfile
from pathlib import Path

import pytest

from lumigraph.datasets import zips
from lumigraph.datasets.zips import unpack

ROOM = 1 << 30


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_gives_photos_and_cameras_only(tmp_path: Path):
    members = {"c/images/a.jpg": b"1", "c/transforms.json": b"{}", "c/run.sh": b"x", "c/x": b""}
    made = unpack(zipped(tmp_path / "c.zip", members), tmp_path / "out", ROOM)
    assert (made.folder, made.files, made.size) == (tmp_path / "out", 2, 3)
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert files == ["c/images/a.jpg", "c/transforms.json"]


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:/a.jpg", "C:a.jpg"]
)
def test_a_zip_cannot_lead_outside(tmp_path: Path, name: str):
    path = zipped(tmp_path / "c.zip", {"good.jpg": b"1", name: b"2"})
    with pytest.raises(ValueError, match="leads out"):
        unpack(path, tmp_path / "out", ROOM)
    assert [p.name for p in tmp_path.iterdir()] == ["c.zip"]


def member(name: str, *, mode: int = 0) -> zipfile.ZipInfo:
    """A member with a Unix mode, which tells its kind of file."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR]
)
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int):
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member("a.jpg", mode=kind | 0o777), "/etc/passwd")
    with pytest.raises(ValueError, match=r"c\.zip holds a\.jpg, which is a link or a device"):
        unpack(path, tmp_path / "out", ROOM)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_packed_in_other_ways_is_refused_before_it_is_unpacked(tmp_path: Path, method: int):
    """1.6 kB of bzip2 took 4.4 GB of memory."""
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.jpg", bytes(1 << 20))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
        with pytest.raises(ValueError, match=r"packed by method (12|14): zip it with"):
            unpack(path, tmp_path / "out", ROOM)


def test_an_encrypted_zip_is_refused(tmp_path: Path):
    path = zipped(tmp_path / "c.zip", {"a.jpg": b"1"})
    data = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(header) + flags] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.jpg, which is encrypted: zip it without a password"):
        unpack(path, tmp_path / "out", ROOM)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("NUL.jpg", "stands for a device"),
        ("con/a.jpg", "stands for a device"),
        ("images/Com1.old.png", "stands for a device"),
        ("a\x1b[2J.jpg", "control characters"),
        ("a\nb.jpg", "control characters"),
        ("d/" * 16 + "a.jpg", "16 folders deep"),
        ("a" * 256 + "/a.jpg", "more than 255 bytes"),
        ("\u65e5" * 90 + ".jpg", "more than 255 bytes"),
    ],
)
def test_names_in_a_zip_that_are_refused(tmp_path: Path, name: str, wrong: str):
    path = zipped(tmp_path / "c.zip", {"good.jpg": b"1", name: b"2"})
    with pytest.raises(ValueError, match=rf"c\.zip holds .*{wrong}.*: ") as caught:
        unpack(path, tmp_path / "out", ROOM)
    assert str(caught.value).isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["c.zip"]


def test_a_name_with_a_zero_in_a_zip_is_refused(tmp_path: Path):
    path = zipped(tmp_path / "c.zip", {"a.jpg_b.jpg": b"1"})
    path.write_bytes(path.read_bytes().replace(b"a.jpg_b", b"a.jpg\0b"))
    with pytest.raises(ValueError, match=r"a\.jpg\?b\.jpg, which has control characters"):
        unpack(path, tmp_path / "out", ROOM)


@pytest.mark.parametrize(
    "name", ["10:00.jpg", "a b/c.jpg", "caf\u00e9.jpg", ".hidden.jpg", "..a.jpg"]
)
def test_unusual_names_in_a_zip_are_unpacked(tmp_path: Path, name: str):
    unpack(zipped(tmp_path / "c.zip", {name: b"1"}), tmp_path / "out", ROOM)
    assert (tmp_path / "out" / name).read_bytes() == b"1"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg", "a.jpg"),
        ("a.jpg", "A.JPG"),
        ("c/a.jpg", "C/a.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("stra\u00dfe.jpg", "STRASSE.jpg"),
        ("c/a.jpg", "c\\a.jpg"),
        ("c/./a.jpg", "c//a.jpg"),
    ],
)
def test_two_names_in_a_zip_that_some_disks_take_for_one_are_refused(
    tmp_path: Path, names: tuple[str, str]
):
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"1")
    with pytest.raises(ValueError, match=r"c\.zip holds .* and .*, which some disks take for one"):
        unpack(path, tmp_path / "out", ROOM)


@pytest.mark.parametrize("names", [("a.jpg", "a.jpg/b.jpg"), ("c/a.jpg/b.jpg", "C/A.jpg")])
def test_a_name_in_a_zip_is_of_a_file_or_of_a_folder(tmp_path: Path, names: tuple[str, str]):
    path = zipped(tmp_path / "c.zip", dict.fromkeys(names, b"1"))
    with pytest.raises(ValueError, match="both as a file and as a folder"):
        unpack(path, tmp_path / "out", ROOM)
    assert not (tmp_path / "out").exists()


def test_a_zip_of_too_many_folders_is_refused(tmp_path: Path):
    """200 members made 34,201 folders."""
    names = [f"{n}/" + "/".join("abcdefghijklm") + "/a.jpg" for n in range(zips.FOLDERS // 14 + 1)]
    path = zipped(tmp_path / "c.zip", dict.fromkeys(names, b"1"))
    with pytest.raises(ValueError, match=r"holds 1008 folders, more than 1000"):
        unpack(path, tmp_path / "out", ROOM)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_member_of_another_size_than_its_zip_says_is_refused(tmp_path: Path, size: int):
    path = zipped(tmp_path / "c.zip", {"a.jpg": bytes(100_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 100_000), struct.pack("<L", size)))
    with pytest.raises(ValueError, match=r"c\.zip is damaged|a\.jpg is larger or smaller"):
        unpack(path, tmp_path / "out", ROOM)
    assert not (tmp_path / "out").exists()


def test_bombs_and_broken_zips_are_refused(tmp_path: Path):
    bomb = zipped(tmp_path / "bomb.zip", {"a.jpg": bytes(64 << 20)})
    with pytest.raises(ValueError, match="would grow to 64 MB"):
        unpack(bomb, tmp_path / "out", ROOM)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="no zip"):
        unpack(tmp_path / "broken.zip", tmp_path / "out", ROOM)
    with pytest.raises(ValueError, match="no photos"):
        unpack(zipped(tmp_path / "empty.zip", {"a.sh": b""}), tmp_path / "out", ROOM)
    assert not (tmp_path / "out").exists()


def test_a_zip_cut_off_anywhere_is_refused(tmp_path: Path):
    whole = zipped(tmp_path / "c.zip", {"a.jpg": bytes(range(200)), "b.json": b"{}"}).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.zip").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.zip"):
            unpack(tmp_path / "cut.zip", tmp_path / "out", ROOM)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip_with_any_byte_changed_is_unpacked_or_refused(tmp_path: Path, method: int):
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.jpg", bytes(range(64)))
        archive.writestr("c/b.json", b"{}" * 8)
    whole, refused = path.read_bytes(), []
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            unpack(path, tmp_path / "out", ROOM)
            shutil.rmtree(tmp_path / "out")
        except ValueError as error:
            refused.append(str(error))
        assert [p.name for p in tmp_path.iterdir()] == ["c.zip"]
    assert len(refused) > len(whole) // 3
    assert all(sentence.startswith(("c.zip ", "a.jpg ", "b.json ")) for sentence in refused)


def test_folders_that_exist_are_not_touched(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "out_2").symlink_to(tmp_path / "nowhere")
    path = zipped(tmp_path / "c.zip", {"a.jpg": b"1"})
    assert unpack(path, tmp_path / "out", ROOM).folder == tmp_path / "out_3"
    data = bytearray(path.read_bytes())
    data[data.index(b"a.jpg") + 5] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        unpack(path, tmp_path / "out", ROOM)
    left = {"out", "out_2", "out_3", "c.zip"}
    assert {p.name for p in tmp_path.iterdir()} == left
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_threads_that_unpack_to_one_name_get_different_folders(tmp_path: Path):
    path = zipped(tmp_path / "c.zip", {"a.jpg": b"1"})
    made: list[str] = []
    begin = threading.Barrier(8)

    def one() -> None:
        begin.wait(30)
        made.append(unpack(path, tmp_path / "out", ROOM).folder.name)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(made) == ["out", *(f"out_{n}" for n in range(2, 9))]


def test_the_directory_of_a_zip_is_not_read_if_it_is_too_large(tmp_path: Path, monkeypatch):
    def read(*_: object) -> None:
        pytest.fail("it was read")

    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(zips.MEMBERS + 1):
            archive.writestr(f"{number}.jpg", b"")
    monkeypatch.setattr(zipfile.ZipFile, "__init__", read)
    with pytest.raises(ValueError, match=f"holds {zips.MEMBERS + 1} files, more than"):
        unpack(path, tmp_path / "out", ROOM)
    whole = path.read_bytes()
    end = len(whole) - 22
    # Its count is not true, or the record of a larger zip has it.
    path.write_bytes(whole[: end + 8] + struct.pack("<2H", 1, 1) + whole[end + 12 :])
    monkeypatch.setattr(zips, "DIRECTORY_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="has a directory of"):
        unpack(path, tmp_path / "out", ROOM)
    long = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 70_000, 70_000, 1, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    path.write_bytes(whole[:end] + long + locator + whole[end:])
    with pytest.raises(ValueError, match="holds 70000 files"):
        unpack(path, tmp_path / "out", ROOM)
    path.write_bytes(whole[:end] + locator + whole[end:])
    with pytest.raises(ValueError, match="Zip64 record"):
        unpack(path, tmp_path / "out", ROOM)
    path.write_bytes(whole + b"more")
    with pytest.raises(ValueError, match="behind its end"):
        unpack(path, tmp_path / "out", ROOM)


def test_a_zip64_and_one_with_a_comment_are_unpacked(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    path = zipped(tmp_path / "c.zip", {"a.jpg": b"1"})
    assert b"PK\6\6" in path.read_bytes()
    monkeypatch.undo()
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"from the garden"
    assert unpack(path, tmp_path / "out", ROOM).files == 1
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    assert unpack(zipped(path, {"a.jpg": b"1"}), tmp_path / "out", ROOM).files == 1
