"""The run folder: the files of one reconstruction, and how they are written and opened.

    run.json            the options, the plan, hashes of the inputs, versions, timings, metrics
    cameras.json        every frame: its name, split and camera in the capture's frame
    scene.safetensors   the scene in the fit's frame, bit for bit
    scene.ply           the same in the capture's frame, for other programs
    checkpoints/        the newest states of the fit, to resume from
    metrics.jsonl       loss, splats and, at some steps, PSNR; one line per entry
    eval/               photos/ (the test photos as used, lossless), renders/, metrics.json
    calibration/        photos/ (the calibration photos, lossless), if some were set aside
    renders/            the pictures and films of `lumigraph render`
    uncertainty/        the files of `lumigraph uncertainty`: estimate.json, maps/, report.html, ...
    report.html         the results on one page
    .lock               during a training: the number of its process

Every path in it is relative, so that the folder can be moved, zipped and mailed. It keeps the test
and calibration photos, so that a run can be evaluated and its intervals calibrated without the
capture.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lumigraph.app.console import quoted
from lumigraph.app.run.cameras import (
    PHOTOS,
    CamerasFile,
    cameras_json,
    capture_from,
    picture_name,
    splits_of,
)
from lumigraph.app.run.files import checked, read_json, write_json
from lumigraph.app.run.frames import moved_capture
from lumigraph.app.run.lock import LOCK, locked_record
from lumigraph.app.run.pictures import write_picture
from lumigraph.app.run.record import FORMAT, LOG, VERSION, AskedPhotos, Record, RunState, Selection
from lumigraph.datasets import Capture
from lumigraph.datasets.files import shown
from lumigraph.recon.files import load_scene
from lumigraph.render import Splats

PARTS = ("checkpoints", "eval", "renders", "uncertainty", "calibration")
FILES = ("cameras.json", "scene.safetensors", "scene.ply", LOG, "report.html")


@dataclass(frozen=True)
class Run:
    """An open run folder.

    Attributes:
        folder: Where it is now.
        record: The content of its run.json.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def state(self) -> RunState:
        """Whether the reconstruction is running, was stopped, or is finished."""
        return self.record["state"]

    @property
    def asked(self) -> dict[str, Any]:
        """The options that the run was started with."""
        return self.record["asked"]

    def part(self, name: str) -> Path:
        """A folder inside the run, made if absent; ValueError if its path goes through a link."""
        path = self.folder
        for step in Path(name).parts:
            path = path / step
            if path.is_symlink() or step == "..":
                raise ValueError(f"{path} leads out of its folder: remove that link")
            path.mkdir(parents=True, exist_ok=True)
        return path

    def with_record(self, **changes: Any) -> "Run":
        """The run with run.json as it is on the disk, and some entries of it changed there."""
        with self.changing() as record:
            record.update(changes)
        return replace(self, record=record)

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """Yields the record that is on the disk, for changes, and writes it at the end.

        run.json is locked meanwhile, so that no program undoes the changes of another one. If it
        cannot be read, the record in memory is taken, because a training must not end for that.
        An exception inside leaves run.json as it is.
        """
        with locked_record(self.folder):
            try:
                record = open_run(self.folder).record
            except (OSError, ValueError):
                record = dict(self.record)
            yield record
            write_json(self.folder / "run.json", record)

    def scene_stamp(self) -> tuple[int, int]:
        """A value that changes whenever scene.safetensors is replaced; zeros without that file."""
        with suppress(FileNotFoundError):
            file = (self.folder / "scene.safetensors").stat()
            return file.st_mtime_ns, file.st_ino
        return 0, 0

    def selection(self) -> Selection:
        """The photos that the run was started with; ValueError if run.json is malformed there.

        The calibration photos are given by name, because earlier versions chose other ones.
        """
        where = f'{self.folder / "run.json"}, "asked",'
        photos = checked(self.asked, AskedPhotos, where)
        calibration: int | list[str] = photos.calibration
        if calibration:
            frames = read_json(self.folder / "cameras.json", CamerasFile).frames
            names = [frame.name for frame in frames if frame.split == "calibration"]
            calibration = names if len(names) == calibration else calibration
        return Selection(photos.downscale, photos.test, photos.test_every, calibration)

    def scene(self) -> Splats:
        """The reconstructed scene, in the fit's frame, as the cameras of `views`."""
        path = self.folder / "scene.safetensors"
        if not path.exists():
            folder = quoted(self.folder)
            rest = f"start it again with `lumigraph train CAPTURE --overwrite -o {folder}`"
            if any(self.folder.glob("checkpoints/[0-9]*.safetensors")):
                rest = f"resume it with `lumigraph train CAPTURE --resume {folder}`"
            raise FileNotFoundError(
                f"{self.folder} has no scene.safetensors yet: wait for the end of its training. If "
                f"the training was cut off, {rest}"
            )
        return load_scene(path)

    def capture(self) -> Capture:
        """The frames of the run, their cameras in the capture's frame.

        The run folder has no training photos: reading one raises FileNotFoundError.
        """
        return capture_from(read_json(self.folder / "cameras.json", CamerasFile), self.folder)

    def views(self) -> Capture:
        """The frames of the run, their cameras in the frame of the scene."""
        return moved_capture(self.capture())


