"""The plan of a fit: every number that controls it, and the presets."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from lumigraph.kernels import Filter, Rates
from lumigraph.recon.optimizers.adam import learning_rates

Preset = Literal["quick", "standard", "high"]

Optimizer = Literal["adam", "lm", "lm-published"]
"""The optimizer of the last part of a fit; the first part is always Adam's. "lm" is our own form of
Levenberg-Marquardt, photo by photo, with the curvature of each splat (`lm.py`); "lm-published" is
3DGS-LM, by conjugate gradients over batches of photos (arXiv 2409.12892)."""

LM_PART = 0.85
"""The steps of "lm" as a part of the steps of Adam that they replace: the loss ends as low."""

LM_ITERATIONS = 5
"""Iterations of 3DGS-LM after two thirds of the steps that Adam alone would take (section 4)."""


Count = Annotated[int, Meta(ge=1)]
Steps = Annotated[int, Meta(ge=0)]
Degree = Annotated[int, Meta(ge=0, le=3)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Weight = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Positive = Annotated[float, Meta(gt=0, le=sys.float_info.max)]


@dataclass(frozen=True)
class Plan:
    """Every number that controls a fit of splats; a run folder keeps its plan.

    Durations are in training steps, sizes in parts of the scene. Defaults are those of 3DGS
    (arXiv 2308.04079) unless a docstring says otherwise; docs/training.md explains every value.
    """

    steps: Count
    degree: Degree = 3
    """The highest degree of the spherical harmonics."""
    degree_interval: Count = 1000
    """The degree of the harmonics grows by one after each interval."""
    filter: Filter = "classic"

    # The start.
    random_points: Count = 20_000
    """The number of random splats to start from if the capture has fewer than 100 points."""
    start_opacity: Share = 0.3
    """Low, so that many splats share the gradient of a pixel; 3DGS starts at 0.1."""

    # The photos and the loss.
    ssim_weight: Weight = 0.2
    coarse_steps: Steps = 0
    """Photos grow in size until this step, and have full size from then on."""
    coarse_share: Share = 0.25
    """The smallest size keeps this share of the amplitude of the photos' spectrum."""
    coarse_downscale: Annotated[float, Meta(ge=1, le=64)] = 2.0
    """The smallest size is at most this many times smaller than full size."""

    # The steps.
    means_rate: Positive = 1.6e-4
    """In units of the normalised scene; falls exponentially to `means_rate_final`."""
    means_rate_final: Positive = 1.6e-6
    base_rate: Rate = 2.5e-3
    rest_rate: Rate = 1.25e-4
    opacity_rate: Rate = 5e-2
    scale_rate: Rate = 5e-3
    rotation_rate: Rate = 1e-3
    second_decay: Share = 0.999
    """The decay of Adam's running means of squared gradients."""
    optimizer: Optimizer = "adam"
    switch: Steps = 0
    """The number of Adam's steps before an optimizer other than Adam takes over. From then on a
    step is one photo of "lm" or one iteration of 3DGS-LM."""
    cooldown_steps: Steps = 0
    """The last steps, in which all rates but that of the centres fall to a tenth."""

    # Density control.
    refine_start: Steps = 500
    refine_stop: Steps = 15_000
    refine_interval: Count = 100
    splat_limit: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000
    """The largest number of splats, which bounds memory: those with the largest gradients grow."""
    grow_gradient: Positive = 8e-4
    """Splats grow above this mean absolute gradient, in units of half the image's size."""
    grow_scale: Positive = 0.01
    """Growing splats above this size are split, smaller ones are cloned."""
    prune_opacity: Annotated[float, Meta(gt=0, lt=0.5)] = 0.005
    """Splats below this opacity are removed; a reset lowers opacities to twice this value."""
    prune_scale: Positive = 0.1
    """Splats above this size are removed after the first fifth of density control."""
    opacity_reset_interval: Count = 3000

    def __post_init__(self) -> None:
        """Refuses values that no fit could use."""
        for name in _TYPES:
            _checked(name, getattr(self, name), "of the plan ")

    @property
    def adam_steps(self) -> int:
        """The number of steps that Adam takes."""
        return self.steps if self.optimizer == "adam" else min(self.switch, self.steps)

    @property
    def photo_steps(self) -> int:
        """The number of steps that learn from one photo each: those of Adam and of "lm"."""
        return self.steps if self.optimizer == "lm" else self.adam_steps

    def rates(self, step: int) -> Rates:
        """Adam's learning rate of each parameter at a step, counted from 0."""
        first = Rates(
            means=self.means_rate,
            quaternions=self.rotation_rate,
            log_scales=self.scale_rate,
            opacity_logits=self.opacity_rate,
            base=self.base_rate,
            rest=self.rest_rate,
        )
        return learning_rates(
            first,
            step,
            self.photo_steps,
            means_final=self.means_rate_final,
            cooldown_steps=self.cooldown_steps,
        )


_TYPES = get_type_hints(Plan, include_extras=True)


def _checked(name: str, value: Any, where: str = "") -> Any:
    """The value as the type of an entry of the plan; a ValueError says what it may be."""
    try:
        return msgspec.convert(value, _TYPES[name])
    except msgspec.ValidationError:
        wanted = _wanted(_TYPES[name])
        raise ValueError(f"{name} {where}is {repr(value)[:40]}: take {wanted}") from None


