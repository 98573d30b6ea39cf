"""What lies in the folders that may be opened, also where a part of them cannot be read."""

import errno
import os
from pathlib import Path

import pytest

from lumigraph.app.viewer.desk import Desk
from lumigraph.app.viewer.sources import find_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a capture, a run and a PLY file, each in a folder of its own."""
    for name in ("captures/chair", "runs/chair/001", "scans"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "captures" / "chair" / "transforms.json").write_text("{}")
    (tmp_path / "runs" / "chair" / "001" / "run.json").write_text('{"format": "lumigraph run"}')
    (tmp_path / "scans" / "chair.ply").write_bytes(b"ply\n")
    return tmp_path


def names(folder: Path) -> list[str]:
    """What is found, in the words of the page, from the folder on."""
    return [source.name.split("/", 1)[1] for source in find_sources([folder])]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOTCONN, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("dead", ["captures", "runs", "runs/chair/001", "scans"])
def test_what_cannot_be_read_is_left_out(code, dead, folder, monkeypatch):
    expected = [name for name in names(folder) if not name.startswith(dead)]
    genuine = {name: getattr(os, name) for name in ("stat", "scandir", "listdir", "open")}

    def failing(name: str):
        def call(path: object, *args: object, **options: object) -> object:
            if isinstance(path, str | Path) and Path(path).is_relative_to(folder / dead):
                raise OSError(code, os.strerror(code), str(path))
            return genuine[name](path, *args, **options)

        return call

    for name in genuine:
        monkeypatch.setattr(os, name, failing(name))
    assert names(folder) == expected
    assert len(expected) == 2
    desk = Desk([folder, folder / dead], folder / "new")
    try:
        assert len([s for s in desk.sources() if not s["id"].startswith("demo:")]) == 2
    finally:
        desk.close()


def test_a_run_whose_checkpoints_cannot_be_listed_is_left_out(folder, monkeypatch):
    def fail(self: Path, pattern: str) -> None:
        raise OSError(errno.EIO, "Input/output error", str(self))

    monkeypatch.setattr(Path, "glob", fail)
    assert "runs/chair/001" not in names(folder)
    assert "captures/chair" in names(folder)
