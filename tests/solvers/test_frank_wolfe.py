"""The Frank-Wolfe variants: they descend, reach what they claim, and say so when they do not."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings

from moopt import SolverStatus
from moopt.solvers import min_norm_point
from moopt.solvers.frank_wolfe import FRANK_WOLFE
from tests.cases import case, cases
from tests.solvers.oracles import assert_simplex, exact_measures

ROUNDING = 16 * torch.finfo(torch.float64).eps


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
        # Where the terms cancel this far, the rounding of the Gramian is seen beside the bound.
        terms, shortest = float(result.weights @ case.norms), float(case.norms.min())
        assert squared <= 1e-13 + (ROUNDING * (terms / shortest) ** 2 if shortest else 0.0)
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


def iterates(gramian: torch.Tensor, solver: str, count: int) -> list[torch.Tensor]:
    """The shortest row, then the weights after 1, 2, ... steps."""
    first = torch.zeros(len(gramian), dtype=torch.float64)
    first[int(gramian.diagonal().argmin())] = 1.0
    return [
        first,
        *(min_norm_point(gramian, solver=solver, max_iter=n).weights for n in range(1, count)),
    ]


@pytest.mark.parametrize("solver", FRANK_WOLFE)
@pytest.mark.parametrize("family", ["conflicting", "aligned", "crowded"])
def test_each_step_is_the_papers_with_exact_line_search(solver, family):
    for seed in range(3):
        gramian = case(family, 5, seed, norm_ratio=2.0).gramian
        for before, after in itertools.pairwise(iterates(gramian, solver, 12)):
            q = gramian @ before
            f = float(before @ q)
            if float(((f - q) / (f * gramian.diagonal()).sqrt()).max()) <= 1e-10:
                continue  # converged: no step was taken
            # Exact line search leaves entries that are equal up to rounding: either may be chosen.
            towards = (q <= q.min() + TIE * f).nonzero().flatten().tolist()
            on = before > 0
            away = (on & (q >= q[on].max() - TIE * f)).nonzero().flatten().tolist()
            assert any(
                torch.allclose(after, stepped(gramian, before, solver, s, a), rtol=1e-9, atol=1e-12)
                for s in towards
                for a in away
            )


TIE = 1e-10
"""Of two entries of G w, relative to w'Gw: rounding of a line search."""


def stepped(
    gramian: torch.Tensor, before: torch.Tensor, solver: str, towards: int, away: int
) -> torch.Tensor:
    """One step of the papers from `before`; a row that it drops has weight 0."""
    q = gramian @ before
    toward_vertex, from_vertex = -before.clone(), before.clone()
    toward_vertex[towards] += 1.0
    from_vertex[away] -= 1.0
    direction, longest = toward_vertex, 1.0
    if solver == "pairwise":
        direction, longest = toward_vertex + from_vertex, float(before[away])
    elif solver == "away_step" and float(from_vertex @ q) < float(toward_vertex @ q):
        direction, longest = from_vertex, float(before[away] / (1.0 - before[away]))
    best = -float(direction @ q) / float(direction @ gramian @ direction)
    return before + min(best, longest) * direction


@pytest.mark.parametrize("solver", FRANK_WOLFE)
def test_it_stops_as_soon_as_the_tolerance_is_met(solver):
    example = case("conflicting", 5, norm_ratio=2.0)
    tol = 1e-2
    result = min_norm_point(example.gramian, solver=solver, tol=tol)
    steps = int(result.num_iter)
    assert steps > 1
    assert exact_measures(example.jacobian, result.weights)[0] <= tol
    earlier = min_norm_point(example.gramian, solver=solver, tol=tol, max_iter=steps - 1)
    assert int(earlier.num_iter) == steps - 1
    assert exact_measures(example.jacobian, earlier.weights)[0] > tol
    assert int(min_norm_point(torch.eye(1), solver=solver).num_iter) == 0


@pytest.mark.parametrize("solver", FRANK_WOLFE)
def test_it_stops_where_the_point_is_zero(solver):
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    result = min_norm_point(rows @ rows.T, solver=solver)
    assert int(result.num_iter) == 1
    assert result.weights.tolist() == [0.5, 0.5, 0.0]
    assert int(result.status) == SolverStatus.DEGENERATE
