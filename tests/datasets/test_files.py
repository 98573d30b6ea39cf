"""Files appear completely or not at all, and names from files are safe to show."""

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lumigraph.datasets import files
from lumigraph.datasets.files import atomic, printable


def test_a_file_appears_when_all_of_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[str] = []
    sync = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    if Path("/proc/self/fd").is_dir():
        monkeypatch.setattr(files.os, "fsync", fsync)
    path = tmp_path / "a.bin"
    with atomic(path) as partial:
        partial.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["a.bin"]
    if synced:  # The file first, then the folder, which holds its new name.
        assert synced == [str(partial), str(tmp_path)]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic(path) as partial:
        partial.write_bytes(b"half" * (1 // 0))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
    with pytest.raises(FileNotFoundError, match="make the folder"), atomic(tmp_path / "no" / "a"):
        pass


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mb\r\nc\t", "a?[31mb??c?"),
        ("\x9b31m\x7f\0", "?31m??"),
        ("\u202egpj.exe\u2028", "?gpj.exe?"),
        (os.fsdecode(b"caf\xe9"), "caf?"),
        ("Gärten/日本/😀.jpg", "Gärten/日本/😀.jpg"),
    ],
)
def test_names_are_shown_without_what_controls_a_terminal(name: str, shown: str):
    assert printable(name) == shown
    printable(name).encode("utf-8")


def test_only_temporary_files_of_dead_processes_are_removed(tmp_path: Path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "inside").mkdir()
    long_ago = time.time() - 2 * files.ABANDONED_SECONDS
    names = {
        "abandoned": f"inside/.scene.ply.{dead.pid}.7.part",
        "recent": f".recent.ply.{dead.pid}.7.part",
        "alive": f".scene.ply.{os.getpid()}.7.part",
        "another program's": ".download.part",
        "a person's": f"scene.ply.{dead.pid}.7.part",
        "a huge number": f".scene.ply.{'9' * 40}.7.part",
    }
    for name in names.values():
        (tmp_path / name).write_text("x")
        if "recent" not in name:
            os.utime(tmp_path / name, (long_ago, long_ago))
    files.remove_abandoned(tmp_path)
    removed = [kind for kind, name in names.items() if not (tmp_path / name).exists()]
    assert removed == ["abandoned", "a huge number"]


def test_a_temporary_file_has_a_name_that_is_known(tmp_path: Path):
    with files.atomic(tmp_path / "x.json") as partial:
        process = files.PARTIAL.fullmatch(partial.name)
        assert process is not None
        assert int(process[1]) == os.getpid()


def test_what_cannot_be_written_names_the_file_and_the_reason(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text("before")
    with pytest.raises(OSError, match=r"x\.json could not be written: No space left on device$"):
        _fail(path, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match=r"x\.json could not be written: \S*nowhere: No such file"):
        _fail(path, FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "nowhere")))
    with pytest.raises(OSError, match=r"x\.json could not be written: Error while serializing"):
        _fail(path, SafetensorError("Error while serializing"))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("x.json", "before")]


def _fail(path: Path, error: Exception) -> None:
    with files.atomic(path):
        raise error
