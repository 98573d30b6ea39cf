"""Loads the capture in a folder, in any of the formats that are read."""

import hashlib
import os.path
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lumigraph.datasets.capture import Capture, Frame
from lumigraph.datasets.colmap import colmap_models, read_colmap
from lumigraph.datasets.extent import similarity_for
from lumigraph.datasets.files import printable, read_bytes, shown
from lumigraph.datasets.images import ImageCache
from lumigraph.datasets.listing import Listing, Shot
from lumigraph.datasets.photos import Photo, load_mask, load_photo, photo_from
from lumigraph.datasets.transforms import read_transforms, transforms_files
from lumigraph.render import Camera

TEST_LIST = "test_list.txt"
"""Name of a file in a capture's folder that lists the test views, one on each line."""

LIST_LIMIT = 1 << 26
"""Largest size of such a list in bytes: the names of a million photos."""

NEAR = 0.01
"""The near plane of every camera, as a share of the scene's size."""


def load_capture(
    path: Path | str,
    *,
    downscale: int = 1,
    test: Sequence[str] | Path | None = None,
    test_every: int = 8,
    calibration: int | Sequence[str] = 0,
    cache: ImageCache | None = None,
) -> Capture:
    """The capture in a folder, undistorted, in its own frame and scale.

    The folder holds `images/` and a COLMAP model (`sparse/0`, `sparse` or `colmap/sparse/0`), or
    `transforms.json`, or Blender's `transforms_train.json`; if it holds several of these, the
    first in this order is read. All listed files must be inside the folder after links are
    followed; only `images` itself may be a link to another place.

    Args:
        path: The folder, or a transforms.json file.
        downscale: The factor by which width and height of the photos are divided.
        test: Names of the test views, or a file that lists them, one on each line. By default
            they are those of `test_list.txt` in the folder, else those that the format names, else
            every `test_every`-th photo of the list sorted by name, from the first.
        test_every: 0 trains on all photos unless `test` is given; 1 makes all photos test views
            unless something else names the test views. A single photo is a training view unless
            this is 1.
        calibration: The number of photos to set aside from training, to calibrate intervals on.
            They are drawn by chance, with a fixed seed, from the photos that are not test views.
            Or the names of these photos.
        cache: Holds decoded photos; by default a new one with a quarter of the free memory.

    Raises:
        FileNotFoundError: The folder does not exist, or contains no capture or no photo of it.
        ValueError: A file is damaged or contradicts itself, no photo is left to train on
            (without `test_every=1`), or `calibration` names a photo that is not there.
    """
    path = Path(path)
    if downscale < 1 or test_every < 0:
        raise ValueError(
            f"downscale is {downscale} and test_every {test_every}, "
            "expected at least 1 and at least 0"
        )
    listing = _read(path)
    folder = path if path.is_dir() else path.parent
    if not listing.shots:
        raise FileNotFoundError(
            f"none of the {len(listing.absent)} listed photos is in {listing.looked_in}: "
            f"the first is {min(listing.absent)}; copy them there"
            if listing.absent
            else f"{path} lists no photos, expected at least one"
        )
    cache = cache or ImageCache()
    notes = [*_absent_note(listing), *listing.notes]
    names = _names(listing, path)
    shots = sorted(zip(names, listing.shots, strict=True), key=lambda pair: pair[0])
    frames, transparent = _frames(shots, downscale, cache)
    if transparent:
        notes.append("Photos with transparency are laid over white")
    similarity = similarity_for([frame.camera for frame, _ in frames], listing.points)
    frames = [(_with_near(frame, NEAR / similarity.scale), shot) for frame, shot in frames]
    if test is None and test_every > 0 and (folder / TEST_LIST).is_file():
        test = folder / TEST_LIST
    train, held = _split(frames, test, test_every)
    train, aside = _set_aside(train, calibration)
    notes.append(
        f"Decoded photos are kept in at most {cache.limit_bytes / 2**20:,.0f} MiB of memory"
    )
    return Capture(
        name=printable(folder.resolve().name),
        train=train,
        test=held,
        points=listing.points,
        colors=listing.colors,
        similarity=similarity,
        up=listing.up,
        notes=tuple(dict.fromkeys(notes)),
        background=(1.0, 1.0, 1.0) if transparent else (0.0, 0.0, 0.0),
        calibration=aside,
    )


def _read(path: Path) -> Listing:
    """The listing of the capture, in the first format for which there are files."""
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise ValueError(f"{path} is a file, expected a folder or a transforms.json")
        return read_transforms({"train": path})
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: check the path of the capture")
    models, files = colmap_models(path), transforms_files(path)
    if models and (models[0].is_relative_to(path / "sparse") or not files):
        return read_colmap(path, models)
    if files:
        return read_transforms(files)
    raise FileNotFoundError(
        f"{path} holds no capture: expected a COLMAP model in sparse/0 beside images/, "
        "or a transforms.json"
    )


