"""Files appear completely or not at all, and names from files are safe to show."""

import os
from pathlib import Path

import pytest

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
