"""LearnedLogScale: weights that are the exponentials of scales learned step by step."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from moopt.scalarizations.base import Scalarization, differentiated, out_of_domain
from moopt.settings.fields import number
from moopt.weightings.base import Array, Problem, Solved, State, StateEntry

SMALLEST = float(np.finfo(np.float64).tiny)
"""A loss below this has no logarithm that a scale could follow: it is not positive, or its
reciprocal overflows."""

OVERSHOOT = 1.0
"""How far past its minimum a step may go: a factor e of the weight, from which it comes back."""


def log_scale_step(logs: Array, losses: Array, rate: float) -> Array:
    """A step of gradient descent on `exp(-t_i) loss_i + t_i`, which does not pass its minimum far.

    The minimum is `t_i = log loss_i`. The function is exponential below it and flat above, so that
    plain descent from far below jumps across it and hardly comes back. A step that would pass it
    by more than `OVERSHOOT` ends at it; every other step is plain descent.

    Args:
        logs: `[m]`, t.
        losses: `[m]`, at least `SMALLEST`.
        rate: learning rate, >= 0.

    Returns:
        `[m]`, what to add to t.

    Example:
        >>> import numpy as np
        >>> from moopt.scalarizations.log_scale import log_scale_step
        >>> log_scale_step(np.zeros(2), np.array([3.0, 1e6]), 0.1).round(3).tolist()
        [0.2, 13.816]
    """
    descent = rate * (np.exp(-logs) * losses - 1.0)
    to_minimum = np.log(losses) - logs
    return np.where(np.abs(descent) <= np.abs(to_minimum) + OVERSHOOT, descent, to_minimum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedLogScale(Scalarization):
    """Weights `factor exp(-t_i)`, where t_i follows `log loss_i` by `log_scale_step`.

    Class attributes:
        key: of the state, which holds `sign t`.
        sign: 1 or -1.
        factor: of the weights, and of the rate.
    """

    lr: float = number(0.01, "finite and >= 0")

    key: ClassVar[str]
    sign: ClassVar[float]
    factor: ClassVar[float]

    @classmethod
    def _is_base(cls) -> bool:
        return not hasattr(cls, "key")

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {self.key: StateEntry(1)}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`factor exp(-t_i)`, and the next t."""
        losses, kept = problem.losses, state[self.key]
        assert losses is not None
        if losses.min() < SMALLEST:
            return out_of_domain(problem)
        logs = self.sign * kept
        step = log_scale_step(logs, losses, self.factor * self.lr)
        return differentiated(self.factor * np.exp(-logs), {self.key: kept + self.sign * step})
