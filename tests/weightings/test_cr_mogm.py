"""CRMOGM: the recurrence, objectives that come and go, nesting, and what averaging loses."""

from __future__ import annotations

import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import FAMO
from moopt.weightings import CRMOGM, MGDA, DualSpaceMGDA, Guarantee, Mean, Sum
from tests.cases import case

AVERAGE_TOL = 1e-14
"""Rounding of a few sums of numbers up to 1."""


def steps(m: int = 3, count: int = 5) -> list[StepStatistics]:
    return [StepStatistics(gramian=case("conflicting", m, seed).gramian) for seed in range(count)]


def test_follows_the_recurrence_from_the_first_weights() -> None:
    weighting, state = CRMOGM(MGDA(), momentum=0.7), None
    expected = None
    for statistics in steps():
        new = MGDA()(statistics).weights
        expected = new if expected is None else 0.7 * expected + 0.3 * new
        output = weighting(statistics, state)
        state = output.state
        assert torch.allclose(output.weights, expected, rtol=0, atol=AVERAGE_TOL)
    assert state["num_steps"].tolist() == [5, 5, 5]


def test_an_inactive_objective_keeps_its_average() -> None:
    first, second, third = steps(count=3)
    weighting = CRMOGM(DualSpaceMGDA(), momentum=0.5)
    state = weighting(first).state
    absent = torch.tensor([True, False, True])
    output = weighting(StepStatistics(gramian=second.gramian, active=absent), state)
    assert float(output.weights[1]) == 0.0
    assert float(output.state["weights"][1]) == float(state["weights"][1])
    assert output.state["num_steps"].tolist() == [2, 1, 2]
    back = weighting(third, output.state)
    new = DualSpaceMGDA()(third).weights[1]
    expected = 0.5 * state["weights"][1] + 0.5 * new
    assert torch.allclose(back.weights[1], expected, rtol=0, atol=AVERAGE_TOL)


def test_a_late_objective_starts_with_its_first_weight() -> None:
    first, second = steps(count=2)
    weighting = CRMOGM(Sum(), momentum=0.5)
    late = torch.tensor([True, True, False])
    state = weighting(StepStatistics(gramian=first.gramian, active=late)).state
    assert weighting(second, state).weights.tolist() == [1.0, 1.0, 1.0]


def test_simplex_survives_a_changing_set_of_objectives() -> None:
    weighting, state = CRMOGM(MGDA()), None
    for i, statistics in enumerate(steps(count=6)):
        active = torch.tensor([j != i % 3 for j in range(3)])
        masked = StepStatistics(gramian=statistics.gramian, active=active)
        weights, state, _ = weighting(masked, state)
        assert (weights >= 0).all()
        assert float(weights.sum()) == pytest.approx(1.0, abs=AVERAGE_TOL)
        assert (weights[~active] == 0).all()


def test_a_non_finite_step_leaves_the_average_alone() -> None:
    first, second = steps(count=2)
    weighting = CRMOGM(MGDA(normalize="loss"))
    ones = torch.ones(3, dtype=torch.float64)
    state = weighting(StepStatistics(gramian=first.gramian, losses=ones)).state
    overflow = StepStatistics(gramian=second.gramian, losses=ones * float("inf"))
    output = weighting(overflow, state)
    assert output.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert all(torch.equal(output.state[key], state[key]) for key in state)


def test_nested_states_keep_their_own_keys() -> None:
    weighting = CRMOGM(CRMOGM(MGDA(), momentum=0.5), momentum=0.8)
    assert weighting.state_axes == {
        "weights": 1,
        "num_steps": 1,
        "weighting.weights": 1,
        "weighting.num_steps": 1,
    }
    first, second = steps(count=2)
    state = weighting(first).state
    inner = CRMOGM(MGDA(), momentum=0.5)
    inner_state = inner(first).state
    output, inner_output = weighting(second, state), inner(second, inner_state)
    for key, value in inner_output.state.items():
        assert torch.equal(output.state["weighting." + key], value)
    expected = 0.8 * state["weights"] + 0.2 * inner_output.weights
    assert torch.allclose(output.weights, expected, rtol=0, atol=AVERAGE_TOL)


