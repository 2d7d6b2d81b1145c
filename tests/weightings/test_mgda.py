"""MGDA against oracles that share no code with the solver, and its normalisations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.weightings import MGDA, Guarantee
from moopt.weightings.problem import LOSS_FLOOR
from tests.cases import Case, all_cases, case, cases

ENUMERATION_TOL = 1e-9
"""Excess of w'Gw over the enumerated optimum, relative to the longest row: both are float64, and
the enumeration solves its faces without equilibration."""

CVXPY_TOL = 1e-5
"""Excess relative to the longest row: clarabel stops at 1e-8 on the objective, the square root of
which, 1e-4, is its accuracy in w; the objective itself is flatter."""

SMALL = [1.0, 1e2]


def quadratic(gramian: torch.Tensor, weights: torch.Tensor) -> float:
    return float(weights @ gramian @ weights)


def enumerated_optimum(gramian: np.ndarray) -> float:
    """min of w'Gw over the simplex: on each face the stationary point, kept if it is feasible."""
    m = len(gramian)
    best = float(gramian.diagonal().min())
    for k in range(2, m + 1):
        for face in itertools.combinations(range(m), k):
            block = gramian[np.ix_(face, face)]
            system = np.block([[block, np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
            w = np.linalg.lstsq(system, np.r_[np.zeros(k), 1.0], rcond=None)[0][:k]
            if (w >= -1e-12).all() and abs(w.sum() - 1.0) < 1e-9:
                w = np.maximum(w, 0.0) / np.maximum(w, 0.0).sum()
                best = min(best, float(w @ block @ w))
    return best


def check_optimal(weights: torch.Tensor, one: Case, optimum: float, tol: float) -> None:
    excess = quadratic(one.gramian, weights) - optimum
    assert excess <= tol * float(one.gramian.diagonal().max())


@settings(deadline=None, max_examples=60)
@given(one=cases(ms=(1, 2, 3, 5), scales=(1.0,), norm_ratios=SMALL))
def test_agrees_with_enumeration(one: Case) -> None:
    weights = MGDA()(StepStatistics(gramian=one.gramian)).weights
    check_optimal(weights, one, enumerated_optimum(one.gramian.numpy()), ENUMERATION_TOL)


def test_agrees_with_cvxpy() -> None:
    cvxpy = pytest.importorskip("cvxpy")
    for one in all_cases(ms=(2, 3, 5, 10)):
        w = cvxpy.Variable(one.m, nonneg=True)
        objective = cvxpy.Minimize(cvxpy.sum_squares(one.jacobian.numpy().T @ w))
        optimum = cvxpy.Problem(objective, [cvxpy.sum(w) == 1]).solve(solver=cvxpy.CLARABEL)
        weights = MGDA()(StepStatistics(gramian=one.gramian)).weights
        check_optimal(weights, one, optimum, CVXPY_TOL)
        assert quadratic(one.gramian, weights) >= optimum - CVXPY_TOL


def test_a_solver_that_stops_early_fails_the_oracles() -> None:
    one = case("near_opposite", 5, norm_ratio=1e2)
    early = MGDA(solver="frank_wolfe", max_iter=3)(StepStatistics(gramian=one.gramian)).weights
    optimum = enumerated_optimum(one.gramian.numpy())
    with pytest.raises(AssertionError):
        check_optimal(early, one, optimum, ENUMERATION_TOL)


@pytest.mark.parametrize("normalize", ["l2", "loss", "loss+"])
def test_normalised_weights_solve_the_normalised_rows(normalize: str) -> None:
    losses = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    for one in all_cases(ms=(3,), seeds=range(3), norm_ratios=SMALL):
        norms = torch.where(one.norms > 0, one.norms, 1.0)
        scale = {"l2": norms, "loss": losses, "loss+": norms * losses}[normalize]
        expected = MGDA()(StepStatistics(gramian=one.gramian / scale[:, None] / scale))
        output = MGDA(normalize=normalize)(StepStatistics(gramian=one.gramian, losses=losses))
        direction = (one.jacobian / scale[:, None]).T @ expected.weights
        assert torch.allclose(one.jacobian.T @ output.weights, direction, rtol=1e-9, atol=1e-9)
        assert int(output.result.status) == int(expected.result.status)


def test_weights_of_the_normalised_problem_on_raw_rows_are_not_common_descent() -> None:
    """Why the weights are divided by the scale: the original code leaves them as they are."""
    violations = 0
    for seed in range(50):
        one = case("conflicting", 3, seed, norm_ratio=1e2)
        output = MGDA(normalize="l2")(StepStatistics(gramian=one.gramian))
        assert (one.gramian @ output.weights >= 0).all()
        raw = output.weights * one.norms
        violations += bool((one.gramian @ raw < 0).any())
    assert violations > 0


def test_a_negative_loss_counts_by_its_size() -> None:
    """Gradient-ascent objectives have negative losses; dividing by the sign would ascend."""
    gramian = case("aligned", 2).gramian
    losses = torch.tensor([-3.0, 1.0], dtype=torch.float64)
    weighting = MGDA(normalize="loss")
    negative = weighting(StepStatistics(gramian=gramian, losses=losses))
    positive = weighting(StepStatistics(gramian=gramian, losses=losses.abs()))
    assert torch.equal(negative.weights, positive.weights)
    assert (negative.weights >= 0).all()


@pytest.mark.parametrize("normalize", ["loss", "loss+"])
def test_vanished_losses_stay_finite(normalize: str) -> None:
    gramian = torch.eye(2, dtype=torch.float64)
    weighting = MGDA(normalize=normalize)
    for losses in ([0.0, 1.0], [0.0, 0.0], [-0.0, 1e-300]):
        given_losses = torch.tensor(losses, dtype=torch.float64)
        output = weighting(StepStatistics(gramian=gramian, losses=given_losses))
        assert torch.isfinite(output.weights).all()
        assert (gramian @ output.weights >= 0).all()
    for largest in (1.0, 1e3, 1e-3):
        one_zero = torch.tensor([0.0, largest], dtype=torch.float64)
        weights = weighting(StepStatistics(gramian=gramian, losses=one_zero)).weights
        assert float(weights[0] / weights[1]) == pytest.approx(LOSS_FLOOR, rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_loss_is_a_status(value: float) -> None:
    losses = torch.tensor([1.0, value], dtype=torch.float64)
    statistics = StepStatistics(gramian=torch.eye(2, dtype=torch.float64), losses=losses)
    output = MGDA(normalize="loss")(statistics)
    assert int(output.result.status) == SolverStatus.NON_FINITE
    assert output.weights.tolist() == [0.5, 0.5]


def test_missing_losses_and_wrong_settings_name_the_remedy() -> None:
    statistics = StepStatistics(gramian=torch.eye(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="needs the losses"):
        MGDA(normalize="loss+")(statistics)
    with pytest.raises(ValueError, match="`normalize` of `MGDA` must be one of"):
        MGDA(normalize="l1")
    with pytest.raises(ValueError, match="`solver` of `MGDA`"):
        MGDA(solver="simplex")
    with pytest.raises(ValueError, match="`tol` of `MGDA`"):
        MGDA(tol=0.0)
    with pytest.raises(ValueError, match="`max_iter` of `MGDA`"):
        MGDA(max_iter=0)
    with pytest.raises(ValueError, match="must be a bool tensor"):
        MGDA()(StepStatistics(gramian=statistics.gramian, active=torch.ones(3)))
    assert MGDA(normalize="loss").needs == {"losses"}
    assert MGDA().needs == frozenset()


def test_frank_wolfe_promises_no_common_descent() -> None:
    assert MGDA(solver="frank_wolfe").guarantees == {Guarantee.SIMPLEX, Guarantee.IDEMPOTENT}
    assert not MGDA(solver="frank_wolfe").claims_common_descent
    assert MGDA().claims_common_descent


def test_plain_mgda_favours_the_smallest_gradient_and_l2_does_not() -> None:
    gramian = torch.diag(torch.tensor([1.0, 1e4], dtype=torch.float64))
    plain = MGDA()(StepStatistics(gramian=gramian)).weights
    l2 = MGDA(normalize="l2")(StepStatistics(gramian=gramian)).weights
    norms = gramian.diagonal().sqrt()
    assert float(plain[0]) > 0.999
    assert torch.allclose(l2 * norms, torch.full((2,), 0.5, dtype=torch.float64), rtol=1e-12)
