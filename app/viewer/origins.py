"""Which captures runs were made of, as far as that is known or can be found out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lumigraph.app.run.folder import Run
from lumigraph.app.training.inputs import inputs_of
from lumigraph.app.viewer.library import Source
from lumigraph.datasets import Capture, ImageCache
from lumigraph.datasets.demo import SIZES, DemoSize, demo_folder


def place_of(source: Source) -> str:
    """A capture, as a trainer takes it."""
    return source.id if source.path is None else str(source.path)


def size_of(place: str) -> DemoSize | None:
    """The size of the built-in scene that a trainer takes so; None if it is no built-in scene."""
    return next((size for size in SIZES if place == f"demo:{size}"), None)


def folder_at(place: str, progress: Callable[[int, int], None] = lambda done, of: None) -> Path:
    """The folder of a capture that a trainer takes so; a built-in one is made if need be."""
    size = size_of(place)
    return demo_folder(size, progress=progress) if size else Path(place)


class Origins:
    """The captures of runs; any thread may call it."""

    def __init__(self, sources: Callable[[], Sequence[Source]]) -> None:
        """Nothing is known yet but what `sources` tells there is."""
        self._sources = sources
        self._known: dict[Path, str] = {}

    def learn(self, folder: Path, place: str) -> None:
        """The run in a folder was made of the capture that a trainer takes so."""
        self._known[folder.absolute()] = place

    def places(self, run: Run) -> list[str]:
        """What may be the capture of a run, as a trainer takes it: what is known, or by its name.

        Other captures may have that name, so `inputs_of` is to tell.
        """
        if known := self._known.get(run.folder.absolute()):
            return [known]
        name = run.record["capture"]
        built_in = [f"demo:{size}" for size in SIZES if name == f"demo_{size}"]
        paths = [s.path for s in self._sources() if s.kind == "capture" and s.path]
        return [*built_in, *(str(path) for path in paths if path.name == name)]

    def capture(self, run: Run, cache: ImageCache) -> Capture | None:
        """The capture of a run, as it was used; None if it is nowhere to be found.

        Raises:
            ValueError: What may be it is damaged.
            OSError: It cannot be read.
        """
        problems: list[ValueError | OSError] = []
        for capture in self._loaded(run, cache, problems):
            if run.folder.absolute() in self._known or inputs_of(capture) == run.record["inputs"]:
                return capture
        if problems:
            raise problems[0]
        return None

    def _loaded(
        self, run: Run, cache: ImageCache, problems: list[ValueError | OSError]
    ) -> Iterator[Capture]:
        """What may be the capture of a run, and in `problems` why the others cannot."""
        choice = run.selection()
        for place in self.places(run):
            try:
                yield choice.load(folder_at(place), cache)
            except (ValueError, OSError) as error:
                problems.append(error)
