"""The user interface as data: what can be set and pressed, which both pages draw.

A control is a plain dict: `id`, `kind`, `label`, `group`, `where` ("desk" if the server acts on it,
"page" if the page does), and, as its kind needs, `value`, `options`, `low`, `high`, `step`, `hint`,
`why` it can never be used, `enabled`, `slot` (one name for those that take turns in one place),
`when` (it does something while each of these settings of the page is one of these values); an
option may have a `why` it cannot be chosen now. Kinds: choice, number, slider, check, color,
button, upload, progress.
"""

from collections.abc import Sequence
from typing import Any

from lumigraph.app.console import duration
from lumigraph.app.viewer.legend import UNKNOWN
from lumigraph.app.viewer.readouts import LIVE
from lumigraph.recon import Optimizer

Control = dict[str, Any]

MAKE, LOOK, COMPARE = "Make", "Look", "Compare"

UNBUILT = {
    "method": ("Method", "Gaussian splats", "Radiance fields are not built yet."),
    "processes": ("Processes", "1", "Training in several processes is not built yet."),
}
"""What there is only one of so far: shown greyed, with the reason."""

MODES = {
    "color": "Colour",
    "depth": "Depth",
    "opacity": "Opacity",
    "normals": "Normals",
    "centers": "Splat centres",
    "ellipses": "Splat ellipses",
    "uncertainty": "Uncertainty",
    "confidence": "Confidence",
}
RANGED = ["depth", "opacity", "uncertainty", "confidence"]
"""The modes that show numbers by colours."""

OPTIMIZERS: dict[Optimizer, str] = {
    "adam": "Adam",
    "lm": "Adam, then Levenberg-Marquardt",
    "lm-published": "Adam, then 3DGS-LM",
}
MAPS = {"turbo": "Turbo", "viridis": "Viridis", "gray": "Grey"}
AXES = {
    "scene": "As the capture says",
    "x": "+x",
    "-x": "-x",
    "y": "+y",
    "-y": "-y",
    "z": "+z",
    "-z": "-z",
}
COMPARISONS = {"slider": "Slider", "blend": "Blend", "error": "Difference x 4", "off": "Off"}

KEYS = [
    *({"key": str(i), "id": "mode", "value": m} for i, m in enumerate(MODES, start=1)),
    {"key": "R", "id": "reset"},
    {"key": "F", "id": "fly"},
    {"key": "C", "id": "cameras"},
    {"key": "N", "id": "next"},
    {"key": "B", "id": "previous"},
    {"key": "X", "id": "compare"},
    {"key": "K", "id": "screenshot"},
    {"key": "Escape", "id": "leave"},
]
"""Which key uses which control of the page: sets it to `value`, or turns a check, takes the next of
a choice, presses a button."""


def desk_controls(
    form: dict[str, Any], state: dict[str, Any], sources: Sequence[dict[str, Any]]
) -> list[Control]:
    """The controls that the server acts on, as they are now.

    Args:
        form: What is chosen for the next run, see `Board`.
        state: Of the desk.
        sources: What can be chosen.
    """
    chosen = next((source for source in sources if source["id"] == form["source"]), None)
    kind = None if chosen is None else chosen["kind"]
    job = state.get("current") or {}
    running = job.get("state") in LIVE
    training = job.get("state") in ("training", "paused")
    paused = job.get("state") == "paused"
    options = [_option(source["id"], source["name"]) for source in sources]
    return [
        _control(MAKE, "choice", "source", "Capture or run", value=form["source"], options=options),
        _control(
            MAKE,
            "button",
            "refresh",
            "Look again",
            hint="For captures and runs that have come into the folders meanwhile.",
        ),
        _control(MAKE, "upload", "upload", "Upload photos, a zip or a PLY"),
        *_plan_controls(form, enabled=kind == "capture"),
        _control(MAKE, "button", "start", "Start", enabled=kind == "capture"),
        _control(MAKE, "button", "open", "Open", enabled=kind in ("run", "ply")),
        _control(MAKE, "button", "go_on", "Go on", enabled=bool(chosen and chosen.get("stopped"))),
        _control(
            MAKE,
            "progress",
            "progress",
            "Progress",
            value=_done(job),
            hint=_progress_text(job),
            enabled=running,
        ),
        _control(
            MAKE,
            "button",
            "resume" if paused else "pause",
            "Resume" if paused else "Pause",
            slot="pause",
            enabled=training,
        ),
        _control(MAKE, "button", "checkpoint", "Checkpoint", enabled=training),
        _control(MAKE, "button", "stop", "Stop", enabled=running),
        _control(
            MAKE,
            "button",
            "follow",
            "Back to the training",
            enabled=running and not (state.get("shown") or {}).get("following", True),
            hint="Shows its scene again, after another one was opened.",
        ),
        *(_waiting(other) for other in state.get("jobs", []) if other["state"] == "waiting"),
        *_live_controls(job, enabled=training),
        *_unbuilt(),
    ]


