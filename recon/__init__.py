"""From a capture to a scene: fitting splats, checkpoints, and scene files in and out."""

from lumigraph.recon.checkpoints import load_checkpoint, save_checkpoint
from lumigraph.recon.optimizers import Try
from lumigraph.recon.splats import (
    LIVE,
    PRESETS,
    Optimizer,
    Plan,
    Preset,
    SplatFit,
    Step,
    change_plan,
    checked_changes,
    fit_splats,
    plan_from,
    plan_from_json,
    plan_to_json,
    start_fit,
)

__all__ = [
    "LIVE",
    "PRESETS",
    "Optimizer",
    "Plan",
    "Preset",
    "SplatFit",
    "Step",
    "Try",
    "change_plan",
    "checked_changes",
    "fit_splats",
    "load_checkpoint",
    "plan_from",
    "plan_from_json",
    "plan_to_json",
    "save_checkpoint",
    "start_fit",
]
