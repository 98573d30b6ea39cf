"""The sources that can be opened or trained: captures, runs and PLY files in the allowed folders.

Pages name a source by its id, never by a path: they can ask only for sources that were found.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from lumigraph.app.run.folder import FORMAT, Run
from lumigraph.app.training.inputs import inputs_of
from lumigraph.datasets import Capture, ImageCache
from lumigraph.datasets.colmap import colmap_models
from lumigraph.datasets.demo import SIZES, DemoSize, demo_folder
from lumigraph.datasets.files import printable
from lumigraph.datasets.transforms import transforms_files

Kind = Literal["capture", "run", "ply", "unsaved run"]

DEPTH = 4
"""The levels of folders that are searched below an allowed folder: runs lie two levels below
theirs, and collections of captures rarely deeper."""

MOST_SOURCES, MOST_FOLDERS = 1000, 20_000
"""The limits of a search, which takes about a second with them on a slow disk."""

RUN_LIMIT = 4 << 20
"""The most bytes of a run.json that is read for the list: ten thousand photos make no larger
one."""

UNSAVED: Kind = "unsaved run"

NOTHING_SAVED = (
    "This run has neither a scene nor a checkpoint: its training has just begun, or was cut off "
    "before the first save. If it was cut off, train its capture again; the run's folder can be "
    "removed"
)

STAMP = "%Y-%m-%d_%H-%M-%S"
"""The name of the folder in `uploads` that the files sent to one server go to."""


@dataclass(frozen=True)
class Source:
    """A capture, a run or a PLY file that can be chosen.

    Attributes:
        id: Stays the same as long as the source is not moved.
        name: For people to read, see `named`.
        kind: A "capture" can be trained; the built-in scenes are captures. An "unsaved run" has
            neither a scene nor a checkpoint: it has just begun, or was cut off too early.
        path: Its folder or file; None for a built-in scene.
        state: The state of a run in its run.json; "" for other kinds.
        stopped: Whether it is a run that can be resumed.
        parts: The parts of its path, as it was found; none for a built-in scene.
    """

    id: str
    name: str
    kind: Kind
    path: Path | None
    state: str = ""
    stopped: bool = False
    parts: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The source as a page may know it, without its path."""
        fields = {k: value for k, value in asdict(self).items() if k not in ("path", "parts")}
        return fields | ({"name": f"{self.name} (nothing saved)"} if self.kind == UNSAVED else {})


def built_in() -> list[Source]:
    """The built-in scenes."""
    return [Source(f"demo:{size}", f"Built-in scene, {size}", "capture", None) for size in SIZES]


def find_sources(folders: Sequence[Path]) -> list[Source]:
    """The sources in the folders, or the folders if they are sources themselves; each once.

    Links are followed as long as they stay inside. Hidden folders are left out, and so is what
    lies inside captures and runs, and whatever cannot be read.
    """
    found: dict[str, Source] = {}
    for folder in folders:
        with suppress(OSError):  # the working directory of this process is gone
            for path in _walk(folder, folders):
                if len(found) >= MOST_SOURCES:
                    break
                with suppress(
                    OSError
                ):  # it is gone, may not be read, or is on a disk without connection
                    if source := _source(path):
                        found.setdefault(source.id, source)
    order = {"capture": 0, "run": 1, UNSAVED: 1, "ply": 2}
    return sorted(found.values(), key=lambda source: (order[source.kind], source.parts))


def named(sources: Iterable[Source]) -> dict[str, Source]:
    """The sources by their ids, with different names that fit into a narrow list.

    A name is the last part of the path, for a numbered run the last two, with when it was uploaded
    if it was; in brackets behind it comes as much of the rest as is needed.
    """
    known = {source.id: source for source in sources}
    depths = dict.fromkeys(known, 0)
    while True:
        names = {key: _name(source, depths[key]) for key, source in known.items()}
        counts = Counter(names.values())
        alike = [key for key in known if counts[names[key]] > 1]
        alike = [key for key in alike if depths[key] < len(known[key].parts)]
        if not alike:
            return {key: replace(source, name=names[key]) for key, source in known.items()}
        for key in alike:
            depths[key] += 1


