"""Scenes from the trainer to the page: memory that both processes share, in files without a name.

The parent makes the buffers, and lends them one at a time; the child writes only into the one it
was lent. A file without a name is gone with the last process that has it open, however that ends:
nothing can be left behind.
"""

import mmap
import os
import tempfile
import time
import weakref
from math import prod
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lumigraph.kernels import Filter
from lumigraph.render import Splats

BUFFERS, SPARES = 2, 2
"""One is looked at while the other is written. Only where somebody holds on to an older scene for
longer than `PATIENCE` are the others used: a page that hangs is not to hold up the rest."""

PATIENCE = 1.0
"""Seconds."""

ALIGNMENT = 16
"""Numbers: every tensor begins where a row of the processor's cache does."""

SPARE = 1.5
"""A buffer is made larger by this than what did not fit: a scene that grows does so again soon."""


def scene_layout(count: int, degree: int) -> tuple[dict[str, tuple[int, tuple[int, ...]]], int]:
    """Where each tensor of a scene lies in a buffer, with its shape; and the size of all, in bytes.

    Places are counted in float32 numbers.
    """
    shapes = {
        "means": (count, 3),
        "quaternions": (count, 4),
        "log_scales": (count, 3),
        "opacity_logits": (count,),
        "base": (count, 3),
        "rest": (count, (degree + 1) ** 2 - 1, 3),
    }
    places, place = {}, 0
    for name, shape in shapes.items():
        places[name] = (place, shape)
        place += -(-prod(shape) // ALIGNMENT) * ALIGNMENT
    return places, 4 * place


def _tensors(numbers: Tensor, count: int, degree: int) -> dict[str, Tensor]:
    """The tensors of a scene as views of a buffer's numbers. numbers: float32 [any]"""
    places, _ = scene_layout(count, degree)
    return {
        name: numbers[place : place + prod(shape)].view(shape)
        for name, (place, shape) in places.items()
    }


class Buffers:
    """The parent's side: buffers, each free, lent to the trainer, or held by a scene."""

    def __init__(self) -> None:
        """Buffers of no size yet."""
        self._files = [_unnamed() for _ in range(BUFFERS + SPARES)]
        self._sizes = [0] * len(self._files)
        self._lent: int | None = None
        self._held: list[weakref.ref[np.ndarray] | None] = [None] * len(self._files)
        self._lent_at = time.monotonic()

    @property
    def descriptors(self) -> list[int]:
        """Of the files; the trainer is to inherit them."""
        return [file.fileno() for file in self._files]

    def lend(self) -> tuple[int, int] | None:
        """The number and size of a free buffer, which is the trainer's now; None if there is none.

        One is lent at a time, and one whose scene is still in use is not free.
        """
        now = time.monotonic()
        usable = BUFFERS if now - self._lent_at < PATIENCE else BUFFERS + SPARES
        free = [i for i, held in enumerate(self._held[:usable]) if held is None or held() is None]
        if self._lent is not None or not free:
            return None
        self._lent, self._lent_at = free[0], now
        return free[0], self._sizes[free[0]]

    def grow(self, size: int) -> tuple[int, int]:
        """The number and size of the lent buffer, which holds so many bytes now and some more.

        Raises OSError if there is no such memory.
        """
        assert self._lent is not None
        larger = int(size * SPARE) // mmap.PAGESIZE * mmap.PAGESIZE + mmap.PAGESIZE
        os.ftruncate(self._files[self._lent].fileno(), larger)
        self._sizes[self._lent] = larger
        return self._lent, larger

    def give_back(self) -> None:
        """Takes back what is lent, with no scene in it."""
        self._lent = None

    def take(self, count: int, degree: int, filter: Filter) -> Splats:
        """The scene in the lent buffer, which is not free before the last tensor of it is gone.

        Raises OSError if it cannot be mapped; the buffer is free then.
        """
        assert self._lent is not None
        number, self._lent = self._lent, None
        array = _mapped(self._files[number].fileno(), self._sizes[number])
        self._held[number] = weakref.ref(array)
        return Splats(**_tensors(torch.from_numpy(array), count, degree), filter=filter)

    def close(self) -> None:
        """Lets go of the buffers; scenes that are held stay sound."""
        for file in self._files:
            file.close()


class Writer:
    """The trainer's side."""

    def __init__(self, descriptors: list[int]) -> None:
        """A writer into the buffers that were inherited."""
        self._descriptors = descriptors
        self._arrays: list[np.ndarray | None] = [None] * len(descriptors)

    def write(self, splats: Splats, buffer: int, size: int) -> dict[str, Any]:
        """Copies the scene into a buffer of that size, and returns what the parent is to be told.

        That is under "needs" how many bytes it takes, if the buffer is too small, else what `take`
        wants to know, and under "took" the seconds.
        """
        began = time.perf_counter()
        _, needed = scene_layout(len(splats), splats.degree)
        if needed > size or not size:
            return {"needs": needed}
        array = self._arrays[buffer]
        if array is None or array.nbytes != size:
            array = self._arrays[buffer] = _mapped(self._descriptors[buffer], size)
        there = _tensors(torch.from_numpy(array), len(splats), splats.degree)
        for name, value in splats.tensors.items():
            there[name].copy_(value)
        facts = {"splats": len(splats), "degree": splats.degree, "filter": splats.filter}
        return {**facts, "took": time.perf_counter() - began}


def _unnamed() -> BinaryIO:
    """A new file in memory without a name; on the disk where the system has no such files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("lumigraph-scene"), "r+b", buffering=0)
    return tempfile.TemporaryFile()


def _mapped(descriptor: int, size: int) -> np.ndarray:
    """The file's memory as numbers; it stays mapped as long as the array is there. float32 [any]"""
    return np.frombuffer(mmap.mmap(descriptor, size), dtype=np.float32)
