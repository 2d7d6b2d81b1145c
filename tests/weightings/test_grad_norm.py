"""GradNorm: one step through autograd, its fixed point, its state, objectives that come and go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import GradNorm, Sum
from moopt.weightings.grad_norm import grad_norm_step
from tests.cases import case

STEP_TOL = 1e-12
"""Rounding of one step in float64."""


def grad_norm_weights(*arrays: Tensor, **settings: float) -> Tensor:
    return torch.from_numpy(grad_norm_step(*(a.numpy() for a in arrays), **settings))


def step(norms: Tensor, losses: Tensor, weighting: GradNorm, state=None, active=None):
    gramian = torch.diag(norms.square())
    return weighting(StepStatistics(gramian=gramian, losses=losses, active=active), state)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_step_descends_the_distance_from_the_targets() -> None:
    """Autograd in log w, with the targets and the mean length as constants."""
    weights, norms = numbers(0.5, 1.0, 1.5), numbers(3.0, 0.2, 7.0)
    ratios, alpha, lr = numbers(0.1, 0.5, 0.9), 0.7, 0.01
    logarithm = weights.log().requires_grad_()
    lengths = logarithm.exp() * norms
    mean = lengths.mean().detach()
    targets = mean * (ratios / ratios.mean()) ** alpha
    distance = (lengths - targets).abs().sum() / mean
    (gradient,) = torch.autograd.grad(distance, logarithm)
    expected = (logarithm.detach() - lr * gradient).exp()
    expected = 3 * expected / expected.sum()
    actual = grad_norm_weights(weights, norms, ratios, alpha=alpha, lr=lr)
    assert torch.allclose(actual, expected, rtol=STEP_TOL, atol=0)
    without_rates = grad_norm_weights(weights, norms, ratios, alpha=0.0, lr=lr)
    assert not torch.allclose(without_rates, expected, rtol=1e-4)


def check_fixed_point(weights: Tensor, norms: Tensor, ratios: Tensor, alpha: float, tol: float):
    """w_i ||g_i|| proportional to r_i^alpha, with weights of mean one."""
    lengths = weights * norms
    targets = (ratios / ratios.mean()) ** alpha
    quotient = lengths / targets
    assert float(quotient.max() / quotient.min()) <= 1 + tol
    assert float(weights.mean()) == pytest.approx(1.0, abs=STEP_TOL)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_converges_to_its_fixed_point_at_every_scale(alpha: float, scale: float) -> None:
    norms, losses = numbers(10.0, 1.0, 0.1) * scale, numbers(1.0, 1.0, 1.0)
    weighting, state = GradNorm(alpha=alpha, lr=0.01), None
    state = step(norms, losses, weighting).state
    ratios = numbers(0.9, 0.7, 0.8)
    for _ in range(1500):
        weights, state, _ = step(norms, losses * ratios, weighting, state)
    # the sign of the distance swings by lr around the target
    check_fixed_point(weights, norms, ratios, alpha, tol=0.1)
    with pytest.raises(AssertionError):
        check_fixed_point(torch.ones(3).double(), norms, ratios, alpha, tol=0.1)
    with pytest.raises(AssertionError):
        check_fixed_point(weights, norms, ratios, alpha + 3.0, tol=0.1)


def test_the_fixed_point_stays_where_it_is() -> None:
    norms = numbers(4.0, 1.0, 0.25)
    weights = 1 / norms / (1 / norms).mean()
    assert torch.allclose(
        grad_norm_weights(weights, norms, numbers(2.0, 2.0, 2.0)), weights, rtol=STEP_TOL
    )


def test_the_first_step_is_the_sum_and_slow_objectives_gain() -> None:
    one = case("aligned", 3)
    statistics = StepStatistics(gramian=one.gramian, losses=numbers(3.0, 3.0, 3.0))
    weighting = GradNorm()
    weights, state, _ = weighting(statistics)
    assert torch.equal(weights, Sum()(statistics).weights)
    assert state["initial_losses"].tolist() == [3.0, 3.0, 3.0]
    assert state["num_steps"].tolist() == [1, 1, 1]
    for _ in range(10):
        later = StepStatistics(gramian=one.gramian, losses=numbers(0.5, 3.0, 0.5))
        weights, state, _ = weighting(later, state)
    assert state["initial_losses"].tolist() == [3.0, 3.0, 3.0]
    assert float(weights[1]) > 1.05 > float(weights[[0, 2]].max())


def test_rates_are_relative_to_the_first_losses() -> None:
    """A loss in other units has the same rate: the path of the weights does not change."""
    norms, paths = numbers(3.0, 1.0, 2.0), []
    for units in (numbers(1.0, 1.0, 1.0), numbers(1e3, 1.0, 1e-3)):
        state = None
        for n in range(20):
            losses = units * numbers(0.9**n, 0.99**n, 0.7**n)
            weights, state, _ = step(norms, losses, GradNorm(lr=0.05), state)
        paths.append(weights)
    assert torch.allclose(paths[0], paths[1], rtol=STEP_TOL)
    assert float((paths[0] - 1).abs().max()) > 0.05


def test_weights_stay_positive_at_any_norm_ratio_and_learning_rate() -> None:
    """Plain descent in w_i would make them negative: a loss would be raised."""
    norms, losses = numbers(1e8, 1.0, 1e-8), numbers(1.0, 1.0, 1.0)
    state = None
    for _ in range(100):
        weights, state, _ = step(norms, losses, GradNorm(lr=1.0), state)
        assert torch.isfinite(weights).all()
        assert (weights > 0).all()


def test_objectives_come_and_go() -> None:
    norms, losses = numbers(5.0, 1.0, 2.0), numbers(1.0, 2.0, 3.0)
    weighting = GradNorm(lr=0.1)
    late = torch.tensor([True, True, False])
    weights, state, _ = step(norms, losses, weighting, active=late)
    assert weights.tolist() == [1.0, 1.0, 0.0]
    assert state["initial_losses"].tolist() == [1.0, 2.0, 0.0]
    assert state["weights"].tolist()[2] == 1.0
    before = state["weights"].clone()
    absent = torch.tensor([False, True, True])
    weights, state, _ = step(norms, losses, weighting, state, absent)
    assert float(weights[0]) == 0.0
    assert float(weights.sum()) == pytest.approx(2.0)
    assert float(state["weights"][0]) == float(before[0])
    assert state["initial_losses"].tolist() == [1.0, 2.0, 3.0]
    # Who has begun keeps its first loss, absent or not, and whatever the loss is by then.
    _, state, _ = step(norms, numbers(7.0, 7.0, 7.0), weighting, state, absent)
    assert state["initial_losses"].tolist() == [1.0, 2.0, 3.0]
    _, state, _ = step(norms, numbers(7.0, 7.0, 7.0), weighting, state, ~absent | late)
    _, state, _ = step(norms, losses, weighting, state, torch.tensor([True, False, True]))
    assert state["initial_losses"].tolist() == [1.0, 2.0, 3.0]
    assert state["num_steps"].tolist() == [3, 4, 3]


def test_a_saved_state_resumes_the_path() -> None:
    """PEERS.md, fault 7: a state that its own library refuses."""
    norms = numbers(5.0, 1.0, 2.0)
    weighting, state, path, states = GradNorm(lr=0.1), None, [], []
    for n in range(6):
        weights, state, _ = step(norms, numbers(1.0, 0.9**n, 0.5**n), weighting, state)
        path.append(weights)
        states.append({key: value.clone() for key, value in state.items()})
    resumed = step(norms, numbers(1.0, 0.9**4, 0.5**4), weighting, states[3])
    assert torch.equal(resumed.weights, path[4])
    assert torch.equal(
        step(norms, numbers(1.0, 0.9**5, 0.5**5), weighting, resumed.state).weights, path[5]
    )


def test_what_the_weights_lose_by_having_a_past() -> None:
    """Neither descent nor scale equivariance is claimed: counterexamples."""
    rows = torch.tensor([[1.0, 0.0], [-5.0, 0.1]], dtype=torch.float64)
    losses = numbers(1.0, 1.0)
    weights = GradNorm()(StepStatistics(gramian=rows @ rows.T, losses=losses)).weights
    assert bool((rows @ (rows.T @ weights) < 0).any())
    assert not GradNorm().claims_common_descent


def test_wrong_settings_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="`alpha` of `GradNorm` must be finite"):
        GradNorm(alpha=-1.0)
    with pytest.raises(ValueError, match="`lr` of `GradNorm` must be finite"):
        GradNorm(lr=float("inf"))
