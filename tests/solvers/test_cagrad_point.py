"""cagrad_point: its certificate from the Jacobian, its trips, its edges."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.solvers import SolverResult, cagrad_point
from tests.cases import Case, case

FAMILIES = ("aligned", "conflicting", "near_opposite", "weakly_stationary", "zero_row")

SAME = 1e-7
"""Difference of two directions relative to the length of their terms: what a Gramian can tell."""

TRIPS = {"aligned": 4, "conflicting": 4, "near_opposite": 4, "crowded": 11}
"""Trips that are enough at every c: the secant method converges superlinearly."""


module = importlib.import_module("moopt.solvers.cagrad")


def solve(gramian: Tensor, active: Tensor | None, c: float) -> SolverResult:
    return cagrad_point(gramian, active=active, c=c)


def true_gap(one: Case, weights: Tensor, c: float) -> float:
    """max_i (F(w) - g_i . d) / (||g_i|| ||d||), from the Jacobian."""
    g0 = one.jacobian.mean(0)
    w = weights - 1.0 / one.m
    g_w = one.jacobian.T @ (w / w.sum())
    bound = g0 @ g_w + c * g0.norm() * g_w.norm()
    d = one.jacobian.T @ weights
    return float(((bound - one.jacobian @ d) / (one.norms * d.norm())).max())


@pytest.mark.parametrize("family", TRIPS)
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_few_trips_find_the_root(family: str, c: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FACE_TRIPS", 0)
    for norm_ratio in (1.0, 1e2):
        one = case(family, 4, norm_ratio=norm_ratio)
        result = cagrad_point(one.gramian, c=c)
        assert int(result.status) == SolverStatus.CONVERGED
        assert 1 <= int(result.num_iter) <= TRIPS[family]


def test_few_exchanges_find_the_face() -> None:
    """Without the root finder: the exchange alone is exact on independent rows."""
    for family in ("aligned", "conflicting", "orthogonal"):
        for m in (2, 3, 5, 10):
            one = case(family, m, norm_ratio=1e2)
            result = cagrad_point(one.gramian)
            assert float(result.gap) <= module.SETTLED
            assert 1 <= int(result.num_iter) <= 4 + m // 5


@pytest.mark.parametrize("trips", [1, 2, 3])
def test_the_gap_is_the_true_one(trips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After too few trips, where it is far from zero."""
    monkeypatch.setattr(module, "FACE_TRIPS", 0)
    for norm_ratio in (1.0, 1e2):
        one = case("crowded", 4, norm_ratio=norm_ratio)
        result = cagrad_point(one.gramian, c=0.5, max_iter=trips)
        expected = true_gap(one, result.weights, 0.5)
        assert expected > 1e-3
        assert float(result.gap) == pytest.approx(expected, rel=1e-6)
        assert int(result.status) == SolverStatus.MAX_ITER
        assert int(result.num_iter) == trips + 1


def test_nothing_to_solve_takes_no_iteration() -> None:
    gramian = case("conflicting", 3).gramian
    broken = gramian.clone()
    broken[0, 1] = math.nan
    result = solve(broken, None, 0.5)
    assert result.weights.tolist() == [1 / 3] * 3
    assert int(result.status) == SolverStatus.NON_FINITE
    assert math.isnan(float(result.gap))
    zeros = solve(torch.zeros(3, 3, dtype=torch.float64), None, 0.5)
    assert zeros.weights.tolist() == [1 / 3] * 3
    assert (int(zeros.status), float(zeros.gap)) == (SolverStatus.DEGENERATE, 0.0)
    none = solve(gramian, torch.zeros(3, dtype=torch.bool), 0.5)
    assert none.weights.tolist() == [0.0] * 3
    assert (int(none.status), float(none.gap)) == (SolverStatus.DEGENERATE, 0.0)
    mean = solve(gramian, None, 0.0)
    assert mean.weights.tolist() == [1 / 3] * 3
    assert (int(mean.status), float(mean.gap)) == (SolverStatus.CONVERGED, 0.0)
    still = solve(torch.zeros(3, 3, dtype=torch.float64), None, 0.0)
    assert int(still.status) == SolverStatus.DEGENERATE
    assert [int(r.num_iter) for r in (result, zeros, none, mean, still)] == [0] * 5


