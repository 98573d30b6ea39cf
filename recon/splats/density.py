"""Density control: splats with large image gradients grow, useless splats are removed.

3DGS (arXiv 2308.04079, section 5.2), with the absolute gradients of AbsGS (arXiv 2404.10484).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from lumigraph.kernels.splats.reference import rotation_matrices
from lumigraph.recon.splats.morton import morton_order
from lumigraph.recon.splats.sound import sound
from lumigraph.recon.splats.state import SplatFit, forget_curvature, no_pull
from lumigraph.render import Splats

SPLIT_SHRINK = 1.6
"""Each half of a split splat is smaller than the whole by this factor (3DGS, section 5.2)."""

PRUNE_START = 5
"""Large splats are removed after a fifth of density control: the first splats are few and large.
In "high" this is the step of the first opacity reset, as in 3DGS."""


def control_density(fit: SplatFit, loss: float, generator: torch.Generator) -> str | None:
    """Refines splats and resets opacities at the steps that the plan names for it.

    Splats that are not sound are removed first, also where the loss is not finite and after the
    last step of Adam: such a splat spoils every pixel that it covers, and through them others.

    Returns:
        A note, if splats that are not sound were removed.
    """
    plan, step = fit.plan, fit.step
    # Splats that are added at the end would never be trained.
    acts = step <= plan.refine_stop and step != plan.photo_steps
    refines = acts and step >= plan.refine_start and step % plan.refine_interval == 0
    note = None
    if refines or step == plan.adam_steps or not math.isfinite(loss):
        note = remove_unsound(fit)
    if refines:
        refine(fit, generator)
    if acts and step % plan.opacity_reset_interval == 0 and step < plan.refine_stop:
        reset_opacities(fit)
    return note


def remove_unsound(fit: SplatFit) -> str | None:
    """Removes splats that are not sound and clears moments that are not finite.

    Returns:
        A note with the number of removed splats, if there are any.
    """
    for name, first in fit.first.items():
        second = fit.second[name]
        broken = ~(first.isfinite() & second.isfinite())
        first.masked_fill_(broken, 0)
        second.masked_fill_(broken, 0)
    kept = sound(fit.splats)
    removed = len(fit.splats) - int(kept.sum())
    if not removed:
        return None
    _rebuild(fit, kept, [])
    forget_curvature(fit)
    return f"Step {fit.step}: splats removed because their values were not finite: {removed}"


def refine(fit: SplatFit, generator: torch.Generator) -> None:
    """Clones small splats and splits large ones that have large gradients; removes useless ones.

    Args:
        fit: Is changed; all its splats are sound.
        generator: Draws the places of split splats.
    """
    plan, splats = fit.plan, fit.splats
    sizes = splats.log_scales.exp().amax(1)
    pruned = splats.opacity_logits.sigmoid() < plan.prune_opacity
    if fit.step > plan.refine_stop // PRUNE_START:
        pruned |= sizes > plan.prune_scale

    pull = fit.pull.gradient / fit.pull.views.clamp_min(1)
    wanted = (pull > plan.grow_gradient) & ~pruned
    kept = len(splats) - int(pruned.sum())
    growing = _strongest(pull, wanted, max(0, plan.splat_limit - kept))
    small, large = growing & (sizes <= plan.grow_scale), growing & (sizes > plan.grow_scale)
    _rebuild(fit, ~pruned & ~large, [splats[small], *split(splats[large], generator)])


def _strongest(pull: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The candidates, or if they are more than `count`, those with the largest pull. [splats]"""
    if int(candidates.sum()) <= count:
        return candidates
    order = torch.where(candidates, pull, -1).argsort(descending=True, stable=True)
    chosen = torch.zeros_like(candidates)
    chosen[order[:count]] = True
    return chosen & candidates


def split(splats: Splats, generator: torch.Generator) -> list[Splats]:
    """Two smaller copies of each splat, at random places that follow its Gaussian."""
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


def reset_opacities(fit: SplatFit) -> None:
    """Makes every splat faint; training makes the useful ones opaque again (3DGS, section 5.2)."""
    faint = 2 * fit.plan.prune_opacity
    fit.splats.opacity_logits.clamp_(max=math.log(faint / (1 - faint)))
    fit.first["opacity_logits"].zero_()
    fit.second["opacity_logits"].zero_()


def _rebuild(fit: SplatFit, kept: Tensor, added: list[Splats]) -> None:
    """Keeps some splats with their moments, adds new ones with zero moments, and sorts all."""
    count = sum(len(splats) for splats in added)
    tensors = {
        name: torch.cat([value[kept], *(splats.tensors[name] for splats in added)])
        for name, value in fit.splats.tensors.items()
    }
    order = morton_order(tensors["means"])
    fit.splats = replace(fit.splats, **{name: value[order] for name, value in tensors.items()})
    for moments in (fit.first, fit.second):
        for name, value in moments.items():
            zeros = value.new_zeros(count, *value.shape[1:])
            moments[name] = torch.cat([value[kept], zeros])[order]
    born = fit.last.new_full((count,), fit.step)
    fit.last = torch.cat([fit.last[kept], born])[order]
    fit.pull = no_pull(len(fit.splats), kept.device)
