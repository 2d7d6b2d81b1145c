"""UPGrad and DualProj: their definitions, the peer, and the peer's fault at small norms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.solvers import dual_cone_point
from moopt.weightings import DualProj, Guarantee, UPGrad, Weighting
from tests.cases import Case, all_cases, case, cases

WELL_SCALED = ("aligned", "conflicting", "crowded", "orthogonal", "near_opposite")

COSINE_TOL = 1e-9
"""g_i . d >= -COSINE_TOL ||g_i|| ||d||: the promise of the documentation."""

DEFINITION_TOL = 1e-9
"""Two sums of the same projections, relative to the length of their terms."""


def direction(weighting: Weighting, one: Case) -> Tensor:
    return one.jacobian.T @ weighting(StepStatistics(gramian=one.gramian)).weights


def worst_cosine(jacobian: Tensor, d: Tensor) -> float:
    return float((jacobian @ d / jacobian.norm(dim=-1) / d.norm()).min())


@settings(deadline=None, max_examples=60)
@given(one=cases(ms=(1, 2, 3, 5, 10)))
def test_upgrad_is_the_mean_of_the_projected_gradients(one: Case) -> None:
    units = torch.eye(one.m, dtype=torch.float64)
    projections = dual_cone_point(one.gramian, units).weights
    expected = projections.mean(0)
    weights = UPGrad()(StepStatistics(gramian=one.gramian)).weights
    size = float((expected.abs() * one.norms).sum())
    assert float((one.jacobian.T @ (weights - expected)).norm()) <= DEFINITION_TOL * size


def test_they_differ_from_each_other_and_from_the_mean() -> None:
    """So that none can pass as another."""
    one = case("conflicting", 3)
    first, second = direction(UPGrad(), one), direction(DualProj(), one)
    mean = one.jacobian.mean(0)
    assert float((first - second).norm()) > 1e-2
    assert float((first - mean).norm()) > 1e-2
    assert float((second - mean).norm()) > 1e-2


def test_without_conflict_both_are_the_mean() -> None:
    for one in all_cases(ms=(2, 5), families=("aligned", "orthogonal"), norm_ratios=(1.0, 1e8)):
        mean = one.jacobian.mean(0)
        for weighting in (UPGrad(), DualProj()):
            assert torch.allclose(direction(weighting, one), mean, rtol=1e-12, atol=0)


def test_upgrad_keeps_the_gradient_of_an_objective_without_conflict() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    weights = UPGrad()(StepStatistics(gramian=rows @ rows.T)).weights
    assert float(weights[2]) == pytest.approx(1.0 / 3.0, rel=1e-15)
    assert float(weights[0]) > 0.4


@pytest.mark.parametrize("weighting", [UPGrad(), DualProj()], ids=lambda w: w.name)
def test_the_guarantee_survives_small_norms_and_large_ratios(weighting: Weighting) -> None:
    """PEERS fault 1: the peer adds 1e-4 to the trace-normalised Gramian.

    At a norm ratio of .01 its UPGrad has cosine -.92 with the weaker objective; below ||J|| = 1e-2
    it becomes the plain mean.
    """
    for ratio in (1.0, 1e-1, 1e-2, 1e-4, 1e-6, 1e-8):
        for norm in (1e-12, 1e-6, 1e-2, 1.0, 1e6, 1e12):
            for seed in range(5):
                one = case("near_opposite", 2, seed)
                rows = one.jacobian * torch.tensor([[1.0], [ratio]], dtype=torch.float64)
                rows = rows * (norm / rows.norm())
                d = rows.T @ weighting(StepStatistics(gramian=rows @ rows.T)).weights
                assert worst_cosine(rows, d) >= -COSINE_TOL


def ridged(rows: Tensor, separate: bool) -> Tensor:
    """The peer's recipe: divide by the trace if it exceeds 1e-4, add 1e-4 to the diagonal."""
    gramian = rows @ rows.T
    trace = gramian.trace()
    gramian = gramian / trace if float(trace) >= 1e-4 else torch.zeros_like(gramian)
    gramian = gramian + 1e-4 * torch.eye(len(rows), dtype=torch.float64)
    weighting = UPGrad() if separate else DualProj()
    return rows.T @ weighting(StepStatistics(gramian=gramian)).weights


