"""project_onto_dual_cone by its optimality conditions, against NNLS, and GEM's strength."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moopt.projection import (
    DualConeProjection,
    project_conflicts,
    project_onto_dual_cone,
    project_onto_dual_cone_,
)
from moopt.records.status import SolverStatus
from moopt.solvers import SolverResult
from tests.cases import Case, all_cases, case
from tests.projection.gradients import KINDS, ROUNDING, every_case, flat, gradients_of


def check_dual_cone(project: Callable[..., DualConeProjection], one: Case, kind: str) -> None:
    """KKT: d = g + sum v_j a_j, v >= 0, a_j . d >= 0, v_j (a_j . d) = 0."""
    first, *others = gradients_of(one, kind)
    projected = project(first, *others)
    vector, weights = flat(projected.gradient), projected.result.weights
    assert torch.equal(flat(first), one.jacobian[0])
    status = int(projected.result.status)
    if status == SolverStatus.DEGENERATE:
        assert not vector.any()
        return
    assert status == SolverStatus.CONVERGED
    assert weights[0] == 1.0
    assert bool((weights >= 0).all())
    size = float((weights * one.norms).sum())
    slack = ROUNDING[one.dtype] * size
    assert float((vector - one.jacobian.T @ weights).norm()) <= slack
    slopes = (one.jacobian[1:] @ vector) / one.norms[1:].clamp_min(1e-300)
    # The solver's own tolerance, relative to the projection, and the rounding of the entries.
    slack += 1e-9 * float(vector.norm())
    assert bool((slopes >= -slack).all())
    terms = weights[1:] * one.norms[1:]
    assert bool((torch.minimum(terms, slopes.abs()) <= slack).all())


@settings(deadline=None, max_examples=150)
@given(one=every_case(), kind=st.sampled_from(KINDS))
def test_the_conditions_of_optimality_hold(one: Case, kind: str) -> None:
    check_dual_cone(project_onto_dual_cone, one, kind)


def _claimed(gradient: torch.Tensor, *others: torch.Tensor) -> DualConeProjection:
    """A planted violator: conflicts projected one after the other, and said to be the solution."""
    vector = project_conflicts(gradient, *others)
    rows = torch.stack([gradient, *others])
    weights = torch.linalg.lstsq(rows.T, vector[:, None]).solution[:, 0]
    zero = torch.zeros((), dtype=torch.int64)
    return DualConeProjection(vector, SolverResult(weights, zero, zero.double(), zero))


def test_a_planted_violator_fails() -> None:
    def on_every_case() -> None:
        for seed in range(20):
            check_dual_cone(_claimed, case("crowded", 5, seed), "tensor")

    with pytest.raises(AssertionError):
        on_every_case()


@settings(deadline=None, max_examples=40)
@given(one=every_case(ms=(2, 3, 5)), strength=st.sampled_from([0.0, 0.5, 3.0]))
def test_agrees_with_non_negative_least_squares(one: Case, strength: float) -> None:
    """min over v >= strength of ||g + A'v||, by scipy, on rows of comparable length."""
    if one.norm_ratio > 1e2 or one.dtype != torch.float64:
        return
    rows = (one.jacobian / one.norms.max().clamp_min(1e-300)).numpy()
    start = rows[0] + strength * rows[1:].sum(0)
    v, _ = scipy.optimize.nnls(rows[1:].T, -start)
    expected = start + rows[1:].T @ v
    first, *others = (torch.from_numpy(row.copy()) for row in rows)
    projected = project_onto_dual_cone(first, *others, strength=strength)
    size = float(np.abs(projected.result.weights.numpy()) @ np.linalg.norm(rows, axis=1)) + 1.0
    # nnls stops at the root of the rounding where rows nearly cancel.
    assert np.linalg.norm(projected.gradient.numpy() - expected) <= 1e-6 * size
    if int(projected.result.status) == SolverStatus.CONVERGED:
        assert bool((projected.result.weights[1:] >= strength - 1e-9).all())


def test_one_other_gradient_is_the_pairwise_projection() -> None:
    for one in all_cases(ms=(2,), norm_ratios=(1.0, 1e8)):
        if (one.norms == 0).any() or one.stationarity != "none":
            continue
        first, other = gradients_of(one, "tensor")
        cone = project_onto_dual_cone(first, other).gradient
        pairwise = project_conflicts(first, other)
        assert float((cone - pairwise).norm()) <= 1e-9 * float(one.norms[0])


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_returns_the_same_object(kind: str) -> None:
    first, *others = gradients_of(case("conflicting", 3), kind)
    expected = flat(project_onto_dual_cone(first, *others).gradient)
    assert project_onto_dual_cone_(first, *others).gradient is first
    assert torch.equal(flat(first), expected)


def test_no_direction_but_zero_is_degenerate() -> None:
    first = torch.tensor([1.0, 0.0])
    plane = [torch.tensor(row) for row in ([1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0])]
    projected = project_onto_dual_cone(first, *plane)
    assert projected.gradient.tolist() == [0.0, 0.0]
    assert int(projected.result.status) == SolverStatus.DEGENERATE


def test_overflow_is_a_status_and_visible() -> None:
    projected = project_onto_dual_cone(torch.ones(2), torch.tensor([1.0, float("nan")]))
    assert int(projected.result.status) == SolverStatus.NON_FINITE
    assert not torch.isfinite(projected.gradient).all()


def test_settings_out_of_range_name_the_remedy() -> None:
    for strength in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`strength` of `project_onto_dual_cone_`"):
            project_onto_dual_cone(torch.ones(2), torch.ones(2), strength=strength)