def _unbuilt() -> list[Control]:
    """What cannot be chosen yet: after all that can, so that it stands in nobody's way."""
    return [
        _control(
            MAKE,
            "choice",
            name,
            label,
            value=only,
            options=[_option(only, only)],
            enabled=False,
            why=why,
        )
        for name, (label, only, why) in UNBUILT.items()
    ]


def _plan_controls(form: dict[str, Any], *, enabled: bool) -> list[Control]:
    presets = [_option(name, name) for name in ("quick", "standard", "high")]
    return [
        _control(
            MAKE,
            "choice",
            "preset",
            "Preset",
            value=form["preset"],
            options=presets,
            enabled=enabled,
        ),
        _control(
            MAKE,
            "number",
            "minutes",
            "Minutes (0: as the preset)",
            value=form["minutes"],
            low=0,
            high=1440,
            step=1,
            enabled=enabled and form["optimizer"] == "adam",
            hint="The preset's schedule is stretched to take about so long on this machine. Only "
            "with Adam, in whose steps it is counted.",
        ),
        _control(
            MAKE,
            "choice",
            "optimizer",
            "Optimizer",
            value=form["optimizer"],
            options=_options({str(name): label for name, label in OPTIMIZERS.items()}),
            enabled=enabled,
            hint="The second ends with steps that know how each splat bends the picture. The "
            "third takes two thirds of the steps, then five iterations, of up to minutes each.",
        ),
        _control(
            MAKE,
            "number",
            "downscale",
            "Smaller photos (0: as needed)",
            value=form["downscale"],
            low=0,
            high=64,
            step=1,
            enabled=enabled,
        ),
    ]


def _live_controls(job: dict[str, Any], *, enabled: bool) -> list[Control]:
    """What can be changed while it trains."""
    degrees = [_option(str(degree), str(degree)) for degree in range(4)]
    plan = job.get("plan") or {}
    return [
        _control(
            MAKE,
            "number",
            "splat_limit",
            "Most splats",
            value=plan.get("splat_limit", 1_000_000),
            low=0,
            high=20_000_000,
            step=1000,
            enabled=enabled,
        ),
        _control(
            MAKE,
            "choice",
            "degree",
            "Colour harmonics",
            value=str(plan.get("degree", 3)),
            options=degrees,
            enabled=enabled,
            hint="Their degree: 0 is one colour from all sides, 3 shows shine.",
        ),
        _control(
            MAKE,
            "slider",
            "ssim_weight",
            "Structure in the loss",
            value=plan.get("ssim_weight", 0.2),
            low=0.0,
            high=1.0,
            step=0.05,
            enabled=enabled,
            hint="Part of the loss that is structural similarity; the rest is the difference.",
        ),
    ]


def _waiting(job: dict[str, Any]) -> Control:
    return _control(MAKE, "button", f"cancel:{job['id']}", f"Cancel {job['name']}")


