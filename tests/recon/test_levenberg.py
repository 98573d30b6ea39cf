"""Levenberg-Marquardt on problems whose answers are known."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lumigraph.recon.optimizers.levenberg import (
    Iteration,
    Point,
    jacobi,
    levenberg_marquardt,
    solve,
)


class _Dense:
    """A small problem whose Jacobian torch finds."""

    def __init__(self, function: Callable[[Point], Tensor]) -> None:
        self.function = function
        self.linearizations = 0

    def cost(self, point: Point) -> float:
        return float(self.function(point).square().sum()) / 2

    def linearized(self, point: Point) -> "_DenseLinear":
        self.linearizations += 1
        return _DenseLinear(self.function, point)


class _DenseLinear:
    def __init__(self, function: Callable[[Point], Tensor], point: Point) -> None:
        self.residual = function(point)
        parts = torch.autograd.functional.jacobian(lambda *p: function(p).flatten(), point)
        self._parts = [j.reshape(self.residual.numel(), -1) for j in parts]
        self._shapes = [part.shape for part in point]

    def _split(self, columns: list[Tensor]) -> Point:
        return tuple(c.reshape(shape) for c, shape in zip(columns, self._shapes, strict=True))

    def jvp(self, direction: Point) -> Tensor:
        products = [j @ d.flatten() for j, d in zip(self._parts, direction, strict=True)]
        return torch.stack(products).sum(0).reshape(self.residual.shape)

    def vjp(self, weights: Tensor) -> Point:
        return self._split([j.T @ weights.flatten() for j in self._parts])

    def diagonal(self) -> Point:
        return self._split([j.square().sum(0) for j in self._parts])

    def precondition(self, vector: Point, damping: Point) -> Point:
        return jacobi(vector, self.diagonal(), damping)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def last(problem: _Dense, *start: Tensor, **options) -> Iteration:
    tries = list(levenberg_marquardt(problem, start, **options))
    costs = [each.cost for each in tries]
    assert costs == sorted(costs, reverse=True)
    assert all(each.cost == pytest.approx(problem.cost(each.point)) for each in tries)
    return tries[-1]


def test_a_linear_problem_is_solved_in_one_step_as_by_the_normal_equations():
    a, b = numbers(20, 6), numbers(20, seed=1)
    answer = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    problem = _Dense(lambda p: a @ torch.cat([p[0].flatten(), p[1]]) - b)
    options = {"damping": 1e-12, "products": 6, "tolerance": 0.0}
    first = next(
        levenberg_marquardt(
            problem, (torch.zeros(2, 2).double(), torch.zeros(2).double()), **options
        )
    )
    found = torch.cat([first.point[0].flatten(), first.point[1]])
    assert torch.allclose(found, answer, atol=1e-8)
    assert first.gain == pytest.approx(1, abs=1e-6)
    assert first.products == 6
    assert first.accepted
    assert first.length == pytest.approx(float(answer.norm()), abs=1e-8)


def test_the_linear_system_has_its_damping():
    a, right, damping = numbers(9, 4), (numbers(4, seed=2),), 0.7
    linear = _Dense(lambda p: a @ p[0]).linearized((torch.zeros(4).double(),))
    solved = solve(linear, right, damping, products=50, tolerance=1e-12)
    h = a.T @ a
    wanted = torch.linalg.solve(h + damping * torch.diag(h.diagonal()), right[0])
    assert torch.allclose(solved.step[0], wanted, atol=1e-9)
    assert torch.allclose(solved.product[0], h @ wanted, atol=1e-9)


def test_rosenbrock_is_found():
    problem = _Dense(lambda p: torch.stack([10 * (p[0][1] - p[0][0] ** 2), 1 - p[0][0]]))
    found = last(
        problem, torch.tensor([-1.2, 1.0]).double(), iterations=100, least=0, tolerance=1e-9
    )
    assert torch.allclose(found.point[0], torch.ones(2).double(), atol=1e-6)


def test_a_curve_is_fitted_to_exact_values():
    t = torch.linspace(0, 3, 40).double()
    truth = torch.tensor([2.0, -0.7, 0.5]).double()
    values = truth[0] * (truth[1] * t).exp() + truth[2]
    problem = _Dense(lambda p: p[0][0] * (p[0][1] * t).exp() + p[0][2] - values)
    found = last(problem, torch.tensor([1.0, -0.1, 0.0]).double(), iterations=60, tolerance=1e-9)
    assert torch.allclose(found.point[0], truth, atol=1e-4)


def test_of_a_singular_problem_a_minimum_is_found_and_what_does_not_matter_stays():
    problem = _Dense(lambda p: torch.stack([p[0][0] + p[0][1] - 3, 2 * (p[0][0] + p[0][1]) - 6]))
    start = torch.tensor([0.5, -1.0, 7.0]).double()
    found = last(problem, start, iterations=50, least=0)
    assert found.cost < 1e-12
    assert float(found.point[0][:2].sum()) == pytest.approx(3)
    assert float(found.point[0][2]) == 7.0


def test_where_a_step_leads_nowhere_the_damping_rises_and_the_best_stays():
    def function(p: Point) -> Tensor:
        # A full step leads to a root of a negative number.
        return torch.stack([p[0][0].sqrt() * 10 - 0.1, p[0][0] - 4])

    problem = _Dense(function)
    tries = list(
        levenberg_marquardt(
            problem, (torch.tensor([1.0]).double(),), iterations=60, damping=1e-9, least=1e-12
        )
    )
    refused = [each for each in tries if not each.accepted]
    assert refused
    assert not math.isfinite(refused[0].tried)
    assert all(b.damping > a.damping for a, b in pairwise(tries) if not a.accepted)
    assert all(torch.isfinite(each.point[0]).all() for each in tries)
    assert tries[-1].cost < problem.cost((torch.tensor([1.0]).double(),))
    # What was refused is not linearized anew.
    assert problem.linearizations <= 1 + sum(each.accepted for each in tries)


def test_it_ends_where_there_is_nothing_to_gain():
    problem = _Dense(lambda p: p[0] - 2)
    tries = list(levenberg_marquardt(problem, (torch.full((3,), 2.0).double(),), iterations=30))
    assert len(tries) == 1
    assert not tries[0].accepted
    assert tries[0].cost == 0


def test_a_start_without_a_cost_is_refused():
    problem = _Dense(lambda p: p[0].log())
    with pytest.raises(ValueError, match="cost where the search begins is"):
        next(levenberg_marquardt(problem, (torch.tensor([-1.0]).double(),)))
