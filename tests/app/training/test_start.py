"""How a training starts: the plan that fits into a given time."""

import itertools

import pytest

from lumigraph.app.training import start
from lumigraph.datasets.demo import load_demo
from lumigraph.recon import PRESETS


def test_the_plan_is_stretched_by_what_a_step_takes(monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count(step=0.01)
    monkeypatch.setattr(start.time, "perf_counter", lambda: next(clock))
    capture = load_demo("tiny")
    plan = start.fitted_to(PRESETS["quick"], "quick", capture, 2.8, "cpu")
    assert plan.steps == 12_000
    assert plan.coarse_steps == PRESETS["quick"].coarse_steps * 4
    assert start.fitted_to(plan, "quick", capture, 0.001, "cpu").steps == start.LEAST
