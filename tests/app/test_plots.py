"""Plots: marks that people count in, curves where they belong, and the curves of a map."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from lumigraph.app.run.curves import LEVELS, curves_of, mean_curves
from lumigraph.app.run.plots import BOTTOM, LEFT, RIGHT, TOP, Plot, axis_marks, plot_svg
from lumigraph.uncertainty import risk_coverage, sparsification


@pytest.mark.parametrize(
    ("most", "marks"),
    [
        (1.0, [0, 0.25, 0.5, 0.75, 1]),
        (1.0000000001, [0, 0.25, 0.5, 0.75, 1]),
        (1.05, [0, 0.5, 1, 1.5]),
        (0.017, [0, 0.005, 0.01, 0.015, 0.02]),
        (30, [0, 10, 20, 30]),
        (0, [0, 1]),
    ],
)
def test_marks_are_round_and_reach_the_highest(most, marks):
    assert axis_marks(most) == marks


def test_marks_are_few_whatever_the_values():
    for k in range(-60, 60):
        most = 1.17**k
        marks = axis_marks(most)
        assert 3 <= len(marks) <= 6
        assert marks[-2] < most <= marks[-1] * (1 + 1e-8)


def test_a_plot_is_drawn_from_corner_to_corner():
    plot = Plot("A & B", "of <all>", "share", "Look.")
    figure = ElementTree.fromstring(plot_svg(plot, [0, 1], [0, 1], [1, 0.5]))
    lines = {line.get("class"): line.get("points") for line in figure.iter("polyline")}
    assert lines == {
        "curve": f"{LEFT},{BOTTOM} {RIGHT},{TOP}",
        "ideal": f"{LEFT},{TOP} {RIGHT},{(TOP + BOTTOM) / 2}",
    }
    texts = [text.text for text in figure.iter("text")]
    assert {"0", "0.25", "1", "0 %", "100 %", "of <all>", "share"} <= set(texts)
    assert figure.find(".//b").text == "A & B."  # pyright: ignore[reportOptionalMemberAccess]


def test_the_curves_of_views_are_averaged_as_plain_data():
    generator = torch.Generator().manual_seed(0)
    views = [torch.rand(3, 4, 5, 3, generator=generator) for _ in range(2)]
    found = mean_curves([curves_of(*view) for view in views])
    assert found is not None
    expected = [
        sparsification((mean - photo).abs(), std, measure="rmse").values
        for mean, std, photo in views
    ]
    assert found["sparsification_rmse"]["values"] == pytest.approx(
        torch.stack(expected).mean(0).tolist()
    )
    assert found["sparsification_mae"]["ideal"][0] == 1
    risk = risk_coverage((views[0][0] - views[0][2]).abs(), views[0][1])
    alone = mean_curves([curves_of(*views[0])])
    assert alone is not None
    assert alone["risk_coverage"]["at"] == pytest.approx(risk.shares.tolist())
    assert alone["risk_coverage"]["ideal"] == pytest.approx(risk.oracle.tolist())
    assert all(re.fullmatch(r"[a-z_]+", name) for name in found)
    assert mean_curves([]) is None


def test_normal_errors_are_reliable():
    generator = torch.Generator().manual_seed(0)
    std = 0.01 + torch.rand(40_000, generator=generator)
    photo = std * torch.randn(40_000, generator=generator)
    drawn = curves_of(torch.zeros(40_000), std, photo)["reliability"]
    assert drawn[0].tolist() == drawn[2].tolist() == list(LEVELS)
    assert torch.allclose(drawn[1], drawn[0], atol=0.01)
    half = curves_of(torch.zeros(40_000), std / 2, photo)["reliability"]
    assert (half[1, 1:] < drawn[0, 1:] - 0.01).all()