def create_run(
    folder: Path, *, capture: Capture, record: dict[str, Any], overwrite: bool = False
) -> Run:
    """A new run folder with run.json, cameras.json, and the test and calibration photos.

    If anything fails, or is interrupted, the files that were written are removed again.

    Args:
        folder: The folder; made with its parents if absent.
        capture: The capture that the run will be trained on.
        record: The other entries of run.json.
        overwrite: Whether to replace a run that is there; other files stay.

    Raises:
        FileExistsError: `folder` is not empty, and `overwrite` is False.
        ValueError: `folder` holds something else than a run.
    """
    taken = is_taken(folder)
    if taken and not overwrite:
        raise FileExistsError(occupied(folder))
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, {"format": FORMAT, "version": VERSION, "state": "running", **record})
    try:
        # Otherwise a program that changes the old run.json could put it in place of the new one.
        with locked_record(folder):
            if taken:
                clear_run(folder)
            write_json(folder / "run.json", run.record)
        for name in PARTS[:3]:
            run.part(name)
        write_json(folder / "cameras.json", cameras_json(capture))
        run.part("eval/photos")
        splits = splits_of(capture)
        for split, place in PHOTOS.items():
            for index, frame in enumerate(splits[split]):
                write_picture(run.part(place) / picture_name(index, frame.name), frame.image())
    except BaseException:  # half a run is of no use
        with suppress(OSError, ValueError):
            clear_run(folder)
        raise
    return run


def open_run(folder: Path) -> Run:
    """The run in `folder`.

    Raises FileNotFoundError if there is none, and ValueError if its run.json is malformed or of
    another version.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {kind}: give a folder that `lumigraph train` wrote")
    path = folder / "run.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no run.json: give a folder that `lumigraph train` wrote"
        )
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f'{path} does not say "format": "{FORMAT}": Lumigraph did not write it')
    version = record.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(
            f"{path} has version {shown(version)}, which should be a whole number from 1"
        )
    if version < VERSION:
        raise ValueError(
            f"{path} is of version {version}, which this Lumigraph cannot read: train again, in "
            "this folder with --overwrite"
        )
    if version > VERSION:
        raise ValueError(
            f"{path} is of version {version}, and this Lumigraph reads {VERSION}: upgrade it"
        )
    checked(record, Record, str(path))
    return Run(folder, record)


def clear_run(folder: Path) -> None:
    """Removes the files of the run in `folder`, and no others; ValueError if it holds no run."""
    if not is_taken(folder):
        return
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} is not empty and holds no run: choose another folder with -o")
    for name in PARTS:
        path = folder / name
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    for name in (*FILES, "run.json"):
        (folder / name).unlink(missing_ok=True)


def next_folder(parent: Path) -> Path:
    """A new, empty folder in `parent`: 001, 002, ..., the first free number."""
    for number in range(1, 100_000):
        folder = parent / f"{number:03d}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise FileExistsError(f"{parent} is full: name the run's folder with -o")


def is_taken(folder: Path) -> bool:
    """Whether the folder holds files that a new run could overwrite, or is a file itself."""
    if not folder.is_dir():
        return folder.exists()
    return any(path.name != LOCK for path in folder.iterdir())


def occupied(folder: Path) -> str:
    """The error message for a run folder that is taken."""
    return (
        f"{folder} is not empty: choose another folder with -o, resume the run in it with "
        f"--resume {quoted(folder)}, or replace it with --overwrite"
    )
