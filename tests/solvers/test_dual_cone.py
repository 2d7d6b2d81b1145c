"""The projection onto the dual cone by its optimality conditions, and the kernel's two forms."""

from __future__ import annotations

import math
import warnings

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import moopt.solvers.exchanged_faces as exchange_module
from moopt import SolverStatus
from moopt.kernels.dual_cone import dual_cone_reference
from moopt.records.result import Solved
from moopt.solvers import SolverResult, dual_cone_point
from moopt.solvers.active_set import cone_active_set
from moopt.solvers.door import each_gramian
from moopt.solvers.dual_cone import dual_cone
from tests.cases import Case, all_cases, case, cases

DESCENT_TOL = 1e-9
"""g_i . d >= -DESCENT_TOL ||g_i|| ||d||: the promise of the documentation."""

ROUNDING = 64 * torch.finfo(torch.float64).eps
"""Of g_i . sum_j v_j g_j, relative to ||g_i|| sum_j |v_j| ||g_j||."""

ZERO = 1e-7
"""||d|| relative to sum_j |v_j| ||g_j|| that counts as zero; the solver itself stops at 6e-8."""

SAME = 1e-7
"""Difference of two directions relative to the length of their terms: what a Gramian can tell."""

CVXPY_TOL = 1e-6
"""Distance from clarabel's projection of a unit vector: it stops at 1e-12 on the objective."""

UNIT_SCALES = {"scales": (1.0,), "norm_ratios": (1.0, 1e2)}


def combination(
    gramian: Tensor, u: Tensor, *, active: Tensor | None = None, separate: bool, max_iter=None
) -> SolverResult:
    """The projection of the combination, or with `separate` the combination of projections."""

    def solve(cosines: np.ndarray, norms: np.ndarray, one: np.ndarray) -> Solved:
        return dual_cone(cosines, norms, one, separate=separate, max_iter=max_iter)

    return each_gramian(solve, gramian, u, active=active, zero_rows="keep")


def preference(seed: int, m: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(m, generator=generator, dtype=torch.float64) + 0.01


def length_of_terms(one: Case, weights: Tensor) -> float:
    return float((weights.abs() * one.norms).sum())


def check_optimal(one: Case, u: Tensor, result: SolverResult) -> None:
    """v >= u, g_i . d >= 0, and (v - u)_i (g_i . d) = 0: from the Jacobian alone."""
    v = result.weights
    d = one.jacobian.T @ v
    size = length_of_terms(one, v)
    assert (v >= u).all()
    if int(result.status) == SolverStatus.DEGENERATE:
        assert float(d.norm()) <= ZERO * size
        return
    assert int(result.status) == SolverStatus.CONVERGED
    slack = DESCENT_TOL * float(d.norm()) + ROUNDING * size
    norms = torch.where(one.norms > 0, one.norms, 1.0)
    products = one.jacobian @ d / norms
    assert (products >= -slack).all()
    shifts = (v - u) * one.norms
    # v - u is the rounding of v where nothing was added.
    assert (torch.minimum(shifts, products) <= slack + ROUNDING * size).all()


@settings(deadline=None, max_examples=150)
@given(cases(ms=(1, 2, 3, 5, 10, 50)), st.integers(0, 2**16))
def test_the_optimality_conditions_hold(case, seed):
    u = preference(seed, case.m)
    check_optimal(case, u, dual_cone_point(case.gramian, u))


@settings(deadline=None, max_examples=80)
@given(cases(ms=(1, 2, 3, 5, 8)), st.integers(0, 2**16), st.booleans())
def test_the_optimality_conditions_hold_on_a_device(case, seed, faces):
    u = preference(seed, case.m)
    on = torch.ones(case.m, dtype=torch.bool)
    solved = dual_cone_reference(case.gramian, u, on, separate=False, enumerate_faces=faces)
    check_optimal(case, u, SolverResult(*solved))


@pytest.mark.parametrize("seed", [0, 377])
@pytest.mark.parametrize("faces", [True, False])
def test_rounding_alone_is_no_failure_on_a_device(faces, seed):
    """A gap of 1e-10 and more that is the rounding of the terms, as on the host."""
    one = case("weakly_stationary", 5, seed=seed, norm_ratio=1e8)
    on, u = torch.ones(5, dtype=torch.bool), preference(seed, 5)
    solved = dual_cone_reference(one.gramian, u, on, separate=False, enumerate_faces=faces)
    check_optimal(one, u, SolverResult(*solved))


@pytest.mark.parametrize("planted", ["nothing", "clipped", "half way", "ridge"])
def test_a_planted_violator_fails_the_conditions(planted):
    def wrong(one: Case, u: Tensor) -> Tensor:
        right = dual_cone_point(one.gramian, u).weights
        if planted == "nothing":
            return u
        if planted == "clipped":
            return 1.001 * right
        if planted == "half way":
            return 0.5 * (u + right)
        g = one.gramian / one.gramian.trace() + 1e-4 * torch.eye(one.m, dtype=torch.float64)
        return dual_cone_point(g, u).weights

    def check_all() -> None:
        for one in all_cases(ms=(3,), norm_ratios=(1.0, 1e2)):
            u = preference(0, one.m)
            solved = dual_cone_point(one.gramian, u)
            check_optimal(one, u, solved._replace(weights=wrong(one, u)))

    with pytest.raises(AssertionError):
        check_all()


def by_cvxpy(rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    d = cvxpy.Variable(rows.shape[1])
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(d - target)), [rows @ d >= 0])
    with warnings.catch_warnings():
        # It stops short of these tolerances where rows cancel, and says so.
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return d.value


