"""What a page says below a picture: which numbers its colours stand for."""

from typing import Any

from lumigraph.app.viewer.picture import Look, Picture, color_table
from lumigraph.app.viewer.trust import Trust

UNKNOWN = (
    "How far each splat can be trusted is not known of this scene: run `lumigraph uncertainty` on "
    "its run folder, then press Look again"
)
"""In the mode that would show it."""


def legend_of(look: Look, made: Picture, trust: Trust) -> dict[str, Any]:
    """The legend as plain data: the range and its colours, if there is one, and a few words."""
    low, high = (None if end is None else float(f"{end:.3g}") for end in (made.low, made.high))
    ranged = made.low is not None
    return {
        "mode": look.mode,
        "map": look.color_map,
        "low": low,
        "high": high,
        "colors": color_table(look.color_map).tolist() if ranged else None,
        "text": _words(look, trust),
    }


def _words(look: Look, trust: Trust) -> str:
    match look.mode:
        case "uncertainty":
            known = "" if trust.searched else ", not calibrated"
            return f"Standard deviation of the colours; drop rate {trust.rate:.2g}{known}"
        case "confidence":
            return UNKNOWN if trust.confidence is None else "Confidence in the splats"
        case "depth":
            return "Depth, in the scene's units"
        case "opacity":
            return "Opacity"
        case _:
            return ""
