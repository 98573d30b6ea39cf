"""Where everything that the stream shows comes from: what it asks of whoever uses it."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from lumigraph.app.viewer.protocol import Scalar
from lumigraph.app.viewer.trust import Trust
from lumigraph.render import Splats


class Shown(Protocol):
    """A scene as it is now."""

    @property
    def scene(self) -> Splats:
        """Never written to while somebody holds it."""
        ...

    @property
    def version(self) -> int:
        """Another one for every other scene."""
        ...

    @property
    def step(self) -> int:
        """Of its training."""
        ...

    @property
    def near(self) -> float:
        """Splats nearer than this to the eye are not drawn, in the scene's units."""
        ...

    @property
    def trust(self) -> Trust:
        """What is known of its uncertainty."""
        ...

    @property
    def background(self) -> tuple[float, float, float]:
        """Behind it, for a client that has asked for none."""
        ...


class Upload(Protocol):
    """A file on its way. All are called in threads, never two at a time."""

    def add(self, data: bytes) -> bool:
        """Takes the next piece; True if it was the last.

        Raises ValueError or OSError, whose text is for the client.
        """
        ...

    def finish(self) -> None:
        """Does what is to follow when all of it has come, which may take minutes.

        Raises ValueError or OSError as `add` does.
        """
        ...

    def drop(self) -> None:
        """Forgets it, unless it is whole: the rest will not come."""
        ...


class Source(Protocol):
    """Where everything that is shown comes from. `Streams.changed` is to be called on any change.

    All but `photo` are to return soon, and may be called in any thread.
    """

    def scene(self) -> Shown | None:
        """What is to be seen now, if anything."""
        ...

    def want_scene(self) -> None:
        """Somebody looks: a training is to hand over its scene when it has a newer one."""
        ...

    def state(self) -> dict[str, Any]:
        """What goes on, as JSON."""
        ...

    def controls(self) -> Sequence[dict[str, Any]]:
        """What can be set and pressed, as JSON."""
        ...

    def cameras(self) -> Sequence[dict[str, Any]]:
        """Those of the capture, as JSON."""
        ...

    def photo(self, index: int) -> Tensor | None:
        """The photo of one of them, where it can be had. uint8 [height, width, 3]"""
        ...

    def do(self, id: str, value: Scalar) -> None:
        """A control was used. Raises ValueError, whose text is for the client."""
        ...

    def upload(self, name: str, size: int) -> Upload:
        """A file of so many bytes is to come. Raises ValueError or OSError as `Upload.add` does."""
        ...
