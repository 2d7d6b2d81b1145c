"""GradVac: the cosine it restores, the moving targets, and the traps of a target near one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import GradVac, PCGrad
from moopt.weightings.draws import random_orders
from moopt.weightings.gradvac import SMALLEST_SINE
from tests.cases import Case, case, cases

LITERAL_TOL = 1e-6
"""Relative to sum_i ||g_i||: sqrt(1 - c^2) of a cosine near one holds sqrt(eps) = 1.5e-8."""

COSINE_TOL = 1e-9
"""Of a restored cosine between well-conditioned rows."""


def targets_for(m: int, level: float = 0.3) -> Tensor:
    return torch.linspace(-level, level, m * m, dtype=torch.float64).reshape(m, m)


def step(
    gramian: Tensor, targets: Tensor, beta: float = 0.01, counter: int = 0
) -> tuple[Tensor, Tensor]:
    """Weights and next targets."""
    state = {"counter": torch.tensor(counter), "targets": targets}
    weights, next_state, _ = GradVac(beta=beta)(StepStatistics(gramian=gramian), state)
    return weights, next_state["targets"]


def literal(jacobian: Tensor, targets: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of the paper on the gradients themselves."""
    direction, next_state = torch.zeros_like(jacobian[0]), targets.clone()
    for i, others in enumerate(random_orders(0, 0, len(jacobian))):
        turned = jacobian[i].clone()
        for j in others:
            length, other = turned.norm(), jacobian[j].norm()
            cosine = float((turned / length) @ (jacobian[j] / other))
            target = float(targets[i, j])
            if cosine < target:
                sine = math.sqrt(1 - target**2)
                factor = target * math.sqrt(max(0.0, 1 - cosine**2)) - cosine * sine
                turned = turned + length * factor / (other * sine) * jacobian[j]
            next_state[i, j] = (1 - beta) * target + beta * cosine
        direction += turned
    return direction, next_state


def check_identity(one: Case, targets: Tensor, weights: Tensor) -> None:
    expected, _ = literal(one.jacobian, targets, 0.5)
    difference = one.jacobian.T @ weights - expected
    assert float(difference.norm()) <= LITERAL_TOL * float(one.norms.sum())


@settings(deadline=None, max_examples=30)
@given(one=cases(("aligned", "conflicting", "orthogonal"), ms=(2, 3, 5)))
def test_equals_the_algorithm_on_the_gradients(one: Case) -> None:
    targets = targets_for(one.m)
    weights, next_state = step(one.gramian, targets, beta=0.5)
    check_identity(one, targets, weights)
    _, expected = literal(one.jacobian, targets, 0.5)
    assert float((next_state - expected).abs().max()) <= LITERAL_TOL


def test_pcgrad_and_other_targets_fail_the_identity() -> None:
    one, targets = case("conflicting", 3), targets_for(3)
    pcgrad = PCGrad(order="given")(StepStatistics(gramian=one.gramian)).weights
    with pytest.raises(AssertionError):
        check_identity(one, targets, pcgrad)
    other, _ = step(one.gramian, targets + 0.1)
    with pytest.raises(AssertionError):
        check_identity(one, targets, other)


def test_two_gradients_reach_their_target_cosine_exactly() -> None:
    one = case("conflicting", 2, norm_ratio=1e4)
    targets = torch.tensor([[0.0, 0.4], [-1.0, 0.0]], dtype=torch.float64)
    weights, _ = step(one.gramian, targets)
    # objective 1 is content with its target of -1, so d = g_0' + g_1
    turned = one.jacobian.T @ weights - one.jacobian[1]
    cosine = float(torch.cosine_similarity(turned, one.jacobian[1], dim=0))
    assert cosine == pytest.approx(0.4, abs=COSINE_TOL)


