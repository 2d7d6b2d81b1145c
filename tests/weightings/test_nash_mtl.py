"""NashMTL and FairGrad: their fixed points, cvxpy and the peer."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.peer_properties import strictly_weakly_stationary
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.solvers import fixed_point
from moopt.weightings import MGDA, FairGrad, Guarantee, NashMTL
from tests.cases import Case, all_cases, case, cases
from tests.solvers.test_noise import everywhere, stationary

NON_STATIONARY = (
    "aligned",
    "conflicting",
    "crowded",
    "near_opposite",
    "near_parallel",
    "orthogonal",
    "rank_deficient",
    "duplicate",
    "all_equal",
)

IDENTITY_TOL = 1e-6
"""Relative residual of the equations, from the Jacobian: the default of `tol`."""

HIDDEN_LENGTH = {torch.float64: 1e-7, torch.float32: 4e-4}
"""A direction this long, relative to the length of its terms, is what rounding leaves of zero."""

CVXPY_TOL = 1e-5
"""Of clarabel's direction: it stops at 1e-10 on the potential, whose root is its accuracy."""


def check_fixed_point(one: Case, weights: Tensor, alpha: float) -> None:
    """The defining identity (G w)_i w_i^(1/alpha) = 1, for alpha = 1 Gw o w = 1."""
    products = one.jacobian @ (one.jacobian.T @ weights)
    assert (weights > 0).all()
    assert float((products * weights ** (1.0 / alpha) - 1.0).abs().max()) <= IDENTITY_TOL


@settings(deadline=None, max_examples=120)
@given(cases(NON_STATIONARY, ms=(1, 2, 3, 5, 10, 50)))
def test_nash_solves_its_equations_at_every_scale(one: Case) -> None:
    output = NashMTL()(StepStatistics(gramian=one.gramian))
    assert int(output.result.status) == SolverStatus.CONVERGED
    check_fixed_point(one, output.weights, 1.0)
    assert float((one.jacobian.T @ output.weights).norm()) == pytest.approx(one.m**0.5, rel=1e-6)


@settings(deadline=None, max_examples=120)
@given(cases(NON_STATIONARY, ms=(1, 2, 3, 5, 10)), st.sampled_from([1.0, 1.5, 2.0]))
def test_fairgrad_solves_its_equations_at_every_scale(one: Case, alpha: float) -> None:
    output = FairGrad(alpha=alpha)(StepStatistics(gramian=one.gramian))
    assert int(output.result.status) == SolverStatus.CONVERGED
    check_fixed_point(one, output.weights, alpha)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 5.0, 20.0])
def test_other_alphas_at_moderate_norm_ratios(alpha: float) -> None:
    for one in all_cases(
        ms=(1, 2, 5), families=NON_STATIONARY, scales=(1.0, 1e-30), norm_ratios=(1.0, 1e2)
    ):
        result = fixed_point(one.gramian, alpha=alpha)
        assert int(result.status) == SolverStatus.CONVERGED, (one, float(result.gap))
        check_fixed_point(one, result.weights, alpha)


@pytest.mark.parametrize("planted", ["the other", "scaled", "mgda"])
def test_a_planted_violator_fails_the_equations(planted: str) -> None:
    one = case("conflicting", 3)
    statistics = StepStatistics(gramian=one.gramian)
    weights = {
        "the other": FairGrad(alpha=2.0)(statistics).weights,
        "scaled": NashMTL()(statistics).weights * 1.001,
        "mgda": MGDA()(statistics).weights,
    }[planted]
    with pytest.raises(AssertionError):
        check_fixed_point(one, weights, 1.0)


