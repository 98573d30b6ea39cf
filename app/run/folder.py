"""The folder a reconstruction leaves behind: what lies where, how it is written, how it is opened.

    run.json            what was asked, the plan, hashes of the inputs, versions, timings, metrics
    cameras.json        every frame: its name, split and camera in the capture's frame
    scene.safetensors   the scene in the fit's frame, to the bit
    scene.ply           the same in the capture's frame, for other programs
    checkpoints/        the newest states of the fit, to go on from
    metrics.jsonl       loss, splats and, now and then, PSNR, one line per entry
    eval/               photos/ (the test photos as used, lossless), renders/, metrics.json
    calibration/        photos/ (those set aside to calibrate intervals, lossless), if there are any
    renders/            what `lumigraph render` made
    uncertainty/        what `lumigraph uncertainty` made: estimate.json, maps/, report.html, ...
    report.html         all of it on one page
    .lock               while it is trained: the process that does

Every path in it is relative, so that the folder can be moved, zipped and mailed. The test photos
are kept so that a run can be evaluated where the photos are not, those set aside so that its
intervals can be calibrated there.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lumigraph.app.console import quoted, warn
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
from lumigraph.app.run.pictures import write_picture
from lumigraph.app.run.record import FORMAT, LOG, VERSION, Photos, Record, RunState, Selection
from lumigraph.datasets import Capture
from lumigraph.datasets.files import shown
from lumigraph.recon.files import load_scene
from lumigraph.render import Splats

if sys.platform != "win32":
    import fcntl

PARTS = ("checkpoints", "eval", "renders", "uncertainty", "calibration")
FILES = ("cameras.json", "scene.safetensors", "scene.ply", LOG, "report.html")

LOCK = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems answer that know no locks, as some of a network do."""


@dataclass(frozen=True)
class Run:
    """An open run folder.

    Attributes:
        folder: Where it lies now.
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
        """What the run was started with."""
        return self.record["asked"]

    def part(self, name: str) -> Path:
        """A folder inside the run, made if it is absent; ValueError if a link is on the way."""
        path = self.folder
        for step in Path(name).parts:
            path = path / step
            if path.is_symlink() or step == "..":
                raise ValueError(f"{path} leads elsewhere: remove that link")
            path.mkdir(parents=True, exist_ok=True)
        return path

    def with_record(self, **changes: Any) -> "Run":
        """The run as it is on the disk, with some entries of run.json changed there too."""
        with self.changing() as record:
            record.update(changes)
        return replace(self, record=record)

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """The record as it is on the disk, to be changed: it is written at the end.

        Nobody else changes it meanwhile, so that no program undoes what another one wrote. If
        run.json cannot be read any more, the record is the one in memory: a training does not end
        because of that. An exception inside leaves run.json as it is.
        """
        with _record_lock(self.folder):
            try:
                record = open_run(self.folder).record
            except (OSError, ValueError):
                record = dict(self.record)
            yield record
            write_json(self.folder / "run.json", record)

    def scene_stamp(self) -> tuple[int, int]:
        """Another value whenever scene.safetensors was replaced; zeros if there is none."""
        with suppress(FileNotFoundError):
            file = (self.folder / "scene.safetensors").stat()
            return file.st_mtime_ns, file.st_ino
        return 0, 0

    def selection(self) -> Selection:
        """Which photos of the capture the run was started with; ValueError if it is malformed.

        Photos that were set aside are named, because earlier versions chose others.
        """
        where = f'{self.folder / "run.json"}, "asked",'
        photos = checked(self.asked, Photos, where)
        calibration: int | list[str] = photos.calibration
        if calibration:
            frames = read_json(self.folder / "cameras.json", CamerasFile).frames
            names = [frame.name for frame in frames if frame.split == "calibration"]
            calibration = names if len(names) == calibration else calibration
        return Selection(photos.downscale, photos.test, photos.test_every, calibration)

    def scene(self) -> Splats:
        """The reconstructed scene, in the fit's frame: that of `views`."""
        path = self.folder / "scene.safetensors"
        if not path.exists():
            rest = "train again; this folder can be removed"
            if any(self.folder.glob("checkpoints/[0-9]*.safetensors")):
                rest = f"resume it with `lumigraph train CAPTURE --resume {quoted(self.folder)}`"
            raise FileNotFoundError(
                f"{self.folder} has no scene.safetensors: its training is at work, or was cut off "
                f"before the scene was saved. If so, {rest}"
            )
        return load_scene(path)

    def capture(self) -> Capture:
        """The frames of the run in the capture's frame, with the photos not learned from.

        Asking a train frame for its photo raises FileNotFoundError: those stay in the capture.
        """
        return capture_from(read_json(self.folder / "cameras.json", CamerasFile), self.folder)

    def views(self) -> Capture:
        """The same with its cameras in the frame of the scene."""
        return moved_capture(self.capture())


