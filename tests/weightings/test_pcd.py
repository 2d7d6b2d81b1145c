"""PCD by its optimality conditions, against cvxpy, its averages, and infeasible priorities."""

from __future__ import annotations

import pytest
import torch

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.solvers.quota_point import QUOTA_TOL
from moopt.weightings import PCD, Guarantee
from moopt.weightings.pcd import MEAN_SQUARE, NUM_STEPS
from tests.cases import Case, all_cases
from tests.weightings.forgetting import PAIRS, check_promise

SECONDARY = [f"objective {i}" for i in range(1, 10)]

CVXPY_TOL = 1e-6
"""Distance between directions of unit length: clarabel stops at 1e-8 on a strongly convex
objective, whose root bounds the distance; observed 1e-7."""


def make(**settings) -> PCD:
    return PCD(primary="objective 0", secondary=SECONDARY, **settings)


def statistics(jacobian: torch.Tensor, active: torch.Tensor | None = None) -> StepStatistics:
    names = tuple(f"objective {i}" for i in range(len(jacobian)))
    return StepStatistics(gramian=jacobian @ jacobian.T, names=names, active=active)


def check_optimal(one: Case, tau: float) -> int:
    """KKT in the first step, where h_i is the unit gradient; the status is returned."""
    output = make(tau=tau)(statistics(one.jacobian))
    status = int(output.result.status)
    direction = one.jacobian.T @ output.weights
    if status == SolverStatus.DEGENERATE:
        assert not direction.any()
        return status
    if status == SolverStatus.INFEASIBLE:
        assert output.weights.tolist() == [1.0] + [0.0] * (one.m - 1)
        return status
    assert status == SolverStatus.CONVERGED
    assert float(direction.norm()) == pytest.approx(float(one.norms[0]), rel=1e-6)
    # Undo the last rescaling: the primary's coefficient is 1.
    unit = one.jacobian / one.norms[:, None]
    coefficients = output.weights * one.norms
    coefficients = coefficients / coefficients[0]
    d = unit.T @ coefficients
    slack = unit[1:] @ d - tau
    rounding = QUOTA_TOL * 10 * float(coefficients.sum())
    assert bool((coefficients >= 0).all())
    assert bool((slack >= -rounding).all())
    assert bool((torch.minimum(coefficients[1:], slack.abs()) <= rounding).all())
    return status


@pytest.mark.parametrize("tau", [0.0, 0.1, 1.0])
def test_the_conditions_of_optimality_hold(tau: float) -> None:
    seen = dict.fromkeys(SolverStatus, 0)
    for one in all_cases(ms=(2, 3, 5, 10), scales=(1.0, 1e-30, 1e30), norm_ratios=(1.0, 1e8)):
        if (one.norms == 0).any():
            continue
        seen[SolverStatus(check_optimal(one, tau))] += 1
    assert seen[SolverStatus.CONVERGED] > 100
    assert (seen[SolverStatus.INFEASIBLE] > 0) == (tau > 0)


def test_agrees_with_cvxpy() -> None:
    cvxpy = pytest.importorskip("cvxpy")
    generator = torch.Generator().manual_seed(0)
    for m in (2, 3, 5):
        for _ in range(4):
            jacobian = torch.randn(m, m + 2, generator=generator, dtype=torch.float64)
            unit = (jacobian / jacobian.norm(dim=-1, keepdim=True)).numpy()
            d = cvxpy.Variable(m + 2)
            problem = cvxpy.Problem(
                cvxpy.Minimize(cvxpy.sum_squares(d - unit[0])), [unit[1:] @ d >= 0.4]
            )
            problem.solve(solver=cvxpy.CLARABEL)
            expected = torch.from_numpy(d.value / (d.value @ d.value) ** 0.5)
            direction = jacobian.T @ make(tau=0.4)(statistics(jacobian)).weights
            assert float((direction / direction.norm() - expected).norm()) <= CVXPY_TOL


