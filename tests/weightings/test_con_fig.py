"""ConFIG: equal cosines, the length of the projections, and the package of its authors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import MGDA, ConFIG, DualSpaceMGDA
from tests.cases import Case, all_cases, case, cases

INDEPENDENT = ("aligned", "conflicting", "orthogonal", "near_opposite")

LITERAL_TOL = 1e-6
"""Relative difference from the n-sized formula: as for DualSpaceMGDA, whose pseudo-inverse of J
has a condition number up to 1e4 (near_opposite), squared in the Gramian."""

PEER_TOL = 1e-9
"""Relative difference from the authors' package and from TorchJD on well-conditioned rows."""


def direction(one: Case, weighting=None) -> Tensor:
    output = (weighting or ConFIG())(StepStatistics(gramian=one.gramian))
    return one.jacobian.T @ output.weights


def literal(one: Case) -> Tensor:
    """Equation 2: u along pinv(unit gradients) 1, and d = (sum_i g_i . u) u."""
    unit = one.jacobian / one.norms[:, None]
    u = torch.linalg.pinv(unit).sum(-1)
    u = u / u.norm()
    return (one.jacobian @ u).sum() * u


def check_identity(one: Case, d: Tensor) -> None:
    expected = literal(one)
    assert float((d - expected).norm()) <= LITERAL_TOL * float(expected.norm())


@settings(deadline=None, max_examples=40)
@given(one=cases(INDEPENDENT))
def test_equals_the_n_sized_formula(one: Case) -> None:
    d = direction(one)
    check_identity(one, d)
    cosines = one.jacobian @ d / one.norms / d.norm()
    assert float(cosines.max() - cosines.min()) <= LITERAL_TOL * float(cosines.max())


def test_another_length_or_direction_fails_the_identity() -> None:
    one = case("conflicting", 3, norm_ratio=1e2)
    for other in (DualSpaceMGDA(), DualSpaceMGDA(length="keep"), MGDA(normalize="l2")):
        with pytest.raises(AssertionError):
            check_identity(one, direction(one, other))


def test_on_dependent_rows_it_is_still_the_formula() -> None:
    """There `sum_i g_i . u` may be negative: d lowers the sum of the losses then."""
    turned = 0
    for one in all_cases(
        ms=(3, 5),
        seeds=range(10),
        norm_ratios=(1.0, 1e2),
        families=("strongly_stationary", "rank_deficient"),
    ):
        d, expected = direction(one), literal(one)
        if float(expected.norm()) < 1e-3:
            continue  # u is the rounding of a vanishing sum there
        assert float((d - expected).norm()) <= LITERAL_TOL * float(one.norms.sum())
        assert float((one.jacobian @ d).sum()) > 0
        unit = one.jacobian / one.norms[:, None]
        turned += bool((one.jacobian @ torch.linalg.pinv(unit).sum(-1)).sum() < 0)
    assert turned >= 1


@pytest.fixture
def double_precision() -> Iterator[None]:
    """The package makes its right-hand side in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("m", [1, 2, 3, 5, 10])
def test_agrees_with_the_authors_package(m: int) -> None:
    package = pytest.importorskip("conflictfree.grad_operator")
    for seed in range(5):
        for family in ("aligned", "conflicting"):
            one = case(family, m, seed, norm_ratio=1e2)
            expected = package.ConFIG_update(one.jacobian)
            difference = direction(one) - expected
            assert float(difference.norm()) <= PEER_TOL * float(expected.norm())


def test_a_masked_row_of_nan_does_not_enter_the_length() -> None:
    one = case("conflicting", 3)
    wide = torch.full((4, 4), float("nan"), dtype=torch.float64)
    wide[:3, :3] = one.gramian
    active = torch.tensor([True, True, True, False])
    weights = ConFIG()(StepStatistics(gramian=wide, active=active)).weights
    assert float(weights[3]) == 0.0
    check_identity(one, one.jacobian.T @ weights[:3])


def test_a_zero_gradient_changes_nothing() -> None:
    one = case("conflicting", 3)
    wide = torch.zeros(4, 4, dtype=torch.float64)
    wide[:3, :3] = one.gramian
    weights = ConFIG()(StepStatistics(gramian=wide)).weights
    check_identity(one, one.jacobian.T @ weights[:3])


def test_an_active_row_of_weight_zero_counts_in_the_length() -> None:
    """Its projection is as long as the others', although v is exactly zero on it."""
    gramian = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.5, 0.5, 1.0]])
    weights = ConFIG()(StepStatistics(gramian=gramian.double())).weights
    assert weights.tolist() == pytest.approx([1.5, 1.5, 0.0], abs=1e-12)


def test_wrong_settings_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="`rtol` of `ConFIG`"):
        ConFIG(rtol=-1.0)
