"""Scenes of Gaussian splats."""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lumigraph.kernels import Filter
from lumigraph.render.camera import Similarity


@dataclass(frozen=True)
class Splats:
    """A scene of anisotropic Gaussians (3DGS, arXiv 2308.04079), as unconstrained parameters.

    The parameters are those of the 3DGS PLY file.

    Attributes:
        means: Centres. [splats, 3]
        quaternions: Rotations as (w, x, y, z), of any length but zero. [splats, 4]
        log_scales: Logarithm of the standard deviation along each axis. [splats, 3]
        opacity_logits: Opacity before the sigmoid. [splats]
        base: Spherical harmonics of degree 0 (f_dc). [splats, 3]
        rest: Spherical harmonics of the higher degrees (f_rest). [splats, (degree+1)^2-1, 3]
        filter: The filter that draws splats smaller than a pixel.
    """

    means: Tensor
    quaternions: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    base: Tensor
    rest: Tensor
    filter: Filter = "classic"

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def degree(self) -> int:
        """The degree of the spherical harmonics, 0 to 3."""
        return math.isqrt(self.rest.shape[1] + 1) - 1

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "filter"}

    def __getitem__(self, rows: Tensor | slice) -> "Splats":
        """The splats that `rows` selects."""
        return replace(self, **{name: value[rows] for name, value in self.tensors.items()})

    def to(self, device: torch.device | str) -> "Splats":
        """The same splats on another device."""
        return replace(self, **{name: value.to(device) for name, value in self.tensors.items()})

    def moved(self, similarity: Similarity) -> "Splats":
        """The splats in another frame; from a camera moved in the same way they look the same."""
        return replace(
            self,
            means=similarity.points(self.means),
            log_scales=self.log_scales + math.log(similarity.scale),
        )