def test_agrees_with_cvxpy_which_projects_the_vector_itself():
    """The primal problem, on unit rows: no code and not even the formulation is shared."""
    for one in all_cases(ms=(2, 3, 5, 10), norm_ratios=(1.0, 1e4)):
        u = preference(1, one.m)
        target = one.jacobian.T @ u
        length = float(target.norm())
        if length == 0.0:
            continue
        norms = torch.where(one.norms > 0, one.norms, 1.0)
        expected = by_cvxpy((one.jacobian / norms[:, None]).numpy(), (target / length).numpy())
        d = one.jacobian.T @ dual_cone_point(one.gramian, u).weights / length
        assert float((d - torch.from_numpy(expected)).norm()) <= CVXPY_TOL


@settings(deadline=None, max_examples=80)
@given(cases(ms=(1, 2, 3, 5, 8, 10)), st.booleans(), st.booleans())
def test_the_forms_agree(case, separate, faces):
    u = preference(2, case.m)
    on = torch.ones(case.m, dtype=torch.bool)
    host = combination(case.gramian, u, separate=separate)
    faces = faces and case.m <= 8
    device = SolverResult(
        *dual_cone_reference(case.gramian, u, on, separate=separate, enumerate_faces=faces)
    )
    assert int(host.status) == int(device.status)
    difference = float((case.jacobian.T @ (host.weights - device.weights)).norm())
    assert difference <= SAME * length_of_terms(case, host.weights)


@settings(deadline=None, max_examples=80)
@given(cases(ms=(2, 3, 5, 10), scales=(1.0,), norm_ratios=(1.0,)), st.integers(0, 2**16))
def test_the_finite_method_agrees_with_block_pivoting(case, seed):
    """Both host methods, each by itself; the first backs the second up."""
    norms = torch.where(case.norms > 0, case.norms, 1.0)
    unit = case.jacobian / norms[:, None]
    cosines = (unit @ unit.T).numpy()
    cosines[range(case.m), range(case.m)] = 1.0
    start = preference(seed, case.m).numpy()
    shift, pivots = cone_active_set(cosines, start, 10 * case.m + 20)
    assert (shift >= 0.0).all()
    assert pivots <= 10 * case.m + 20
    y = cosines @ (start + shift)
    assert np.abs(np.minimum(shift, y)).max() <= 1e-12 * (np.abs(start).sum() + shift.sum())


def test_the_finite_method_takes_over(monkeypatch):
    monkeypatch.setattr(exchange_module, "EXCHANGES", 1)
    pivots = 0
    for one in all_cases(ms=(5, 10), seeds=range(3), norm_ratios=(1.0, 1e8)):
        u = preference(3, one.m)
        result = dual_cone_point(one.gramian, u)
        check_optimal(one, u, result)
        pivots = max(pivots, int(result.num_iter))
    assert pivots > 1


