"""What a fit will do, in numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from lumigraph.kernels import Filter, Rates
from lumigraph.recon.optimizers.adam import learning_rates

Preset = Literal["quick", "standard", "high"]

Optimizer = Literal["adam", "lm", "lm-published"]
"""What moves the splats in the last part of a fit: Adam does until then. "lm" is our own kind of
Levenberg-Marquardt, photo by photo, with the curvature of each splat (`lm.py`); "lm-published" is
3DGS-LM, by conjugate gradients over batches of photos (arXiv 2409.12892)."""

LM_PART = 0.85
"""Of Adam's steps after density control, that "lm" takes in their place, as it then ends as low."""

LM_ITERATIONS = 5
"""Of 3DGS-LM, after two thirds of the steps that Adam alone would take (section 4)."""


@dataclass(frozen=True)
class Plan:
    """Everything a splat fit is told, counted in steps; frozen into the run folder.

    The defaults are those of 3DGS (arXiv 2308.04079) unless said; docs/training.md explains all.
    """

    steps: int
    degree: int = 3
    """Of the spherical harmonics in the end."""
    degree_interval: int = 1000
    """Steps until the harmonics grow by one degree."""
    filter: Filter = "classic"

    # What the fit starts from.
    random_points: int = 20_000
    """Splats to start from where the capture has none, or too few, points of its own."""
    start_opacity: float = 0.3
    """Faint, so that many splats share a pixel's gradient; 3DGS starts fainter still, at 0.1."""

    # What a step learns from.
    ssim_weight: float = 0.2
    coarse_steps: int = 0
    """Steps until photos are used at full size; until then they grow with the detail in them."""
    coarse_share: float = 0.25
    """Share of the photos' spectrum, in amplitude, that the smallest size keeps."""
    coarse_downscale: float = 2.0
    """But it is at most so many times smaller."""

    # How a step moves the splats.
    means_rate: float = 1.6e-4
    """In units of the normalised scene; falls exponentially to `means_rate_final`."""
    means_rate_final: float = 1.6e-6
    base_rate: float = 2.5e-3
    rest_rate: float = 1.25e-4
    opacity_rate: float = 5e-2
    scale_rate: float = 5e-3
    rotation_rate: float = 1e-3
    second_decay: float = 0.999
    """Of Adam's running means of squares, by which steps are divided."""
    optimizer: Optimizer = "adam"
    switch: int = 0
    """Steps after which an optimizer that is not Adam takes over; each of the others is a step of
    "lm" towards a photo, or one of the iterations of 3DGS-LM."""
    cooldown_steps: int = 0
    """The last steps, in which all rates fall to a tenth, so that what they stir up settles."""

    # Density control: when it acts, what it adds, what it removes.
    refine_start: int = 500
    refine_stop: int = 15_000
    refine_interval: int = 100
    splat_limit: int = 1_000_000
    """Density control stops here, the strongest splats first: memory stays bounded."""
    grow_gradient: float = 8e-4
    """Mean absolute gradient on the image, in units of half its size, that makes a splat grow."""
    grow_scale: float = 0.01
    """Splats larger than this part of the scene are split, smaller ones cloned."""
    prune_opacity: float = 0.005
    prune_scale: float = 0.1
    """Splats larger than this part of the scene are removed after the first opacity reset."""
    opacity_reset_interval: int = 3000

    def __post_init__(self) -> None:
        """Refuses numbers that no fit could be made with."""
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the plan is {getattr(self, name)}: take at least 1")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} of the plan is {getattr(self, name)}: take at least 0")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} of the plan is {getattr(self, name)}: take more than 0")
        for name, most in _PARTS.items():
            if not 0 < getattr(self, name) < most:
                raise ValueError(
                    f"{name} of the plan is {getattr(self, name)}: take more than 0, below {most}"
                )
        for name, (least, most) in _BETWEEN.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} of the plan is {getattr(self, name)}: take {least} to {most}"
                )
        for name, choices in (("filter", get_args(Filter)), ("optimizer", get_args(Optimizer))):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name} of the plan is {value!r}: take one of {choices}")

    @property
    def adam_steps(self) -> int:
        """How many of the steps are Adam's."""
        return self.steps if self.optimizer == "adam" else min(self.switch, self.steps)

    @property
    def photo_steps(self) -> int:
        """How many of the steps are towards one photo each, at rates: Adam's and those of "lm"."""
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


