"""Plots: marks that people count in, curves where they belong, and the curves of a map."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from lumigraph.app.run.curves import LEVELS, curves_of, mean_curves
from lumigraph.app.run.plots import (
    BOTTOM,
    FIGURE,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    Line,
    Plot,
    axis_marks,
    figure,
    sheet,
)
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


def test_a_figure_is_drawn_from_corner_to_corner():
    plot = Plot("A & B", Axis("of <all>", "share"), Axis("share"), "Look.")
    lines = [Line([0, 1], [0, 1]), Line([0, 1], [1, 0.5], kind="ideal")]
    drawn = ElementTree.fromstring(figure(plot, lines))
    right, bottom = FIGURE[0] - RIGHT, FIGURE[1] - BOTTOM
    assert {line.get("class"): line.get("points") for line in drawn.iter("polyline")} == {
        "curve": f"{LEFT},{bottom} {right},{TOP}",
        "ideal": f"{LEFT},{TOP} {right},{(TOP + bottom) / 2}",
    }
    texts = [text.text for text in drawn.iter("text")]
    assert {"0", "0.25", "1", "0 %", "100 %", "of <all>", "share"} <= set(texts)
    assert drawn.find(".//b").text == "A & B."  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([10_000, 2_000_000], ["10k", "100k", "1M"]),
        ([0.5, 400], ["1", "10", "100"]),
        ([2, 9], ["2", "5"]),
        ([3, 3], []),
    ],
)
def test_logarithmic_axes_have_round_marks_within_the_values(values, marks):
    plot = Plot("", Axis("", "log"), Axis(""))
    drawn = ElementTree.fromstring(figure(plot, [Line(values, [0, 1])]))
    texts = [text.text for text in drawn.iter("text") if text.get("y") == "208.0"]
    assert texts == marks


def test_an_axis_over_a_range_has_marks_within_it():
    plot = Plot("", Axis("step", "range"), Axis("", "range"))
    drawn = ElementTree.fromstring(figure(plot, [Line([0, 1300, 2600], [24, 31.5, 31.5])]))
    texts = [text.text for text in drawn.iter("text")]
    assert texts == ["24", "26", "28", "30", "0", "1000", "2000", "step", None]
    flat = figure(plot, [Line([5, 6], [7, 7])])  # a range without width
    assert "nan" not in flat
    assert f'points="{LEFT},190.0 462.0,190.0"' in flat


def test_a_sheet_has_common_axes_and_one_legend():
    log = Plot("one", Axis("splats", "log"), Axis("ms", "log"))
    lines = [
        Line([10, 100], [1, 10], "small", bars=[(1, 2), (9, 10)], marked=True),
        Line([10, 100], [5, 50], "large"),
        Line([10, 100], [2, 20]),
    ]
    drawn = ElementTree.fromstring(sheet([(log, lines), (log, lines[:1])], (300, 200)))
    space = "{http://www.w3.org/2000/svg}"
    polylines = [line.get("points") or "" for line in drawn.iter(f"{space}polyline")]
    assert len(polylines) == 4
    assert polylines[3] == polylines[0]  # both panels have the axes of all lines
    assert polylines[1].split()[1] == f"{300 - RIGHT},{TOP}"
    texts = [text.text for text in drawn.iter(f"{space}text")]
    assert texts[-2:] == ["small", "large"]
    assert texts.count("one") == 2
    bars = [path for path in drawn.iter(f"{space}path") if "V" in (path.get("d") or "")]
    assert len(bars) == 4  # two in each panel


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
