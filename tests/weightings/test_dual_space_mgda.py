"""DualSpaceMGDA against the literal formulas on n-dimensional gradients; dependent gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.weightings import MGDA, DualSpaceMGDA, Guarantee
from tests.cases import Case, all_cases, case, cases

VARIANTS = ("dual_basis", "unit_dual", "projected")

INDEPENDENT = ("aligned", "conflicting", "orthogonal", "near_opposite")

LITERAL_TOL = 1e-6
"""Relative difference from the n-sized formula, whose pseudo-inverse of J has condition number up
to 1e4 (near_opposite) and so an error of 1e-12, squared in the Gramian: 1e-8."""


def direction(one: Case, **settings_) -> Tensor:
    output = DualSpaceMGDA(**settings_)(StepStatistics(gramian=one.gramian))
    return one.jacobian.T @ output.weights


def literal(jacobian: np.ndarray, variant: str) -> np.ndarray:
    """The mean over i, from the dual basis computed with numpy's pinv of the unit gradients."""
    norms = np.linalg.norm(jacobian, axis=1)
    unit = jacobian / norms[:, None]
    dual = np.linalg.pinv(unit).T
    if variant == "dual_basis":
        return dual.mean(0)
    if variant == "unit_dual":
        return (dual / np.linalg.norm(dual, axis=1, keepdims=True)).mean(0)
    projected = []
    for i, g in enumerate(jacobian):
        others = np.delete(unit, i, 0)
        projected.append(g - others.T @ np.linalg.lstsq(others.T, g, rcond=None)[0])
    return np.mean(projected, 0)


def check_close(actual: Tensor, expected: Tensor, tol: float) -> None:
    assert float((actual - expected).norm()) <= tol * float(expected.norm())


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=40)
@given(one=cases(INDEPENDENT, norm_ratios=(1.0, 1e2), scales=(1.0, 1e-8)))
def test_equals_the_literal_formula(variant: str, one: Case) -> None:
    expected = torch.from_numpy(literal(one.jacobian.numpy(), variant))
    actual = direction(one, variant=variant, length="keep")
    check_close(actual, expected, LITERAL_TOL)
    # and rescaled: the same direction with the length of the mean gradient
    target = float(one.jacobian.mean(0).norm())
    rescaled = direction(one, variant=variant)
    check_close(rescaled, expected * (target / float(expected.norm())), LITERAL_TOL)


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_variant_fails_the_literal_formula(variant: str) -> None:
    one = case("conflicting", 3, norm_ratio=1e2)
    other = VARIANTS[(VARIANTS.index(variant) + 1) % 3]
    expected = torch.from_numpy(literal(one.jacobian.numpy(), other))
    with pytest.raises(AssertionError):
        check_close(direction(one, variant=variant, length="keep"), expected, LITERAL_TOL)


def check_equal_cosines(one: Case, d: Tensor) -> None:
    cosines = one.jacobian @ d / one.norms / d.norm()
    assert float(cosines.max() - cosines.min()) <= LITERAL_TOL * float(cosines.max())


@settings(deadline=None, max_examples=40)
@given(one=cases(INDEPENDENT))
def test_dual_basis_has_equal_cosines_with_every_gradient(one: Case) -> None:
    check_equal_cosines(one, direction(one))


def test_the_mean_fails_equal_cosines() -> None:
    one = case("conflicting", 3)
    with pytest.raises(AssertionError):
        check_equal_cosines(one, one.jacobian.mean(0))


@settings(deadline=None, max_examples=40)
@given(one=cases(INDEPENDENT, scales=(1.0,), norm_ratios=(1.0, 1e2)))
def test_dual_basis_is_the_direction_of_config(one: Case) -> None:
    """ConFIG: d = (sum_i g_i . u) u with u the unit vector along pinv(unit gradients) 1."""
    unit = one.jacobian / one.norms[:, None]
    u = torch.from_numpy(np.linalg.pinv(unit.numpy())).sum(-1)
    u = u / u.norm()
    config = (one.jacobian @ u).sum() * u
    d = direction(one)
    check_close(d / d.norm(), config / config.norm(), LITERAL_TOL)


