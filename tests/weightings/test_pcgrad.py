"""PCGrad: the projections themselves, the random order, and what it does not promise."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import PCGrad, Sum
from moopt.weightings.draws import random_orders
from tests.cases import Case, case, cases

LITERAL_TOL = 1e-9
"""Difference from the projections of the n-sized gradients, relative to sum_i ||g_i||; each of up
to 9 projections rounds a unit vector by a few eps, and the Gramian's own rounding is 1e-15."""

FREQUENCY_BOUND = 5.0
"""In standard deviations of a binomial count; the seeds are fixed."""


Orders = list[list[int]]


def index_order(m: int) -> Orders:
    return [[j for j in range(m) if j != i] for i in range(m)]


def in_index_order(gramian: Tensor) -> Tensor:
    return PCGrad(order="given")(StepStatistics(gramian=gramian)).weights


def literal(jacobian: Tensor, order: Orders) -> Tensor:
    """Algorithm 1 of the paper on the gradients themselves."""
    direction = torch.zeros_like(jacobian[0])
    for i, others in enumerate(order):
        projected = jacobian[i].clone()
        for j in others:
            inner = projected @ jacobian[j]
            if inner < 0:
                projected -= inner / (jacobian[j] @ jacobian[j]) * jacobian[j]
        direction += projected
    return direction


def check_identity(one: Case, order: Orders, weights: Tensor) -> None:
    difference = one.jacobian.T @ weights - literal(one.jacobian, order)
    assert float(difference.norm()) <= LITERAL_TOL * float(one.norms.sum())


@settings(deadline=None, max_examples=40)
@given(one=cases(scales=(1.0, 1e-8, 1e8), norm_ratios=(1.0, 1e4)))
def test_equals_the_projections_of_the_gradients(one: Case) -> None:
    check_identity(one, index_order(one.m), in_index_order(one.gramian))
    state = {"counter": torch.tensor(5)}
    weights = PCGrad(seed=3)(StepStatistics(gramian=one.gramian), state).weights
    # A gradient that is zero meets none.
    live = [i for i in range(one.m) if float(one.norms[i]) > 0.0]
    order: Orders = [[] for _ in range(one.m)]
    for i, others in zip(live, random_orders(3, 5, len(live)), strict=True):
        order[i] = [live[j] for j in others]
    check_identity(one, order, weights)


def test_the_sum_and_another_order_fail_the_identity() -> None:
    one = case("conflicting", 3)
    with pytest.raises(AssertionError):
        check_identity(one, index_order(3), Sum()(StepStatistics(gramian=one.gramian)).weights)
    backwards = [others[::-1] for others in index_order(3)]
    with pytest.raises(AssertionError):
        check_identity(one, backwards, in_index_order(one.gramian))


def test_without_conflict_it_is_the_sum() -> None:
    for family in ("aligned", "orthogonal"):
        one = case(family, 5)
        weights = PCGrad()(StepStatistics(gramian=one.gramian)).weights
        assert torch.allclose(weights, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-14)


def test_two_objectives_never_conflict_with_the_direction_but_three_may() -> None:
    for seed in range(20):
        one = case("near_opposite", 2, seed, norm_ratio=1e2)
        weights = PCGrad()(StepStatistics(gramian=one.gramian)).weights
        assert bool((one.gramian @ weights > 0).all())
    broken = [
        bool((one.gramian @ PCGrad()(StepStatistics(gramian=one.gramian)).weights < 0).any())
        for one in (case("crowded", 3, seed) for seed in range(20))
    ]
    assert any(broken)
    assert not PCGrad().claims_common_descent


def test_tiny_gradients_are_projected_all_the_same() -> None:
    """At a norm of 1e-30 an absolute tolerance would see no conflict."""
    one = case("conflicting", 3, scale=1e-30, norm_ratio=1e8)
    check_identity(one, index_order(3), in_index_order(one.gramian))
    assert float(in_index_order(one.gramian).max()) > 1.5


def test_every_order_is_equally_likely() -> None:
    draws = 3000
    counts: Counter[tuple[int, ...]] = Counter()
    for counter in range(draws):
        for i, row in enumerate(random_orders(0, counter, 4)):
            counts[(i, *row)] += 1
    assert len(counts) == 4 * 6
    expected = draws / 6
    deviation = (draws * (1 / 6) * (5 / 6)) ** 0.5
    assert all(abs(n - expected) <= FREQUENCY_BOUND * deviation for n in counts.values())


def test_masking_equals_dropping() -> None:
    active, kept = torch.tensor([True, False, True, True, False]), [0, 2, 3]
    gramian = case("crowded", 5).gramian
    for counter in range(20):
        state = {"counter": torch.tensor(counter)}
        masked = PCGrad()(StepStatistics(gramian=gramian, active=active), state).weights
        dropped = PCGrad()(StepStatistics(gramian=gramian[kept][:, kept]), state).weights
        assert torch.equal(masked[kept], dropped)


def test_the_counter_is_the_whole_state() -> None:
    """PEERS.md, fault 7: a state that its own library refuses. Here: saved, loaded, the same."""
    statistics = StepStatistics(gramian=case("conflicting", 5).gramian)
    weighting, state = PCGrad(), None
    path = []
    for _ in range(6):
        weights, state, _ = weighting(statistics, state)
        path.append(weights)
    assert int(state["counter"]) == 6
    assert not torch.equal(path[0], path[1])
    resumed = weighting(statistics, {"counter": torch.tensor(4)})
    assert torch.equal(resumed.weights, path[4])
    other = PCGrad(seed=1)(statistics).weights
    assert not torch.equal(other, path[0])
    assert PCGrad(order="given")(statistics).state == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_entry_gives_uniform_weights_and_no_draw(value: float) -> None:
    gramian = torch.eye(3, dtype=torch.float64)
    gramian[0, 1] = gramian[1, 0] = value
    output = PCGrad()(StepStatistics(gramian=gramian))
    assert output.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert int(output.state["counter"]) == 0


def test_wrong_settings_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="`order` of `PCGrad` must be one of"):
        PCGrad(order="sorted")