def page_controls(*, confidence: bool = True) -> list[Control]:
    """The controls that a page acts on by itself.

    Args:
        confidence: Whether it is known how far each splat of the scene can be trusted.
    """
    modes = _options(MODES)
    if not confidence:
        next(m for m in modes if m["value"] == "confidence")["why"] = UNKNOWN
    ranged = {"mode": RANGED}
    chosen = {**ranged, "auto_range": [False]}
    return [
        _page(LOOK, "choice", "mode", "Show", value="color", options=modes),
        _page(
            LOOK, "choice", "map", "Colour map", value="turbo", options=_options(MAPS), when=ranged
        ),
        _page(LOOK, "check", "auto_range", "Range as seen", value=True, when=ranged),
        _page(LOOK, "number", "low", "From", value=0.0, low=-1e6, high=1e6, step=0.1, when=chosen),
        _page(LOOK, "number", "high", "To", value=1.0, low=-1e6, high=1e6, step=0.1, when=chosen),
        _page(
            LOOK,
            "slider",
            "over",
            "Colours over uncertainty",
            value=0.0,
            low=0.0,
            high=1.0,
            step=0.05,
            when={"mode": ["uncertainty"]},
            hint="0 shows uncertainty alone, 1 the colours alone.",
        ),
        _page(
            LOOK,
            "number",
            "threshold",
            "Uncertain from",
            value=0.0,
            low=0,
            high=1,
            step=0.005,
            when={"mode": ["uncertainty"]},
            hint="Where colours are surer than this, they are shown as they are. 0.05 is a "
            "twentieth of the way from black to white.",
        ),
        _page(LOOK, "check", "own_background", "The scene's own background", value=True),
        _page(
            LOOK,
            "color",
            "background",
            "Background",
            value="#000000",
            when={"own_background": [False]},
        ),
        _page(LOOK, "slider", "fov", "Field of view", value=50, low=10, high=120, step=1),
        _page(LOOK, "choice", "up", "Up", value="scene", options=_options(AXES)),
        _page(LOOK, "slider", "resolution", "Resolution", value=1.0, low=0.25, high=2.0, step=0.25),
        _page(LOOK, "check", "fly", "Fly", value=False, hint="The mouse turns the head in place."),
        _page(LOOK, "button", "reset", "Reset view"),
        _page(LOOK, "button", "screenshot", "Take a picture"),
        _page(COMPARE, "check", "cameras", "Show the capture's cameras", value=True),
        _page(
            COMPARE,
            "choice",
            "compare",
            "Photo",
            value="slider",
            options=_options(COMPARISONS),
            hint="Click a camera to stand there.",
        ),
        _page(COMPARE, "slider", "amount", "How much", value=0.5, low=0.0, high=1.0, step=0.01),
        _page(COMPARE, "button", "previous", "Previous camera"),
        _page(COMPARE, "button", "next", "Next camera"),
        _page(COMPARE, "button", "leave", "Leave the camera"),
    ]


def _control(group: str, kind: str, name: str, label: str, **more: Any) -> Control:
    return {"where": "desk", "group": group, "kind": kind, "id": name, "label": label, **more}


def _page(group: str, kind: str, name: str, label: str, **more: Any) -> Control:
    return {**_control(group, kind, name, label, **more), "where": "page"}


def _option(value: str, label: str) -> dict[str, str]:
    return {"value": value, "label": label}


def _options(named: dict[str, str]) -> list[dict[str, str]]:
    return [_option(value, label) for value, label in named.items()]


def _done(job: dict[str, Any]) -> float:
    steps = job.get("steps") or 0
    return min(1.0, (job.get("step") or 0) / steps) if steps else 0.0


def _progress_text(job: dict[str, Any]) -> str:
    """What is going on, in a few words."""
    state = job.get("state")
    if state in (None, "waiting"):
        return "Nothing in work"
    if state == "training" and job.get("steps"):
        left = job.get("seconds_left")
        rest = "" if left is None else f", {duration(left)} left"
        return f"Step {job.get('step', 0):,} of {job['steps']:,}{rest}"
    words = {"loading": "Reading the photos", "evaluating": "Comparing with the held-out photos"}
    return words.get(state, str(state).capitalize())