def test_the_first_step_is_pcgrad_and_beta_zero_stays_there() -> None:
    one = case("conflicting", 5)
    statistics = StepStatistics(gramian=one.gramian)
    state, peer = None, None
    for step in range(3):
        weights, state, _ = GradVac(beta=0.0, seed=2)(statistics, state)
        expected, peer, _ = PCGrad(seed=2)(statistics, peer)
        assert torch.allclose(weights, expected, rtol=1e-9), step
    assert float(state["targets"].abs().max()) == 0.0


def test_a_target_of_one_does_not_blow_up() -> None:
    """TorchJD adds 1e-8 to the denominators there: a weight of seven thousand."""
    parallel = torch.ones(2, 2, dtype=torch.float64)
    weighting = GradVac(beta=1.0)
    state = weighting(StepStatistics(gramian=parallel)).state
    assert float(state["targets"][0, 1]) == 1.0
    orthogonal = StepStatistics(gramian=torch.eye(2, dtype=torch.float64))
    weights = weighting(orthogonal, state).weights
    assert float(weights.max()) == pytest.approx(1 + 1 / SMALLEST_SINE, rel=1e-3)
    peer = pytest.importorskip("torchjd.aggregation").GradVac(beta=1.0)
    peer(torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64))
    assert float(peer(torch.eye(2, dtype=torch.float64)).max()) > 5 / SMALLEST_SINE


def test_a_vanished_gradient_keeps_the_target() -> None:
    """Opposite gradients: after its projection g_0' is zero and has no cosine with g_2."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    targets = torch.zeros(3, 3, dtype=torch.float64)
    counter = next(n for n in range(100) if random_orders(0, n, 3)[0] == [1, 2])
    weights, next_state = step(rows @ rows.T, targets, beta=0.5, counter=counter)
    assert torch.isfinite(weights).all()
    assert float(next_state[0, 2]) == 0.0
    assert float(next_state[0, 1]) == -0.5


def test_absent_objectives_keep_their_targets() -> None:
    weighting = GradVac(beta=0.5)
    state = weighting(StepStatistics(gramian=case("conflicting", 3).gramian)).state
    active = torch.tensor([True, False, True])
    gramian = case("conflicting", 3, 1).gramian
    later = weighting(StepStatistics(gramian=gramian, active=active), state).state
    assert torch.equal(later["targets"][1], state["targets"][1])
    assert torch.equal(later["targets"][:, 1], state["targets"][:, 1])
    assert not torch.equal(later["targets"][0, 2], state["targets"][0, 2])


def test_targets_of_a_batch_are_those_of_a_loop() -> None:
    ones = [case("conflicting", 3, seed) for seed in range(4)]
    gramians = torch.stack([one.gramian for one in ones]).unflatten(0, (2, 2))
    targets = torch.stack([0.1 * i + targets_for(3) for i in range(4)]).clamp(-1.0, 1.0)
    weights, next_state = step(gramians, targets.unflatten(0, (2, 2)), beta=0.5)
    for i, one in enumerate(ones):
        alone, after = step(one.gramian, targets[i], beta=0.5)
        torch.testing.assert_close(weights.flatten(0, 1)[i], alone)
        torch.testing.assert_close(next_state.flatten(0, 1)[i], after)


def test_a_saved_state_resumes_the_path() -> None:
    """PEERS.md, fault 7: a state that its own library refuses."""
    steps = [StepStatistics(gramian=case("conflicting", 4, seed).gramian) for seed in range(6)]
    weighting, state, path, states = GradVac(beta=0.3), None, [], []
    for statistics in steps:
        weights, state, _ = weighting(statistics, state)
        path.append(weights)
        states.append({key: value.clone() for key, value in state.items()})
    resumed = weighting(steps[4], states[3])
    assert torch.equal(resumed.weights, path[4])
    broken = {**states[3], "targets": torch.zeros(4, 4, dtype=torch.float64)}
    assert not torch.equal(weighting(steps[4], broken).weights, path[4])


def test_wrong_settings_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="`beta` of `GradVac`"):
        GradVac(beta=1.5)