_AT_LEAST_ONE = (
    "steps",
    "degree_interval",
    "random_points",
    "refine_interval",
    "splat_limit",
    "opacity_reset_interval",
)
_NOT_NEGATIVE = (
    "coarse_steps",
    "cooldown_steps",
    "refine_start",
    "refine_stop",
    "switch",
    "base_rate",
    "rest_rate",
    "opacity_rate",
    "scale_rate",
    "rotation_rate",
)
_POSITIVE = ("means_rate", "means_rate_final", "grow_gradient", "grow_scale", "prune_scale")
_BETWEEN = {"degree": (0, 3), "ssim_weight": (0, 1), "coarse_downscale": (1, 64)}
# A reset leaves opacities at twice `prune_opacity`.
_PARTS = {"start_opacity": 1, "coarse_share": 1, "prune_opacity": 0.5, "second_decay": 1}


# Short fits move several times as far in a step, and their centres do not come to rest before they
# are where they belong: their rate falls to about what it is after as many steps of a long fit.
# Without resets, which are for fog that small photos hardly let arise, there is time for more
# splats. The rates of `quick` want squares that follow sooner.
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
        opacity_reset_interval=8_000,
    ),
    "high": Plan(steps=30_000, degree_interval=1_000, coarse_steps=15_000, cooldown_steps=5_000),
}


def plan_from(preset: Preset, *, steps: int | None = None, **changes: Any) -> Plan:
    """The preset's plan with some values changed; None means unchanged.

    With another number of steps the whole schedule is stretched or shortened to it, but for the
    interval of density control, which needs that many views to judge a splat.
    """
    plan = PRESETS[preset] if steps is None else stretched(PRESETS[preset], steps)
    plan = replace(plan, **{name: value for name, value in changes.items() if value is not None})
    return plan if plan.optimizer == "adam" or plan.switch else finished_by_lm(plan)


def finished_by_lm(plan: Plan) -> Plan:
    """The schedule with Levenberg-Marquardt in the end.

    "lm" begins where density control ends, and takes fewer steps than Adam; its rates fall over
    half of them. Of 3DGS-LM two thirds of the steps are Adam's, with all density control.
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
        ValueError: There are none.
    """
    if steps < 1:
        raise ValueError(f"a fit of {steps} steps does nothing: ask for at least 1")
    if steps == plan.steps:
        return plan
    values = {name: getattr(plan, name) for name in _STRETCHED}
    # What the plan does from the first step or never, at 0, stays so.
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


LIVE: dict[str, tuple[type, int, int]] = {
    "splat_limit": (int, 1, 1_000_000_000),
    "degree": (int, 0, 3),
    "ssim_weight": (float, 0, 1),
}
"""What of a plan can be changed while its fit runs: of which type, the least and the most."""


def checked_changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Changes to a plan in work, each of its right type.

    Raises:
        ValueError: A value cannot be changed while the fit runs, or not to that.
    """
    changes = {}
    for name, value in values.items():
        if name not in LIVE:
            raise ValueError(
                f"{name!r} cannot be changed while a fit runs: only {', '.join(LIVE)} can"
            )
        kind, least, most = LIVE[name]
        number = isinstance(value, int if kind is int else int | float)
        if not number or isinstance(value, bool) or not least <= value <= most:
            noun = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name} is {repr(value)[:40]}: take {noun} from {least} to {most:,}")
        changes[name] = kind(value)
    return changes


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return asdict(plan)


def plan_from_json(data: dict[str, Any]) -> Plan:
    """The plan that `plan_to_json` gave.

    Raises:
        ValueError: A value is missing, unknown, not of its type, or none a fit could have.
    """
    known = {field.name: field.default for field in fields(Plan)}
    if set(data) != set(known):
        raise ValueError(f"the plan's values do not match: {sorted(set(data) ^ set(known))}")
    for name, value in data.items():
        wanted = int if name == "steps" else type(known[name])
        number = wanted is float and isinstance(value, int)
        if not (isinstance(value, wanted) or number) or isinstance(value, bool):
            raise ValueError(f"{name} of the plan is {value!r}, but should be {wanted.__name__}")
    return Plan(**data)
