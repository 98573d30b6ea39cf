"""Splats and photos as a sum of squares for `levenberg.levenberg_marquardt`.

The cost is the loss of 3DGS (arXiv 2308.04079, eq. 7), or of squared colours, summed over views.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lumigraph.kernels import (
    GEOMETRY,
    Blocks,
    Filter,
    Linearization,
    Parameters,
    View,
    backend_for,
)
from lumigraph.recon.optimizers.levenberg import Point, jacobi
from lumigraph.recon.optimizers.residuals import MISSING_MIN, SsimMap, as_colors, ssim_map, total

Colors = Literal["absolute", "squared"]
"""What is made of an error e of a colour: |e|, or e^2."""

Preconditioner = Literal["blocks", "diagonal"]
"""The inverse of each splat's own block of J^T J, or of the diagonal alone."""

DELTA = 1 / 255
"""|e| is a square up to this: what the bytes of a photo cannot tell has no kink."""

SLACK = 1e-6
"""Added to the unit diagonal of a scaled block, so that it has an inverse in float32: along itself
a quaternion does nothing, and a small damping alone would be lost to rounding."""


@dataclass(frozen=True)
class SplatProblem:
    """Some views of a scene; its points are `Parameters`, or tuples of the same tensors.

    A view costs (1 - ssim_weight) mean(rho(e)) + ssim_weight mean(1 - SSIM). For absolute errors
    rho is |e| - DELTA / 2, and e^2 / (2 DELTA) below DELTA. It is met from above by squares
    weighted with 1 / max(|e|, DELTA) (iteratively reweighted least squares), and what is above
    those at the point itself is one residual more, which does not move: so |r|^2 / 2 is the cost,
    and J^T r its gradient. 1 - SSIM is the square of its root.

    Attributes:
        views: Cameras in the scene's frame and their photos, uint8 or float32 in [0, 1]. All are
            linearized at once, so their number bounds the memory.
        degree: The highest of the harmonics to use.
        filter: How sub-pixel splats are drawn.
        background: Colour behind all splats.
        colors: What is made of errors of colours.
        ssim_weight: Part of the cost that is structural similarity, with its exact derivative.
        preconditioner: By which conjugate gradients go. Blocks make more of weak directions, such
            as the turns of round splats, which only helps where damping keeps them short.
    """

    views: Sequence[tuple[View, Tensor]]
    degree: int
    filter: Filter = "classic"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    colors: Colors = "absolute"
    ssim_weight: float = 0.0
    preconditioner: Preconditioner = "blocks"

    @torch.no_grad()
    def cost(self, point: Point) -> float:
        """See `levenberg.Problem`."""
        splats, cost = Parameters(*point), 0.0
        for view, photo in self.views:
            image, _ = backend_for(splats.means.device).paint(
                splats,
                view=view,
                degree=self.degree,
                filter=self.filter,
                background=self.background,
            )
            near = self._near(image, photo)
            cost += (total(near.color.square()) + total(near.ssim.square()) + near.rest) / 2
        return cost

    @torch.no_grad()
    def linearized(self, point: Point) -> "LinearSplats":
        """See `levenberg.Problem`."""
        splats, parts = Parameters(*point), []
        for view, photo in self.views:
            linear = backend_for(splats.means.device).linearize(
                splats,
                view=view,
                degree=self.degree,
                filter=self.filter,
                background=self.background,
            )
            parts.append((linear, self._near(linear.color, photo)))
        return LinearSplats(splats, parts, self.preconditioner)

    def _near(self, image: Tensor, photo: Tensor) -> "Near":
        photo = as_colors(photo, image)
        error, scale = image - photo, (1 - self.ssim_weight) / max(1, image.numel())
        if self.colors == "squared":
            roots, rest = error.new_full(error.shape, math.sqrt(2 * scale)), 0.0
        else:
            size = error.abs()
            roots = (scale / size.clamp_min(DELTA)).sqrt()
            rest = scale * total((size - DELTA).clamp_min(0))
        if not self.ssim_weight:
            nothing = error.new_zeros(0)
            return Near(roots * error, roots, nothing, nothing, None, rest)
        near, scale = ssim_map(image, photo), self.ssim_weight / max(1, image.numel())
        ssim = (2 * scale * near.missing.clamp_min(MISSING_MIN)).sqrt()
        return Near(roots * error, roots, ssim, -scale / ssim, near, rest)


class Near(NamedTuple):
    """A view's residuals, and how they move with its picture. [height, width, 3]"""

    color: Tensor
    """Of the colours."""
    by_color: Tensor
    """Their derivative by the colour itself."""
    ssim: Tensor
    """Of SSIM; empty where it has no part."""
    by_ssim: Tensor
    """Their derivative by SSIM."""
    map: SsimMap | None
    """SSIM by the picture."""
    rest: float
    """Square of the residual that does not move."""

    def jvp(self, change: Tensor) -> Iterator[Tensor]:
        """How both kinds move along a change of the picture."""
        yield self.by_color * change
        yield self.by_ssim * self.map.jvp(change) if self.map else self.ssim

    def vjp(self, color: Tensor, ssim: Tensor) -> Tensor:
        """The weighted sum's gradient by the picture. [height, width, 3]"""
        pull = self.by_color * color.view_as(self.color)
        return pull + self.map.vjp(self.by_ssim * ssim.view_as(self.ssim)) if self.map else pull

    def squares(self) -> Tensor:
        """The diagonal of their derivative's square. [height, width, 3]"""
        squares = self.by_color.square()
        return squares + self.map.diagonal(self.by_ssim.square()) if self.map else squares