def test_too_few_pivots_are_a_status(monkeypatch):
    monkeypatch.setattr(exchange_module, "EXCHANGES", 0)
    one = case("crowded", 10)
    u = preference(0, 10)
    result = dual_cone_point(one.gramian, u, max_iter=1)
    assert int(result.status) == SolverStatus.MAX_ITER
    assert float(result.gap) > 1e-10
    assert (result.weights >= u).all()
    on = torch.ones(10, dtype=torch.bool)
    device = SolverResult(*dual_cone_reference(one.gramian, u, on, separate=False, max_iter=1))
    assert int(device.status) == SolverStatus.MAX_ITER


@settings(deadline=None, max_examples=60)
@given(cases(ms=(2, 3, 5, 8), **UNIT_SCALES), st.integers(1, 255), st.booleans())
def test_inactive_rows_are_as_if_dropped(case, bits, separate):
    active = torch.tensor([bool(bits >> i & 1) for i in range(case.m)])
    poisoned = case.gramian.clone()
    poisoned[~active] = math.nan
    poisoned[:, ~active] = math.inf
    u = preference(4, case.m)
    spoiled = torch.where(active, u, math.nan)
    kept = case.gramian[active][:, active]
    forms = [combination(poisoned, spoiled, active=active, separate=separate)]
    forms.append(SolverResult(*dual_cone_reference(poisoned, spoiled, active, separate=separate)))
    for result in forms:
        assert (result.weights[~active] == 0).all()
        if not active.any():
            assert int(result.status) == SolverStatus.DEGENERATE
            continue
        dropped = combination(kept, u[active], separate=separate)
        assert int(result.status) == int(dropped.status)
        difference = case.jacobian[active].T @ (result.weights[active] - dropped.weights)
        assert float(difference.norm()) <= SAME * length_of_terms(case, result.weights)


def test_a_batch_is_a_loop():
    gramians = torch.stack([case("crowded", 4, seed).gramian for seed in range(3)])
    gramians[1, 0, 0] = math.nan
    us = torch.stack([preference(seed, 4) for seed in range(3)])
    together = dual_cone_point(gramians, us)
    device = SolverResult(
        *dual_cone_reference(gramians, us, torch.ones(3, 4, dtype=torch.bool), separate=False)
    )
    assert together.weights.shape == (3, 4)
    assert int(together.status[1]) == int(device.status[1]) == SolverStatus.NON_FINITE
    assert together.weights[1].tolist() == device.weights[1].tolist() == [0.25] * 4
    for i in (0, 2):
        alone = dual_cone_point(gramians[i], us[i])
        assert torch.equal(together.weights[i], alone.weights)
        torch.testing.assert_close(device.weights[i], alone.weights, rtol=1e-10, atol=1e-12)
    shared = dual_cone_point(gramians[0], us)
    assert torch.equal(shared.weights[0], together.weights[0])


