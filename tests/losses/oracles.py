"""The literal formulas in float64, one token at a time: what every loss must agree with.

Written from the papers' definitions, with nothing of moopt: plain loops over sequences and tokens,
the shift spelled out at each token.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100


def log_softmax(row: Tensor) -> Tensor:
    shifted = row.double() - row.double().max()
    return shifted - shifted.exp().sum().log()


def supervised(labels: Tensor) -> list[list[int]]:
    """For each sequence, the positions t >= 1 whose label counts."""
    return [
        [t for t in range(1, labels.shape[1]) if labels[b, t] != IGNORED]
        for b in range(labels.shape[0])
    ]


def label_log_probs(logits: Tensor, labels: Tensor) -> list[list[Tensor]]:
    """log p of each supervised token: the logits at t - 1 predict the label at t."""
    return [
        [log_softmax(logits[b, t - 1])[labels[b, t]] for t in positions]
        for b, positions in enumerate(supervised(labels))
    ]


def mean(values: list[Tensor], like: Tensor) -> Tensor:
    if not values:
        return (like.double() * 0).sum()  # zero, and connected to the logits
    return torch.stack(values).mean()


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def cross_entropy(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    return mean([-lp for row in label_log_probs(logits, labels) for lp in row], logits)


def gradient_ascent(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    return -cross_entropy(logits, labels, reference)


def unlearning_cross_entropy(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    log_probs = [lp for row in label_log_probs(logits, labels) for lp in row]
    return mean([-torch.log(1 - lp.exp() / 2) for lp in log_probs], logits)


def npo(logits: Tensor, labels: Tensor, reference: Tensor, beta: float = 0.1) -> Tensor:
    pairs = zip(label_log_probs(logits, labels), label_log_probs(reference, labels), strict=True)
    ratios = [torch.stack(m).sum() - torch.stack(r).sum() for m, r in pairs if m]
    return mean([2 / beta * softplus(beta * ratio) for ratio in ratios], logits)


def simnpo(
    logits: Tensor, labels: Tensor, reference: Tensor, beta: float = 4.5, gamma: float = 0.0
) -> Tensor:
    # -log sigmoid(u) = softplus(-u) with u = beta * nll / |A| - gamma
    sequences = [
        -torch.stack(row).sum() / len(row) for row in label_log_probs(logits, labels) if row
    ]
    return mean([2 / beta * softplus(-(beta * nll - gamma)) for nll in sequences], logits)


def kl(logits: Tensor, labels: Tensor, reference: Tensor, reverse: bool = False) -> Tensor:
    divergences = []
    for b, positions in enumerate(supervised(labels)):
        for t in positions:
            first, second = log_softmax(reference[b, t - 1]), log_softmax(logits[b, t - 1])
            if reverse:
                first, second = second, first
            terms = first.exp() * (first - second)
            divergences.append(terms.where(first.exp() > 0, 0.0).sum())
    return mean(divergences, logits)
