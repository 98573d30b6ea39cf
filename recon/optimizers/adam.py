"""Adam's learning rates over the steps of a fit."""

from lumigraph.kernels import Rates

COOL = 0.1
"""The factor that rates fall to in the last steps: splats settle there, and still move."""


def learning_rates(
    rates: Rates, step: int, steps: int, *, means_final: float, cooldown_steps: int
) -> Rates:
    """The rate of each parameter at a step.

    Args:
        rates: At the first step.
        step: Counted from 0.
        steps: Of the whole fit.
        means_final: The rate of the centres falls to it exponentially, from the first step on.
        cooldown_steps: The last steps, in which the other rates fall to `COOL` of themselves.
    """
    fall = (means_final / rates.means) ** (step / steps)
    cool = 1.0
    if cooldown_steps:
        cool = COOL ** max(0.0, 1 - (steps - step) / cooldown_steps)
    return Rates(rates.means * fall, *(rate * cool for rate in rates[1:]))