def test_wrong_arguments_name_the_remedy():
    eye = torch.eye(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must have shape \[..., m, m\].*Pass the Gramian"):
        dual_cone_point(torch.ones(3, 4), torch.ones(4))
    with pytest.raises(ValueError, match=r"`preference` of `dual_cone_point`.*got \[2\]"):
        dual_cone_point(eye, torch.ones(2))
    with pytest.raises(ValueError, match=r"`tol` of `dual_cone_point`.*Use the defaults"):
        dual_cone_point(eye, torch.ones(3), tol=0.0)
    with pytest.raises(ValueError, match=r"`max_iter` at least 1; got 1e-10 and 0"):
        dual_cone_point(eye, torch.ones(3), max_iter=0)


FORMS = {
    "host": lambda g, u, on, separate, n: combination(
        g, u, active=on, separate=separate, max_iter=n
    ),
    "device": lambda g, u, on, separate, n: SolverResult(
        *dual_cone_reference(g, u, on, separate=separate, max_iter=n)
    ),
}


def true_gap(one: Case, u: Tensor, v: Tensor) -> float:
    """`max_i |min(s_i, g^_i . d)| / ||d||`, from the Jacobian."""
    d = one.jacobian.T @ v
    shifts = (v - u) * one.norms
    return float((torch.minimum(shifts, one.jacobian @ d / one.norms).abs() / d.norm()).max())


@pytest.mark.parametrize("limit", [1, 2, 4, 40])
def test_the_gap_is_the_true_one(limit, monkeypatch):
    monkeypatch.setattr(exchange_module, "EXCHANGES", 0)
    for seed in range(4):
        one = case("crowded", 10, seed, norm_ratio=3.0)
        u = preference(seed, 10)
        result = dual_cone_point(one.gramian, u, max_iter=limit)
        gap = true_gap(one, u, result.weights)
        assert float(result.gap) == pytest.approx(gap, rel=1e-6, abs=1e-12)
        enough = SolverStatus.CONVERGED if gap <= 1e-10 else SolverStatus.MAX_ITER
        assert int(result.status) == enough
        assert int(result.num_iter) <= limit


def test_the_sum_of_projections_is_the_sum():
    """Of each gradient by itself, with the gap of their residuals."""
    for family in ("conflicting", "crowded", "aligned", "near_opposite"):
        for m in (2, 5, 18):
            one = case(family, m, norm_ratio=10.0)
            u = preference(5, m)
            together = combination(one.gramian, u, separate=True)
            unit = torch.eye(m, dtype=torch.float64)
            alone = [dual_cone_point(one.gramian, unit[i]).weights for i in range(m)]
            expected = sum(float(u[i]) * alone[i] for i in range(m))
            difference = one.jacobian.T @ (together.weights - expected)
            assert float(difference.norm()) <= SAME * length_of_terms(one, expected)
            assert float(together.gap) <= 1e-10
            assert int(together.status) == SolverStatus.CONVERGED


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("separate", [False, True])
def test_nothing_to_solve(form, separate):
    solve = FORMS[form]
    eye, u = torch.eye(3, dtype=torch.float64), preference(0, 3)
    on = torch.ones(3, dtype=torch.bool)
    broken = eye.clone()
    broken[0, 2] = math.inf
    result = solve(broken, u, on, separate, None)
    assert result.weights.tolist() == [1 / 3] * 3
    assert int(result.status) == SolverStatus.NON_FINITE
    assert math.isnan(float(result.gap))
    spoiled = torch.where(torch.tensor([False, True, False]), math.nan, u)
    assert int(solve(eye, spoiled, on, separate, None).status) == SolverStatus.NON_FINITE
    none = solve(eye, u, ~on, separate, None)
    assert none.weights.tolist() == [0.0] * 3
    assert (int(none.status), float(none.gap)) == (SolverStatus.DEGENERATE, 0.0)
    zeros = solve(0.0 * eye, u, on, separate, None)
    assert torch.equal(zeros.weights, u)
    assert (int(zeros.status), float(zeros.gap)) == (SolverStatus.DEGENERATE, 0.0)
    some = solve(torch.diag(torch.tensor([0.0, 1.0, 4.0]).double()), u, on, separate, None)
    torch.testing.assert_close(some.weights, u, rtol=1e-15, atol=0.0)
    assert (int(some.status), float(some.gap)) == (SolverStatus.CONVERGED, 0.0)
    inside = solve(eye, u, on, separate, None)
    assert torch.equal(inside.weights, u)
    if form == "host":
        results = (result, none, zeros, some, inside)
        assert [int(r.num_iter) for r in results] == [0] * 5


def test_the_bounds_of_the_settings():
    eye = torch.eye(3, dtype=torch.float64)
    for wrong in (torch.ones(3), torch.ones(0, 0), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="not the Jacobian"):
            dual_cone_point(wrong, torch.ones(3))
    with pytest.raises(ValueError, match="Use the defaults"):
        dual_cone_point(eye, torch.ones(3), tol=math.nan)
    assert dual_cone_point(torch.ones(1, 1), torch.ones(1)).weights.tolist() == [1.0]
    assert int(dual_cone_point(eye, torch.ones(3), tol=1e-300, max_iter=1).num_iter) == 0
    opposite = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    loose = dual_cone_point(opposite, torch.tensor([1.0, 0.0]))
    assert loose.weights.tolist() == [1.0, 0.5]
    assert int(loose.num_iter) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("separate", [False, True])
def test_what_cancels_but_for_rounding_is_degenerate(form, separate):
    """Rows in a closed ring have no common descent direction: the projection is zero."""
    for m in (3, 5):
        for scale in (1e-3, 1.0, 1e3):
            one = case("strongly_stationary", m, scale=scale)
            on = torch.ones(m, dtype=torch.bool)
            result = FORMS[form](one.gramian, preference(1, m), on, separate, None)
            assert int(result.status) == SolverStatus.DEGENERATE
            assert float(result.gap) == 0.0
