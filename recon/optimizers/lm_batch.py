"""Batches of photos for 3DGS-LM: its settings, and products with J^T J under a bound on memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lumigraph.kernels import Filter, Parameters, Picture, SplatBackend, View
from lumigraph.recon.optimizers.levenberg import total, zeros_like
from lumigraph.recon.optimizers.residuals import (
    HUBER,
    SSIM_SCALE,
    Terms,
    as_colors,
    published,
    published_cost,
)

Shot = tuple[View, Tensor]
"""A camera in the scene's frame and its photo: uint8, or float32 in [0, 1]. [height, width, 3]"""

Views = Sequence[Shot]


@dataclass(frozen=True)
class Published:
    """The published settings; the defaults are those for MipNeRF360."""

    images: int = 25
    """Photos in a batch, which is solved by itself; 70 for Tanks and Temples."""
    batches: int = 4
    """Batches in an iteration; 3 for Deep Blending and Tanks and Temples."""
    radius: float = 1e-3
    """The radius of the first trust region; a larger one allows longer steps."""
    radius_min: float = 1e-4
    """The search ends when the radius falls to this value."""
    radius_max: float = 1e-2
    """1e4 for Deep Blending and Tanks and Temples."""
    diagonal_min: float = 1.0
    diagonal_max: float = 1e6
    """The diagonal is clamped to this range where it is used for damping."""
    products: int = 8
    """Iterations of conjugate gradients."""
    tolerance: float = 5e-2
    """Conjugate gradients end at this residual, relative to the right side."""
    longest: float = 10.0
    """The largest change of any parameter in an iteration."""
    search_part: float = 0.3
    """The part of an iteration's photos on which the line search measures the cost."""
    search_factor: float = 0.7
    """The line search shortens the step by this factor."""
    search_least: float = 1e-10
    """The line search tries no smaller part of the step."""
    gain_min: float = 1e-5
    """The radius grows only above this gain ratio."""
    fall_min: float = 1e-6
    """The search ends when the relative fall of the cost is smaller."""
    huber: float = HUBER
    ssim_scale: float = SSIM_SCALE
    bytes: int = 512 << 20
    """The memory that linearized views and their residuals may take at once."""

    def __post_init__(self) -> None:
        """Refuses settings that no search could use."""
        for name in ("images", "batches", "products"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: take at least 1")
        if not 0 < self.radius_min <= self.radius <= self.radius_max < math.inf:
            raise ValueError(
                f"radius_min, radius and radius_max are {self.radius_min}, {self.radius} and "
                f"{self.radius_max}: take 0 < radius_min <= radius <= radius_max"
            )
        if not 0 < self.search_factor < 1:
            raise ValueError(f"search_factor is {self.search_factor}: take more than 0, below 1")
        if not self.huber > 0 or not self.ssim_scale >= 0:
            raise ValueError(
                f"huber is {self.huber} and ssim_scale is {self.ssim_scale}: take huber > 0 and "
                "ssim_scale >= 0"
            )


class Shots(NamedTuple):
    """Photos, and what draws a scene from their cameras."""

    views: Views
    kernels: SplatBackend
    settings: Published
    degree: int
    filter: Filter = "classic"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def draw(self, scene: Parameters, view: View) -> Picture:
        """A scene seen by a camera."""
        records = self.kernels.project(scene, view=view, degree=self.degree, filter=self.filter)
        return self.kernels.blend(records, background=self.background)

    def cost(self, scene: Parameters, index: Sequence[int]) -> float:
        """The cost of a scene, summed over some of the views."""
        cost = 0.0
        for view, photo in (self.views[i] for i in index):
            image = self.draw(scene, view).features
            cost += published_cost(image, as_colors(photo, image), **self._residuals())
        return cost

    def part(self, scene: Parameters, index: int) -> tuple[Picture, Terms]:
        """The picture of a view of a scene, and its residuals."""
        view, photo = self.views[index]
        picture = self.draw(scene, view)
        image = picture.features
        return picture, published(image, as_colors(photo, image), **self._residuals())

    def _residuals(self) -> dict[str, float]:
        return {"huber": self.settings.huber, "ssim_scale": self.settings.ssim_scale}


@dataclass(frozen=True)
class Batch:
    """Some views linearized at a scene: products with J^T J, where J is that of their residuals."""

    kernels: SplatBackend
    scene: Parameters
    index: list[int]
    parts: list[tuple[Picture, Terms]]

    @property
    def bytes(self) -> int:
        """The memory that the batch takes beside the scene, about."""
        return sum(map(_bytes, self.parts))

    def right(self) -> Parameters:
        """J^T r."""
        sums = zeros_like(self.scene)
        for picture, terms in self.parts:
            self.kernels.gradients(self.scene, picture.vjp(terms.right), sums)
        return sums

    def diagonal(self) -> Parameters:
        """The diagonal of J^T J."""
        (picture, terms), *others = self.parts
        blocks = picture.blocks(terms.weights)
        for picture, terms in others:
            picture.blocks(terms.weights, blocks)
        return blocks.diagonal()

    def product(self, vector: Parameters) -> Parameters:
        """J^T J v."""
        sums = zeros_like(self.scene)
        for picture, terms in self.parts:
            by_records = picture.vjp(terms.weights * picture.jvp(vector))
            self.kernels.gradients(self.scene, by_records, sums)
        return sums

    def along(self, step: Parameters) -> tuple[float, float, float]:
        """F, s and b of the cost of the linear model after a part p of a step.

        The cost is |r - p J step|^2 / 2 = F - p s + p^2 b / 2.
        """
        cost = slope = bend = 0.0
        for picture, terms in self.parts:
            change = picture.jvp(step)
            cost += terms.cost
            slope += total(terms.right * change)
            bend += total(terms.weights * change.square())
        return cost, slope, bend


def gather(scene: Parameters, shots: Shots, order: Tensor) -> tuple[Batch, Tensor, bool]:
    """The next batch, spread evenly over the views still to come; when none is left, over all.

    Views are linearized one by one, at least one, while the memory bound has room for one more as
    large as the largest of them.

    Args:
        scene: The scene at which they are linearized.
        shots: All views.
        order: Indices of the views still to come. int64 [views left]

    Returns:
        The batch, the views that are left for the next batch, and whether the memory bound had room
        for the whole batch.
    """
    settings = shots.settings
    if not len(order):
        order = torch.arange(len(shots.views))
    wanted: list[int] = order[:: max(1, len(order) // settings.images)][: settings.images].tolist()
    batch, held, largest = Batch(shots.kernels, scene, [], []), 0, 0
    for i in wanted:
        if batch.index and held + largest > settings.bytes:
            break
        part = shots.part(scene, i)
        size = _bytes(part)
        if batch.index and held + size > settings.bytes:
            break
        batch.index.append(i)
        batch.parts.append(part)
        held, largest = held + size, max(largest, size)
    left = order[~torch.isin(order, torch.tensor(batch.index))]
    return batch, left, held <= settings.bytes and len(batch.index) == len(wanted)


def _bytes(part: tuple[Picture, Terms]) -> int:
    picture, terms = part
    return picture.bytes + terms.weights.nbytes + terms.right.nbytes