def test_fairgrad_with_alpha_one_is_nash_and_with_a_large_alpha_mgda() -> None:
    one = case("conflicting", 3, norm_ratio=10.0)
    nash = NashMTL()(StepStatistics(gramian=one.gramian)).weights
    torch.testing.assert_close(
        FairGrad(alpha=1.0)(StepStatistics(gramian=one.gramian)).weights, nash
    )
    d = one.jacobian.T @ FairGrad(alpha=1000.0)(StepStatistics(gramian=one.gramian)).weights
    mgda = one.jacobian.T @ MGDA()(StepStatistics(gramian=one.gramian)).weights
    assert float(torch.nn.functional.cosine_similarity(d, mgda, dim=0)) > 0.999


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_agrees_with_cvxpy(alpha: float) -> None:
    """The potential, minimised by an interior-point method on unit-sized problems."""
    cvxpy = pytest.importorskip("cvxpy")
    for one in all_cases(ms=(2, 3, 5), families=("conflicting", "crowded", "near_opposite")):
        a = cvxpy.Variable(one.m, pos=True)
        gain = cvxpy.log(a) if alpha == 1.0 else cvxpy.power(a, 0.5) * 2.0
        square = 0.5 * cvxpy.sum_squares(one.jacobian.numpy().T @ a)
        with warnings.catch_warnings():
            # It stops short of its tolerances where rows cancel, and says so.
            warnings.filterwarnings("ignore", "Solution may be inaccurate")
            cvxpy.Problem(cvxpy.Minimize(square - cvxpy.sum(gain))).solve(
                solver=cvxpy.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10
            )
        expected = one.jacobian.T @ torch.from_numpy(a.value)
        d = one.jacobian.T @ fixed_point(one.gramian, alpha=alpha).weights
        assert float((d - expected).norm()) <= CVXPY_TOL * float(d.norm())


@settings(deadline=None, max_examples=20)
@given(cases(NON_STATIONARY, ms=(3, 5), norm_ratios=(1.0,)), st.integers(1, 31))
def test_inactive_rows_are_as_if_dropped(one: Case, bits: int) -> None:
    active = torch.tensor([bool(bits >> i & 1) for i in range(one.m)])
    active[0] = True
    poisoned = one.gramian.clone()
    poisoned[~active] = math.nan
    poisoned[:, ~active] = math.inf
    dropped = fixed_point(one.gramian[active][:, active], alpha=2.0).weights
    weights = fixed_point(poisoned, alpha=2.0, active=active).weights
    assert (weights[~active] == 0).all()
    torch.testing.assert_close(weights[active], dropped)


def test_at_a_stationary_point_no_solution_exists() -> None:
    for family in ("strongly_stationary", "opposite", "zero_row", "full_stationary"):
        for scale in (1.0, 1e-30, 1e30):
            one = case(family, 4, scale=scale)
            result = fixed_point(one.gramian)
            assert int(result.status) == SolverStatus.DEGENERATE
            assert torch.isfinite(result.weights).all()
            assert (result.weights >= 0).all()
            assert float(result.weights.max()) > 0.0


@pytest.mark.parametrize("dtype", HIDDEN_LENGTH, ids=str)
@pytest.mark.parametrize("method", [NashMTL(), NashMTL(max_norm=1.0), FairGrad()], ids=repr)
def test_where_some_gradients_sum_to_zero_the_status_tells_and_the_direction_is_zero(
    method: NashMTL | FairGrad, dtype: torch.dtype
) -> None:
    """20 gradients in 10 dimensions. Noise was once taken for a solution, long and uphill."""
    for family in (stationary, everywhere):
        for seed in range(6):
            for k in (2, 3, 6, 10):
                rows = family(seed, k).to(dtype)
                output = method(StepStatistics(gramian=rows @ rows.T))
                assert int(output.result.status) == SolverStatus.DEGENERATE
                terms = float(output.weights @ rows.double().norm(dim=1))
                direction = rows.double().T @ output.weights
                assert float(direction.norm()) <= HIDDEN_LENGTH[dtype] * terms
                assert 0.0 < terms <= 10.0 * float(rows.norm(dim=1).max())