def test_inactive_rows_are_as_if_dropped() -> None:
    active = torch.tensor([True, False, True, True])
    for family in FAMILIES:
        one = case(family, 4, norm_ratio=1e2)
        poisoned = one.gramian.clone()
        poisoned[1], poisoned[:, 1] = math.nan, math.inf
        result = solve(poisoned, active, 0.4)
        dropped = solve(one.gramian[active][:, active], None, 0.4)
        assert float(result.weights[1]) == 0.0
        assert int(result.status) == int(dropped.status)
        torch.testing.assert_close(
            one.jacobian[active].T @ (result.weights[active] - dropped.weights),
            torch.zeros(one.jacobian.shape[1], dtype=torch.float64),
            rtol=0.0,
            atol=SAME * float((dropped.weights * one.norms[active]).sum()),
        )


def test_opposite_gradients_have_no_mean() -> None:
    """g0 = 0 though no gradient is: the mean itself is returned."""
    rows = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    result = solve(rows @ rows.T, None, 0.5)
    assert result.weights.tolist() == [0.5, 0.5]
    assert (int(result.status), float(result.gap)) == (SolverStatus.DEGENERATE, 0.0)


def test_the_ball_decides_at_a_stationary_point() -> None:
    """g_1 = -g_0 and a third: only a ball that reaches the dual cone is DEGENERATE."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.1, 1.0]], dtype=torch.float64)
    gramian = rows @ rows.T
    # The cone is the ray (0, 1); the mean is (1/30, 1/3), at 0.0995 of its length from it.
    for c, status in ((0.0996, SolverStatus.DEGENERATE), (0.0994, SolverStatus.CONVERGED)):
        result = solve(gramian, None, c)
        assert int(result.status) == status
        d = rows.T @ result.weights
        assert float((d - torch.tensor([0.0, 1 / 3], dtype=torch.float64)).norm()) <= 1e-3


def test_a_batch_is_a_loop() -> None:
    ones = [case(family, 4, norm_ratio=10.0) for family in FAMILIES]
    stack = torch.stack([one.gramian for one in ones])
    stack[0, 0, 0] = math.nan
    active = torch.ones(5, 4, dtype=torch.bool)
    active[2, 1], active[4] = False, False
    batch = solve(stack, active, 0.5)
    folded = solve(stack.unflatten(0, (1, 5)), active, 0.5)
    assert folded.weights.shape == (1, 5, 4)
    for i in range(5):
        alone = solve(stack[i], active[i], 0.5)
        assert int(batch.status[i]) == int(folded.status[0, i]) == int(alone.status)
        torch.testing.assert_close(batch.weights[i], alone.weights, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(folded.weights[0, i], alone.weights, rtol=1e-9, atol=1e-12)


def test_wrong_arguments_name_the_remedy() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    for wrong in (torch.ones(3), torch.ones(2, 3), torch.ones(0, 0)):
        with pytest.raises(ValueError, match="not the Jacobian"):
            cagrad_point(wrong)
    for c in (-1e-9, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"use 0\.5"):
            cagrad_point(eye, c=c)
    for settings in ({"tol": 0.0}, {"tol": math.nan}, {"max_iter": 0}):
        with pytest.raises(ValueError, match="Use the defaults"):
            cagrad_point(eye, **settings)
    assert int(cagrad_point(eye, max_iter=1, tol=1e-300).status) >= 0
    assert cagrad_point(torch.ones(1, 1)).weights.tolist() == pytest.approx([1.5])
