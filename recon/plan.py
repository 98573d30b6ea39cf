"""What a fit will do, in numbers."""

from dataclasses import asdict, dataclass, fields, replace
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
    random_points: int = 20_000
    """Splats to start from where the capture has no points."""
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


# A short fit moves twice as far in a step, and grows fewer splats than it has no time to place.
PRESETS: dict[Preset, Plan] = {
    "quick": Plan(
        steps=2_000,
        degree_interval=400,
        refine_start=200,
        refine_stop=1_400,
        refine_interval=100,
        grow_gradient=1.8e-3,
        means_rate=3.2e-4,
        base_rate=5e-3,
        rest_rate=2.5e-4,
        scale_rate=1e-2,
    ),
    "standard": Plan(
        steps=7_000,
        degree_interval=1_000,
        refine_start=500,
        refine_stop=4_500,
        grow_gradient=1.2e-3,
    ),
    "high": Plan(steps=30_000),
}


def plan_from(preset: Preset, *, steps: int | None = None, **changes: Any) -> Plan:
    """The preset's plan with some values changed; None means unchanged.

    With another number of steps the whole schedule is stretched or shortened to it, but for the
    interval of density control, which needs that many views to judge a splat.
    """
    plan = PRESETS[preset]
    if steps is not None and steps != plan.steps:
        if steps < 1:
            raise ValueError(f"a fit of {steps} steps does nothing: ask for at least 1")
        stretched = {name: max(1, getattr(plan, name) * steps // plan.steps) for name in _STRETCHED}
        plan = replace(plan, steps=steps, **stretched)
    return replace(plan, **{name: value for name, value in changes.items() if value is not None})


_STRETCHED = ("degree_interval", "refine_start", "refine_stop", "opacity_reset_interval")


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return asdict(plan)


def plan_from_json(data: dict[str, Any]) -> Plan:
    """The plan that `plan_to_json` gave.

    Raises:
        ValueError: A value is missing, unknown, or not of its type.
    """
    known = {field.name: field.default for field in fields(Plan)}
    if set(data) != set(known):
        raise ValueError(f"the plan's values do not match: {sorted(set(data) ^ set(known))}")
    for name, value in data.items():
        wanted = int if name == "steps" else type(known[name])
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{name} of the plan is {value!r}, but should be {wanted.__name__}")
    return Plan(**data)