def _name(source: Source, depth: int) -> str:
    """The name with this number of folders in brackets."""
    if not source.parts:
        return source.name
    last = 2 if source.kind in ("run", UNSAVED) and source.parts[-1].isdigit() else 1
    name, before = "/".join(source.parts[-last:]), source.parts[:-last]
    if depth:
        where = "/".join(before[-depth:])
    else:
        where = next(filter(None, map(_uploaded, before, before[1:])), "")
    return printable(f"{name} ({where})" if where else name)


def _uploaded(parent: str, folder: str) -> str:
    """The time when a folder's content was uploaded; "" if it was not uploaded."""
    with suppress(ValueError):
        if parent == "uploads":
            moment = datetime.strptime(folder, STAMP)
            today = moment.date() == datetime.now().date()
            return moment.strftime("uploaded %H:%M" if today else "uploaded %Y-%m-%d %H:%M")
    return ""


def source_at(path: Path, folders: Sequence[Path]) -> Source:
    """The source at a path.

    Raises:
        ValueError: It lies outside the folders, once links are followed, or is no source.
    """
    if not is_inside(path, folders):
        raise ValueError(f"{printable(str(path))} lies outside the folders that may be opened here")
    source = _source(path)
    if source is None:
        raise ValueError(
            f"{printable(str(path))} is no capture, no run and no PLY file: give one of those"
        )
    return source


