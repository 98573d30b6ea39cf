"""How far to trust a scene: PH-Dropout, metrics of its maps, and intervals that are calibrated.

`dropout` makes the maps, `rate` searches for the drop rate, `metrics` and `sparsification` compare
maps with errors, and `conformal` makes intervals.
"""

from lumigraph.uncertainty.conformal import (
    Calibration,
    best_level,
    calibrate,
    covers,
    interval,
    split_coverage,
    view_score,
    views_needed,
)
from lumigraph.uncertainty.dropout import (
    Spread,
    check_rate,
    confidence,
    exact,
    exact_color,
    sampled,
    thin,
)
from lumigraph.uncertainty.metrics import (
    ViewMetrics,
    ece,
    interval_coverage,
    mean_of,
    nll,
    pearson,
    sharpness,
    spearman,
    view_metrics,
)
from lumigraph.uncertainty.rate import MARGIN, PASSES, RateSearch, find_rate, published_rate
from lumigraph.uncertainty.sparsification import (
    Curve,
    aurc,
    ause,
    ause_chance,
    ause_published,
    ause_ratio,
    risk_coverage,
    sparsification,
)

__all__ = [
    "MARGIN",
    "PASSES",
    "Calibration",
    "Curve",
    "RateSearch",
    "Spread",
    "ViewMetrics",
    "aurc",
    "ause",
    "ause_chance",
    "ause_published",
    "ause_ratio",
    "best_level",
    "calibrate",
    "check_rate",
    "confidence",
    "covers",
    "ece",
    "exact",
    "exact_color",
    "find_rate",
    "interval",
    "interval_coverage",
    "mean_of",
    "nll",
    "pearson",
    "published_rate",
    "risk_coverage",
    "sampled",
    "sharpness",
    "sparsification",
    "spearman",
    "split_coverage",
    "thin",
    "view_metrics",
    "view_score",
    "views_needed",
]
