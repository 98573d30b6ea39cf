"""The numbers that both pages show beside the picture, as words."""

from collections.abc import Callable
from typing import Any

from lumigraph.app.console import duration

LIVE = ("loading", "training", "paused", "evaluating")
"""States of a training that goes on."""


def readouts(current: dict[str, Any] | None, shown: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Each number's name, and the number.

    They are those of the training that is looked at, and else of the scene that was opened.

    Args:
        current: Facts of the training in work, or of the last that was.
        shown: What is said of the scene that is shown.
    """
    told = shown or {}
    if current and current["state"] in LIVE and told.get("following", True):
        told = current
    of = f" of {told['steps']:,}" if told.get("steps") else ""
    kinds: list[tuple[str, str, Callable[[Any], str]]] = [
        ("Step", "step", lambda step: f"{step:,}{of}"),
        ("Loss", "loss", "{:.4f}".format),
        ("PSNR", "psnr", "{:.2f} dB".format),
        ("SSIM", "ssim", "{:.4f}".format),
        ("Splats", "splats", "{:,}".format),
        ("Steps per second", "steps_per_second", "{:.1f}".format),
        ("Trained for", "seconds", duration),
    ]
    return [(name, text(told[key])) for name, key, text in kinds if told.get(key) is not None]
