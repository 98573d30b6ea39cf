"""What a fit will do, in numbers."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lumigraph.kernels import Filter

Preset = Literal["quick", "standard", "high"]


@dataclass(frozen=True)
class Plan:
    """Everything a splat fit is told, counted in steps; frozen into the run folder.

    Learning rates and thresholds are those of 3DGS (arXiv 2308.04079) unless said.
    """

    steps: int
    degree: int = 3
    """Of the spherical harmonics in the end."""
    degree_interval: int = 1000
    """Steps until the harmonics grow by one degree."""
    splat_limit: int = 1_000_000
    """Density control stops adding splats here: memory stays bounded."""
    filter: Filter = "classic"
    ssim_weight: float = 0.2
    means_rate: float = 1.6e-4
    """In units of the normalised scene; falls exponentially to `means_rate_final`."""
    means_rate_final: float = 1.6e-6
    base_rate: float = 2.5e-3
    rest_rate: float = 1.25e-4
    opacity_rate: float = 5e-2
    scale_rate: float = 5e-3
    rotation_rate: float = 1e-3
    refine_start: int = 500
    refine_stop: int = 15_000
    refine_interval: int = 100
    opacity_reset_interval: int = 3000
    grow_gradient: float = 8e-4
    """Mean absolute gradient on the image, in units of half its size, that makes a splat grow."""
    grow_scale: float = 0.01
    """Splats larger than this part of the scene are split, smaller ones cloned."""
    prune_opacity: float = 0.005
    prune_scale: float = 0.1
    """Splats larger than this part of the scene are removed after the first opacity reset."""


PRESETS: dict[Preset, Plan] = {
    "quick": Plan(steps=2_000),
    "standard": Plan(steps=7_000),
    "high": Plan(steps=30_000),
}


def plan_from(preset: Preset, **changes: Any) -> Plan:
    """The preset's plan with some values changed; None means unchanged."""
    return replace(PRESETS[preset], **{k: v for k, v in changes.items() if v is not None})


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return asdict(plan)