def is_inside(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a path lies in one of the folders, or is one, after all links are followed."""
    real = os.path.realpath(path)
    return any(_is_below(real, os.path.realpath(folder)) for folder in folders)


def _is_below(real: str, root: str) -> bool:
    """Whether a path is the root or lies below it; both hold no links."""
    return real == root or real.startswith(root.rstrip(os.sep) + os.sep)


def _walk(top: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """The folder or file and its content, level by level, without the content of sources."""
    level, seen = [top], set()
    roots = [os.path.realpath(folder) for folder in folders]
    for _ in range(DEPTH + 1):
        below: list[Path] = []
        for path in level:
            real = os.path.realpath(path)
            inside = any(_is_below(real, root) for root in roots)
            if real in seen or len(seen) > MOST_FOLDERS or not inside:
                continue
            seen.add(real)
            yield path
            with suppress(OSError):
                if path.is_dir() and _kind(path) is None:
                    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
                    below += [Path(e.path) for e in entries if _promising(e)]
        level = below


def _promising(entry: os.DirEntry[str]) -> bool:
    """Whether an entry may be a source, or a folder with sources."""
    if entry.name.startswith("."):
        return False
    with suppress(OSError):
        return entry.is_dir() or entry.name.lower().endswith(".ply")
    return False


def _kind(path: Path) -> Kind | None:
    """The kind of the source at a path, by the names of files alone; None if it is no source."""
    with suppress(OSError):
        if path.is_file():
            if path.suffix.lower() == ".ply":
                return "ply"
            return "capture" if path.suffix.lower() == ".json" else None
        if (path / "run.json").is_file():
            return "run"
        if colmap_models(path) or transforms_files(path):
            return "capture"
    return None


def _source(path: Path) -> Source | None:
    """The source at a path inside an allowed folder, if there is one."""
    kind = _kind(path)
    if kind is None:
        return None
    real = Path(os.path.realpath(path))
    key = blake2b(os.fsencode(real), digest_size=8).hexdigest()
    found = Source(f"{kind}:{key}", "", kind, real, parts=Path(os.path.abspath(path)).parts[1:])
    found = replace(found, name=_name(found, 0))
    if kind != "run":
        return found
    state = _state(real)
    if state is None:
        return None
    kept = any(real.glob("checkpoints/[0-9]*.safetensors"))
    if not kept and not (real / "scene.safetensors").exists():
        return replace(found, kind=UNSAVED, state=state)
    return replace(found, state=state, stopped=kept and state != "finished")


def _state(folder: Path) -> str | None:
    """The state in run.json; None if it is no run of Lumigraph."""
    path = folder / "run.json"
    try:
        if path.stat().st_size > RUN_LIMIT:
            return None
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return None
    return str(record.get("state"))[:20]


class Library:
    """The sources in the allowed folders, by id; any thread may call it.

    Attributes:
        allowed: Folders, runs and files that may be opened. Nothing outside them may be.
    """

    def __init__(
        self, folders: Sequence[Path], runs: Path, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Finds the sources in the folders and in the folder of new runs.

        Args:
            folders: What may be opened.
            runs: The folder of new runs, which may be opened too.
            changed: Is called after every change of the sources.
        """
        self.allowed = (*folders, runs)
        self._runs, self._changed, self._lock = runs, changed, threading.Lock()
        self._sources = named([*built_in(), *find_sources(self.allowed)])

    def sources(self) -> list[Source]:
        """All sources that the last search found."""
        with self._lock:
            return list(self._sources.values())

    def as_dicts(self) -> list[dict[str, Any]]:
        """All sources as plain data: `id`, `name`, `kind`, `state`, `stopped`."""
        return [source.as_dict() for source in self.sources()]

    def refresh(self) -> None:
        """Searches the folders again."""
        found = named([*built_in(), *find_sources(self.allowed)])
        with self._lock:
            self._sources = found
        self._changed()

    def add(self, path: Path) -> Source:
        """The source at a path; ValueError if it is outside, or there is no source."""
        source = source_at(path, self.allowed)
        with self._lock:
            self._sources = named((self._sources | {source.id: source}).values())
            source = self._sources[source.id]
        self._changed()
        return source

    def find(self, source_id: str, *kinds: str) -> Source:
        """The source of that id; ValueError if there is none of these kinds."""
        with self._lock:
            source = self._sources.get(source_id)
        if source is None or (source.path and not is_inside(source.path, self.allowed)):
            raise ValueError("The chosen capture or run was not found: press Rescan, then choose")
        if source.kind == UNSAVED:
            raise ValueError(f"{source.name}: {NOTHING_SAVED}")
        if source.kind not in kinds:
            raise ValueError(f"{source.name} is a {source.kind}, not a {' or a '.join(kinds)}")
        return source

    def first(self) -> Source | None:
        """The first capture in the folders that were given, else the first run or PLY file.

        Sources in the folder of new runs come last. None if there is no source at all.
        """
        found = [source for folder in self.allowed[:-1] for source in find_sources([folder])]
        found.sort(key=lambda source: source.kind != "capture")
        given = [s for s in found if s.path is None or not is_inside(s.path, [self._runs])]
        return next(iter([*given, *found]), None)


# The captures of runs -----------------------------------------------------------------------------
# A capture is named by its place: the path of its folder, or the id of a built-in scene.


def place_of(source: Source) -> str:
    """The place of a capture."""
    return source.id if source.path is None else str(source.path)


def size_of(place: str) -> DemoSize | None:
    """The size of the built-in scene at this place; None if it is not a built-in scene."""
    return next((size for size in SIZES if place == f"demo:{size}"), None)


def folder_at(place: str, progress: Callable[[int, int], None] = lambda done, of: None) -> Path:
    """The folder of the capture at this place; a built-in scene is made if it is not there yet."""
    size = size_of(place)
    return demo_folder(size, progress=progress) if size else Path(place)


class CaptureFinder:
    """Finds the captures that runs were made from; any thread may call it."""

    def __init__(self, sources: Callable[[], Sequence[Source]]) -> None:
        """A finder that knows of no run yet and searches in what `sources` returns."""
        self._sources = sources
        self._known: dict[Path, str] = {}

    def learn(self, folder: Path, place: str) -> None:
        """Remembers that the run in a folder was made from the capture at this place."""
        self._known[folder.absolute()] = place

    def places(self, run: Run) -> list[str]:
        """The places where a run's capture may be: the known one, else captures of its name.

        Other captures may have the same name: compare with `inputs_of`.
        """
        if known := self._known.get(run.folder.absolute()):
            return [known]
        name = run.record["capture"]
        demos = [f"demo:{size}" for size in SIZES if name == f"demo_{size}"]
        paths = [s.path for s in self._sources() if s.kind == "capture" and s.path]
        return [*demos, *(str(path) for path in paths if path.name == name)]

    def capture(self, run: Run, cache: ImageCache) -> Capture | None:
        """The capture of a run, as the run used it; None if it is not found.

        Raises:
            ValueError: A capture of the run's name is damaged.
            OSError: A capture of the run's name cannot be read.
        """
        selection, problems = run.selection(), []
        for place in self.places(run):
            try:
                capture = selection.load(folder_at(place), cache)
            except (ValueError, OSError) as error:
                problems.append(error)
                continue
            if run.folder.absolute() in self._known or inputs_of(capture) == run.record["inputs"]:
                return capture
        if problems:
            raise problems[0]
        return None
