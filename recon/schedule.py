"""What a step of a fit does, worked out from the plan: rates, and which parameters move."""

from dataclasses import dataclass

from lumigraph.recon.plan import Plan, Rows


@dataclass(frozen=True)
class Move:
    """How one step moves the splats.

    Attributes:
        rates: Adam's rate of each parameter that moves, named as in `Splats.tensors`.
        updates: Which update of that parameter this is, from 1, to correct Adam's bias.
        rows: Which splats move.
        trust_region: Largest squared Hellinger distance of a splat's move; 0 for no bound.
    """

    rates: dict[str, float]
    updates: dict[str, int]
    rows: Rows
    trust_region: float


def move_at(plan: Plan, step: int) -> Move:
    """What the plan says of a step, counted from 0."""
    rates = learning_rates(plan, step)
    updates = dict.fromkeys(rates, step + 1)
    # Shine changes slowly and holds three quarters of all parameters: it may move more rarely.
    updates["rest"] = step // plan.rest_interval + 1
    if step % plan.rest_interval:
        del rates["rest"], updates["rest"]
    return Move(rates, updates, plan.rows, trust_region(plan, step))


def rebased(move: Move, step: int, betas: tuple[float, float] = (0.9, 0.999)) -> dict[str, float]:
    """The rates for an Adam that corrects the bias of every parameter as in its step-th update.

    Adam divides its means by 1 - beta^n after n updates; where it divides by 1 - beta^step, the
    rate makes up for it. betas: Adam's.
    """

    def bias(updates: int) -> float:
        return (1 - betas[1] ** updates) ** 0.5 / (1 - betas[0] ** updates)

    return {
        name: rate if move.updates[name] == step else rate * bias(move.updates[name]) / bias(step)
        for name, rate in move.rates.items()
    }


def learning_rates(plan: Plan, step: int) -> dict[str, float]:
    """Adam's rate for each parameter; they fall exponentially where the plan says so."""
    done = step / plan.steps
    fall = plan.rates_final**done
    return {
        "means": plan.means_rate * (plan.means_rate_final / plan.means_rate) ** done,
        "quaternions": plan.rotation_rate * fall,
        "log_scales": plan.scale_rate * fall,
        "opacity_logits": plan.opacity_rate * fall,
        "base": plan.base_rate * fall,
        "rest": plan.rest_rate * fall,
    }


def trust_region(plan: Plan, step: int) -> float:
    """Largest squared Hellinger distance that a step may move a splat by; 0 for no bound."""
    if plan.trust_region <= 0:
        return 0.0
    ratio = plan.trust_region_final / plan.trust_region
    return plan.trust_region * ratio ** (step / plan.steps)