def create_run(
    folder: Path, *, capture: Capture, record: dict[str, Any], overwrite: bool = False
) -> Run:
    """A new run folder with run.json, cameras.json and the photos not learned from in it.

    If anything fails, or is interrupted, what was written so far is removed again.

    Args:
        folder: Where; made with its parents if it is absent.
        capture: What the run will learn from.
        record: The further entries of run.json.
        overwrite: Whether a run that is there already gives way; other files stay.

    Raises:
        FileExistsError: `folder` holds anything already and is not to be overwritten.
        ValueError: What it holds is no run.
    """
    if is_taken(folder):
        if not overwrite:
            raise FileExistsError(occupied(folder))
        clear_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, {"format": FORMAT, "version": VERSION, "state": "running", **record})
    try:
        write_json(folder / "run.json", run.record)
        for name in PARTS[:3]:
            run.part(name)
        write_json(folder / "cameras.json", cameras_json(capture))
        run.part("eval/photos")
        splits = splits_of(capture)
        for split, place in PHOTOS.items():
            for index, frame in enumerate(splits[split]):
                write_picture(run.part(place) / picture_name(index, frame.name), frame.image())
    except BaseException:  # half a run is of no use to anybody
        with suppress(OSError, ValueError):
            clear_run(folder)
        raise
    return run


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While inside, nobody else trains into `folder`, which is made with its parents if absent.

    The lock is the kernel's: it ends with this process, however that ends, and neither a file that
    is left behind nor a copy of it holds anything. Who only reads the run takes no notice of it,
    and programs that are started meanwhile do not get it. Folders made for it go if they are empty
    at the end.

    Raises:
        BlockingIOError: Another process, or another session of this one, trains into it.
        NotADirectoryError: It is a file.
        ValueError: Its path is not UTF-8, and safetensors could not read the scene in it.
    """
    if any(0xD800 <= ord(c) <= 0xDFFF for c in str(folder)):
        raise ValueError(f"{folder} has a name that is not UTF-8: choose another folder with -o")
    if sys.platform == "win32":  # has no fcntl: there, nobody is kept from training into it too
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: choose another folder with -o")
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    file = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(folder)
        yield
    finally:
        with suppress(OSError):
            if file is not None and _is_at(file, folder / LOCK):  # the run may have been moved
                (folder / LOCK).unlink()
        if file is not None:
            os.close(file)
        with suppress(OSError):
            for path in absent:
                path.rmdir()


def open_run(folder: Path) -> Run:
    """The run that lies in `folder`.

    Raises FileNotFoundError if there is none, and ValueError if its run.json is malformed or was
    written by a newer Lumigraph.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {kind}: give the folder that `lumigraph train` wrote")
    path = folder / "run.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} has no run.json, so it is no run folder: give one `lumigraph train` wrote"
        )
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f'{path} does not say "format": "{FORMAT}": it is no run folder of ours')
    version = record.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"{path} has version {shown(version)} where a whole number from 1 belongs")
    if version < VERSION:
        raise ValueError(
            f"{path} is of version {version}, which this Lumigraph reads no more: train anew, "
            "with --overwrite in this folder"
        )
    if version > VERSION:
        raise ValueError(
            f"{path} is of version {version} and this Lumigraph reads up to {VERSION}: upgrade it"
        )
    checked(record, Record, str(path))
    return Run(folder, record)


def clear_run(folder: Path) -> None:
    """Removes what a run left in `folder`, and nothing else; ValueError if it holds no run."""
    if not is_taken(folder):
        return
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} holds something that is no run: choose another folder with -o")
    for name in PARTS:
        path = folder / name
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    for name in (*FILES, "run.json"):
        (folder / name).unlink(missing_ok=True)


def next_folder(parent: Path) -> Path:
    """An empty new folder `parent`/001, 002, ..., the first number that is free."""
    for number in range(1, 100_000):
        folder = parent / f"{number:03d}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise FileExistsError(f"{parent} is full: name the run's folder with -o")


def is_taken(folder: Path) -> bool:
    """Whether something is there that a new run would write over."""
    if not folder.is_dir():
        return folder.exists()
    return any(path.name != LOCK for path in folder.iterdir())


def occupied(folder: Path) -> str:
    """The sentence for a run folder that is taken."""
    return (
        f"{folder} is not empty: choose another folder with -o, resume the run in it with "
        f"--resume {quoted(folder)}, or replace it with --overwrite"
    )


def _lock(folder: Path) -> int:
    """The open lock file of a folder, locked; BlockingIOError if it is so already.

    A descriptor that Python opens is closed in every program that is started from here.
    """
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _flock(file, folder)
            # Whoever had it may have removed the file after it was opened here, and a third have
            # made a new one: only the lock on the file that is there counts.
            if _is_at(file, path):
                with suppress(OSError):  # it is only there for people to read
                    os.ftruncate(file, 0)
                    os.pwrite(file, b"%d\n" % os.getpid(), 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


@contextmanager
def _record_lock(folder: Path) -> Iterator[None]:
    """While inside, nobody else changes run.json: a lock on the folder itself, held for moments.

    Where folders cannot be locked, as on some network drives, nothing is locked.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _flock(file: int, folder: Path) -> None:
    """Locks an open file, or warns where the file system cannot; BlockingIOError if it is taken."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number = os.pread(file, 20, 0).strip()
        process = f"process {int(number)}" if number.isdigit() else "another process"
        raise BlockingIOError(
            f"{folder} is being trained by {process}: let that end or stop it first, or train in "
            "another folder with -o"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(
            f"{folder} lies where files cannot be locked ({error.strerror}): see to it that no "
            "other program trains there"
        )


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file is the one that lies at `path`."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False