@dataclass
class LinearSplats:
    """A `SplatProblem` near a point: see `levenberg.Linearized`.

    The blocks of J^T J within each splat stand for the whole: exactly those of its geometry for
    residuals of colours; for SSIM, neighbouring pixels are taken for independent.
    """

    splats: Parameters
    parts: list[tuple[Linearization, Near]]
    preconditioner: Preconditioner
    _blocks: Blocks | None = None
    _diagonal: Parameters | None = None
    _inverse: "Inverse | None" = field(default=None, repr=False)

    @property
    def residual(self) -> Tensor:
        """Of colours and of SSIM of each view, and the one that does not move. [numbers]"""
        rest = math.sqrt(sum(near.rest for _, near in self.parts))
        return self._joined([x for _, near in self.parts for x in (near.color, near.ssim)], rest)

    @torch.no_grad()
    def jvp(self, direction: Point) -> Tensor:
        """J v. [numbers]"""
        along = Parameters(*direction)
        changes = [x for linear, near in self.parts for x in near.jvp(linear.jvp(along))]
        return self._joined(changes, 0.0)

    @torch.no_grad()
    def vjp(self, weights: Tensor) -> Point:
        """J^T u."""
        sizes = [x.numel() for _, near in self.parts for x in (near.color, near.ssim)]
        pieces = iter(weights.split([*sizes, 1]))
        sums = Parameters(*(torch.zeros_like(x) for x in self.splats))
        for linear, near in self.parts:
            linear.vjp(near.vjp(next(pieces), next(pieces)), sums)
        return sums

    def diagonal(self) -> Point:
        """Of the blocks."""
        if self._diagonal is None:
            self._diagonal = self.blocks().diagonal()
        return self._diagonal

    @torch.no_grad()
    def blocks(self) -> Blocks:
        """J^T J within each splat."""
        if self._blocks is None:
            *_, base, rest = self.splats
            size = GEOMETRY * (GEOMETRY + 1) // 2
            self._blocks = Blocks(
                base.new_zeros(len(base), size), torch.zeros_like(base), torch.zeros_like(rest)
            )
            for linear, near in self.parts:
                linear.blocks(near.squares(), self._blocks)
        return self._blocks

    @torch.no_grad()
    def precondition(self, vector: Point, damping: Point) -> Point:
        """The inverse of the damped blocks, or of their diagonal, times a vector."""
        if self.preconditioner == "diagonal":
            return jacobi(vector, self.diagonal(), damping)
        if self._inverse is None or self._inverse.damping is not damping:
            self._inverse = inverted(self.blocks(), damping)
        return self._inverse.times(Parameters(*vector))

    def _joined(self, parts: list[Tensor], last: float) -> Tensor:
        return torch.cat([*(x.flatten() for x in parts), self.splats.means.new_tensor([last])])


class Inverse(NamedTuple):
    """Blocks with their damping, inverted."""

    damping: Point
    roots: Tensor
    """Of the diagonal of each block of geometry. [splats, 11]"""
    scaled: Tensor
    """Inverses of the blocks after both sides are divided by the roots. [splats, 11, 11]"""
    base: Tensor
    """[splats, 3]"""
    rest: Tensor
    """[splats, (degree + 1)^2 - 1, 3]"""

    def times(self, vector: Parameters) -> Parameters:
        """The product with a vector."""
        means, quaternions, log_scales, logits, base, rest = vector
        columns = torch.cat([means, quaternions, log_scales, logits[:, None]], 1)
        solved = (self.scaled @ (columns / self.roots)[..., None])[..., 0] / self.roots
        means, quaternions, log_scales, logits = solved.split([3, 4, 3, 1], 1)
        colors = (base * self.base, rest * self.rest)
        return Parameters(means, quaternions, log_scales, logits[:, 0], *colors)


def inverted(blocks: Blocks, damping: Point) -> Inverse:
    """The inverse of (blocks + diag(damping)); of a block that has none, that of its diagonal.

    Args:
        blocks: Positive semidefinite but for rounding.
        damping: Not negative, for each parameter.
    """
    means, quaternions, log_scales, logits, base, rest = damping
    tiny = torch.finfo(base.dtype).tiny
    extra = torch.cat([means, quaternions, log_scales, logits[:, None]], 1)
    matrices = blocks.matrices()
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    diagonal += extra
    roots = diagonal.clamp_min(tiny).sqrt()
    matrices /= roots[:, :, None]
    matrices /= roots[:, None]
    diagonal += SLACK
    factors, failed = torch.linalg.cholesky_ex(matrices)
    identity = torch.eye(GEOMETRY, dtype=base.dtype, device=base.device)
    factors = torch.where((failed > 0)[:, None, None], identity, factors)
    colors = (1 / (b + d).clamp_min(tiny) for b, d in zip(blocks[1:], (base, rest), strict=True))
    return Inverse(damping, roots, torch.cholesky_inverse(factors), *colors)
