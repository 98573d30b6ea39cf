"""From a capture to a scene: fitting, density control, checkpoints, and files in and out."""

from lumigraph.recon.checkpoints import load_checkpoint, save_checkpoint
from lumigraph.recon.fit import SplatFit, Step, change_plan, fit_splats, start_fit
from lumigraph.recon.plan import (
    LIVE,
    PRESETS,
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
    "Plan",
    "Preset",
    "SplatFit",
    "Step",
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
