"""The curves of an uncertainty map: sparsification, risk and coverage, reliability.

Each curve is a tensor of three rows: positions, values there, and the values of an ideal map.
[3, points]
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumigraph.uncertainty import Curve, interval_coverage, risk_coverage, sparsification

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Shares of a normal distribution at which reliability is measured; the last two show its tail."""

Curves = dict[str, Tensor]


def curves_of(picture: Tensor, std: Tensor, photo: Tensor) -> Curves:
    """The curves of one view, by name. All maps have one shape and one unit. [...]"""
    error = (picture - photo).abs()
    return {
        "sparsification_mae": _rows(sparsification(error, std, measure="mae")),
        "sparsification_rmse": _rows(sparsification(error, std, measure="rmse")),
        "risk_coverage": _rows(risk_coverage(error, std)),
        "reliability": _reliability(picture, std, photo),
    }


def mean_curves(views: Sequence[Curves]) -> dict[str, dict[str, Any]] | None:
    """The mean of each curve over views, as plain data; None if there are none."""
    if not views:
        return None
    means = {name: torch.stack([view[name] for view in views]).mean(0) for name in views[0]}
    return {
        name: dict(zip(("at", "values", "ideal"), rows.tolist(), strict=True))
        for name, rows in means.items()
    }


def _rows(curve: Curve) -> Tensor:
    return torch.stack([curve.shares, curve.values, curve.oracle])


def _reliability(picture: Tensor, std: Tensor, photo: Tensor) -> Tensor:
    """The share of values within +- z std, for the z that would hold `LEVELS` of normal errors."""
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    stretches = (math.sqrt(2) * torch.special.erfinv(levels)).tolist()
    inside = [interval_coverage(picture, std, photo, z) for z in stretches]
    return torch.stack([levels, torch.tensor(inside, dtype=torch.float64), levels])
