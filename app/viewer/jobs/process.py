"""The page's end of the trainer: starts the process, and passes lines of JSON to and fro."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

COMMAND = (sys.executable, "-P", "-m", "lumigraph.app.viewer.jobs.worker")


class Child:
    """A trainer at work in a process of its own.

    A thread writes what it is told, so that nobody waits for one that does not read: a stopped
    process, or a machine that swaps.
    """

    def __init__(self, order: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Starts it; OSError if that cannot be.

        Args:
            order: What it is to do: `capture`, `order` (as `Order` has it), `folder`, `runs` and
                `resume`; for the latter also `others`, captures that may be meant as well.
            descriptors: Of the buffers that it writes scenes into.
        """
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
            # Threads that spin while they wait would take the page its core.
            # Ctrl-C is for the parent, which tells it, also while it still loads its libraries.
            start_new_session=True,
            env={"OMP_WAIT_POLICY": "passive", **os.environ},
        )
        self._waiting: dict[str, dict[str, Any]] = {"order": {**order, "buffers": [*descriptors]}}
        self._told, self._left = threading.Condition(), False
        self._writer = threading.Thread(target=self._write, name="commands", daemon=True)
        self._writer.start()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def do(self, name: str, **values: Any) -> None:
        """Gives a command, and never waits; one that is gone or told to leave hears nothing.

        Of commands that wait to be written the newest of a kind counts, and so do the latest
        `values` of all changes.
        """
        with self._told:
            kind = "hold" if name in ("pause", "resume") else name
            if name == "change" and (before := self._waiting.get(kind)):
                values = {"values": {**before["values"], **values["values"]}}
            self._waiting[kind] = {"do": name, **values}
            self._told.notify()

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, as it comes, until it ends."""
        assert self._process.stdout
        for line in self._process.stdout:
            with suppress(ValueError):  # cut off where it was killed
                yield json.loads(line)

    def leave(self) -> None:
        """Tells it to end with a checkpoint, and that nobody will speak to it again."""
        with self._told:
            self._left = True
            self._told.notify()

    def kill(self) -> None:
        """Ends it at once; what it did since its last checkpoint is lost."""
        self._process.kill()

    def wait(self) -> int:
        """Its exit code once it has ended, or minus the signal that ended it; all is freed then."""
        code = self._process.wait()
        self.leave()
        self._writer.join()
        assert self._process.stdout
        self._process.stdout.close()
        return code

    def _write(self) -> None:
        """Writes what waits until it is told to leave, or gone."""
        assert self._process.stdin
        with suppress(OSError), self._process.stdin as pipe:
            while True:
                with self._told:
                    self._told.wait_for(lambda: self._waiting or self._left)
                    waiting, self._waiting = [*self._waiting.values()], {}
                    if not waiting:
                        return
                for message in waiting:
                    pipe.write(json.dumps(message).encode() + b"\n")
                pipe.flush()
