"""The page's end of the trainer: starts the process, and passes lines of JSON to and fro."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

COMMAND = (sys.executable, "-P", "-m", "lumigraph.app.viewer.trainer")


class Child:
    """A trainer at work in a process of its own."""

    def __init__(self, order: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Starts it; OSError if that cannot be.

        Args:
            order: What it is to do: `capture`, `order` (as `Order` has it), `folder`, `runs` and
                `resume`.
            descriptors: Of the buffers that it writes scenes into.
        """
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
            # Threads that spin while they wait would take the page its core.
            env={"OMP_WAIT_POLICY": "passive", **os.environ},
        )
        self._tell({**order, "buffers": list(descriptors)})

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def do(self, name: str, **values: Any) -> None:
        """Gives a command; one that is gone hears nothing."""
        self._tell({"do": name, **values})

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, as it comes, until it ends."""
        assert self._process.stdout
        for line in self._process.stdout:
            with suppress(ValueError):  # cut off where it was killed
                yield json.loads(line)

    def leave(self) -> None:
        """Tells it to end with a checkpoint, and that nobody will speak to it again."""
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        """Ends it at once; what it did since its last checkpoint is lost."""
        self._process.kill()

    def wait(self) -> int:
        """Its exit code once it has ended, or minus the signal that ended it; all is freed then."""
        code = self._process.wait()
        self.leave()
        assert self._process.stdout
        self._process.stdout.close()
        return code

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        with suppress(OSError, ValueError):  # it is gone, or was told to leave
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
