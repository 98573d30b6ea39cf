"""Native CPU kernels; call them through lumigraph.kernels."""

from collections.abc import Sequence
from typing import Annotated

import torch


def active_level() -> str:
    """The instruction set in use: baseline, avx2 or avx512."""

def select_level(name: str) -> None:
    """Use another instruction set from now on; for tests and benchmarks."""

def available_levels() -> list[str]:
    """The instruction sets this processor can run, slowest first."""

class Records:
    """Splats in view, and the lists of the tiles they meet."""

    def part(self, window: Sequence[int], alpha_max: float) -> Records:
        """A part of the image: left, top, width, height."""

    def write(self, rows: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')] | None, index: Annotated[torch.Tensor, dict(dtype='int32', order='C', device='cpu')]) -> None: ...

    def blend(self, features: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, background: Sequence[float], image: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], transmittance: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], median: Annotated[torch.Tensor, dict(dtype='int32', order='C', device='cpu')] | None, stop: Annotated[torch.Tensor, dict(dtype='uint8', order='C', device='cpu', writable=False)] | None) -> bool: ...

    def backward(self, features: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, image: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], transmittance: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], by_image: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], by_transmittance: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, absolute: bool, rows: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], by_features: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')] | None, index: Annotated[torch.Tensor, dict(dtype='int32', order='C', device='cpu')] | None) -> None: ...

    def moments(self, features: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, background: Sequence[float], chances: Sequence[float], origin: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, mean: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], variance: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], transmittance: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], shares: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')] | None, stop: Annotated[torch.Tensor, dict(dtype='uint8', order='C', device='cpu', writable=False)] | None) -> bool: ...

    def moments_backward(self, features: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, background: Sequence[float], chances: Sequence[float], origin: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, gradients: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)]], rows: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], by_features: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')] | None) -> None: ...

    def jvp(self, direction: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)]], background: Sequence[float], image: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]) -> None: ...

    def blocks(self, image: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], weights: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], out: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]]) -> None: ...

    @property
    def rows(self) -> int:
        """Splats in view."""

    @property
    def entries(self) -> int:
        """Pairs of a splat and a tile it meets."""

    @property
    def bytes(self) -> int:
        """Memory beside the parameters."""

    @property
    def seconds(self) -> list[float]:
        """To prepare the splats, and to list them."""

def project(parameters: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]], view: Sequence[float], size: Sequence[int], antialiased: bool, position: Sequence[float], degree: int, stop: Annotated[torch.Tensor, dict(dtype='uint8', order='C', device='cpu', writable=False)] | None, threads: int) -> Records: ...

def records(rows: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], index: Annotated[torch.Tensor, dict(dtype='int32', order='C', device='cpu', writable=False)], size: Sequence[int], threads: int) -> Records: ...

def update(parameters: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]], first: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]], second: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]], view: Sequence[float], size: Sequence[int], antialiased: bool, position: Sequence[float], degree: int, rows: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], index: Annotated[torch.Tensor, dict(dtype='int32', order='C', device='cpu', writable=False)], rates: Sequence[float], betas_epsilon: Sequence[float], root_scale: float, step: int, last: Annotated[torch.Tensor, dict(dtype='int32', order='C', device='cpu')] | None, pull: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]] | None, curvature: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]] | None, penalty: Sequence[float], threads: int) -> None: ...

def add_gradient(parameters: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]], view: Sequence[float], size: Sequence[int], antialiased: bool, position: Sequence[float], degree: int, rows: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], index: Annotated[torch.Tensor, dict(dtype='int32', order='C', device='cpu', writable=False)], out: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]], threads: int) -> None: ...

def view_gradient(parameters: Sequence[Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')]], view: Sequence[float], size: Sequence[int], antialiased: bool, position: Sequence[float], degree: int, rows: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], index: Annotated[torch.Tensor, dict(dtype='int32', order='C', device='cpu', writable=False)], threads: int) -> list[float]: ...

def loss(image: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], target: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, photo: Annotated[torch.Tensor, dict(dtype='uint8', order='C', device='cpu', writable=False)] | None, mask: Annotated[torch.Tensor, dict(dtype='bool', order='C', device='cpu', writable=False)] | None, weight: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)] | None, inner: Sequence[int] | None, ssim_weight: float, gradient: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')] | None, threads: int) -> float: ...

def adam(parameter: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], gradient: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu', writable=False)], first: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], second: Annotated[torch.Tensor, dict(dtype='float32', order='C', device='cpu')], betas_epsilon: Sequence[float], rate: float, root_scale: float, rows: Annotated[torch.Tensor, dict(dtype='bool', order='C', device='cpu', writable=False)] | None, threads: int) -> None: ...

def trace_picture(shapes: Annotated[torch.Tensor, dict(dtype='float32', shape=(None, 12), order='C', device='cpu', writable=False)], materials: Annotated[torch.Tensor, dict(dtype='float32', shape=(None, 24), order='C', device='cpu', writable=False)], puffs: Annotated[torch.Tensor, dict(dtype='float32', shape=(None, 6), order='C', device='cpu', writable=False)], light: Annotated[torch.Tensor, dict(dtype='float32', shape=(24), order='C', device='cpu', writable=False)], camera: Annotated[torch.Tensor, dict(dtype='float32', shape=(16), order='C', device='cpu', writable=False)], image: Annotated[torch.Tensor, dict(dtype='uint8', shape=(None, None, 3), order='C', device='cpu')], threads: int) -> None:
    """Writes an antialiased picture to `image`."""

def trace_surfaces(shapes: Annotated[torch.Tensor, dict(dtype='float32', shape=(None, 12), order='C', device='cpu', writable=False)], materials: Annotated[torch.Tensor, dict(dtype='float32', shape=(None, 24), order='C', device='cpu', writable=False)], puffs: Annotated[torch.Tensor, dict(dtype='float32', shape=(None, 6), order='C', device='cpu', writable=False)], light: Annotated[torch.Tensor, dict(dtype='float32', shape=(24), order='C', device='cpu', writable=False)], camera: Annotated[torch.Tensor, dict(dtype='float32', shape=(16), order='C', device='cpu', writable=False)], depth: Annotated[torch.Tensor, dict(dtype='float32', shape=(None, None), order='C', device='cpu')], normals: Annotated[torch.Tensor, dict(dtype='float32', shape=(None, None, 3), order='C', device='cpu')], ids: Annotated[torch.Tensor, dict(dtype='int32', shape=(None, None), order='C', device='cpu')], threads: int) -> None:
    """
    Writes depth, normal and shape at each pixel's centre to the three tensors.
    """
