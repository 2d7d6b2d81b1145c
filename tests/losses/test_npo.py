"""NPO: its references, its weight on gradient ascent, its limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moopt.losses import gradient_ascent_loss, npo_loss, token_log_probs
from tests.losses.cases import SAMPLES, Sample, value_and_gradient
from tests.losses.oracles import IGNORED


@given(sample=SAMPLES)
@settings(deadline=None, max_examples=40)
def test_precomputed_references_equal_reference_logits(sample: Sample) -> None:
    logits, labels, reference = sample.tensors()
    expected = npo_loss(logits, labels, reference_logits=reference)
    values, mask = token_log_probs(reference, labels)
    assert torch.equal(npo_loss(logits, labels, reference_log_probs=values), expected)
    unread = values.masked_fill(~mask, float("nan"))
    assert torch.equal(npo_loss(logits, labels, reference_log_probs=unread), expected)
    # A sum first and a difference then loses digits: allowed that much.
    lost = 64 * torch.finfo(expected.dtype).eps * float(values.abs().sum() + 1)
    got = npo_loss(logits, labels, reference_log_probs=values.sum(1))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=lost)


def test_precomputed_references_are_constants() -> None:
    logits, labels, reference = Sample().tensors()
    values = token_log_probs(reference, labels).values
    for given_values in (values, values.sum(1)):
        given_values.requires_grad_()
        assert not npo_loss(logits, labels, reference_log_probs=given_values).requires_grad


def test_value_at_the_reference() -> None:
    logits, labels, _ = Sample(dtype=torch.float64).tensors()
    for beta in (0.01, 0.1, 2.0):
        value = npo_loss(logits, labels, reference_logits=logits, beta=beta)
        torch.testing.assert_close(value.item(), 2 * math.log(2) / beta, rtol=1e-12, atol=0.0)


@given(seed=st.integers(0, 2**31), beta=st.sampled_from([0.05, 0.5, 3.0]))
@settings(deadline=None, max_examples=40)
def test_gradient_is_weighted_gradient_ascent(seed: int, beta: float) -> None:
    logits, labels, reference = Sample(
        shape=(1, 4, 5), dtype=torch.float64, supervised=1.0, seed=seed
    ).tensors()
    log_p, log_r = (token_log_probs(t, labels).values.sum() for t in (logits, reference))
    weight = 2 * (beta * log_p).exp() / ((beta * log_p).exp() + (beta * log_r).exp())
    _, gradient = value_and_gradient(
        lambda z: npo_loss(z, labels, reference_logits=reference, beta=beta), logits
    )
    _, ascent = value_and_gradient(
        lambda z: gradient_ascent_loss(z, labels, reduction="sum"), logits
    )
    torch.testing.assert_close(gradient, weight * ascent)


def test_mean_is_over_sequences_that_have_a_token() -> None:
    logits, labels, reference = Sample(shape=(3, 4, 5), supervised=1.0).tensors()
    labels[1] = IGNORED
    kept = [0, 2]
    torch.testing.assert_close(
        npo_loss(logits, labels, reference_logits=reference),
        npo_loss(logits[kept], labels[kept], reference_logits=reference[kept]),
    )
    nan_for_the_empty = token_log_probs(reference, labels).values.sum(1)
    nan_for_the_empty[1] = float("nan")
    value, gradient = value_and_gradient(
        lambda z: npo_loss(z, labels, reference_log_probs=nan_for_the_empty), logits
    )
    torch.testing.assert_close(value, npo_loss(logits, labels, reference_logits=reference))
    assert gradient.isfinite().all()


def test_wrong_references() -> None:
    logits, labels, _ = Sample().tensors()
    for shape in ((2, 4), (3,), (2, 3, 5)):
        with pytest.raises(ValueError, match=r"must have shape \[2, 3\], .* or \[2\]"):
            npo_loss(logits, labels, reference_log_probs=torch.zeros(shape))
    with pytest.raises(TypeError, match="`reference_log_probs` of `npo_loss` must be floating"):
        npo_loss(logits, labels, reference_log_probs=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="`beta` of `npo_loss` must be positive"):
        npo_loss(logits, labels, reference_logits=logits, beta=0.0)
