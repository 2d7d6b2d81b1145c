"""PMTL by the optimality of its augmented problem, its sectors, and where it leads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.weightings import MGDA, PMTL
from tests.cases import Case, case, cases

DESCENT_TOL = 1e-9
"""x . h >= ||x||^2 - DESCENT_TOL ||x|| ||h|| for every row h of the augmented problem."""

NON_STATIONARY = ("aligned", "conflicting", "orthogonal")

THREE = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]], dtype=torch.float64)


def pmtl_weights(gramian, losses, preferences, *, active=None, **settings):
    """`PMTL` called by hand."""
    method = PMTL(preferences=preferences.tolist(), **settings)
    return method(StepStatistics(gramian=gramian, losses=losses, active=active)).result


def violated_rows(one: Case, losses: Tensor, preferences: Tensor, index: int) -> Tensor:
    """The gradients of the violated constraints, one by one, from the definition."""
    units = preferences / preferences.norm(dim=-1, keepdim=True)
    rows = [u - units[index] for u in units if float((u - units[index]) @ losses) > 0.0]
    return torch.stack([b @ one.jacobian for b in rows]) if rows else one.jacobian[:0]


def check_optimal(one: Case, weights: Tensor, constraints: Tensor) -> None:
    """x is the shortest vector of the hull of all rows: x . h >= ||x||^2 for every row h."""
    x = one.jacobian.T @ weights
    rows = torch.cat([one.jacobian, constraints])
    slack = DESCENT_TOL * float(x.norm()) * rows.norm(dim=-1)
    assert (rows @ x >= float(x @ x) - slack).all()


@settings(deadline=None, max_examples=80)
@given(
    cases(NON_STATIONARY, ms=(3,), scales=(1.0,), norm_ratios=(1.0,)),
    st.integers(0, 2),
    st.integers(0, 2**16),
)
def test_it_solves_the_augmented_problem(one: Case, index: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(3, generator=generator, dtype=torch.float64)
    weighting = PMTL(preferences=THREE.tolist(), index=index)
    output = weighting(StepStatistics(gramian=one.gramian, losses=losses))
    if int(output.result.status) == SolverStatus.CONVERGED:
        check_optimal(one, output.weights, violated_rows(one, losses, THREE, index))


def test_mgda_fails_outside_of_the_sector() -> None:
    """The violator of the test above; inside of the sector the two agree."""
    one = case("orthogonal", 3)
    losses = torch.tensor([1.0, 5.0, 1.0], dtype=torch.float64)
    statistics = StepStatistics(gramian=one.gramian, losses=losses)
    mgda = MGDA()(statistics).weights
    outside = violated_rows(one, losses, THREE, 0)
    assert len(outside) == 1
    with pytest.raises(AssertionError):
        check_optimal(one, mgda, outside)
    inside = PMTL(preferences=THREE.tolist(), index=1)(statistics).weights
    torch.testing.assert_close(inside, mgda)


def test_a_run_ends_in_its_sector() -> None:
    """Two quadratics: each index leads to its own part of the front."""
    ends = []
    for index in range(3):
        vectors = [[1.0, 0.2], [1.0, 1.0], [0.2, 1.0]]
        weighting = PMTL(preferences=vectors, index=index)
        x = torch.tensor([0.0, 1.0], dtype=torch.float64)
        targets = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        for _ in range(500):
            losses = 0.5 * (x - targets).square().sum(-1)
            rows = x - targets
            statistics = StepStatistics(gramian=rows @ rows.T, losses=losses)
            x = x - 0.05 * rows.T @ weighting(statistics).weights
        ends.append(0.5 * (x - targets).square().sum(-1))
    ratios = [float(losses[0] / losses[1]) for losses in ends]
    # The sectors of the unit vectors meet where l_1 / l_2 = 1.869 and its reciprocal.
    assert ratios[0] > 1.8
    assert ratios[1] == pytest.approx(1.0, abs=1e-6)
    assert ratios[2] < 1 / 1.8


def test_slack_activates_constraints_that_still_hold() -> None:
    one = case("orthogonal", 2)
    u = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    losses = torch.tensor([1.01, 1.0], dtype=torch.float64)
    strict = pmtl_weights(one.gramian, losses, u).weights
    near = pmtl_weights(one.gramian, losses, u, eps=0.1).weights
    far = pmtl_weights(one.gramian, losses * torch.tensor([100.0, 1.0]), u, eps=0.1).weights
    torch.testing.assert_close(strict, MGDA()(StepStatistics(gramian=one.gramian)).weights)
    torch.testing.assert_close(far, strict)
    for unit in (1e-6, 1e6):  # the slack is relative to the losses
        again = pmtl_weights(one.gramian, losses * unit, u, eps=0.1).weights
        torch.testing.assert_close(again, near)
        none = pmtl_weights(one.gramian, losses * unit, u, eps=1e-4).weights
        torch.testing.assert_close(none, strict)
    assert float((near - strict).abs().max()) > 0.05


def test_preferences_of_absent_objectives_are_dropped_with_them() -> None:
    one = case("conflicting", 3)
    losses = torch.tensor([3.0, math.nan, 1.0], dtype=torch.float64)
    active = torch.tensor([True, False, True])
    masked = pmtl_weights(one.gramian, losses, THREE, index=2, active=active)
    kept = [0, 2]
    dropped = pmtl_weights(one.gramian[kept][:, kept], losses[kept], THREE[:, kept], index=2)
    torch.testing.assert_close(masked.weights[kept], dropped.weights)
    only_absent = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    alone = pmtl_weights(one.gramian, losses, only_absent, index=0, active=active).weights
    mgda = MGDA()(StepStatistics(gramian=one.gramian, active=active)).weights
    torch.testing.assert_close(alone, mgda)


def test_one_vector_is_mgda() -> None:
    one = case("conflicting", 3)
    statistics = StepStatistics(gramian=one.gramian, losses=torch.ones(3))
    alone = PMTL(preferences=[[1.0, 2.0, 3.0]])(statistics).weights
    torch.testing.assert_close(alone, MGDA()(statistics).weights)


def test_a_non_finite_loss_is_a_status() -> None:
    weighting = PMTL(preferences=[[1.0, 0.0], [0.0, 1.0]])
    losses = torch.tensor([1.0, math.inf])
    statistics = StepStatistics(gramian=torch.eye(2, dtype=torch.float64), losses=losses)
    output = weighting(statistics)
    assert int(output.result.status) == SolverStatus.NON_FINITE
    assert output.weights.tolist() == [0.5, 0.5]


def test_wrong_settings_name_the_remedy() -> None:
    good = [[1.0, 0.0], [0.0, 1.0]]
    for wrong in ([], [[]], [[0.0, 0.0]], [[1.0], [1.0, 2.0]], [[-1.0, 1.0]], [[math.nan]]):
        with pytest.raises(ValueError, match="`preferences` of `PMTL`"):
            PMTL(preferences=wrong)
    for index in (-1, 2, 5):
        with pytest.raises(ValueError, match="`index` of `PMTL`"):
            PMTL(preferences=good, index=index)
    with pytest.raises(ValueError, match="`eps` of `PMTL`"):
        PMTL(preferences=good, eps=-1.0)
    with pytest.raises(ValueError, match="`tol` of `PMTL`"):
        PMTL(preferences=good, tol=0.0)
    with pytest.raises(ValueError, match="`max_iter` of `PMTL`"):
        PMTL(preferences=good, max_iter=0)
    with pytest.raises(ValueError, match="needs the losses"):
        PMTL(preferences=good)(StepStatistics(gramian=torch.eye(2)))
    with pytest.raises(ValueError, match="one entry per objective; got vectors of 2 for 3"):
        PMTL(preferences=good)(StepStatistics(gramian=torch.eye(3), losses=torch.ones(3)))
