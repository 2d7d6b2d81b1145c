"""UCE's range, bound, stationary points and gradient identity."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.losses import unlearning_cross_entropy_loss
from tests.losses.cases import SAMPLES, Sample, value_and_gradient

BOUND = 3 - 2 * math.sqrt(2)
WORST = 2 - math.sqrt(2)


def one_token(logits: Tensor, label: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of one token, its gradient in that token's logits, and its softmax."""
    batch = torch.stack([logits, torch.zeros_like(logits)])[None]
    labels = torch.tensor([[label, label]])
    value, gradient = value_and_gradient(unlearning_cross_entropy_loss, batch, labels)
    return value, gradient[0, 0], logits.softmax(-1)


def with_probability(p: float) -> Tensor:
    return torch.tensor([math.log(p), math.log1p(-p)], dtype=torch.float64)


@given(sample=SAMPLES)
@settings(deadline=None, max_examples=60)
def test_range(sample: Sample) -> None:
    logits, labels, _ = sample.tensors()
    values = unlearning_cross_entropy_loss(logits, labels, reduction="none")
    assert (values >= 0).all()
    assert (values.double() <= math.log(2) * (1 + torch.finfo(values.dtype).eps)).all()


@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]))
@settings(deadline=None, max_examples=100)
def test_gradient_identity_and_bound(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, generator=generator, dtype=torch.float64) * scale
    _, gradient, softmax = one_token(logits, label=3)
    p = softmax[3]
    onehot = torch.zeros(6, dtype=torch.float64)
    onehot[3] = 1
    torch.testing.assert_close(gradient, -p / (2 - p) * (softmax - onehot))
    assert abs(gradient[3]) <= BOUND * (1 + 1e-12)
    assert gradient[3] >= 0  # minimising lowers the true token's logit


def test_bound_is_reached() -> None:
    _, gradient, _ = one_token(with_probability(WORST))
    torch.testing.assert_close(gradient[0].item(), BOUND, rtol=1e-12, atol=0.0)
    for p in (WORST - 1e-3, WORST + 1e-3):
        assert abs(one_token(with_probability(p))[1][0]) < BOUND


def test_vanishes_at_both_ends() -> None:
    _, learnt_by_heart, _ = one_token(with_probability(0.999))
    torch.testing.assert_close(learnt_by_heart[0].item(), 0.999 * 0.001 / 1.001, rtol=1e-9, atol=0)
    for extreme in (-1e30, 1e30):
        value, gradient, _ = one_token(torch.tensor([extreme, 0.0]))
        assert value == torch.tensor(0.0 if extreme < 0 else math.log(2))
        assert (gradient == 0).all()


def test_small_probabilities_keep_their_digits() -> None:
    # log(1 - p/2) rounds to 0 here; log1p does not.
    for p in (1e-10, 1e-20, 1e-30):
        value, _, _ = one_token(with_probability(p).float())
        torch.testing.assert_close(value.item(), p / 2, rtol=1e-4, atol=0.0)
        assert -torch.log(1 - torch.tensor(p) / 2) == 0
