"""SDMGrad by the optimality conditions of its regularised problem, cvxpy, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.weightings import MGDA, Mean, SDMGrad
from tests.cases import Case, all_cases, case, cases

OPTIMALITY_TOL = 1e-9
"""||x||^2 - x . (g_i + lambda g0) relative to both lengths; the solver stops at 1e-10."""

CVXPY_TOL = 1e-4
"""Of clarabel's direction: it stops at 1e-8 on the objective, whose root is its accuracy."""


def sdmgrad_weights(gramian, preference=None, *, active=None):
    """`SDMGrad` called by hand."""
    given = None if preference is None else preference.tolist()
    return SDMGrad(preference=given)(StepStatistics(gramian=gramian, active=active))


def check_optimal(one: Case, weights: Tensor, strength: float, u: Tensor) -> None:
    """x = (1 + lambda) d is the minimum-norm point of the shifted rows: x . h_i >= ||x||^2.

    And x is one of their convex combinations: what is left of the weights is on the simplex.
    """
    rest = (1.0 + strength) * weights - strength * u
    assert (rest >= -1e-14 * (1.0 + strength)).all()
    shifted = one.jacobian + strength * (u @ one.jacobian)
    x = (1.0 + strength) * (one.jacobian.T @ weights)
    # The second term is the rounding of x, which is all of x where the rows cancel.
    noise = 1e-14 * float((rest * shifted.norm(dim=-1)).sum() + one.norms.max())
    slack = (OPTIMALITY_TOL * float(x.norm()) + noise) * (shifted.norm(dim=-1) + x.norm())
    assert (shifted @ x >= float(x @ x) - slack - noise**2).all()


@settings(deadline=None, max_examples=100)
@given(
    cases(ms=(1, 2, 3, 5, 10), norm_ratios=(1.0, 1e2, 1e4)), st.sampled_from([0.0, 0.1, 0.3, 2.0])
)
def test_it_solves_the_regularised_problem(one: Case, strength: float) -> None:
    weights = SDMGrad(regularization=strength)(StepStatistics(gramian=one.gramian)).weights
    uniform = torch.full((one.m,), 1.0 / one.m, dtype=torch.float64)
    check_optimal(one, weights, strength, uniform)


@pytest.mark.parametrize("planted", ["mgda", "mean", "another lambda"])
def test_a_planted_violator_fails(planted: str) -> None:
    one = case("aligned", 3, norm_ratio=1e2)  # an interior solution is MGDA's too
    statistics = StepStatistics(gramian=one.gramian)
    weighting = {
        "mgda": MGDA(),
        "mean": Mean(),
        "another lambda": SDMGrad(regularization=0.5),
    }[planted]
    uniform = torch.full((3,), 1.0 / 3.0, dtype=torch.float64)
    with pytest.raises(AssertionError):
        check_optimal(one, weighting(statistics).weights, 0.3, uniform)


def test_agrees_with_cvxpy() -> None:
    cvxpy = pytest.importorskip("cvxpy")
    for one in all_cases(ms=(2, 3, 5)):
        w = cvxpy.Variable(one.m, nonneg=True)
        rows = one.jacobian.numpy()
        x = rows.T @ w + 0.3 * rows.mean(0)
        problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x)), [cvxpy.sum(w) == 1])
        problem.solve(solver=cvxpy.CLARABEL)
        d = one.jacobian.T @ SDMGrad()(StepStatistics(gramian=one.gramian)).weights
        difference = d - torch.from_numpy(x.value) / 1.3
        assert float(difference.norm()) <= CVXPY_TOL * float(one.norms.max())


def test_its_limits_are_mgda_and_the_mean() -> None:
    one = case("conflicting", 3, norm_ratio=10.0)
    statistics = StepStatistics(gramian=one.gramian)
    none = SDMGrad(regularization=0.0)(statistics).weights
    torch.testing.assert_close(none, MGDA()(statistics).weights)
    strong = SDMGrad(regularization=1e8)(statistics).weights
    torch.testing.assert_close(strong, Mean()(statistics).weights, rtol=1e-6, atol=0)


def test_a_preference_pulls_by_position_or_name() -> None:
    one = case("conflicting", 3)
    statistics = StepStatistics(gramian=one.gramian, names=("a", "b", "c"))
    by_position = SDMGrad(preference=[4.0, 0.0, 0.0], regularization=2.0)
    by_name = SDMGrad(preference={"a": 1.0, "b": 0.0, "c": 0.0}, regularization=2.0)
    weights = by_position(statistics).weights
    assert torch.equal(weights, by_name(statistics).weights)
    assert float(weights[0]) >= 2.0 / 3.0
    check_optimal(one, weights, 2.0, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    active = torch.tensor([False, True, True])
    rest = sdmgrad_weights(one.gramian, torch.tensor([1.0, 0.0, 0.0]), active=active).weights
    torch.testing.assert_close(rest, sdmgrad_weights(one.gramian, active=active).weights)


def test_a_preference_is_divided_by_the_sum_of_the_active_ones() -> None:
    one = case("conflicting", 3)
    u = torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64)
    masked = sdmgrad_weights(one.gramian, u, active=torch.tensor([True, False, True])).weights
    kept = [0, 2]
    dropped = sdmgrad_weights(one.gramian[kept][:, kept], torch.tensor([0.5, 0.5])).weights
    torch.testing.assert_close(masked[kept], dropped)
    assert float(masked[1]) == 0.0


def test_opposite_gradients_are_degenerate() -> None:
    gramian = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    output = SDMGrad()(StepStatistics(gramian=gramian))
    assert int(output.result.status) == SolverStatus.DEGENERATE
    # Here the mean is not zero, but lambda times it can be cancelled.
    rows = torch.tensor([[1.0, 0.0], [-0.9, 0.0]], dtype=torch.float64)
    output = SDMGrad(regularization=2.0)(StepStatistics(gramian=rows @ rows.T))
    assert int(output.result.status) == SolverStatus.DEGENERATE
    assert float((rows.T @ output.weights).norm()) <= 1e-12


def test_wrong_settings_name_the_remedy() -> None:
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="`regularization` of `SDMGrad`"):
            SDMGrad(regularization=wrong)
    with pytest.raises(ValueError, match="`preference` of `SDMGrad`"):
        SDMGrad(preference=[0.0])
    with pytest.raises(ValueError, match="`tol` of `SDMGrad`"):
        SDMGrad(tol=2.0)
    with pytest.raises(ValueError, match="`max_iter` of `SDMGrad`"):
        SDMGrad(max_iter=0)
