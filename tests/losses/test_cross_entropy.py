"""TokenCrossEntropyLoss and GradientAscentLoss against torch's own cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from moopt.losses import gradient_ascent_loss, token_cross_entropy_loss
from tests.losses.cases import SAMPLES, Sample, value_and_gradient


def torch_cross_entropy(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    wide = logits[:, :-1].to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    return F.cross_entropy(wide.flatten(0, 1), labels[:, 1:].flatten(), reduction=reduction)


@given(sample=SAMPLES.filter(lambda s: s.supervised > 0))
@settings(deadline=None, max_examples=60)
def test_equals_torch(sample: Sample) -> None:
    logits, labels, _ = sample.tensors()
    labels[0, 1] = 0  # torch gives NaN for a batch without a supervised token
    for reduction in ("mean", "sum"):
        expected = value_and_gradient(torch_cross_entropy, logits, labels, reduction)
        for sign, loss in ((1, token_cross_entropy_loss), (-1, gradient_ascent_loss)):
            value, gradient = value_and_gradient(
                lambda z, y, r, loss=loss: loss(z, y, reduction=r), logits, labels, reduction
            )
            torch.testing.assert_close(value * sign, expected[0])
            torch.testing.assert_close(gradient * sign, expected[1])


@given(sample=SAMPLES)
@settings(deadline=None, max_examples=20)
def test_per_token_values_equal_torch(sample: Sample) -> None:
    logits, labels, _ = sample.tensors()
    value = token_cross_entropy_loss(logits, labels, reduction="none")
    torch.testing.assert_close(value.flatten(), torch_cross_entropy(logits, labels, "none"))