def test_dual_basis_equals_l2_mgda_where_its_weights_are_interior() -> None:
    interior = 0
    for one in all_cases(
        ms=(2, 3, 5), seeds=range(10), norm_ratios=(1.0, 1e4), families=INDEPENDENT
    ):
        statistics = StepStatistics(gramian=one.gramian)
        l2 = MGDA(normalize="l2")(statistics).weights
        if (l2 <= 1e-9 * l2.max()).any():
            continue
        interior += 1
        d, expected = direction(one), one.jacobian.T @ l2
        check_close(d / d.norm(), expected / expected.norm(), LITERAL_TOL)
    assert interior >= 20


def test_near_parallel_gradients_keep_the_cosine_of_dual_basis_only() -> None:
    """METHODS: KL and retain gradients nearly agree; the reason for the default."""
    smallest = {}
    for variant in VARIANTS:
        rows = torch.tensor([[1.0, 0.5, 0, 0], [-0.3, 1, 0, 0], [-0.3, 1, 1e-3, 0]])
        rows = rows.to(torch.float64)
        weights = DualSpaceMGDA(variant=variant)(StepStatistics(gramian=rows @ rows.T)).weights
        d = rows.T @ weights
        smallest[variant] = float((rows @ d / rows.norm(dim=1) / d.norm()).min())
    assert smallest["dual_basis"] > 0.5
    assert 0 < smallest["unit_dual"] < 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_small_gradients_are_not_cut_off(variant: str) -> None:
    """A cut-off on the Gramian itself would drop the row at 1e-8 of the others."""
    rows = torch.diag(torch.tensor([1.0, 1.0, 1e-8], dtype=torch.float64))
    output = DualSpaceMGDA(variant=variant)(StepStatistics(gramian=rows @ rows.T))
    assert (rows @ (rows.T @ output.weights) > 0).all()
    assert int(output.result.status) == SolverStatus.CONVERGED


def test_statuses_tell_what_happened() -> None:
    def status(rows) -> int:
        rows = torch.tensor(rows, dtype=torch.float64)
        output = DualSpaceMGDA()(StepStatistics(gramian=rows @ rows.T))
        assert torch.isfinite(output.weights).all()
        return int(output.result.status)

    assert status([[1.0, 0.0], [0.0, 2.0]]) == SolverStatus.CONVERGED
    assert status([[1.0, 0.0], [1.0, 0.0]]) == SolverStatus.CONVERGED  # duplicates agree
    assert status([[1.0, 0.0], [-3.0, 0.0]]) == SolverStatus.DEGENERATE
    assert status([[1.0, 0.0], [0.0, 1.0], [1.0, 3.0]]) == SolverStatus.RANK_DEFICIENT
    assert status([[0.0, 0.0], [0.0, 0.0]]) == SolverStatus.DEGENERATE
    assert status([[0.0, 0.0], [0.0, 1.0]]) == SolverStatus.CONVERGED  # a zero row is inactive


def test_duplicates_share_the_weight_of_the_single_row() -> None:
    rows = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]], dtype=torch.float64)
    weights = DualSpaceMGDA()(StepStatistics(gramian=rows @ rows.T)).weights
    assert torch.allclose(rows.T @ weights, rows[0], rtol=1e-12)


def test_the_cut_off_is_a_setting() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 1e-2]], dtype=torch.float64)
    statistics = StepStatistics(gramian=rows @ rows.T)
    fine = DualSpaceMGDA()(statistics)
    coarse = DualSpaceMGDA(rtol=1e-3)(statistics)
    d = rows.T @ fine.weights
    assert float((rows @ d / rows.norm(dim=1)).diff().abs()) < 1e-9
    assert float(coarse.weights.diff().abs()) < 1e-3 < float(fine.weights.abs().max())


def test_wrong_settings_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="`variant` of `DualSpaceMGDA` must be one of"):
        DualSpaceMGDA(variant="dual")
    with pytest.raises(ValueError, match="`length` of `DualSpaceMGDA` must be one of"):
        DualSpaceMGDA(length="unit")
    with pytest.raises(ValueError, match="`rtol` of `DualSpaceMGDA`"):
        DualSpaceMGDA(rtol=1.0)


def test_it_claims_common_descent_for_independent_gradients_only() -> None:
    guarantees = DualSpaceMGDA().guarantees
    assert Guarantee.NON_CONFLICTING_IF_INDEPENDENT in guarantees
    assert Guarantee.NON_CONFLICTING not in guarantees
    assert DualSpaceMGDA().claims_common_descent
