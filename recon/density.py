"""Density control: grow splats where the image pulls at them, prune what is not needed.

3DGS (arXiv 2308.04079, section 5.2), with the absolute gradients of AbsGS (arXiv 2404.10484); the
plan may ask for a budget of splats and for scores of several views beside the gradient.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, assert_never

import torch
from torch import Tensor
from torch.nn import functional

from lumigraph.kernels.reference import rotation_matrices
from lumigraph.recon.errors import Shown
from lumigraph.recon.morton import morton_order
from lumigraph.recon.plan import Plan
from lumigraph.recon.resolution import downscale_at
from lumigraph.render import Splats

SPLIT_SHRINK = 1.6
"""Both halves of a split splat are this much smaller (3DGS, section 5.2)."""

EXPECTED = 5.0
"""Times the splats of the start: what a fit is first expected to need (DashGaussian)."""

FORGETTING = 0.98
"""How much of that expectation stays at each refinement, besides what wants to grow."""


@dataclass
class Statistics:
    """What density control has seen of each splat since it last acted.

    Attributes:
        gradient: Sum over views of the length of the absolute gradient of the centre on the
            image, in units of half the image's size. [splats]
        views: Views that saw the splat. [splats]
    """

    gradient: Tensor
    views: Tensor

    @staticmethod
    def empty(count: int, device: torch.device | str) -> "Statistics":
        """Nothing seen yet."""
        return Statistics(torch.zeros(count, device=device), torch.zeros(count, device=device))

    def add(self, absolute: Tensor, extents: Tensor, width: int, height: int) -> None:
        """Adds one view. absolute, extents: [splats, 2]"""
        self.gradient += torch.hypot(absolute[:, 0] * (width / 2), absolute[:, 1] * (height / 2))
        self.views += extents[:, 0] > 0


class Growing(Protocol):
    """The part of a fit that density control changes."""

    plan: Plan
    step: int
    splats: Splats
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    last: Tensor
    statistics: Statistics
    levels: Tensor
    start_splats: int
    expected_splats: float


def refine(fit: Growing, generator: torch.Generator, seen: Shown | None = None) -> None:
    """Clones small splats and splits large ones that are pulled at; removes the useless.

    Args:
        fit: Is changed.
        generator: Of the places of split splats.
        seen: What a few views show of each splat, where the plan asks for it.
    """
    plan, splats = fit.plan, fit.splats
    sizes = splats.log_scales.exp().amax(1)
    pruned = splats.opacity_logits.sigmoid() < plan.prune_opacity
    if fit.step > plan.opacity_reset_interval:
        pruned |= sizes > plan.prune_scale

    pull = fit.statistics.gradient / fit.statistics.views.clamp_min(1)
    # A budget is filled with the strongest, however weak they are.
    wanted = pull > (plan.grow_gradient if plan.growth != "budget" else 0)
    if seen is not None:
        if plan.grow_error > 0:
            wanted &= seen.wrong > plan.grow_error * seen.views
        pruned |= _blamed(plan, seen, wanted)
    wanted &= ~pruned
    kept = len(splats) - int(pruned.sum())
    growing = _strongest(pull, wanted, max(0, _splats_allowed(fit, int(wanted.sum())) - kept))
    small, large = growing & (sizes <= plan.grow_scale), growing & (sizes > plan.grow_scale)
    if plan.clones == "shared":
        # Two of them let through what one did: (1 - half)^2 = 1 - whole.
        whole = splats.opacity_logits[small].sigmoid()
        splats.opacity_logits[small] = _logits(1 - (1 - whole).sqrt())
    divide = split_longest if plan.splitting == "longest" else partial(split, generator=generator)
    _rebuild(fit, ~pruned & ~large, [splats[small], *divide(splats[large])])


def _blamed(plan: Plan, seen: Shown, wanted: Tensor) -> Tensor:
    """Splats that show hardly anything, or mostly what is wrong and are not to grow. [splats]"""
    idle = (seen.views > 0) & (seen.most < plan.prune_contribution)
    return idle | ((seen.wrong > plan.prune_error * seen.pixels) & ~wanted)


def _splats_allowed(fit: Growing, wanted: int) -> int:
    """How many splats there may be after this refinement, in which so many want to grow."""
    plan = fit.plan
    match plan.growth:
        case "threshold":
            allowed = plan.splat_limit
        case "budget":
            # Fast at first, slower to the end: the last ones need time to find their place.
            left = 1 - min(1.0, fit.step / max(1, plan.refine_stop))
            allowed = plan.splat_budget - (plan.splat_budget - fit.start_splats) * left**2
        case "resolution":
            # As many as were wanted of late, less as the photos are smaller (the
            # "momentum-based budgeting" of DashGaussian).
            fit.expected_splats = max(
                fit.expected_splats, FORGETTING * fit.expected_splats + wanted
            )
            shown = downscale_at(fit.levels, fit.step) ** (fit.step / plan.steps - 2)
            allowed = fit.start_splats + (fit.expected_splats - fit.start_splats) * shown
        case _:
            assert_never(plan.growth)
    return min(int(allowed), plan.splat_limit)


def _strongest(pull: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The candidates, or those pulled at hardest where there are more than `count`. [splats]"""
    if int(candidates.sum()) <= count:
        return candidates
    order = torch.where(candidates, pull, -1).argsort(descending=True, stable=True)
    chosen = torch.zeros_like(candidates)
    chosen[order[:count]] = True
    return chosen & candidates


