"""The start of a fit: its state before the first step, and its first splats."""

import math

import torch
from torch import Tensor

from lumigraph.datasets import Capture, random_points
from lumigraph.recon.splats.morton import morton_order
from lumigraph.recon.splats.plan import Plan
from lumigraph.recon.splats.resolution import size_levels
from lumigraph.recon.splats.state import SplatFit, no_pull
from lumigraph.render import Splats

FEW_POINTS = 100
"""With fewer points than this a fit starts from random places: stray points show no shape."""


def start_fit(
    capture: Capture, plan: Plan, *, seed: int = 0, device: torch.device | str = "cpu"
) -> SplatFit:
    """The state before the first step."""
    if not capture.train:
        raise ValueError(f"{capture.name} has no training photos: choose fewer test photos")
    generator = torch.Generator().manual_seed(seed)
    splats = splats_from_capture(capture, plan, generator).to(device)
    tensors = splats.tensors
    return SplatFit(
        plan=plan,
        step=0,
        splats=splats,
        first={name: torch.zeros_like(value) for name, value in tensors.items()},
        second={name: torch.zeros_like(value) for name, value in tensors.items()},
        last=torch.zeros(len(splats), dtype=torch.int32, device=device),
        pull=no_pull(len(splats), device),
        similarity=capture.similarity,
        levels=size_levels(capture, plan),
        order=torch.empty(0, dtype=torch.int64),
        random=generator.get_state(),
    )


def splats_from_capture(capture: Capture, plan: Plan, generator: torch.Generator) -> Splats:
    """Round splats at the capture's points, in the fit's frame.

    With fewer than `FEW_POINTS` points they start at random places that the cameras see, in random
    colours.
    """
    if len(capture.points) >= FEW_POINTS:
        points, colors = capture.points, capture.colors.float() / 255
    else:
        seed = int(torch.randint(1 << 31, (), generator=generator))
        points = random_points(capture, plan.random_points, seed)
        colors = torch.rand(points.shape, generator=generator)
    if len(points) > plan.splat_limit:
        chosen = torch.randperm(len(points), generator=generator)[: plan.splat_limit].sort().values
        points, colors = points[chosen], colors[chosen]
    points = capture.similarity.points(points).float()
    order = morton_order(points)
    return splats_from_points(points[order], colors[order], plan)


def splats_from_points(points: Tensor, colors: Tensor, plan: Plan) -> Splats:
    """Round splats of plain colours that touch their neighbours.

    Args:
        points: [splats, 3]
        colors: In [0, 1]. [splats, 3]
        plan: Has the filter and the first opacity.
    """
    count, opacity = len(points), plan.start_opacity
    quaternions = torch.zeros(count, 4)
    quaternions[:, 0] = 1
    return Splats(
        means=points,
        quaternions=quaternions,
        log_scales=neighbor_distances(points).log()[:, None].repeat(1, 3),
        opacity_logits=torch.full((count,), math.log(opacity / (1 - opacity))),
        base=(colors - 0.5) / (0.5 / math.sqrt(math.pi)),
        rest=torch.zeros(count, 0, 3),
        filter=plan.filter,
    )


def neighbor_distances(points: Tensor) -> Tensor:
    """Root mean square distance to the three nearest other points, at least 1e-6. [points]"""
    from scipy.spatial import KDTree

    neighbors = min(4, len(points))
    distances, _ = KDTree(points.numpy()).query(points.numpy(), k=neighbors, workers=-1)
    squares = torch.from_numpy(distances).view(len(points), -1)[:, 1:].square()
    mean = squares.mean(1) if squares.shape[1] else torch.zeros(len(points))
    return mean.sqrt().clamp(1e-6, 1.0).float()
