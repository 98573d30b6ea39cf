"""Plans: they stretch, come back from JSON, refuse wrong values, and are documented."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from lumigraph.recon import PRESETS, Plan, plan_from, plan_from_json, plan_to_json
from lumigraph.recon.splats.plan import stretched

ROOT = Path(__file__).parents[3]


def test_plans_stretch_and_return_from_json():
    plan = plan_from("standard", steps=800, degree=2, splat_limit=None)
    assert plan.refine_stop == plan_from("standard").refine_stop // 10
    assert plan.degree == 2
    assert plan_from_json(plan_to_json(plan)) == plan
    whole = dataclasses.replace(plan, coarse_downscale=2)
    assert plan_from_json(plan_to_json(whole)) == whole
    with pytest.raises(ValueError, match="at least 1"):
        plan_from("quick", steps=0)
    with pytest.raises(ValueError, match="surprise"):
        plan_from_json({**plan_to_json(plan), "surprise": 1})
    with pytest.raises(ValueError, match="ssim_weight"):
        plan_from_json({**plan_to_json(plan), "ssim_weight": "much"})
    with pytest.raises(ValueError, match=r"filter .*'wild'.*classic"):
        plan_from_json({**plan_to_json(plan), "filter": "wild"})


def test_entries_of_zero_stay_zero_when_a_plan_is_stretched():
    assert stretched(Plan(steps=1000), 10).coarse_steps == 0
    assert stretched(Plan(steps=1000, coarse_steps=500), 10).coarse_steps == 5
    assert stretched(Plan(steps=1000, coarse_steps=5), 10).coarse_steps == 1


@pytest.mark.parametrize(
    "change",
    [
        {"refine_interval": 0},
        {"means_rate_final": 0.0},
        {"prune_opacity": 0.5},
        {"start_opacity": 1.0},
        {"coarse_share": 0.0},
        {"means_rate": math.nan},
        {"coarse_downscale": 0.5},
        {"degree": 4},
        {"degree": -1},
        {"ssim_weight": 1.5},
        {"base_rate": -1e-3},
        {"rest_rate": math.nan},
        {"grow_gradient": math.nan},
        {"prune_scale": 0.0},
        {"coarse_steps": -1},
        {"cooldown_steps": -1},
        {"refine_start": -5},
        {"filter": "wild"},
    ],
)
def test_values_out_of_range_are_named(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} of the plan is"):
        Plan(steps=10, **change)


@pytest.mark.parametrize("entry", plan_to_json(PRESETS["quick"]))
@pytest.mark.parametrize("value", [True, None, "1", -1, math.nan, math.inf, [1]])
def test_no_entry_takes_a_value_of_another_type(entry, value):
    with pytest.raises(ValueError, match=rf"^{entry} of the plan is .*: take (a|one of) "):
        plan_from_json(plan_to_json(PRESETS["quick"]) | {entry: value})


def test_all_rates_fall_to_a_tenth_in_the_last_steps():
    plan = Plan(steps=100, cooldown_steps=40)
    first, middle, before, last = (plan.rates(step) for step in (0, 60, 80, 100))
    assert first[1:] == middle[1:]
    for rate, half, end in zip(first[1:], before[1:], last[1:], strict=True):
        assert half == pytest.approx(rate / math.sqrt(10))
        assert end == pytest.approx(rate / 10)
    assert last.means == pytest.approx(plan.means_rate_final)


def test_the_rate_of_centres_falls_to_its_end_and_the_others_stay():
    plan = dataclasses.replace(plan_from("high"), cooldown_steps=0)
    first, last = plan.rates(0), plan.rates(plan.steps)
    assert first.means == plan.means_rate
    assert last.means == pytest.approx(plan.means_rate_final)
    assert first[1:] == last[1:]


def test_a_fit_that_levenberg_marquardt_finishes_is_two_thirds_adams():
    plan = plan_from("quick", optimizer="lm-published")
    assert (plan.switch, plan.steps, plan.adam_steps) == (2000, 2005, 2000)
    assert plan.refine_stop <= plan.switch
    assert plan.rates(plan.switch).means == pytest.approx(plan.means_rate_final)
    assert plan_from_json(plan_to_json(plan)) == plan
    assert plan_from("quick").adam_steps == plan_from("quick").steps
    with pytest.raises(ValueError, match="optimizer of the plan is 'sgd'"):
        dataclasses.replace(plan, optimizer="sgd")  # type: ignore[arg-type]


def test_lm_begins_where_density_control_ends_and_takes_fewer_steps():
    plan, adam = plan_from("quick", optimizer="lm"), plan_from("quick")
    assert (plan.switch, plan.steps, plan.adam_steps) == (2100, 2865, 2100)
    assert (plan.refine_stop, plan.cooldown_steps) == (2100, 382)
    assert plan.rates(2483).base == plan.base_rate
    assert plan.rates(2865).base == pytest.approx(plan.base_rate / 10)
    assert plan.rates(2865).means == pytest.approx(plan.means_rate_final)
    assert adam.rates(3000).means == pytest.approx(adam.means_rate_final)
    short = plan_from("high", optimizer="lm", steps=2)
    assert 1 <= short.switch < short.steps
    assert plan_from_json(plan_to_json(short)) == short


def test_every_value_of_the_plan_is_in_the_documented_table():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    table = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]] for line in rows}
    documented = [name for name in table if name in {f.name for f in dataclasses.fields(Plan)}]
    assert documented == [field.name for field in dataclasses.fields(Plan)]
    for name in documented:
        for cell, plan in zip(table[name], PRESETS.values(), strict=False):
            assert _number(cell) == getattr(plan, name), f"{name} of a preset"


def _number(cell: str) -> object:
    """A cell of the table as an entry of the plan."""
    if not re.fullmatch(r"[-\d.,e]+", cell):
        return cell
    value = float(cell.replace(",", ""))
    return int(value) if value.is_integer() else value
