"""CAGrad by its duality gap from the Jacobian, its identity, cvxpy and the peer."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import moopt.solvers.cagrad as solver
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.solvers import SolverResult, cagrad_point
from moopt.weightings import CAGrad, Mean
from tests.cases import Case, all_cases, case, cases

NON_STATIONARY = (
    "aligned",
    "conflicting",
    "crowded",
    "near_opposite",
    "orthogonal",
    "rank_deficient",
    "duplicate",
)

GAP_TOL = 1e-9
"""(min_i g_i . d of the best d) - (min_i g_i . d) relative to ||g_i|| ||d||; the solver: 1e-10."""

IDENTITY_TOL = 1e-9
"""Of ||d - g0|| = c ||g0||, relative: the certificate squared is below rounding."""


def direction(one: Case, c: float) -> Tensor:
    return one.jacobian.T @ CAGrad(c=c)(StepStatistics(gramian=one.gramian)).weights


def check_ball(one: Case, d: Tensor, c: float) -> None:
    """The defining identity: the optimum lies on the sphere around the mean gradient."""
    g0 = one.jacobian.mean(0)
    assert abs(float((d - g0).norm() / g0.norm()) - c) <= IDENTITY_TOL


def check_optimal(one: Case, result: SolverResult, c: float) -> None:
    """Weak duality, from the Jacobian: F(w) bounds min_i g_i . d for every d of the ball."""
    g0 = one.jacobian.mean(0)
    d = one.jacobian.T @ result.weights
    w = result.weights - 1.0 / one.m
    assert (w >= -1e-15).all()
    w = w.clamp_min(0.0) / w.clamp_min(0.0).sum()
    g_w = one.jacobian.T @ w
    bound = g0 @ g_w + c * g0.norm() * g_w.norm()
    slack = GAP_TOL * d.norm()
    assert ((bound - one.jacobian @ d) <= slack * one.norms).all()


@settings(deadline=None, max_examples=120)
@given(cases(NON_STATIONARY, ms=(1, 2, 3, 5, 10)), st.sampled_from([0.1, 0.4, 0.9, 1.5]))
def test_it_is_optimal_on_the_sphere(one: Case, c: float) -> None:
    result = cagrad_point(one.gramian, c=c)
    assert int(result.status) == SolverStatus.CONVERGED
    check_optimal(one, result, c)
    check_ball(one, one.jacobian.T @ result.weights, c)


@pytest.mark.parametrize("planted", ["mean", "another c", "rolled"])
def test_a_planted_violator_fails(planted: str) -> None:
    one = case("conflicting", 3)
    right = cagrad_point(one.gramian, c=0.5)
    weights = {
        "mean": right.weights * 0 + 1 / 3,
        "another c": cagrad_point(one.gramian, c=0.6).weights,
        "rolled": 1 / 3 + (right.weights - 1 / 3).roll(1),
    }[planted]

    def check_both() -> None:
        check_optimal(one, right._replace(weights=weights), 0.5)
        check_ball(one, one.jacobian.T @ weights, 0.5)

    with pytest.raises(AssertionError):
        check_both()


def test_without_radius_it_is_the_mean() -> None:
    for one in all_cases(ms=(3,)):
        statistics = StepStatistics(gramian=one.gramian)
        assert torch.equal(CAGrad(c=0.0)(statistics).weights, Mean()(statistics).weights)


def by_cvxpy(one: Case, c: float) -> float:
    """max_d min_i g_i . d over the ball, by an interior-point method on the primal problem."""
    cvxpy = pytest.importorskip("cvxpy")
    scale = float(one.norms.max())
    rows = (one.jacobian / scale).numpy()
    g0 = rows.mean(0)
    d = cvxpy.Variable(rows.shape[1])
    ball = [cvxpy.norm(d - g0, 2) <= c * float(np.linalg.norm(g0))]
    problem = cvxpy.Problem(cvxpy.Maximize(cvxpy.min(rows @ d)), ball)
    with warnings.catch_warnings():
        # It stops short of its tolerances where rows cancel, and says so.
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        return float(problem.solve(solver=cvxpy.CLARABEL)) * scale**2


@pytest.mark.parametrize("c", [0.3, 0.9])
def test_agrees_with_cvxpy(c: float) -> None:
    """Also at stationary points, where the dual may sit at g_w = 0."""
    for one in all_cases(ms=(2, 3, 5), norm_ratios=(1.0, 1e2)):
        expected = by_cvxpy(one, c)
        reached = float((one.jacobian @ direction(one, c)).min())
        assert abs(reached - expected) <= 1e-6 * float(one.norms.max()) ** 2, one


def test_the_root_finder_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "FACE_TRIPS", 0)
    for one in all_cases(ms=(3, 10), families=NON_STATIONARY, norm_ratios=(1.0, 1e8)):
        result = cagrad_point(one.gramian, c=0.5)
        assert int(result.status) == SolverStatus.CONVERGED
        check_optimal(one, result, 0.5)


def test_too_few_trips_are_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "FACE_TRIPS", 0)
    result = cagrad_point(case("conflicting", 10, norm_ratio=1e2).gramian, max_iter=1)
    assert int(result.status) == SolverStatus.MAX_ITER
    assert float(result.gap) > 1e-10


def test_where_the_dual_vanishes_the_nearest_harmless_direction_is_taken() -> None:
    """g_1 = -g_0 and a third: g_w = 0 is optimal as soon as the ball reaches the dual cone."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.1, 1.0]], dtype=torch.float64)
    result = cagrad_point(rows @ rows.T, c=0.9)
    assert int(result.status) == SolverStatus.DEGENERATE
    d = rows.T @ result.weights
    torch.testing.assert_close(d, torch.tensor([0.0, 1 / 3], dtype=torch.float64))
    small = cagrad_point(rows @ rows.T, c=0.05)
    assert int(small.status) == SolverStatus.CONVERGED
    assert float((rows @ (rows.T @ small.weights)).min()) < 0.0


