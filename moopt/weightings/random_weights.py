"""Random: new random weights at every step."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from moopt.settings.fields import integer
from moopt.weightings.base import Guarantee, Problem, Solved, State, StateEntry, Weighting
from moopt.weightings.draws import COUNTER, draws


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(Weighting):
    """Draw new weights at every step: the softmax of independent standard normal numbers.

    The litmus test of the field: a method that does not beat random weights has not shown that
    its weights matter. The direction is the gradient of a random convex combination of the
    losses, in expectation that of their mean.

    Args:
        seed: any integer; default 0.

    Raises:
        TypeError: `seed` is not an integer.

    Numerics: ignores the gradients. The number of steps is the state (`counter`), so that a
    resumed run draws what an uninterrupted one would: see `moopt.weightings.draws`.

    Example:
        >>> import torch, moopt
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2, dtype=torch.float64))
        >>> weighting = moopt.weightings.Random(seed=1)
        >>> first, state, _ = weighting(statistics)
        >>> second = weighting(statistics, state).weights
        >>> torch.equal(first, second), torch.equal(first, weighting(statistics).weights)
        (False, True)

    Source: B. Lin, F. Ye, Y. Zhang and I. W. Tsang, "Reasonable Effectiveness of Random
    Weighting: A Litmus Test for Multi-Task Learning", TMLR 2022, https://arxiv.org/abs/2111.10603,
    Algorithm 2 (random gradient weighting). Its loss-weighting twin, `moopt.scalarizations.RLW`,
    needs one backward pass only.
    """

    seed: int = integer(0)

    reads_gradients: ClassVar[bool] = False

    guarantees = frozenset(
        {Guarantee.SIMPLEX, Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.IDEMPOTENT}
    )

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {COUNTER: StateEntry(0, 0, int)}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`exp(n_i) / sum_j exp(n_j)`, n the normal numbers of this step."""
        # Normal numbers in float64 are below 10 in size: the softmax needs no shift.
        weights = np.exp(draws(self.seed, int(state[COUNTER])).standard_normal(problem.m))
        return Solved(weights / weights.sum(), state={COUNTER: state[COUNTER] + 1})