def _absent_note(listing: Listing) -> list[str]:
    if not listing.absent:
        return []
    total = len(listing.absent) + len(listing.shots)
    return [
        f"{len(listing.absent)} of {total} listed photos are not in {listing.looked_in}: "
        "the other photos are used"
    ]


def _names(listing: Listing, path: Path) -> list[str]:
    """The listed names without the folders that all of them share; no name occurs twice."""
    listed = [shot.name for shot in listing.shots]
    (name, count), *_ = Counter(listed).most_common(1)
    if count > 1:
        raise ValueError(f"{path} lists {name} more than once, expected every photo once")
    common = os.path.commonpath([os.path.dirname(name) for name in (*listed, *listing.absent)])
    return [os.path.relpath(name, common) if common else name for name in listed]


def _frames(
    shots: list[tuple[str, Shot]], downscale: int, cache: ImageCache
) -> tuple[list[tuple[Frame, Shot]], bool]:
    """A frame for each named shot, and whether any photo has transparency."""
    frames, transparent = [], False
    for name, shot in shots:
        photo, alpha = photo_from(shot.path, shot.lens, downscale, shot.mask)
        frames.append((_frame(name, shot, photo, cache), shot))
        transparent |= alpha
    return frames, transparent


def _frame(name: str, shot: Shot, photo: Photo, cache: ImageCache) -> Frame:
    return Frame(
        name=name,
        camera=_camera(photo, shot),
        image=partial(load_photo, cache, photo),
        mask=partial(load_mask, cache, photo) if photo.mask else None,
        path=photo.path,
    )


def _with_near(frame: Frame, near: float) -> Frame:
    return replace(frame, camera=replace(frame.camera, near=near))


def _camera(photo: Photo, shot: Shot) -> Camera:
    lens = photo.pinhole
    fx, fy, cx, cy = lens.params
    return Camera(shot.world_to_camera, (fx, fy), (cx, cy), lens.width, lens.height)


def _split(
    frames: list[tuple[Frame, Shot]], test: Sequence[str] | Path | None, every: int
) -> tuple[tuple[Frame, ...], tuple[Frame, ...]]:
    """The training views and the test views."""
    if test is not None:
        held = _named(frames, test)
    elif every and any(shot.split for _, shot in frames):
        held = {frame.name for frame, shot in frames if shot.split == "test"}
        frames = [pair for pair in frames if pair[1].split != "unused"]
    else:
        held = {frame.name for frame, _ in frames[::every]} if every else set()
    if len(held) == len(frames) and every != 1:
        if len(frames) > 1 or test is not None:
            raise ValueError(
                f"all {len(frames)} photos are held out, none is left to learn from: "
                "name fewer test views"
            )
        held = set()  # A single photo is a training view.
    train = tuple(frame for frame, _ in frames if frame.name not in held)
    return train, tuple(frame for frame, _ in frames if frame.name in held)


def _set_aside(
    frames: tuple[Frame, ...], calibration: int | Sequence[str]
) -> tuple[tuple[Frame, ...], tuple[Frame, ...]]:
    """The training views, and the calibration views: a number of them, or those with the names.

    Intervals hold for views that are exchangeable with the calibration views. So these are drawn by
    chance, each frame being equally likely, and neither evenly spaced nor chosen by their content.
    The hash of a frame's name serves as a random number: a run that is repeated or resumed, with
    any version of Python, draws the same views, and a larger draw includes the smaller ones.
    """
    names = [frame.name for frame in frames]
    if isinstance(calibration, int):
        if calibration and not 0 < calibration < len(names):
            raise ValueError(
                f"{calibration} views cannot be set aside for calibration from the {len(names)} "
                f"that would be learned from: ask for 0 to {max(len(names) - 1, 0)}"
            )
        calibration = sorted(names, key=_chance)[:calibration]
    elif unknown := [name for name in calibration if name not in names]:
        raise ValueError(
            f"{unknown[0]} was set aside for calibration but is not among the photos that are not "
            "test views: give the same capture"
        )
    aside = set(calibration)
    return (
        tuple(frame for frame in frames if frame.name not in aside),
        tuple(frame for frame in frames if frame.name in aside),
    )


def _chance(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _named(frames: list[tuple[Frame, Shot]], test: Sequence[str] | Path) -> set[str]:
    """The names of the test frames, given by their own names or by the listed ones."""
    source = "the test views"
    if isinstance(test, Path):
        source = str(test)
        text = read_bytes(test, LIST_LIMIT).decode("utf-8-sig", "surrogateescape")
        lines = text.splitlines()
        test = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    known = {key: frame.name for frame, shot in frames for key in (shot.name, frame.name)}
    if unknown := [name for name in test if name not in known]:
        raise ValueError(
            f"{source} name {shown(unknown[0])} and {len(unknown) - 1} more photos, which the "
            f"capture does not have: expected names like {frames[0][0].name}"
        )
    return {known[name] for name in test}