def split(splats: Splats, generator: torch.Generator) -> list[Splats]:
    """Two smaller copies of each splat, at places drawn from the splat's own Gaussian."""
    rotations = rotation_matrices(splats.quaternions)
    halves = []
    for _ in range(2):
        offsets = torch.randn(splats.means.shape, generator=generator).to(splats.means)
        offsets = (rotations * (offsets * splats.log_scales.exp())[:, None]).sum(-1)
        halves.append(
            replace(
                splats,
                means=splats.means + offsets,
                log_scales=splats.log_scales - math.log(SPLIT_SHRINK),
            )
        )
    return halves


def split_longest(splats: Splats) -> list[Splats]:
    """Two halves of each splat, side by side along its longest axis.

    They are shorter along it by `SPLIT_SHRINK` and so far apart that together they have the
    variance of the whole, and so much fainter that they have its weight.
    """
    scales = splats.log_scales.exp()
    longest = functional.one_hot(scales.argmax(1), 3).to(scales)
    along = longest * scales * math.sqrt(1 - SPLIT_SHRINK**-2)
    offsets = (rotation_matrices(splats.quaternions) * along[:, None]).sum(-1)
    half = replace(
        splats,
        log_scales=splats.log_scales - longest * math.log(SPLIT_SHRINK),
        opacity_logits=_logits(splats.opacity_logits.sigmoid() * (SPLIT_SHRINK / 2)),
    )
    return [replace(half, means=splats.means + side * offsets) for side in (-1, 1)]


def _logits(opacities: Tensor) -> Tensor:
    """What the sigmoid makes opacities of, finite also at 0 and 1."""
    return opacities.clamp(1e-6, 1 - 1e-6).logit()


def reset_opacities(fit: Growing) -> None:
    """Makes every splat faint, so that those which are needed must prove it (3DGS, section 5.2)."""
    faint = fit.plan.opacity_reset
    fit.splats.opacity_logits.clamp_(max=math.log(faint / (1 - faint)))
    fit.first["opacity_logits"].zero_()
    fit.second["opacity_logits"].zero_()


def _rebuild(fit: Growing, kept: Tensor, added: list[Splats]) -> None:
    """Keeps some splats with their moments and appends new ones without any."""
    count = sum(len(splats) for splats in added)
    tensors = {
        name: torch.cat([value[kept], *(splats.tensors[name] for splats in added)])
        for name, value in fit.splats.tensors.items()
    }
    order = morton_order(tensors["means"]) if fit.plan.layout == "morton" else slice(None)
    fit.splats = replace(fit.splats, **{name: value[order] for name, value in tensors.items()})
    for moments in (fit.first, fit.second):
        for name, value in moments.items():
            zeros = value.new_zeros(count, *value.shape[1:])
            moments[name] = torch.cat([value[kept], zeros])[order]
    born = fit.last.new_full((count,), fit.step)
    fit.last = torch.cat([fit.last[kept], born])[order]
    fit.statistics = Statistics.empty(len(fit.splats), kept.device)
