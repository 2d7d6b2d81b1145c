"""The projection onto the simplex by its optimality conditions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.solvers import simplex_projection

ROUNDING = 1e-14
"""Of a sum of up to 50 numbers, relative to the spread of the active entries."""


def drawn(seed: int, m: int, scale: float, shift: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(m, generator=generator, dtype=torch.float64) + shift


def check_optimal(vector: Tensor, weights: Tensor) -> None:
    """On the simplex, and `vector - weights` is one constant theta on the support, less off it."""
    slack = ROUNDING * len(vector) * (1.0 + float(vector.abs().max()))
    assert (weights >= 0).all()
    assert abs(float(weights.sum()) - 1.0) <= ROUNDING * len(vector)
    theta = (vector - weights)[weights > 0]
    assert float(theta.max() - theta.min()) <= slack
    assert (vector[weights == 0] <= float(theta.min()) + slack).all()


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2**16),
    st.sampled_from([1, 2, 3, 10, 50]),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from([0.0, 5.0, -1e3]),
)
def test_the_optimality_conditions_hold(seed: int, m: int, scale: float, shift: float) -> None:
    vector = drawn(seed, m, scale, shift)
    check_optimal(vector, simplex_projection(vector))


def test_clip_and_rescale_is_not_the_projection() -> None:
    vector = torch.tensor([2.0, 1.5, -1.0], dtype=torch.float64)
    clipped = vector.clamp_min(0.0)
    with pytest.raises(AssertionError):
        check_optimal(vector, clipped / clipped.sum())


def test_inactive_entries_are_as_if_dropped() -> None:
    vector = drawn(3, 6, 1.0, 0.0)
    active = torch.tensor([True, False, True, True, False, True])
    poisoned = torch.where(active, vector, float("nan"))
    weights = simplex_projection(poisoned, active=active)
    assert torch.equal(weights[~active], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(weights[active], simplex_projection(vector[active]))
    assert (simplex_projection(vector, active=torch.zeros(6, dtype=torch.bool)) == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_entries_give_uniform_weights(value: float) -> None:
    vector = torch.tensor([1.0, value, 3.0])
    active = torch.tensor([True, True, False])
    assert simplex_projection(vector, active=active).tolist() == [0.5, 0.5, 0.0]


def test_a_batch_is_a_loop_at_every_size() -> None:
    for scale in (1e-30, 1.0, 1e30, 1e300):
        stack = torch.stack([drawn(seed, 5, scale, 0.0) for seed in range(4)])
        together = simplex_projection(stack)
        for one, weights in zip(stack, together, strict=True):
            assert torch.equal(simplex_projection(one), weights)
            assert abs(float(weights.sum()) - 1.0) <= 5 * ROUNDING
