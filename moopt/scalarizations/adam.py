"""adam_step: one step of Adam on m numbers, each with its own count."""

from __future__ import annotations

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPS = 1e-8
"""Adam's own defaults."""

MEAN = "mean_gradient"
SQUARE = "mean_square"
NUM_UPDATES = "num_updates"
AXES = {MEAN: 1, SQUARE: 1, NUM_UPDATES: 1}


def adam_state(like: Tensor) -> dict[str, Tensor]:
    """Moments 0 of no update, for m numbers `like`."""
    return {
        MEAN: torch.zeros_like(like),
        SQUARE: torch.zeros_like(like),
        NUM_UPDATES: torch.zeros_like(like, dtype=torch.int64),
    }


def adam_step(
    values: Tensor, gradient: Tensor, state: dict[str, Tensor], *, lr: float, active: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The values after a step down `gradient`, and the next moments.

    Each entry has its own bias correction, so that entries may come and go.

    Args:
        values: `[m]`.
        gradient: `[m]`.
        state: as `adam_state`.
        lr: learning rate.
        active: bool `[m]`; the others stay as they are.

    Source: D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """
    count = state[NUM_UPDATES] + 1
    mean = BETAS[0] * state[MEAN] + (1 - BETAS[0]) * gradient
    square = BETAS[1] * state[SQUARE] + (1 - BETAS[1]) * gradient.square()
    steps = count.to(values.dtype)
    unbiased = mean / (1 - BETAS[0] ** steps)
    size = (square / (1 - BETAS[1] ** steps)).sqrt() + EPS
    following = {MEAN: mean, SQUARE: square, NUM_UPDATES: count}
    return (
        torch.where(active, values - lr * unbiased / size, values),
        {key: torch.where(active, value, state[key]) for key, value in following.items()},
    )
