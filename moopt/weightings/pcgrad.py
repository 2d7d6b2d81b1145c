"""PCGrad: each gradient projected off those it conflicts with."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from moopt.settings.fields import integer, one_of
from moopt.weightings.base import Guarantee, Problem, Solved, State, StateEntry, Weighting
from moopt.weightings.draws import COUNTER, random_orders

Order = Literal["random", "given"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCGrad(Weighting):
    """Project each gradient off those that it conflicts with, then add them up.

    For gradients that conflict in pairs. Two objectives never conflict with the direction; from
    three on a later projection can undo an earlier one, so there is no promise. Where nothing
    conflicts the direction is the ordinary sum.

    For each objective i, `g_i' = g_i` meets the other gradients g_j in random order; wherever
    `g_i' . g_j < 0` the component along g_j is removed. The direction is `sum_i g_i'`, so that
    `w_i >= 1`.

    Args:
        order: "random" (default), a new order for every objective in every step; "given", the
            order of the objectives, which keeps no state.
        seed: of the random order, any integer; default 0.

    Raises:
        ValueError: if `order` is unknown.
        TypeError: if `seed` is not an integer.

    Numerics: computed on cosines, so that scales do not matter. The number of steps is the state
    (`counter`), so that a resumed run draws what an uninterrupted one would. The orders are drawn
    for the objectives that take part in the step: where one is left out, because it is inactive or
    its gradient is zero, the others meet in other orders.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
        >>> weights, state, _ = moopt.weightings.PCGrad()(moopt.StepStatistics(gramian=G))
        >>> weights.tolist(), int(state["counter"])
        ([2.0, 1.25], 1)

    Source: T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman and C. Finn, "Gradient Surgery for
    Multi-Task Learning", NeurIPS 2020, https://arxiv.org/abs/2001.06782, Algorithm 1. We differ
    only in computing with the Gramian: the coefficients of the projected gradients instead of the
    gradients.
    """

    order: Order = one_of("random", get_args(Order))
    seed: int = integer(0)

    guarantees = frozenset({Guarantee.POSITIVELY_HOMOGENEOUS})

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {COUNTER: StateEntry(0, 0, int)} if self.order == "random" else {}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The coefficients of `sum_i g_i'` in the gradients."""
        if self.order == "given":
            orders = [[j for j in range(problem.m) if j != i] for i in range(problem.m)]
            next_state = None
        else:
            orders = random_orders(self.seed, int(state[COUNTER]), problem.m)
            next_state = {COUNTER: state[COUNTER] + 1}
        # On lists, which are faster than arrays one number at a time.
        cosines, norms = problem.cosines.tolist(), problem.norms.tolist()
        total = norms.copy()  # coefficients of the unit gradients
        for i, others in enumerate(orders):
            slopes = cosines[i]  # inner products of g_i' / ||g_i|| with the unit gradients
            for j in others:
                conflict = slopes[j]
                if conflict < 0.0:
                    total[j] -= norms[i] * conflict
                    slopes = [s - conflict * c for s, c in zip(slopes, cosines[j], strict=True)]
        return Solved(np.array(total) / problem.norms, state=next_state)
