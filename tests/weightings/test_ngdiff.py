"""NGDiff: equal cosines, its promises for a pair, and what is left when a role is absent."""

from __future__ import annotations

import pytest
import torch

from moopt.records.status import SolverStatus
from moopt.weightings import Guarantee, NGDiff
from tests.cases import all_cases
from tests.weightings.forgetting import IDENTITY_TOL, PAIRS, TRIPLES, check_promise, pair, weigh

PAIR = NGDiff(forget="objective 0", retain="objective 1")
NAMED = NGDiff(forget="forget", retain=["retain", "retain 2"])


def test_both_unit_gradients_have_the_same_inner_product_with_the_direction() -> None:
    for case in PAIRS:
        if (case.norms == 0).any():
            continue
        forget, retain, direction, scale = pair(case, NAMED)
        first, second = (float(g @ direction / g.norm()) for g in (forget, retain))
        assert abs(first - second) <= IDENTITY_TOL * scale
        expected = forget / forget.norm() + retain / retain.norm()
        assert float((direction - expected).norm()) <= IDENTITY_TOL * scale


def test_several_objectives_of_a_role_count_as_their_sum() -> None:
    for case in TRIPLES:
        forget, retain = case.jacobian[0], case.jacobian[1] + case.jacobian[2]
        if min(forget.norm(), retain.norm()) <= 1e-6 * case.norms.max():
            continue
        expected = forget / forget.norm() + retain / retain.norm()
        direction = case.jacobian.T @ weigh(NAMED, case.jacobian).weights
        assert float((direction - expected).norm()) <= IDENTITY_TOL


@pytest.mark.parametrize("guarantee", Guarantee, ids=lambda g: g.value)
def test_exactly_the_promises_for_a_pair_hold(guarantee: Guarantee) -> None:
    check_promise(PAIR, guarantee, PAIRS)


@pytest.mark.parametrize("guarantee", Guarantee, ids=lambda g: g.value)
def test_nothing_is_promised_beyond_a_pair(guarantee: Guarantee) -> None:
    weighting = NGDiff(forget="objective 0", retain=[f"objective {i}" for i in range(1, 5)])
    assert weighting.guarantees == frozenset()
    check_promise(weighting, guarantee, list(all_cases(ms=(5,), norm_ratios=(1.0, 1e2))))


def test_an_absent_or_vanished_role_leaves_the_other() -> None:
    jacobian = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    assert weigh(NAMED, jacobian[:1]).weights.tolist() == [0.2]
    assert weigh(NAMED, jacobian[[2, 1]]).weights.tolist() == [0.0, 0.5]
    masked = torch.tensor([False, True, True])
    assert weigh(NAMED, jacobian, active=masked).weights.tolist() == [0.0, 0.5, 0.0]
    nothing = weigh(NAMED, 0.0 * jacobian)
    assert nothing.weights.tolist() == [1 / 3] * 3
    assert int(nothing.result.status) == SolverStatus.DEGENERATE


def test_retain_gradients_that_cancel_count_as_none() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [0.3, 0.1], [-0.3, -0.1]], dtype=torch.float64)
    assert weigh(NAMED, jacobian).weights.tolist() == [1.0, 0.0, 0.0]
