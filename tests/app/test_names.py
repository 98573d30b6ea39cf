"""File names that are not UTF-8, or that would control a terminal, go through every command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lumigraph.datasets.colmap_files import NEEDED
from lumigraph.datasets.demo import demo_cameras, make_demo
from lumigraph.datasets.files import printable

NAME = os.fsdecode(b"caf\xe9 \x1b[31m")
COMMAND = [sys.executable, "-Pc", "from lumigraph.app.cli import main; main()"]


def lumigraph(folder: Path, *words: object) -> str:
    """What the command prints in a process of its own, which succeeds; sound for a terminal."""
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "LUMIGRAPH_CACHE": str(folder / "cache"), "PYTHONIOENCODING": "utf-8"},
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert b"\x1b" not in said
    said.decode("utf-8")
    return done.stdout.decode()


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """The smallest built-in scene as transforms.json, its folder and its photos named `NAME`."""
    folder = make_demo(tmp_path / NAME, "tiny")
    frames = []
    train, test = demo_cameras("tiny")
    names = [f"train_{i:03}" for i in range(len(train))]
    names += [f"test_{i:03}" for i in range(len(test))]
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    for name, camera in zip(names, train + test, strict=True):
        listed = f"images/{name} {NAME}.png"
        os.rename(folder / "images" / f"{name}.png", folder / listed)
        pose = (torch.linalg.inv(camera.world_to_camera) @ flip).tolist()
        frames.append({"file_path": listed, "transform_matrix": pose})
    for name in NEEDED:
        (folder / "sparse" / "0" / f"{name}.txt").unlink()
    (folder / "test_list.txt").unlink()
    document = {"fl_x": train[0].focal[0], "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def test_a_run_of_such_a_capture_is_trained_and_used(capture: Path, tmp_path: Path):
    lumigraph(tmp_path, "train", capture, "--steps", 40, "--preset", "quick")
    (run,) = (tmp_path / "runs" / printable(NAME)).iterdir()
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["capture"] == printable(NAME)
    assert record["state"] == "finished"
    lumigraph(tmp_path, "inspect", capture)
    lumigraph(tmp_path, "eval", run)
    lumigraph(tmp_path, "export", run)
    lumigraph(tmp_path, "render", run, "--views", "test", "--no-film")
    lumigraph(tmp_path, "uncertainty", run, "--data", capture)
    for page in run.rglob("*.html"):
        assert "\x1b" not in page.read_text(encoding="utf-8")


def test_a_run_folder_that_could_not_be_read_again_is_refused_at_the_start(
    capture: Path, tmp_path: Path
):
    words = [*COMMAND, "train", capture, "-o", tmp_path / os.fsdecode(b"run\xe9")]
    done = subprocess.run(words, capture_output=True, timeout=120)
    assert done.returncode == 1
    assert b"has a name that is not UTF-8: choose another folder with -o" in done.stderr
    assert not (tmp_path / os.fsdecode(b"run\xe9")).exists()