def _wanted(kind: Any) -> str:
    """The values that a type allows, in words."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    number, limits = get_args(kind)
    words = ["a whole number" if number is int else "a number"]
    bounded = limits.le is not None and limits.le < sys.float_info.max
    if limits.ge is not None:
        words.append(
            f"from {limits.ge} to {limits.le:,}" if bounded else f"of at least {limits.ge}"
        )
    if limits.gt is not None:
        words.append(f"above {limits.gt}")
    if limits.lt is not None:
        words.append(f"and below {limits.lt}")
    return " ".join(words)


# Short fits take larger steps. The rate of their centres ends higher: at the rate at which a long
# fit ends, centres would come to rest before they reach their places. "quick" and "standard"
# reset no opacities: resets remove fog, which hardly arises from small photos, and the time is
# better spent on more splats. The high rates of "quick" need squared gradients of fewer steps.
# Both keep splats up to ten times the size of the scene, which show sky and walls far away: with
# the published 0.1 "quick" ends 0.5 to 8.6 dB lower.
PRESETS: dict[Preset, Plan] = {
    "quick": Plan(
        steps=3_000,
        degree_interval=150,
        coarse_steps=1_800,
        refine_start=300,
        refine_stop=2_100,
        grow_gradient=1.2e-3,
        means_rate=3.2e-4,
        means_rate_final=1.6e-5,
        base_rate=2e-2,
        rest_rate=1e-3,
        opacity_rate=1e-1,
        scale_rate=4e-2,
        rotation_rate=4e-3,
        second_decay=0.99,
        cooldown_steps=450,
        prune_scale=10.0,
    ),
    "standard": Plan(
        steps=8_000,
        degree_interval=400,
        coarse_steps=4_000,
        refine_start=300,
        refine_stop=4_000,
        grow_gradient=7e-4,
        means_rate=3.2e-4,
        means_rate_final=6e-6,
        base_rate=5e-3,
        rest_rate=2.5e-4,
        scale_rate=1e-2,
        cooldown_steps=2_000,
        prune_scale=10.0,
        opacity_reset_interval=8_000,
    ),
    "high": Plan(steps=30_000, degree_interval=1_000, coarse_steps=15_000, cooldown_steps=5_000),
}


def plan_from(preset: Preset, *, steps: int | None = None, **changes: Any) -> Plan:
    """The preset's plan with some entries changed; None leaves an entry as it is.

    Another number of steps stretches the whole schedule, except the interval of density control:
    that many photos are needed to judge a splat.
    """
    plan = PRESETS[preset] if steps is None else stretched(PRESETS[preset], steps)
    plan = replace(plan, **{name: value for name, value in changes.items() if value is not None})
    return plan if plan.optimizer == "adam" or plan.switch else finished_by_lm(plan)


def finished_by_lm(plan: Plan) -> Plan:
    """The plan with Levenberg-Marquardt for its last part.

    "lm" begins where density control ends and takes fewer steps than Adam; its rates fall over the
    second half of them. 3DGS-LM begins after two thirds of Adam's steps, which then include all
    density control.
    """
    if plan.optimizer == "lm":
        switch = max(1, min(plan.refine_stop, plan.steps - 1))
        left = max(1, round(LM_PART * (plan.steps - switch)))
        cooldown = left // 2
    else:
        switch, left, cooldown = max(1, 2 * plan.steps // 3), LM_ITERATIONS, 0
    return replace(
        plan,
        steps=switch + left,
        switch=switch,
        refine_stop=min(plan.refine_stop, switch),
        coarse_steps=min(plan.coarse_steps, switch),
        cooldown_steps=cooldown,
    )


def stretched(plan: Plan, steps: int) -> Plan:
    """The plan with its schedule stretched or shortened to another number of steps.

    Raises:
        ValueError: The number of steps is below 1.
    """
    if steps < 1:
        raise ValueError(f"a fit of {steps} steps does nothing: ask for at least 1")
    if steps == plan.steps:
        return plan
    values = {name: getattr(plan, name) for name in _STRETCHED}
    # An entry of 0 means "from the first step" or "never" and stays 0.
    values = {name: value and max(1, value * steps // plan.steps) for name, value in values.items()}
    return replace(plan, steps=steps, **values)


_STRETCHED = (
    "degree_interval",
    "refine_start",
    "refine_stop",
    "opacity_reset_interval",
    "coarse_steps",
    "cooldown_steps",
)


LIVE = ("splat_limit", "degree", "ssim_weight")
"""Entries of the plan that can be changed while a fit runs."""


def checked_changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Changes to the plan of a running fit, each as the type of its entry.

    Raises:
        ValueError: An entry is not in `LIVE`, or a value is not allowed.
    """
    for name in values:
        if name not in LIVE:
            raise ValueError(
                f"{name!r} cannot be changed while a fit runs: only {', '.join(LIVE)} can"
            )
    return {name: _checked(name, value) for name, value in values.items()}


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return asdict(plan)


def plan_from_json(data: dict[str, Any]) -> Plan:
    """The plan that `plan_to_json` gave.

    Raises:
        ValueError: An entry is missing or unknown, or has a value that is not allowed.
    """
    if set(data) != set(_TYPES):
        raise ValueError(f"the plan's entries do not match: {sorted(set(data) ^ set(_TYPES))}")
    return Plan(**data)
