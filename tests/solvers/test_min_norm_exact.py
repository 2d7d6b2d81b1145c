"""Exactness of every exact solver, judged by rational arithmetic from the Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import moopt.solvers.exchanged_faces as exchange_module
from moopt import SolverStatus
from moopt.kernels.min_norm import min_norm_reference
from moopt.solvers import SolverResult, min_norm_point
from moopt.solvers.active_set import EXCHANGE_FROM
from moopt.solvers.equilibrated import cosines_of
from moopt.solvers.exchanged_faces import EXCHANGES
from moopt.solvers.min_norm import min_norm
from tests.cases import NORM_RATIOS, SCALES, Case, all_cases, case, cases
from tests.solvers.oracles import (
    absolute_tolerance,
    assert_exact,
    by_cvxpy,
    by_nnls,
    enumerated,
    exact_measures,
    truncated_frank_wolfe,
    uniform,
)

# Two ways to the minimum of w^T G w: each is accurate to rounding relative to max G_ii.
VALUE = 1e-13
# An interior-point method reaches about the square root of its own tolerance in x.
INTERIOR_POINT = 1e-9


def device_form(gramian: torch.Tensor, *, pivots: bool) -> SolverResult:
    return SolverResult(*min_norm_reference(gramian, enumerate_faces=not pivots))


def assert_all_exact(examples: Iterable[Case], solve: Callable) -> None:
    for example in examples:
        assert_exact(example, solve(example.gramian))


SOLVE = {
    "auto": min_norm_point,
    "active_set": lambda g: min_norm_point(g, solver="active_set"),
    "exhaustive": lambda g: min_norm_point(g, solver="exhaustive"),
    "device, faces": lambda g: device_form(g, pivots=False),
    "device, pivots": lambda g: device_form(g, pivots=True),
}


@pytest.mark.parametrize("name", SOLVE)
@settings(deadline=None, max_examples=120)
@given(case=cases(ms=(1, 2, 3, 4, 5, 8)))
def test_exact_on_every_family_scale_and_norm_ratio(name, case):
    assert_exact(case, SOLVE[name](case.gramian))


@settings(deadline=None, max_examples=300)
@given(case=cases(ms=(2, 3)))
def test_closed_forms_are_exact(case):
    assert_exact(case, min_norm_point(case.gramian))


@settings(deadline=None, max_examples=15)
@given(case=cases(ms=(10, 20, 50)))
def test_exact_for_more_objectives(case):
    assert_exact(case, min_norm_point(case.gramian))
    assert_exact(case, device_form(case.gramian, pivots=True))


@pytest.mark.parametrize("family", ["aligned", "conflicting", "crowded", "weakly_stationary"])
def test_exact_for_256_objectives(family):
    example = case(family, 256, norm_ratio=1e4)
    assert_exact(example, min_norm_point(example.gramian))


@pytest.mark.parametrize("violator", [truncated_frank_wolfe, uniform])
def test_planted_violators_fail(violator):
    with pytest.raises(AssertionError):
        assert_all_exact(all_cases(ms=(3, 5)), violator)


def test_an_absolute_tolerance_fails_at_small_scales():
    small = all_cases(ms=(3,), scales=(1e-8,), families=("aligned",))
    with pytest.raises(AssertionError):
        assert_all_exact(small, absolute_tolerance)


@settings(deadline=None, max_examples=60)
@given(case=cases(ms=(2, 3, 4, 5, 6), norm_ratios=(1.0, 1e2)))
def test_value_agrees_with_enumeration(case):
    solution = min_norm_point(case.gramian).weights
    value = float(solution @ case.gramian @ solution)
    assert abs(value - enumerated(case.gramian)) <= VALUE * float(case.gramian.diagonal().max())


@settings(deadline=None, max_examples=100)
@given(case=cases(scales=(1.0, 1e8), norm_ratios=(1.0, 1e2)))
def test_point_agrees_with_nnls(case):
    ours = min_norm_point(case.gramian).weights @ case.jacobian
    theirs = torch.from_numpy(by_nnls(case)) @ case.jacobian
    # ||x - x*||^2 is at most the gap; both stop at the rounding of squares of order max ||g||^2.
    assert float((ours - theirs).norm()) <= VALUE**0.5 * float(case.norms.max())


@settings(deadline=None, max_examples=25)
@given(case=cases(ms=(2, 3, 5, 10, 50), scales=(1.0,), norm_ratios=(1.0,)))
def test_point_agrees_with_an_interior_point_method(case):
    ours = min_norm_point(case.gramian).weights @ case.jacobian
    theirs = torch.from_numpy(by_cvxpy(case)) @ case.jacobian
    assert float(ours @ ours) <= float(theirs @ theirs) + INTERIOR_POINT
    assert float((ours - theirs).norm()) <= INTERIOR_POINT**0.5


def test_orthogonal_rows_have_the_known_solution():
    example = case("orthogonal", 5, norm_ratio=1e2)
    expected = 1.0 / example.norms.square()
    expected /= expected.sum()
    torch.testing.assert_close(min_norm_point(example.gramian).weights, expected)


@settings(deadline=None, max_examples=60)
@given(
    case=cases(ms=(2, 3, 5, 10)),
    exponent=st.integers(-60, 60),
    solver=st.sampled_from(["auto", "active_set", "pairwise"]),
)
def test_scale_equivariance_is_exact_for_powers_of_two(case, exponent, solver):
    gramian = case.gramian
    plain = min_norm_point(gramian, solver=solver, max_iter=100)
    scaled = min_norm_point(gramian * 4.0**exponent, solver=solver, max_iter=100)
    for ours, theirs in zip(plain, scaled, strict=True):
        assert torch.equal(ours, theirs)


@settings(deadline=None, max_examples=80)
@given(case=cases(norm_ratios=(1.0, 1e2, 1e4)), seed=st.integers(0, 99))
def test_permutation_equivariance_of_the_point(case, seed):
    order = torch.randperm(case.m, generator=torch.Generator().manual_seed(seed))
    plain = min_norm_point(case.gramian)
    permuted = min_norm_point(case.gramian[order][:, order])
    difference = plain.weights @ case.jacobian - permuted.weights @ case.jacobian[order]
    # Weights need not be unique (duplicates); the point is, and each one has gap <= EXACT:
    # ||x - x'||^2 <= ||x|| EXACT max ||g_i||, and both are near zero where it is degenerate.
    assert float(difference.norm()) <= 1e-5 * float(case.norms.max())
    assert int(plain.status) == int(permuted.status)


@settings(deadline=None, max_examples=60)
@given(
    case=cases(ms=(2, 3, 5), scales=(1.0,), norm_ratios=(1.0, 1e2)),
    solver=st.sampled_from(["frank_wolfe", "away_step", "pairwise"]),
    steps=st.integers(1, 6),
)
def test_the_reported_gap_is_the_true_one(case, solver, steps):
    result = min_norm_point(case.gramian, solver=solver, max_iter=steps)
    gap, squared = exact_measures(case.jacobian, result.weights)
    if int(result.status) != SolverStatus.DEGENERATE and squared >= 1e-4:
        assert float(result.gap) == pytest.approx(gap, rel=1e-9, abs=1e-11)
        assert (int(result.status) == SolverStatus.CONVERGED) == (float(result.gap) <= 1e-10)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm_ratio", NORM_RATIOS)
def test_one_objective(scale, norm_ratio):
    for name in SOLVE:
        result = SOLVE[name](torch.tensor([[scale**2]], dtype=torch.float64))
        assert result.weights.tolist() == [1.0]
        assert (int(result.status), float(result.gap)) == (SolverStatus.CONVERGED, 0.0)


@pytest.mark.parametrize("name", SOLVE)
def test_zero_rows_share_the_weight(name):
    gramian = torch.diag(torch.tensor([2.0, 0.0, 3.0, 0.0], dtype=torch.float64))
    result = SOLVE[name](gramian)
    assert result.weights.tolist() == [0.0, 0.5, 0.0, 0.5]
    assert (int(result.status), float(result.gap)) == (SolverStatus.DEGENERATE, 0.0)


def test_opposite_long_rows_beside_a_short_one_are_degenerate():
    # The weights live in the rounding of C + r r^T; only the hull of the unit rows shows them.
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.standard_normal((4, 9))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rows[2] = -rows[1]
        rows *= np.array([[1.0], [1e8], [3e7], [0.7e8]])
        gramian = torch.from_numpy(rows @ rows.T)
        for name in SOLVE:
            result = SOLVE[name](gramian)
            assert int(result.status) == SolverStatus.DEGENERATE
            assert exact_measures(torch.from_numpy(rows), result.weights)[1] <= 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_short_dtypes_are_solved_as_given(dtype, data):
    # The rounded Gramian need not be positive semi-definite; the result is still honest.
    example = data.draw(cases(ms=(2, 3, 5, 10), scales=(1.0,), norm_ratios=(1.0, 1e2)))
    gramian = example.gramian.to(dtype)
    result = min_norm_point(gramian)
    assert result.weights.dtype == result.gap.dtype == torch.float64
    assert bool((result.weights >= 0).all())
    again = min_norm_point(gramian.double())
    assert torch.equal(result.weights, again.weights)
    if int(result.status) == SolverStatus.CONVERGED:
        q = gramian.double() @ result.weights
        f = result.weights @ q
        worst = ((f - q) / (f.sqrt() * gramian.double().diagonal().sqrt())).max()
        assert float(worst) <= 1e-9


@pytest.mark.parametrize("m", [EXCHANGE_FROM, 40])
@pytest.mark.parametrize("family", ["aligned", "conflicting", "near_opposite", "duplicate"])
def test_whole_faces_are_exchanged_in_a_few_equations(family, m):
    for norm_ratio in (1.0, 1e8):
        example = case(family, m, norm_ratio=norm_ratio)
        result = min_norm_point(example.gramian)
        assert_exact(example, result)
        if family != "near_opposite":
            assert int(result.num_iter) <= EXCHANGES


def test_pivots_take_over_where_an_exchange_fails(monkeypatch):
    monkeypatch.setattr(exchange_module, "EXCHANGES", 1)
    for family in ("aligned", "conflicting", "duplicate"):
        example = case(family, 20)
        result = min_norm_point(example.gramian)
        assert_exact(example, result)
        assert int(result.num_iter) > EXCHANGES


def test_a_limit_on_pivots_holds_for_exchanges():
    result = min_norm_point(case("aligned", 40).gramian, max_iter=EXCHANGES - 1)
    # Once for the hull of the rows, and once for that of the unit rows.
    assert int(result.num_iter) == 2 * (EXCHANGES - 1)
    assert int(result.status) == SolverStatus.MAX_ITER


@pytest.mark.parametrize("m", [4, 6])
def test_enumeration_tries_every_face(m):
    one = case("conflicting", m)
    assert int(min_norm_point(one.gramian, solver="exhaustive").num_iter) == 2**m - 1
    assert int(min_norm_point(one.gramian, solver="active_set").num_iter) < 2**m - 1


@pytest.mark.parametrize("seed", range(4, 12))
def test_a_point_nearly_stationary_among_dependent_rows_is_found(seed):
    """At seed 4 pivots alone end at a point 2000 times longer than the shortest."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(20, 10, generator=generator, dtype=torch.float64)
    rows[1] = -(torch.rand(1, generator=generator, dtype=torch.float64) + 0.1) * rows[0]
    rows = rows[torch.randperm(20, generator=generator)]
    noise = torch.Generator().manual_seed(seed + 99)
    rows += 1e-6 * torch.randn(rows.shape, generator=noise, dtype=torch.float64)
    gramian = (rows @ rows.T).numpy()
    norms = np.sqrt(gramian.diagonal())
    solved = min_norm(cosines_of(gramian, norms), np.ones(20))
    unit = rows.numpy() / norms[:, None]
    assert np.linalg.norm(unit.T @ solved.weights) <= 1e-5
