"""From a capture to a scene: fitting, density control, checkpoints, and files in and out."""

from lumigraph.recon.checkpoints import load_checkpoint, save_checkpoint
from lumigraph.recon.optimizers.levenberg import Try, levenberg_marquardt
from lumigraph.recon.optimizers.splat_problem import SplatProblem
from lumigraph.recon.splats.fit import SplatFit, Step, change_plan, fit_splats, start_fit
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

__all__ = [
    "LIVE",
    "PRESETS",
    "Optimizer",
    "Plan",
    "Preset",
    "SplatFit",
    "SplatProblem",
    "Step",
    "Try",
    "change_plan",
    "checked_changes",
    "fit_splats",
    "levenberg_marquardt",
    "load_checkpoint",
    "plan_from",
    "plan_from_json",
    "plan_to_json",
    "save_checkpoint",
    "start_fit",
]