def test_two_objectives_follow_the_papers_closed_form() -> None:
    tau = 0.3
    for one in all_cases(ms=(2,), seeds=range(4)):
        if (one.norms == 0).any() or one.stationarity != "none":
            continue
        first, second = one.jacobian / one.norms[:, None]
        inner = float(first @ second)
        expected = first + max(0.0, tau - inner) * second
        direction = one.jacobian.T @ make(tau=tau)(statistics(one.jacobian)).weights
        difference = direction / one.norms[0] - expected / expected.norm()
        assert float(difference.norm()) <= CVXPY_TOL


@pytest.mark.parametrize("tau", [0.0, 0.1])
@pytest.mark.parametrize("guarantee", Guarantee, ids=lambda g: g.value)
def test_exactly_the_promises_for_a_pair_hold(guarantee: Guarantee, tau: float) -> None:
    weighting = PCD(primary="objective 0", secondary="objective 1", tau=tau)
    check_promise(weighting, guarantee, PAIRS)


def test_opposed_secondaries_are_infeasible() -> None:
    jacobian = torch.tensor([[1.0, 1.0], [1.0, 0.0], [-5.0, 0.0]], dtype=torch.float64)
    output = make()(statistics(jacobian))
    assert output.weights.tolist() == [1.0, 0.0, 0.0]
    assert int(output.result.status) == SolverStatus.INFEASIBLE
    assert int(make(tau=0.0)(statistics(jacobian)).result.status) == SolverStatus.CONVERGED


def test_absent_roles_leave_the_others() -> None:
    jacobian = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert make()(statistics(jacobian)).weights.tolist() == [0.0, 1.0, 1.0]
    masked = torch.tensor([False, True, True])
    assert make()(statistics(jacobian + 1.0, masked)).weights.tolist() == [0.0, 1.0, 1.0]
    assert make()(statistics(jacobian[1:2])).weights.tolist() == [1.0]
    nothing = make()(statistics(0.0 * jacobian))
    assert nothing.weights.tolist() == [1 / 3] * 3
    assert int(nothing.result.status) == SolverStatus.DEGENERATE


def test_the_averages_follow_each_objective() -> None:
    weighting = make(beta=0.5)
    eye = torch.eye(2, dtype=torch.float64)
    _, state, _ = weighting(statistics(2.0 * eye))
    assert state[MEAN_SQUARE].tolist() == [4.0, 4.0]
    _, state, _ = weighting(statistics(eye, torch.tensor([True, False])), state)
    assert state[MEAN_SQUARE].tolist() == [2.5, 4.0]
    _, state, _ = weighting(statistics(torch.diag(torch.tensor([0.0, 2.0]).double())), state)
    assert state[MEAN_SQUARE].tolist() == [2.5, 4.0]
    assert state[NUM_STEPS].tolist() == [2, 2]


def test_a_secondary_gradient_below_its_average_asks_for_less() -> None:
    """h_j . d >= tau ||h_j||^2 with ||h_j|| < 1 after the loss has levelled off."""
    weighting = make(tau=1.0, beta=0.5)
    eye = torch.eye(2, dtype=torch.float64)
    _, state, _ = weighting(statistics(eye))
    small = torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64))
    weights = weighting(statistics(small), state).weights
    direction = small.T @ weights
    share = 0.1 / (0.5 * 1.0 + 0.5 * 0.01) ** 0.5
    expected = torch.tensor([1.0, share], dtype=torch.float64)
    assert torch.allclose(direction, expected / expected.norm(), rtol=1e-12)


def test_settings_out_of_range_name_the_remedy() -> None:
    assert make(tau=1.0, beta=0.0).tau == 1.0
    with pytest.raises(TypeError, match="`primary` of `PCD` must be the name of one"):
        PCD(primary=["a"], secondary="b")
    with pytest.raises(ValueError, match="must not repeat the names"):
        PCD(primary="a", secondary=["a", "b"])
    with pytest.raises(ValueError, match="`tau` of `PCD` must be in"):
        make(tau=1.1)
    with pytest.raises(ValueError, match="`beta` of `PCD` must be in"):
        make(beta=1.0)
