"""Gaussian splats: records in view, pictures of them, gradients, and steps along these.

`protocol.py` says what each operation does, and `types.py` has their arguments and results.
`reference.py` has the definitions in plain PyTorch, and `composed.py` makes a backend of them;
`cpu.py` calls the C++ of `native/splats`; `cuda.py` puts gsplat (`gsplat.py`) and our kernels in
`triton/` in place of the definitions. `step.py` is a step of training, and `autograd.py` a picture
with gradients, for every backend.
"""

from lumigraph.kernels.splats.protocol import MomentsPicture, Picture, Records, SplatBackend

__all__ = ["MomentsPicture", "Picture", "Records", "SplatBackend"]