def test_averaging_loses_what_compares_with_the_present_gramian() -> None:
    """With a past, common descent, stationarity and scale equivariance have counterexamples."""
    before = StepStatistics(gramian=torch.diag(torch.tensor([1.0, 1e4], dtype=torch.float64)))
    rows = torch.tensor([[1.0, 0.0], [-2.0, 0.1]], dtype=torch.float64)
    now = StepStatistics(gramian=rows @ rows.T)
    weighting = CRMOGM(MGDA())
    state = weighting(before).state
    assert (now.gramian @ weighting(now, state).weights < 0).any()
    assert (now.gramian @ MGDA()(now).weights >= 0).all()

    opposite = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    stationary = StepStatistics(gramian=opposite @ opposite.T)
    assert float((opposite.T @ weighting(stationary, state).weights).norm()) > 0.1

    lost = {Guarantee.NON_CONFLICTING, Guarantee.ZERO_AT_STATIONARITY}
    assert not weighting.guarantees & lost
    assert not weighting.claims_common_descent
    assert CRMOGM(MGDA(), momentum=0.0).guarantees == MGDA().guarantees

    l2 = CRMOGM(MGDA(normalize="l2"))
    past = l2(before).state
    factors = torch.tensor([1.0, 100.0], dtype=torch.float64)
    scaled = StepStatistics(gramian=now.gramian * factors[:, None] * factors)
    one = rows.T @ l2(now, past).weights
    other = (rows * factors[:, None]).T @ l2(scaled, past).weights
    assert float(torch.cosine_similarity(one, other, dim=0)) < 0.9
    assert Guarantee.SCALE_EQUIVARIANT not in l2.guarantees


def test_needs_and_errors() -> None:
    assert CRMOGM(MGDA(normalize="loss")).needs == {"losses"}
    assert CRMOGM().weighting == MGDA()
    assert CRMOGM(Mean()).guarantees == Mean().guarantees
    with pytest.raises(TypeError, match="must be a moopt weighting"):
        CRMOGM(MGDA)
    with pytest.raises(ValueError, match="`momentum` of `CRMOGM`"):
        CRMOGM(momentum=1.0)


def test_a_solver_that_fails_on_a_finite_gramian_leaves_the_averages_alone() -> None:
    method = CRMOGM(MGDA(normalize="loss"))
    gramian = torch.eye(2, dtype=torch.float64)
    given = StepStatistics(gramian=gramian, losses=torch.tensor([1.0, 2.0], dtype=torch.float64))
    _, state, _ = method(given)
    broken = StepStatistics(gramian=gramian, losses=torch.tensor([1.0, torch.nan]).double())
    output = method(broken, state)
    assert output.weights.tolist() == [0.5, 0.5]
    assert all(torch.equal(output.state[key], state[key]) for key in state)


def test_a_method_that_observes_keeps_doing_so() -> None:
    """FAMO learns from the losses after the step, inside as by itself."""
    losses = torch.tensor([1.0, 2.0], dtype=torch.float64)
    statistics = StepStatistics(
        gramian=torch.eye(2, dtype=torch.float64), losses=losses, names=("a", "b")
    )
    inner, outer = FAMO(), CRMOGM(FAMO(), momentum=0.5)
    state, nested = inner(statistics).state, outer(statistics).state
    for factor in (0.5, 0.9):
        after = losses * torch.tensor([factor, 1.0])
        state = inner.observe(state, after, names=("a", "b"))
        nested = outer.observe(nested, after, names=("a", "b"))
        weights, state, _ = inner(statistics, state)
        _, nested, _ = outer(statistics, nested)
    kept = {key: value for key, value in nested.items() if key.endswith(tuple(state))}
    assert len(kept) >= len(state)
    for key, value in state.items():
        assert any(torch.equal(value, other) for other in kept.values()), key
    assert float((weights - 0.5).abs().max()) > 1e-6
