"""What lies in the folders that may be opened, also where a part of them cannot be read."""

import errno
import os
from datetime import datetime
from pathlib import Path

import pytest

from lumigraph.app.run.folder import Run
from lumigraph.app.viewer.actions import Actions
from lumigraph.app.viewer.library import STAMP, find_sources, named
from lumigraph.app.viewer.state import ViewerState


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
    """Where what is found lies, from the folder on."""
    return [str(Path("/", *s.parts).relative_to(folder)) for s in find_sources([folder])]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOTCONN, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("dead", ["captures", "runs", "runs/chair/001", "scans"])
def test_sources_that_cannot_be_read_are_left_out(code, dead, folder, monkeypatch):
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
    viewer = ViewerState([folder, folder / dead], folder / "new")
    try:
        assert len([s for s in viewer.library.as_dicts() if not s["id"].startswith("demo:")]) == 2
    finally:
        viewer.close()


def test_a_run_whose_checkpoints_cannot_be_listed_is_left_out(folder, monkeypatch):
    def fail(self: Path, pattern: str) -> None:
        raise OSError(errno.EIO, "Input/output error", str(self))

    monkeypatch.setattr(Path, "glob", fail)
    assert "runs/chair/001" not in names(folder)
    assert "captures/chair" in names(folder)


def labels(folder: Path) -> list[str]:
    return [source.name for source in named(find_sources([folder])).values()]


def test_names_of_sources_are_distinct_and_begin_with_what_differs(folder):
    assert labels(folder) == ["chair", "chair/001", "chair.ply"]
    for name in ("old/captures/chair", "captures/table"):
        (folder / name).mkdir(parents=True)
        (folder / name / "transforms.json").write_text("{}")
    (folder / "old" / "chair.ply").write_bytes(b"ply\n")
    (folder / "runs" / "best").mkdir()
    (folder / "runs" / "best" / "run.json").write_text('{"format": "lumigraph run"}')
    assert labels(folder) == [
        f"chair ({folder.name}/captures)",
        "table",
        "chair (old/captures)",
        "best",
        "chair/001",
        "chair.ply (old)",
        "chair.ply (scans)",
    ]


def test_the_name_of_an_upload_holds_its_time(tmp_path):
    now = datetime.now().replace(hour=14, minute=57)
    for stamp in (now.strftime(STAMP), "2001-02-03_04-05-06", "2001-02-03_04-05-59", "other"):
        place = tmp_path / "uploads" / stamp / "colmap" / "fox"
        place.mkdir(parents=True)
        (place / "transforms.json").write_text("{}")
    assert set(labels(tmp_path)) == {
        "fox (uploaded 14:57)",
        "fox (2001-02-03_04-05-06/colmap)",
        "fox (2001-02-03_04-05-59/colmap)",
        "fox",
    }


def test_a_run_of_which_nothing_was_saved_cannot_be_opened(folder, tmp_path):
    run = folder / "runs" / "chair" / "001"
    viewer = ViewerState([folder], tmp_path / "new")
    actions = Actions(viewer, tmp_path / "uploads")
    try:
        (source,) = (s for s in viewer.library.as_dicts() if s["id"].startswith("run:"))
        assert source["name"] == "chair/001 (nothing saved)"
        actions.do("source", source["id"])
        assert "train its capture again; the run's folder can be removed" in str(viewer.as_dict())
        buttons = {
            c["id"]: c["enabled"]
            for c in actions.controls()
            if c["kind"] == "button" and "enabled" in c
        }
        assert not any(buttons[name] for name in ("open", "start", "resume_run"))
        with pytest.raises(ValueError, match="chair/001: This run has neither a scene"):
            viewer.show(source["id"])
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "00000300.safetensors").touch()
        viewer.library.refresh()
        (now,) = (s for s in viewer.library.as_dicts() if s["id"] == source["id"])
        assert (now["name"], now["kind"], now["stopped"]) == ("chair/001", "run", True)
    finally:
        viewer.close()
    with pytest.raises(FileNotFoundError, match=r"cut off, resume it with `lumigraph train"):
        Run(run, {}).scene()
    (run / "checkpoints" / "00000300.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"cut off, start it again .* --overwrite -o"):
        Run(run, {}).scene()
