"""stationarity: 0 exactly where zero is in the hull, 1 at agreement, blind to scales."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from moopt.solvers import stationarity
from tests.cases import Case, all_cases, case, cases

ZERO = 1e-6
"""A Gramian tells ||x|| to the square root of its rounding, 1.5e-8, times the condition."""


def check_range(measure, one: Case) -> None:
    value = float(measure(one.gramian))
    assert 0.0 <= value <= 1.0 + 1e-12
    assert (value <= ZERO) == (one.stationarity != "none")


def ours(gramian):
    return stationarity(gramian).value


@settings(deadline=None, max_examples=60)
@given(case=cases(norm_ratios=(1.0, 1e2, 1e4)))
def test_zero_exactly_at_stationary_points(case):
    check_range(ours, case)


def raw_min_norm(gramian):
    """The violator: the same measure on gradients of their own length."""
    m = gramian.shape[-1]
    return (gramian.mean() * m).clamp(0.0, 1.0).sqrt()


def test_another_measure_fails():
    def on_every_case():
        for one in all_cases():
            check_range(raw_min_norm, one)

    with pytest.raises(AssertionError):
        on_every_case()


def test_scales_do_not_matter_and_inactive_rows_neither():
    one = case("conflicting", 5)
    scale = torch.tensor([1.0, 2.0**-40, 8.0, 2.0**60, 1.0], dtype=torch.float64)
    rescaled = one.gramian * scale[:, None] * scale
    assert torch.equal(ours(one.gramian), ours(rescaled))
    active = torch.tensor([True, False, True, True, True])
    poisoned = one.gramian.clone()
    poisoned[1] = poisoned[:, 1] = float("nan")
    kept = [0, 2, 3, 4]
    dropped = stationarity(one.gramian[kept][:, kept]).value
    assert float(stationarity(poisoned, active=active).value) == pytest.approx(float(dropped))
    assert torch.isnan(stationarity(poisoned).value)


def test_agreement_is_one_and_batches_are_independent():
    same, opposite = case("all_equal", 3).gramian, case("opposite", 3).gramian
    values = stationarity(torch.stack([same, opposite])).value
    assert values.tolist() == pytest.approx([1.0, 0.0], abs=ZERO)
