"""The training process as the server sees it: it is started, and lines of JSON go both ways."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

COMMAND = (sys.executable, "-P", "-m", "lumigraph.app.viewer.jobs.worker")


class TrainingProcess:
    """A worker in a process of its own.

    A thread writes the commands, so that no caller waits for a process that does not read, on a
    machine that swaps for example.
    """

    def __init__(self, order: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Starts the process; OSError if it cannot be started.

        Args:
            order: What to do: `capture`, `order` (the fields of `TrainOptions`), `folder`, `runs`
                and `resume`; for a resumed run also `others`, more captures of the same name.
            descriptors: The files of the buffers that the process writes scenes into.
        """
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
            # Ctrl-C reaches the server alone, which tells the process, also while that still loads.
            start_new_session=True,
        )
        self._waiting: dict[str, dict[str, Any]] = {"order": {**order, "buffers": [*descriptors]}}
        self._told, self._left = threading.Condition(), False
        self._writer = threading.Thread(target=self._write, name="commands", daemon=True)
        self._writer.start()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def do(self, name: str, **values: Any) -> None:
        """Gives a command without waiting; a process that has ended or has to leave ignores it.

        A command replaces an older one of its kind that still waits to be written; changes are
        merged.
        """
        with self._told:
            kind = "hold" if name in ("pause", "resume") else name
            if name == "change" and (before := self._waiting.get(kind)):
                values = {"values": {**before["values"], **values["values"]}}
            self._waiting[kind] = {"do": name, **values}
            self._told.notify()

    def messages(self) -> Iterator[dict[str, Any]]:
        """The messages of the process, as they come, until it ends."""
        assert self._process.stdout
        for line in self._process.stdout:
            with suppress(ValueError):  # a line was cut off when the process was killed
                yield json.loads(line)

    def leave(self) -> None:
        """Tells the process to end with a checkpoint; no command is sent after this."""
        with self._told:
            self._left = True
            self._told.notify()

    def kill(self) -> None:
        """Kills the process; its work since the last checkpoint is lost."""
        self._process.kill()

    def wait(self) -> int:
        """Waits for the end, frees everything, and returns the exit code, or minus the signal."""
        code = self._process.wait()
        self.leave()
        self._writer.join()
        assert self._process.stdout
        self._process.stdout.close()
        return code

    def _write(self) -> None:
        """Writes the waiting commands until the process has ended or was asked to end."""
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
