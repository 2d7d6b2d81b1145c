"""adam_step: one step of Adam on m numbers, each with its own count."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moopt.records.result import Array, State
from moopt.weightings import StateEntry

BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
"""Adam's own defaults."""

MEAN = "mean_gradient"
SQUARE = "mean_square"
NUM_UPDATES = "num_updates"
ADAM_ENTRIES: Mapping[str, StateEntry] = {
    MEAN: StateEntry(1),
    SQUARE: StateEntry(1),
    NUM_UPDATES: StateEntry(1, 0, int),
}


def adam_step(
    values: Array, gradient: Array, state: State, *, lr: float, active: NDArray[np.bool_]
) -> tuple[Array, State]:
    """The values after a step down `gradient`, and the next moments.

    Each entry has its own bias correction, so that entries may come and go.

    Args:
        values: `[m]`.
        gradient: `[m]`.
        state: with the entries of `ADAM_ENTRIES`, among others.
        lr: learning rate.
        active: bool `[m]`; the others stay as they are.

    Source: D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015,
    https://arxiv.org/abs/1412.6980.
    """
    count = state[NUM_UPDATES] + 1
    mean = BETAS[0] * state[MEAN] + (1 - BETAS[0]) * gradient
    square = BETAS[1] * state[SQUARE] + (1 - BETAS[1]) * gradient**2
    unbiased = mean / (1 - BETAS[0] ** count)
    size = np.sqrt(square / (1 - BETAS[1] ** count)) + ADAM_EPS
    following = {MEAN: mean, SQUARE: square, NUM_UPDATES: count}
    return (
        np.where(active, values - lr * unbiased / size, values),
        {key: np.where(active, value, state[key]) for key, value in following.items()},
    )
