"""Fitting Gaussian splats: the plan, the start, the loop of steps, and density control.

Begin reading at `fit.py`, the loop; `state.py` holds the state that it moves on.
"""

from lumigraph.recon.splats.fit import fit_splats
from lumigraph.recon.splats.plan import (
    LIVE,
    PRESETS,
    Optimizer,
    Plan,
    Preset,
    checked_changes,
    plan_from,
    plan_from_json,
    plan_to_json,
)
from lumigraph.recon.splats.start import start_fit
from lumigraph.recon.splats.state import SplatFit, Step, change_plan

__all__ = [
    "LIVE",
    "PRESETS",
    "Optimizer",
    "Plan",
    "Preset",
    "SplatFit",
    "Step",
    "change_plan",
    "checked_changes",
    "fit_splats",
    "plan_from",
    "plan_from_json",
    "plan_to_json",
    "start_fit",
]
