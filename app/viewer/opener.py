"""Opens runs and PLY files in a thread: the one that was asked for last."""

import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lumigraph.app.viewer.errors import sentence_of
from lumigraph.app.viewer.jobs.queue import NoteKind
from lumigraph.app.viewer.library import Source
from lumigraph.app.viewer.scene import Setting, numbers_of, open_ply, open_setting
from lumigraph.app.viewer.trust import Trust, trust_of
from lumigraph.render import Splats


class Opener:
    """The thread, and what it opens.

    Attributes:
        name: Of what is being opened; "" if nothing is.
    """

    def __init__(
        self,
        lock: threading.Condition,
        allowed: Sequence[Path],
        note: Callable[[NoteKind, str], None],
        opened: Callable[[Splats, Setting, Trust, dict[str, float]], None],
    ) -> None:
        """Nothing is asked for yet.

        Args:
            lock: Of whoever owns it; to be held where `name` is read.
            allowed: The folders that may be opened.
            note: Is told what went wrong.
            opened: Is given the scene, what is around it and known of it, and its numbers, under
                the lock.
        """
        self.name = ""
        self._lock, self._allowed, self._note, self._opened = lock, allowed, note, opened
        self._tickets = 0
        self._thread = ThreadPoolExecutor(1, "opener")

    def open(self, source: Source) -> None:
        """Has a run or a PLY file opened, unless another one is asked for meanwhile.

        A note says why if that cannot be.
        """
        self._submit(source).add_done_callback(self._complain)

    def load(self, source: Source) -> None:
        """Opens a run or a PLY file before it returns; ValueError says why if that cannot be."""
        self._submit(source).result()

    def forget(self) -> None:
        """What is being opened is not wanted any more."""
        with self._lock:
            self._tickets += 1
            self.name = ""

    def submit(self, call: Callable[[], None]) -> None:
        """Has something else done in the thread."""
        self._thread.submit(call)

    def close(self) -> None:
        """Returns when the thread has ended; what waits for it is not done."""
        self._thread.shutdown(cancel_futures=True)

    def _submit(self, source: Source) -> Future[None]:
        with self._lock:
            self._tickets += 1
            self.name = source.name
            return self._thread.submit(self._load, source, self._tickets)

    def _complain(self, loading: Future[None]) -> None:
        if not loading.cancelled() and (error := loading.exception()) is not None:
            self._note("error", sentence_of(error))

    def _load(self, source: Source, ticket: int) -> None:
        assert source.path
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if source.kind == "ply":
                    scene, setting, trust = open_ply(source.path, source.id, source.name)
                    numbers: dict[str, float] = {}
                else:
                    setting = open_setting(source.path, source.id, source.name, self._allowed)
                    assert setting.run
                    scene = setting.run.scene()
                    trust = trust_of(setting.run, scene, self._allowed, warnings.warn)
                    numbers = numbers_of(setting.run)
        except Exception as error:  # a file that somebody else made may break anything
            with self._lock:
                if ticket == self._tickets:
                    self.name = ""
            raise ValueError(sentence_of(error)) from error
        for warning in caught:
            self._note("info", str(warning.message))
        with self._lock:
            if ticket == self._tickets:
                self.name = ""
                self._opened(scene, setting, trust, numbers)
