"""Operations on images: the photometric loss, structural similarity, and the optimiser's step.

`protocol.py` says what each operation does, `reference.py` defines it in plain PyTorch, `cpu.py`
calls the C++ of `native/images`, and `cuda.py` is the reference with full precision on GPUs.
"""

from lumigraph.kernels.images.protocol import ImageBackend, Inner, with_margin

__all__ = ["ImageBackend", "Inner", "with_margin"]