@pytest.mark.parametrize("method", [NashMTL(), FairGrad()], ids=repr)
def test_nearly_at_such_a_point_every_objective_falls(method: NashMTL | FairGrad) -> None:
    """The equations may end unsolved, and the status says so; the gap still proves descent."""
    statuses = set()
    for seed in range(6):
        noise = torch.randn(20, 10, generator=torch.Generator().manual_seed(seed)).double()
        rows = stationary(seed, 6) + 1e-5 * noise
        output = method(StepStatistics(gramian=rows @ rows.T))
        statuses.add(status := SolverStatus(int(output.result.status)))
        assert float(output.result.gap) < 1.0
        if status != SolverStatus.DEGENERATE:
            direction = rows.T @ output.weights
            assert float((rows @ direction).min()) > 0.0
            alpha = getattr(method, "alpha", 1.0)
            length = float((output.weights ** (1.0 - 1.0 / alpha)).sum().sqrt())
            if status == SolverStatus.CONVERGED:
                assert float(direction.norm()) == pytest.approx(length, rel=1e-3)
            else:
                assert float(direction.norm()) <= 1.001 * orthogonal_length(rows, alpha)
    assert statuses >= {SolverStatus.DEGENERATE}
    assert statuses - {SolverStatus.DEGENERATE}


def orthogonal_length(rows: torch.Tensor, alpha: float) -> float:
    """The length of the alpha-fair direction, if gradients of these norms were orthogonal."""
    squares = rows.square().sum(1)
    return float((squares * squares ** (-2.0 * alpha / (1.0 + alpha))).sum().sqrt())


@pytest.mark.parametrize("method", [NashMTL(), FairGrad()], ids=repr)
def test_float32_gradients_that_nearly_sum_to_zero_do_not_blow_the_direction_up(
    method: NashMTL | FairGrad,
) -> None:
    """In float64 their rounding is signal: FairGrad was once 79 times as long as it should be."""
    alpha, unsolved = getattr(method, "alpha", 1.0), 0
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        rows = strictly_weakly_stationary(20, 100, 19, draw).double()
        if float(rows.norm(dim=1).min()) < 1e-4:  # one row alone sums to zero
            continue
        output = method(StepStatistics(gramian=rows @ rows.T))
        status = SolverStatus(int(output.result.status))
        unsolved += status == SolverStatus.MAX_ITER
        if status != SolverStatus.CONVERGED:
            direction = rows.T @ output.weights
            assert float(direction.norm()) <= 1.001 * orthogonal_length(rows, alpha)
            assert float(output.result.gap) < 1.0
    assert unsolved


def test_too_few_steps_are_a_status() -> None:
    one = case("near_opposite", 5)
    result = fixed_point(one.gramian, max_iter=1)
    assert int(result.status) == SolverStatus.MAX_ITER
    assert float(result.gap) > 1e-6


def test_max_norm_shortens_the_direction_only() -> None:
    one = case("conflicting", 3)
    statistics = StepStatistics(gramian=one.gramian)
    plain = NashMTL()(statistics).weights
    clipped = NashMTL(max_norm=0.5)(statistics).weights
    assert float((one.jacobian.T @ clipped).norm()) == pytest.approx(0.5, rel=1e-6)
    torch.testing.assert_close(clipped / clipped.sum(), plain / plain.sum())
    assert torch.equal(NashMTL(max_norm=10.0)(statistics).weights, plain)


def test_guarantees_follow_alpha() -> None:
    assert Guarantee.SCALE_EQUIVARIANT in FairGrad(alpha=1.0).guarantees
    assert Guarantee.SCALE_EQUIVARIANT not in FairGrad(alpha=2.0).guarantees
    assert Guarantee.NON_CONFLICTING not in FairGrad(alpha=0.5).guarantees


def test_wrong_settings_name_the_remedy() -> None:
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="`alpha` of `FairGrad`"):
            FairGrad(alpha=wrong)
        with pytest.raises(ValueError, match="`alpha` of `fixed_point`"):
            fixed_point(torch.eye(2), alpha=wrong)
        with pytest.raises(ValueError, match="`max_norm` of `NashMTL`"):
            NashMTL(max_norm=wrong)
    for weighting in (NashMTL, FairGrad):
        with pytest.raises(ValueError, match=f"`tol` of `{weighting.name}`"):
            weighting(tol=1.0)
        with pytest.raises(ValueError, match=f"`max_iter` of `{weighting.name}`"):
            weighting(max_iter=0)
    with pytest.raises(ValueError, match="`tol` of `fixed_point`"):
        fixed_point(torch.eye(2), tol=0.0)
    with pytest.raises(ValueError, match="Pass the Gramian"):
        fixed_point(torch.ones(2, 3))