def test_small_gradients_do_not_change_the_method() -> None:
    """PEERS fault 1: below ||J|| = 1e-2 the peer's CAGrad returns zero."""
    one = case("conflicting", 3)
    expected = direction(one, 0.5)
    for scale in (1e-12, 1e-6, 1e-3, 1e6, 1e12):
        gramian = one.gramian * scale**2
        d = one.jacobian.T @ CAGrad(c=0.5)(StepStatistics(gramian=gramian)).weights
        assert float((d - expected).norm()) <= 1e-9 * float(expected.norm())


def test_rescale_changes_the_length_only() -> None:
    gramian = case("conflicting", 3).gramian
    plain = CAGrad(c=0.4)(StepStatistics(gramian=gramian)).weights
    square = CAGrad(c=0.4, rescale="square")(StepStatistics(gramian=gramian)).weights
    linear = CAGrad(c=0.4, rescale="linear")(StepStatistics(gramian=gramian)).weights
    torch.testing.assert_close(square * 1.16, plain, rtol=1e-14, atol=0)
    torch.testing.assert_close(linear * 1.4, plain, rtol=1e-14, atol=0)


def test_wrong_settings_name_the_remedy() -> None:
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="`c` of `CAGrad`"):
            CAGrad(c=wrong)
        with pytest.raises(ValueError, match="`c` of `cagrad_point`"):
            cagrad_point(torch.eye(2), c=wrong)
    with pytest.raises(ValueError, match="`rescale` of `CAGrad`"):
        CAGrad(rescale="1")
    with pytest.raises(ValueError, match="`tol` of `CAGrad`"):
        CAGrad(tol=0.0)
    with pytest.raises(ValueError, match="`max_iter` of `CAGrad`"):
        CAGrad(max_iter=0)
    with pytest.raises(ValueError, match="`tol` of `cagrad_point`"):
        cagrad_point(torch.eye(2), tol=0.0)
    with pytest.raises(ValueError, match="Pass the Gramian"):
        cagrad_point(torch.ones(2, 3))


def test_the_default_radius_is_half_the_mean_gradient() -> None:
    one = case("conflicting", 3)
    weights = CAGrad()(StepStatistics(gramian=one.gramian)).weights
    mean = one.jacobian.mean(0)
    distance = float((one.jacobian.T @ weights - mean).norm() / mean.norm())
    assert distance == pytest.approx(0.5, rel=1e-6)
