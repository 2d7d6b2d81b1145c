"""The public entry: masks, batches, statuses, arguments, and the device form beside the host."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moopt import SolverStatus
from moopt.kernels.min_norm import min_norm_reference
from moopt.solvers import SolverResult, min_norm_point
from moopt.solvers.min_norm import SOLVERS
from tests.cases import all_cases, case, cases
from tests.solvers.oracles import assert_exact, assert_simplex

EXACT_SOLVERS = ("auto", "active_set", "exhaustive")


def same(ours: SolverResult, theirs: SolverResult) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0))


@pytest.mark.parametrize("solver", SOLVERS)
@settings(deadline=None, max_examples=60)
@given(case=cases(ms=(2, 3, 4, 5, 8), norm_ratios=(1.0, 1e2)), bits=st.integers(1, 255))
def test_inactive_rows_are_as_if_dropped(solver, case, bits):
    active = torch.tensor([bool(bits >> i & 1) for i in range(case.m)])
    if not active.any():
        active[0] = True
    poisoned = case.gramian.clone()
    poisoned[~active] = math.nan
    poisoned[:, ~active] = math.inf
    result = min_norm_point(poisoned, active=active, solver=solver, max_iter=60)
    dropped = min_norm_point(case.gramian[active][:, active], solver=solver, max_iter=60)
    assert torch.equal(result.weights[active], dropped.weights)
    assert bool((result.weights[~active] == 0).all())
    same(result._replace(weights=dropped.weights), dropped)


@settings(deadline=None, max_examples=60)
@given(
    case=cases(ms=(2, 3, 5), norm_ratios=(1.0, 1e2)), bits=st.integers(1, 31), pivots=st.booleans()
)
def test_inactive_rows_are_as_if_dropped_on_a_device(case, bits, pivots):
    active = torch.tensor([bool(bits >> i & 1) for i in range(case.m)])
    poisoned = case.gramian.clone()
    if active.any():
        poisoned[~active] = math.nan
        poisoned[:, ~active] = -math.inf
    else:
        active[:] = True
    result = SolverResult(*min_norm_reference(poisoned, active, enumerate_faces=not pivots))
    assert bool((result.weights[~active] == 0).all())
    smaller = dataclasses.replace(case, jacobian=case.jacobian[active])
    if case.stationarity == "none":
        assert_exact(smaller, result._replace(weights=result.weights[active]))
    else:
        plain = min_norm_point(smaller.gramian)
        assert int(result.status) == int(plain.status)


@pytest.mark.parametrize(
    "solve", [min_norm_point, lambda g, active: SolverResult(*min_norm_reference(g, active))]
)
def test_no_active_row_means_all(solve):
    gramian = case("conflicting", 3).gramian
    none, every = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    same(solve(gramian, active=none), solve(gramian, active=every))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_a_batch_is_a_loop(solver, m):
    gramians = [c.gramian for c in itertools.islice(all_cases(ms=(m,), seeds=range(3)), 6)]
    stack = torch.stack(gramians)
    stack[1] = math.nan
    result = min_norm_point(stack, solver=solver, max_iter=50)
    loop = [min_norm_point(g, solver=solver, max_iter=50) for g in stack]
    same(result, SolverResult(*map(torch.stack, zip(*loop, strict=True))))
    folded = min_norm_point(stack.reshape(2, 3, m, m), solver=solver, max_iter=50)
    assert folded.weights.shape == (2, 3, m)
    assert folded.status.shape == folded.gap.shape == folded.num_iter.shape == (2, 3)
    same(SolverResult(*(t.flatten(0, 1) for t in folded)), result)


def test_a_batch_takes_one_mask_or_one_each():
    stack = torch.stack([case("conflicting", 4, seed).gramian for seed in range(3)])
    one = torch.tensor([True, False, True, True])
    each = torch.tensor([[True] * 4, [False] * 4, [True, False, True, False]])
    same(min_norm_point(stack, active=one), min_norm_point(stack, active=one.expand(3, 4)))
    result = min_norm_point(stack, active=each)
    for i in range(3):
        same(SolverResult(*(t[i] for t in result)), min_norm_point(stack[i], active=each[i]))


def test_an_empty_batch():
    result = min_norm_point(torch.zeros(0, 3, 3))
    assert result.weights.shape == (0, 3)
    assert result.status.shape == (0,)
    assert result.status.dtype == torch.int64


@settings(deadline=None, max_examples=60)
@given(case=cases(ms=(1, 2, 3, 5, 8, 10)), pivots=st.booleans())
def test_device_form_equals_host_form(case, pivots):
    host = min_norm_point(case.gramian)
    device = SolverResult(
        *min_norm_reference(case.gramian, enumerate_faces=not pivots and case.m < 9)
    )
    assert int(host.status) == int(device.status)
    difference = (host.weights - device.weights) @ case.jacobian
    assert float(difference.norm()) <= 1e-5 * float(case.norms.max())


@pytest.mark.parametrize("pivots", [True, False])
def test_device_form_batches(pivots):
    stack = torch.stack([c.gramian for c in all_cases(ms=(5,), norm_ratios=(1.0, 1e8))])
    stack[3, 1, 2] = math.nan
    batch = SolverResult(*min_norm_reference(stack, enumerate_faces=not pivots))
    for i in range(len(stack)):
        one = SolverResult(*min_norm_reference(stack[i], enumerate_faces=not pivots))
        assert int(batch.status[i]) == int(one.status)
        torch.testing.assert_close(batch.weights[i], one.weights, rtol=1e-12, atol=1e-15)
    assert int(batch.status[3]) == SolverStatus.NON_FINITE


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("i", "j"), [(0, 0), (0, 1), (1, 0)])
@pytest.mark.parametrize("m", [2, 3, 5])
def test_non_finite_entries(solver, value, i, j, m):
    gramian = case("aligned", m).gramian
    gramian[i, j] = value
    result = min_norm_point(gramian, solver=solver)
    assert int(result.status) == SolverStatus.NON_FINITE
    assert result.weights.tolist() == [1.0 / m] * m
    assert math.isnan(float(result.gap))
    device = SolverResult(*min_norm_reference(gramian))
    assert int(device.status) == SolverStatus.NON_FINITE
    assert device.weights.tolist() == [1.0 / m] * m
    assert math.isnan(float(device.gap))


def test_a_non_finite_entry_spreads_over_active_rows_only():
    gramian = torch.full((3, 3), math.nan)
    active = torch.tensor([True, False, True])
    assert min_norm_point(gramian, active=active).weights.tolist() == [0.5, 0.0, 0.5]
    assert min_norm_reference(gramian.double(), active)[0].tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_huge_and_tiny_finite_entries(m):
    for scale in (1e307, 1e-307):
        gramian = torch.full((m, m), 0.25 * scale, dtype=torch.float64)
        gramian.fill_diagonal_(scale)
        result = min_norm_point(gramian)
        assert int(result.status) == SolverStatus.CONVERGED
        torch.testing.assert_close(result.weights, torch.full((m,), 1 / m, dtype=torch.float64))


def test_extreme_norm_ratios_stay_silent_and_finite():
    gramian = torch.diag(torch.tensor([1e-300, 1.0, 1e300, 1e10], dtype=torch.float64))
    for solver in SOLVERS:
        result = min_norm_point(gramian, solver=solver)
        assert_simplex(result.weights)
        assert result.weights[0] == 1.0


def test_asymmetry_of_rounding_is_averaged():
    gramian = case("conflicting", 5).gramian
    skewed = gramian.clone()
    skewed[0, 1] *= 1 + 1e-15
    result, plain = min_norm_point(skewed), min_norm_point(gramian)
    torch.testing.assert_close(result.weights, plain.weights, rtol=1e-10, atol=1e-12)
    same(min_norm_point(skewed), min_norm_point(skewed.T.contiguous()))


def test_an_indefinite_matrix_still_gives_weights():
    # Not a Gramian: cosines of -0.9 between three rows. Nothing raises, the status tells.
    gramian = torch.full((4, 4), -0.9, dtype=torch.float64).fill_diagonal_(1.0)
    for solver in SOLVERS:
        result = min_norm_point(gramian, solver=solver, max_iter=30)
        assert_simplex(result.weights)
        assert int(result.status) == SolverStatus.DEGENERATE
    for faces in (True, False):
        assert int(min_norm_reference(gramian, enumerate_faces=faces)[1]) == 2


@pytest.mark.parametrize("m", [4, 12])
def test_too_few_pivots_are_reported(m):
    example = case("conflicting", m, seed=0)
    assert int(min_norm_point(example.gramian).num_iter) > 2
    host = min_norm_point(example.gramian, solver="active_set", max_iter=1)
    device = min_norm_reference(example.gramian, max_iter=1, enumerate_faces=False)
    for result in (host, SolverResult(*device)):
        assert_simplex(result.weights)
        assert int(result.status) == SolverStatus.MAX_ITER
        assert float(result.gap) > 1e-10


def test_a_limit_inside_an_exchange_keeps_the_partly_grown_row():
    # Pivots of these problems include exchanges (a row leaves before another has joined).
    for seed in range(6):
        example = case("conflicting", 12, seed=seed, norm_ratio=4.0)
        values = []
        for limit in range(1, 30):
            host = min_norm_point(example.gramian, solver="active_set", max_iter=limit)
            device = SolverResult(
                *min_norm_reference(example.gramian, max_iter=limit, enumerate_faces=False)
            )
            assert_simplex(host.weights)
            assert_simplex(device.weights)
            torch.testing.assert_close(host.weights, device.weights, rtol=1e-9, atol=1e-12)
            values.append(float(host.weights @ example.gramian @ host.weights))
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(values))


def test_the_tolerance_decides_the_status_of_inexact_solvers():
    gramian = case("conflicting", 5).gramian
    loose = min_norm_point(gramian, solver="frank_wolfe", tol=0.5)
    tight = min_norm_point(gramian, solver="frank_wolfe", tol=1e-13, max_iter=20)
    assert int(loose.status) == SolverStatus.CONVERGED
    assert float(loose.gap) <= 0.5
    assert int(tight.status) == SolverStatus.MAX_ITER


def test_the_input_is_untouched_and_the_result_owns_its_memory():
    gramian = case("conflicting", 5).gramian.requires_grad_()
    before = gramian.detach().clone()
    result = min_norm_point(gramian)
    assert not result.weights.requires_grad
    result.weights.zero_()
    result.status.add_(1)
    assert torch.equal(gramian.detach(), before)
    assert min_norm_point(gramian).weights.sum() > 0.5
    assert int(min_norm_point(gramian).status) == SolverStatus.CONVERGED


GOOD = torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("gramian", "options", "error", "remedy"),
    [
        (GOOD.tolist(), {}, TypeError, "torch.as_tensor"),
        (GOOD.long(), {}, TypeError, "torch.float64"),
        (GOOD.to(torch.complex128), {}, TypeError, "real part"),
        (GOOD[:2], {}, ValueError, "not the Jacobian"),
        (GOOD[0], {}, ValueError, "not the Jacobian"),
        (GOOD[:0, :0], {}, ValueError, "not the Jacobian"),
        (GOOD, {"solver": "simplex"}, ValueError, "Use 'auto'"),
        (GOOD, {"tol": 0.0}, ValueError, "default, 1e-10"),
        (GOOD, {"tol": math.nan}, ValueError, "default, 1e-10"),
        (GOOD, {"max_iter": 0}, ValueError, "Use None"),
        (torch.eye(11), {"solver": "exhaustive"}, ValueError, "solver='active_set'"),
        (GOOD, {"active": torch.ones(3)}, TypeError, r"active\.bool\(\)"),
        (GOOD, {"active": [True] * 3}, TypeError, "torch.tensor"),
        (GOOD, {"active": torch.ones(2, dtype=torch.bool)}, ValueError, "one boolean"),
        (GOOD, {"active": torch.ones(3, 3, dtype=torch.bool)}, ValueError, "one boolean"),
        (
            GOOD.expand(2, 3, 3),
            {"active": torch.ones(5, 3, dtype=torch.bool)},
            ValueError,
            "one boolean",
        ),
    ],
)
def test_wrong_arguments_name_their_remedy(gramian, options, error, remedy):
    with pytest.raises(error, match=remedy):
        min_norm_point(gramian, **options)


def test_a_parameter_is_a_tensor_like_any_other():
    gramian = torch.nn.Parameter(GOOD.clone())
    assert min_norm_point(gramian).weights.tolist() == pytest.approx([1 / 3] * 3)
    assert np.isfinite(min_norm_point(gramian).gap.item())


def test_settings_go_by_keyword():
    gramian = torch.eye(2, dtype=torch.float64)
    assert min_norm_point(gramian=gramian).weights.tolist() == [0.5, 0.5]
    with pytest.raises(TypeError, match="positional argument"):
        min_norm_point(gramian, "auto")
