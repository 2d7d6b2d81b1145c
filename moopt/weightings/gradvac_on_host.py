"""gradvac_on_host: GradVac of one small Gramian in plain Python, for speed."""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

from moopt.weightings.random_order import random_order_on_host
from moopt.weightings.unit_rows import unit_rows_on_host


def gradvac_on_host(
    gramian: Tensor,
    former_targets: Tensor,
    counter: Tensor,
    active: Tensor | None,
    *,
    seed: int,
    beta: float,
    largest: float,
    cancelled: float,
) -> tuple[Tensor, Tensor] | None:
    """The formulas of `gradvac_weights`, which documents the arguments, in a random order.

    Args:
        counter: int64 `[]`, the number of the draw.
        seed: of the order.
        largest: limit of the size of a target.
        cancelled: `||g_i'||^2` below this share of its terms has vanished.

    Returns:
        Weights and next targets; None where an active row is zero or not finite.
    """
    m = gramian.shape[-1]
    on = list(range(m)) if active is None else active.nonzero()[:, 0].tolist()
    rows = unit_rows_on_host(gramian.tolist(), on)
    if rows is None:
        return None
    cosines, norms = rows
    order = random_order_on_host(seed, int(counter), len(on))
    targets: list[list[float]] = former_targets.tolist()
    following = [row[:] for row in targets]
    total = [0.0] * len(on)
    for i, others in enumerate(order):
        slopes, seat = cosines[i], on[i]
        coefficients = [0.0] * len(on)
        coefficients[i] = 1.0
        for j in others:
            square = sum(map(operator.mul, coefficients, slopes))
            if not square > cancelled * sum(map(abs, coefficients)) ** 2:
                continue
            length = math.sqrt(square)
            cosine = min(1.0, max(-1.0, slopes[j] / length))
            former = targets[seat][on[j]]
            target = min(largest, max(-largest, former))
            if cosine < target:
                slope = target * math.sqrt(1.0 - cosine * cosine) / math.sqrt(1.0 - target * target)
                step = length * (slope - cosine)
                coefficients[j] += step
                slopes = [s + step * c for s, c in zip(slopes, cosines[j], strict=True)]
            following[seat][on[j]] = (1.0 - beta) * former + beta * cosine
        total = [t + norms[i] * c for t, c in zip(total, coefficients, strict=True)]
    weights = [0.0] * m
    for i, t, n in zip(on, total, norms, strict=True):
        weights[i] = t / n
    return torch.tensor(weights, dtype=torch.float64), torch.tensor(following, dtype=torch.float64)
