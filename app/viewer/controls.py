"""The controls and numbers of the pages, as data that both pages draw.

A control is a plain dict: `id`, `kind`, `label`, `group`, `where` ("server" if the server acts on
it, "page" if the page does), and, as its kind needs, `value`, `options`, `low`, `high`, `step`,
`hint`, `why` it can never be used, `enabled`, `slot` (one name for controls that take turns in one
place), `when` (the control acts only while each of these settings of the page has one of these
values). An option may have a `why` it cannot be chosen now. Kinds: choice, number, slider, check,
color, button, upload, progress.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lumigraph.app.console import duration
from lumigraph.app.viewer.jobs.job import RUNNING
from lumigraph.app.viewer.pixel import UNKNOWN
from lumigraph.recon import Optimizer

Control = dict[str, Any]

TRAIN, VIEW, COMPARE = "Train", "View", "Compare"

UNBUILT = {
    "method": ("Method", "Gaussian splats", "Radiance fields are not built yet."),
    "processes": ("Processes", "1", "Training in several processes is not built yet."),
}
"""Settings with only one option so far: they are greyed, with the reason."""

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
"""The modes that show numbers by a colour map."""

OPTIMIZERS: dict[Optimizer, str] = {
    "adam": "Adam",
    "lm": "Adam, then Levenberg-Marquardt",
    "lm-published": "Adam, then 3DGS-LM",
}
MAPS = {"turbo": "Turbo", "viridis": "Viridis", "gray": "Grey"}
AXES = {
    "scene": "As in the capture",
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
"""The keys of the page's controls. A key sets its control to `value`; without one it toggles a
check, takes the next option of a choice, or presses a button."""


def server_controls(
    form: dict[str, Any], state: dict[str, Any], sources: Sequence[dict[str, Any]]
) -> list[Control]:
    """The controls on which the server acts, with their present values.

    Args:
        form: The settings of the next run, see `Actions`.
        state: As `ViewerState` describes it.
        sources: The sources that can be chosen.
    """
    chosen = next((source for source in sources if source["id"] == form["source"]), None)
    kind = None if chosen is None else chosen["kind"]
    job = state.get("current") or {}
    running = job.get("state") in RUNNING
    training = job.get("state") in ("training", "paused")
    pause = ("resume", "Resume") if job.get("state") == "paused" else ("pause", "Pause")
    following = (state.get("shown") or {}).get("following", True)
    names = {source["id"]: source["name"] for source in sources}
    progress = {"value": _done(job), "hint": _progress_text(job), "enabled": running}
    follow = {"enabled": running and not following}
    return [
        _choice("source", "Capture or run", form["source"], names),
        _button("rescan", "Rescan", hint="Finds captures and runs that are new in the folders."),
        _control("upload", "upload", "Upload photos, a zip or a PLY"),
        *_plan_controls(form, enabled=kind == "capture"),
        _button("start", "Start", enabled=kind == "capture"),
        _button("open", "Open", enabled=kind in ("run", "ply")),
        _button(
            "resume_run",
            "Resume run",
            enabled=bool(chosen and chosen.get("stopped")),
            hint="Goes on with a run that was stopped.",
        ),
        _control("progress", "progress", "Progress", **progress),
        _button(*pause, slot="pause", enabled=training),
        _button("checkpoint", "Checkpoint", enabled=training),
        _button("stop", "Stop", enabled=running),
        _button("follow", "Show the training", hint="Shows the scene in training again.", **follow),
        *(
            _button(f"cancel:{other['id']}", f"Cancel {other['name']}")
            for other in state.get("jobs", [])
            if other["state"] == "waiting"
        ),
        *_live_controls(job, enabled=training),
        # Settings without a choice come last.
        *(
            _choice(name, label, only, {only: only}, enabled=False, why=why)
            for name, (label, only, why) in UNBUILT.items()
        ),
    ]


def _plan_controls(form: dict[str, Any], *, enabled: bool) -> list[Control]:
    """The settings of the next run."""
    presets = {name: name.capitalize() for name in ("quick", "standard", "high")}
    optimizers = {str(name): label for name, label in OPTIMIZERS.items()}
    return [
        _choice("preset", "Preset", form["preset"], presets, enabled=enabled),
        _control(
            "number",
            "minutes",
            "Minutes (0: preset)",
            value=form["minutes"],
            low=0,
            high=1440,
            step=1,
            enabled=enabled and form["optimizer"] == "adam",
            hint="The number of steps is chosen so that the training takes about this time on this "
            "machine. "
            "Only with Adam.",
        ),
        _choice(
            "optimizer",
            "Optimizer",
            form["optimizer"],
            optimizers,
            enabled=enabled,
            hint="Levenberg-Marquardt uses the curvature of each splat in the last part of the "
            "training. After two thirds of the steps 3DGS-LM does five "
            "iterations, which may take minutes.",
        ),
        _control(
            "number",
            "downscale",
            "Downscale (0: automatic)",
            value=form["downscale"],
            low=0,
            high=64,
            step=1,
            enabled=enabled,
            hint="Divides the width and height of the photos.",
        ),
    ]


def _live_controls(job: dict[str, Any], *, enabled: bool) -> list[Control]:
    """The settings that can be changed during a training."""
    degrees = {str(degree): str(degree) for degree in range(4)}
    plan = job.get("plan") or {}
    return [
        _control(
            "number",
            "splat_limit",
            "Splat limit",
            value=plan.get("splat_limit", 1_000_000),
            low=0,
            high=20_000_000,
            step=1000,
            enabled=enabled,
        ),
        _choice(
            "degree",
            "SH degree",
            str(plan.get("degree", 3)),
            degrees,
            enabled=enabled,
            hint="Degree of the spherical harmonics: with 0 a splat has the same colour from all "
            "sides, with 3 it can show reflections.",
        ),
        _control(
            "slider",
            "ssim_weight",
            "SSIM weight",
            value=plan.get("ssim_weight", 0.2),
            low=0.0,
            high=1.0,
            step=0.05,
            enabled=enabled,
            hint="Weight of the structural similarity in the loss; the rest is the L1 difference.",
        ),
    ]


def page_controls(*, confidence: bool = True) -> list[Control]:
    """The controls on which the page itself acts.

    Args:
        confidence: Whether the confidence of the scene's splats is known.
    """
    return [*_view_controls(confidence), *_compare_controls()]


def _view_controls(confidence: bool) -> list[Control]:
    modes = _options(MODES)
    if not confidence:
        next(m for m in modes if m["value"] == "confidence")["why"] = UNKNOWN
    ranged, uncertainty = {"mode": RANGED}, {"mode": ["uncertainty"]}
    chosen: dict[str, Any] = {**ranged, "auto_range": [False]}
    ends: dict[str, Any] = {"low": -1e6, "high": 1e6, "step": 0.1, "when": chosen}
    part: dict[str, Any] = {"low": 0.0, "high": 1.0, "step": 0.05, "when": uncertainty}
    controls = [
        _control("choice", "mode", "Show", value="color", options=modes),
        _choice("map", "Colour map", "turbo", MAPS, when=ranged),
        _control("check", "auto_range", "Automatic range", value=True, when=ranged),
        _control("number", "low", "From", value=0.0, **ends),
        _control("number", "high", "To", value=1.0, **ends),
        _control(
            "slider",
            "over",
            "Colours over uncertainty",
            value=0.0,
            hint="0 shows the uncertainty alone, 1 the colours alone.",
            **part,
        ),
        _control(
            "number",
            "threshold",
            "Threshold",
            value=0.0,
            hint="Pixels with less uncertainty than this are shown in their colours. 0.05 is a "
            "twentieth of the way from black to white.",
            **{**part, "step": 0.005},
        ),
        _control("check", "own_background", "The scene's own background", value=True),
        _control(
            "color",
            "background",
            "Background",
            value="#000000",
            when={"own_background": [False]},
        ),
        _control("slider", "fov", "Field of view", value=50, low=10, high=120, step=1),
        _choice("up", "Up axis", "scene", AXES),
        _control("slider", "resolution", "Resolution", value=1.0, low=0.25, high=2.0, step=0.25),
        _control("check", "fly", "Fly", value=False, hint="The mouse turns the camera in place."),
        _button("reset", "Reset view"),
        _button("screenshot", "Save picture"),
    ]
    return [{**control, "where": "page", "group": VIEW} for control in controls]


def _compare_controls() -> list[Control]:
    hint = "Click a camera to look from there."
    controls = [
        _control("check", "cameras", "Show the capture's cameras", value=True),
        _choice("compare", "Compare with the photo", "slider", COMPARISONS, hint=hint),
        _control("slider", "amount", "Amount", value=0.5, low=0.0, high=1.0, step=0.01),
        _button("previous", "Previous camera"),
        _button("next", "Next camera"),
        _button("leave", "Leave the camera"),
    ]
    return [{**control, "where": "page", "group": COMPARE} for control in controls]


def _control(kind: str, name: str, label: str, **more: Any) -> Control:
    """A control of the server; page controls change `where` and `group`."""
    return {"where": "server", "group": TRAIN, "kind": kind, "id": name, "label": label, **more}


def _button(name: str, label: str, **more: Any) -> Control:
    return _control("button", name, label, **more)


def _choice(name: str, label: str, value: str, options: dict[str, str], **more: Any) -> Control:
    return _control("choice", name, label, value=value, options=_options(options), **more)


def _options(named: dict[str, str]) -> list[dict[str, str]]:
    return [{"value": value, "label": label} for value, label in named.items()]


def _done(job: dict[str, Any]) -> float:
    steps = job.get("steps") or 0
    return min(1.0, (job.get("step") or 0) / steps) if steps else 0.0


def _progress_text(job: dict[str, Any]) -> str:
    """The state of the current job in a few words."""
    state = job.get("state")
    if state in (None, "waiting"):
        return "No training"
    if state == "training" and job.get("steps"):
        left = job.get("seconds_left")
        rest = "" if left is None else f", {duration(left)} left"
        return f"Step {job.get('step', 0):,} of {job['steps']:,}{rest}"
    words = {"loading": "Reading the photos", "evaluating": "Comparing with the test photos"}
    return words.get(state, str(state).capitalize())


def readouts(current: dict[str, Any] | None, shown: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The names and numbers that both pages show beside the picture.

    They are those of the training that is shown, or else of the scene that was opened.

    Args:
        current: The details of the current job, or of the last one.
        shown: The description of the scene that is shown.
    """
    source = shown or {}
    if current and current["state"] in RUNNING and source.get("following", True):
        source = current
    of = f" of {source['steps']:,}" if source.get("steps") else ""
    kinds: list[tuple[str, str, Callable[[Any], str]]] = [
        ("Step", "step", lambda step: f"{step:,}{of}"),
        ("Loss", "loss", "{:.4f}".format),
        ("PSNR", "psnr", "{:.2f} dB".format),
        ("SSIM", "ssim", "{:.4f}".format),
        ("Splats", "splats", "{:,}".format),
        ("Steps per second", "steps_per_second", "{:.1f}".format),
        ("Training time", "seconds", duration),
    ]
    return [(name, text(source[key])) for name, key, text in kinds if source.get(key) is not None]