@pytest.mark.parametrize("separate", [True, False])
def test_the_ridge_of_the_peer_fails_the_guarantee(separate: bool) -> None:
    """The violator of the test above, at its two faults."""
    one = case("near_opposite", 2)
    rows = one.jacobian * torch.tensor([[1.0], [1e-2]], dtype=torch.float64)
    assert worst_cosine(rows, ridged(rows, separate)) < -0.1
    small = one.jacobian * 1e-3 * torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    assert worst_cosine(small, ridged(small, separate)) < -0.1
    assert torch.allclose(ridged(small, separate), small.mean(0))


@pytest.mark.parametrize("weighting", [UPGrad, DualProj])
def test_a_preference_counts_by_position_or_name(weighting: type) -> None:
    one = case("conflicting", 3)
    names = ("a", "b", "c")
    statistics = StepStatistics(gramian=one.gramian, names=names)
    by_position = weighting(preference=[3.0, 1.0, 0.0])
    by_name = weighting(preference={"c": 0.0, "b": 1.0, "a": 3.0, "absent": 2.0})
    weights = by_position(statistics).weights
    assert torch.equal(weights, by_name(statistics).weights)
    assert not torch.allclose(weights, weighting()(statistics).weights, rtol=0.1)
    assert by_name.needs == {"names"}
    assert by_position.needs == frozenset()
    assert Guarantee.PERMUTATION_EQUIVARIANT not in by_position.guarantees
    d = one.jacobian.T @ weights
    assert worst_cosine(one.jacobian, d) >= -COSINE_TOL
    equal = weighting(preference=[1 / 3, 1 / 3, 1 / 3])(statistics).weights
    torch.testing.assert_close(equal, weighting()(statistics).weights)


def test_dual_proj_with_one_preferred_objective_is_gem() -> None:
    """GEM: the nearest vector to the present gradient with no negative product with the past."""
    one = case("near_opposite", 2)
    g, past = one.jacobian
    expected = g - (g @ past) / (past @ past) * past
    d = direction(DualProj(preference=[1.0, 0.0]), one)
    assert float(g @ past) < 0
    assert torch.allclose(d, expected, rtol=1e-9, atol=1e-12)


def test_opposite_gradients_are_degenerate() -> None:
    gramian = torch.tensor([[1.0, -2.0], [-2.0, 4.0]], dtype=torch.float64)
    for weighting in (UPGrad(), DualProj()):
        output = weighting(StepStatistics(gramian=gramian))
        assert int(output.result.status) == SolverStatus.DEGENERATE


@pytest.mark.parametrize("weighting", [UPGrad, DualProj])
def test_wrong_settings_name_the_remedy(weighting: type) -> None:
    name = weighting.name
    for wrong in ([], [0.0, 0.0], [1.0, -1.0], [float("nan")], {}):
        with pytest.raises(ValueError, match=f"`preference` of `{name}` must hold finite numbers"):
            weighting(preference=wrong)
    with pytest.raises(ValueError, match=f"`tol` of `{name}`"):
        weighting(tol=1.0)
    with pytest.raises(ValueError, match=f"`max_iter` of `{name}`"):
        weighting(max_iter=0)
    statistics = StepStatistics(gramian=torch.eye(2, dtype=torch.float64), names=("a", "b"))
    with pytest.raises(ValueError, match="must have one entry per objective; got 3 for 2"):
        weighting(preference=[1.0, 1.0, 1.0])(statistics)
    with pytest.raises(ValueError, match=r"must name every objective; \['b'\] are missing"):
        weighting(preference={"a": 1.0})(statistics)
    nameless = StepStatistics(gramian=torch.eye(2, dtype=torch.float64))
    with pytest.raises(ValueError, match=f"`{name}` as configured needs the objectives' names"):
        weighting(preference={"a": 1.0, "b": 1.0})(nameless)
