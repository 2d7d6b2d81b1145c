"""ReferenceKLLoss against torch's kl_div; its zero; its two directions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from moopt.losses import ReferenceKLLoss, reference_kl_loss
from tests.losses.cases import DTYPES, SAMPLES, Sample, value_and_gradient
from tests.losses.oracles import IGNORED


@given(sample=SAMPLES.filter(lambda s: s.supervised > 0 and s.scale <= 10))
@settings(deadline=None, max_examples=60)
def test_equals_torch_on_supervised_tokens(sample: Sample) -> None:
    logits, labels, reference = sample.tensors()
    labels[0, 1] = 0
    mask = labels[:, 1:] != IGNORED
    internal = torch.float64 if sample.dtype == torch.float64 else torch.float32
    log_p, log_r = (t[:, :-1].to(internal).log_softmax(-1)[mask] for t in (logits, reference))
    for direction, pair in (("forward", (log_p, log_r)), ("reverse", (log_r, log_p))):
        expected = F.kl_div(*pair, log_target=True, reduction="batchmean")
        value = reference_kl_loss(logits, labels, reference_logits=reference, direction=direction)
        torch.testing.assert_close(value, expected.clamp_min(0), rtol=1e-4, atol=1e-5)


@given(sample=SAMPLES)
@settings(deadline=None, max_examples=40)
def test_log_probabilities_stand_for_logits(sample: Sample) -> None:
    logits, labels, reference = sample.tensors()
    wide = reference.double().log_softmax(-1)
    for direction in ("forward", "reverse"):
        expected = reference_kl_loss(
            logits, labels, reference_logits=reference, direction=direction
        )
        value = reference_kl_loss(logits, labels, reference_log_probs=wide, direction=direction)
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)


@given(sample=SAMPLES)
@settings(deadline=None, max_examples=40)
def test_never_negative(sample: Sample) -> None:
    logits, labels, reference = sample.tensors()
    near = logits + 1e-4 * reference.clamp(-1, 1)
    for direction in ("forward", "reverse"):
        values = reference_kl_loss(
            logits, labels, reference_logits=near, direction=direction, reduction="none"
        )
        assert (values >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_exactly_zero_at_the_reference(dtype: torch.dtype, direction: str) -> None:
    logits, labels, _ = Sample(dtype=dtype, shape=(3, 5, 300)).tensors()
    value, gradient = value_and_gradient(
        lambda z: reference_kl_loss(z, labels, reference_logits=logits, direction=direction), logits
    )
    assert value == 0
    assert (gradient == 0).all()


def test_truncated_reference_is_normalised() -> None:
    # The top 2 of 3 tokens, as log-probabilities that sum to 0.8.
    reference = torch.tensor([[[0.6, 0.2, 0.0]] * 2]).log()
    logits = torch.tensor([[[0.75, 0.25, 1e-3]] * 2]).log()
    labels = torch.tensor([[0, 0]])
    value, gradient = value_and_gradient(
        lambda z: reference_kl_loss(z, labels, reference_log_probs=reference), logits
    )
    torch.testing.assert_close(value.item(), 9.995e-4, rtol=1e-3, atol=0.0)  # log 1.001
    assert gradient.isfinite().all()


def test_a_forbidden_token_gives_a_large_finite_loss() -> None:
    forbidden = torch.tensor([[[0.0, 0.0, -float("inf")]] * 2])
    allowed = torch.zeros(1, 2, 3)
    labels = torch.tensor([[0, 0]])
    value, gradient = value_and_gradient(
        lambda z: reference_kl_loss(z, labels, reference_logits=allowed), forbidden
    )
    assert value.isfinite()
    assert value > 1e37
    assert gradient.isfinite().all()


def test_wrong_arguments() -> None:
    logits, labels, _ = Sample().tensors()
    with pytest.raises(ValueError, match=r"must be 'forward', .*; got 'both'"):
        ReferenceKLLoss(direction="both")
    with pytest.raises(ValueError, match="`direction` of `reference_kl_loss`"):
        reference_kl_loss(logits, labels, reference_logits=logits, direction="both")
    with pytest.raises(ValueError, match="`reference_log_probs` of `reference_kl_loss` must have"):
        reference_kl_loss(logits, labels, reference_log_probs=torch.zeros(2, 3))
