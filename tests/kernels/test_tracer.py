"""The ray tracer refuses tables that it cannot read."""

import math
from dataclasses import replace

import pytest
import torch

from lumigraph.kernels import View
from lumigraph.kernels.tracer import KINDS, PATTERNS, TracedScene, trace_picture, trace_surfaces

VIEW = View((1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), (20.0, 20.0), (10.0, 8.0), 20, 16, 0.1)


def ball() -> TracedScene:
    """A ball of radius 1, 5 in front of the camera, with no light but from everywhere."""
    shapes = torch.tensor([[float(KINDS.index("ellipsoid")), 0, 0, 0, 5, 1, 1, 1, 0, 0, 1, 0]])
    materials = torch.ones(1, 24)
    materials[0, 0] = PATTERNS.index("plain")
    light = torch.ones(24)
    light[:3] = torch.tensor([0.6, 0.0, 0.8])
    return TracedScene(shapes, materials, torch.zeros(0, 6), light)


def test_a_ball_is_met_where_it_is():
    surfaces = trace_surfaces(ball(), VIEW._replace(center=(10.5, 8.5)))
    assert surfaces.depth[8, 10].item() == pytest.approx(4)
    assert surfaces.normals[8, 10].tolist() == pytest.approx([0, 0, -1], abs=1e-6)
    assert surfaces.shapes[8, 10] == 0
    assert surfaces.shapes[0, 0] == -1
    assert surfaces.depth[0, 0] == 0


@pytest.mark.parametrize("number", [-1.0, 8.0, 1e30, math.nan, math.inf])
@pytest.mark.parametrize(
    ("table", "column", "what"),
    [("shapes", 0, "kind"), ("shapes", 1, "material"), ("materials", 0, "pattern")],
)
def test_numbers_that_name_nothing_are_refused(table: str, column: int, what: str, number: float):
    scene = ball()
    changed = getattr(scene, table).clone()
    changed[0, column] = number
    for trace in (trace_picture, trace_surfaces):
        with pytest.raises(ValueError, match=f"the {what} of a .* must be"):
            trace(replace(scene, **{table: changed}), VIEW)
