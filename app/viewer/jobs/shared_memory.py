"""Scenes from the worker to the server, in memory that both processes share, in unnamed files.

The server makes the buffers, and lends them one at a time; the worker writes only into the buffer
that it was lent. An unnamed file vanishes with the last process that has it open, so nothing is
left behind however a process ends.
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
"""One buffer is shown while the other is written. The spare buffers are used only if a
reader keeps an older scene for longer than `PATIENCE`: a page that hangs must not stop others."""

PATIENCE = 1.0
"""Seconds."""

ALIGNMENT = 16
"""Float32 numbers: every tensor begins at a cache line of the processor."""

SPARE = 1.5
"""Size of a new buffer over the scene that did not fit: a scene that grows goes on growing."""


def scene_layout(count: int, degree: int) -> tuple[dict[str, tuple[int, tuple[int, ...]]], int]:
    """The place and shape of each tensor of a scene in a buffer; and the size of all, in bytes.

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


class SceneBuffers:
    """The server's side: each buffer is free, lent to the worker, or held by a scene."""

    def __init__(self) -> None:
        """Buffers without memory."""
        self._files = [_unnamed() for _ in range(BUFFERS + SPARES)]
        self._sizes = [0] * len(self._files)
        self._lent: int | None = None
        self._held: list[weakref.ref[np.ndarray] | None] = [None] * len(self._files)
        self._lent_at = time.monotonic()

    @property
    def descriptors(self) -> list[int]:
        """The descriptors of the files; the worker process inherits them."""
        return [file.fileno() for file in self._files]

    def lend(self) -> tuple[int, int] | None:
        """Lends a free buffer to the worker, and returns its number and size; None if none is free.

        Only one is lent at a time. A buffer is not free while its scene is in use.
        """
        now = time.monotonic()
        usable = BUFFERS if now - self._lent_at < PATIENCE else BUFFERS + SPARES
        free = [i for i, held in enumerate(self._held[:usable]) if held is None or held() is None]
        if self._lent is not None or not free:
            return None
        self._lent, self._lent_at = free[0], now
        return free[0], self._sizes[free[0]]

    def grow(self, size: int) -> tuple[int, int]:
        """Makes the lent buffer hold `size` bytes and some more; returns its number and new size.

        Raises OSError if there is not enough memory.
        """
        assert self._lent is not None
        larger = int(size * SPARE) // mmap.PAGESIZE * mmap.PAGESIZE + mmap.PAGESIZE
        os.ftruncate(self._files[self._lent].fileno(), larger)
        self._sizes[self._lent] = larger
        return self._lent, larger

    def give_back(self) -> None:
        """Takes back the lent buffer, without a scene in it."""
        self._lent = None

    def take(self, count: int, degree: int, filter: Filter) -> Splats:
        """The scene in the lent buffer, which is free again when the last tensor of it is gone.

        Raises OSError if the buffer cannot be mapped; it is free then.
        """
        assert self._lent is not None
        number, self._lent = self._lent, None
        array = _mapped(self._files[number].fileno(), self._sizes[number])
        self._held[number] = weakref.ref(array)
        return Splats(**_tensors(torch.from_numpy(array), count, degree), filter=filter)

    def close(self) -> None:
        """Closes the files; scenes that are still in use stay valid."""
        for file in self._files:
            file.close()


class SceneWriter:
    """The worker's side."""

    def __init__(self, descriptors: list[int]) -> None:
        """A writer into the buffers of these inherited files."""
        self._descriptors = descriptors
        self._arrays: list[np.ndarray | None] = [None] * len(descriptors)

    def write(self, splats: Splats, buffer: int, size: int) -> dict[str, Any]:
        """Copies the scene into a buffer of that size, and returns the message for the server.

        If the buffer is too small the message has the number of bytes under "needs". Otherwise it
        has the arguments of `SceneBuffers.take`, and the seconds that the copy took under "took".
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
    """A new unnamed file in memory; on the disk where the system has no files in memory."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("lumigraph-scene"), "r+b", buffering=0)
    return tempfile.TemporaryFile()


def _mapped(descriptor: int, size: int) -> np.ndarray:
    """The file's memory as numbers, mapped as long as the array exists. float32 [any]"""
    return np.frombuffer(mmap.mmap(descriptor, size), dtype=np.float32)
