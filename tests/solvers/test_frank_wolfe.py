"""The Frank-Wolfe variants: they descend, reach what they claim, and say so when they do not."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings

from moopt import SolverStatus
from moopt.solvers import min_norm_point
from moopt.solvers.min_norm import FRANK_WOLFE
from tests.cases import case, cases
from tests.solvers.oracles import assert_simplex, exact_measures


def value(gramian: torch.Tensor, weights: torch.Tensor) -> float:
    return float(weights @ gramian @ weights)


@pytest.mark.parametrize("solver", FRANK_WOLFE)
@settings(deadline=None, max_examples=50)
@given(case=cases(ms=(1, 2, 3, 5, 10), norm_ratios=(1.0, 1e2)))
def test_the_claimed_tolerance_is_met(solver, case):
    result = min_norm_point(case.gramian, solver=solver, tol=1e-3, max_iter=300)
    assert_simplex(result.weights)
    gap, squared = exact_measures(case.jacobian, result.weights)
    status = int(result.status)
    if status == SolverStatus.CONVERGED:
        assert gap <= 1.001e-3
    elif status == SolverStatus.DEGENERATE:
        assert squared <= 1.001e-13
    else:
        assert status == SolverStatus.MAX_ITER
        assert gap > 0.999e-3


@pytest.mark.parametrize("solver", ["away_step", "pairwise"])
@pytest.mark.parametrize("m", [2, 3, 5, 10])
@pytest.mark.parametrize("family", ["aligned", "conflicting", "crowded", "duplicate"])
def test_linear_variants_become_exact(solver, m, family):
    example = case(family, m)
    result = min_norm_point(example.gramian, solver=solver, max_iter=20000)
    assert int(result.status) == SolverStatus.CONVERGED
    assert exact_measures(example.jacobian, result.weights)[0] <= 1e-10
    assert int(result.num_iter) < 20000


@pytest.mark.parametrize("solver", FRANK_WOLFE)
def test_every_step_descends(solver):
    gramian = case("aligned", 6).gramian
    values = [
        value(gramian, min_norm_point(gramian, solver=solver, max_iter=n).weights)
        for n in range(1, 25)
    ]
    assert all(b <= a * (1 + 1e-14) for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_vanilla_is_honest_about_its_limit():
    # The solution lies inside a face: vanilla zigzags and its gap falls like 1 / k.
    gramian = case("conflicting", 8).gramian
    result = min_norm_point(gramian, solver="frank_wolfe")
    assert int(result.status) == SolverStatus.MAX_ITER
    assert int(result.num_iter) == 1000
    assert float(result.gap) > 1e-10


def test_first_steps_by_hand():
    # Rows (1, 0) and (0, 2): from the shortest row, one exact line search solves it.
    gramian = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    for solver in FRANK_WOLFE:
        result = min_norm_point(gramian, solver=solver)
        assert result.weights.tolist() == pytest.approx([0.8, 0.2], rel=1e-15)
        assert int(result.num_iter) == 1


def test_away_steps_drop_rows_exactly():
    # Rows (1, 0), (-0.2, 1), (0.1, 1.2) turn the early support; a dropped row has weight 0.
    jacobian = torch.tensor([[1.0, 0.9], [0.9, -1.1], [0.3, 0.05]], dtype=torch.float64) * 3
    jacobian[2] = torch.tensor([2.0, 0.3], dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    for solver in ("away_step", "pairwise"):
        result = min_norm_point(gramian, solver=solver, max_iter=5000)
        assert int(result.status) == SolverStatus.CONVERGED
        assert float((result.weights == 0).sum()) >= 1
