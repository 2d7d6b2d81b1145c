"""SimNPO: length normalisation, the margin's sign and scale."""

from __future__ import annotations

import math

import pytest
import torch

from moopt.losses import SimNPOLoss, npo_loss, simnpo_loss, token_log_probs
from tests.losses.cases import Sample


def test_uniform_model_by_hand() -> None:
    # nll per token is log 4 whatever the length: u = beta log 4 - gamma.
    labels = torch.tensor([[-100, 1, 2, 3], [-100, -100, -100, 3]])
    for beta, gamma in ((1.0, 0.0), (4.5, 0.0), (2.5, 1.5), (2.5, -1.5)):
        u = beta * math.log(4) - gamma
        expected = 2 / beta * math.log1p(math.exp(-u))
        values = simnpo_loss(
            torch.zeros(2, 4, 4, dtype=torch.float64),
            labels,
            beta=beta,
            gamma=gamma,
            reduction="none",
        )
        torch.testing.assert_close(values, torch.full((2,), expected, dtype=torch.float64))


def test_a_larger_margin_asks_for_more_forgetting() -> None:
    logits, labels, _ = Sample(dtype=torch.float64).tensors()
    values = [simnpo_loss(logits, labels, gamma=g).item() for g in (-2.0, 0.0, 2.0)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_one_token_sequences_are_npo_against_certainty() -> None:
    # With |A| = 1, gamma = 0 and a reference of probability 1 the two formulas coincide.
    logits, labels, _ = Sample(shape=(3, 2, 5), dtype=torch.float64, supervised=1.0).tensors()
    torch.testing.assert_close(
        simnpo_loss(logits, labels, beta=0.7),
        npo_loss(logits, labels, reference_log_probs=torch.zeros(3, dtype=torch.float64), beta=0.7),
    )
    assert token_log_probs(logits, labels).mask.all()


@pytest.mark.parametrize("gamma", [float("nan"), float("inf")])
def test_gamma_must_be_finite(gamma: float) -> None:
    with pytest.raises(ValueError, match="`gamma` of `SimNPOLoss` must be finite"):
        SimNPOLoss(gamma=gamma)
    logits, labels, _ = Sample().tensors()
    with pytest.raises(ValueError, match="`gamma` of `simnpo_loss` must be finite"):
        simnpo_loss(logits, labels, gamma=gamma)
    with pytest.raises(ValueError, match="`beta` of `simnpo_loss` must be positive"):
        simnpo_loss(logits, labels, beta=-1.0)
