"""GradVac: each gradient turned towards those that are less similar than they used to be."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from moopt.kernels.tolerances import CANCELLED
from moopt.settings.fields import integer, number
from moopt.weightings.base import Guarantee, Problem, Solved, State, StateEntry, Weighting
from moopt.weightings.draws import COUNTER, random_orders

TARGETS = "targets"

SMALLEST_SINE = 1e-3
"""Of a target angle: a smaller one would take more than a thousand times g_j to reach."""

LARGEST = math.sqrt(1.0 - SMALLEST_SINE**2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradVac(Weighting):
    """Gradient vaccine: turn each gradient until it is as similar to the others as usual.

    Use it for many related tasks, such as languages, whose gradients tend to agree. Where `PCGrad`
    removes a conflict only when a cosine is negative, GradVac compares the cosine of g_i' and g_j
    with a target, the moving average of what it has been, and adds a multiple of g_j that restores
    it. The direction is `sum_i g_i'`. The targets start at zero, so the first step is PCGrad's.

    For each i, `g_i' = g_i`, then for the others j in random order, with `c = cos(g_i', g_j)` and
    the target t: where c < t, `g_i' <- g_i' + ||g_i'|| (t sqrt(1 - c^2) - c sqrt(1 - t^2)) /
    (||g_j|| sqrt(1 - t^2)) g_j`, which makes the cosine t; the next target is
    `(1 - beta) t + beta c`.

    Args:
        beta: share of the newest cosine in the targets, in [0, 1]; default 0.01. 0 keeps them at
            zero: PCGrad.
        seed: of the random order in which an objective meets the others, any integer; default 0.

    Raises:
        ValueError: if `beta` is out of range.
        TypeError: if `seed` is not an integer.

    Numerics: computed on cosines, so that scales do not matter. A target is limited to
    sqrt(1 - 1e-6): to restore a cosine of one, an infinite multiple of g_j would be needed. A pair
    whose modified gradient has vanished keeps its target. The state holds the targets and the
    number of steps, from which the orders are drawn as for `PCGrad`.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> weighting = moopt.weightings.GradVac(beta=0.5)
        >>> weights, state, _ = weighting(moopt.StepStatistics(gramian=G))
        >>> weights.tolist(), state["targets"].tolist()
        ([1.5, 1.5], [[0.0, -0.25], [-0.25, 0.0]])

    Source: Z. Wang, Y. Tsvetkov, O. Firat and Y. Cao, "Gradient Vaccine: Investigating and
    Improving Multi-task Optimization in Massively Multilingual Models", ICLR 2021,
    https://arxiv.org/abs/2010.05874. We differ in the limit of the target, where LibMTL adds 1e-8
    to the denominators; in the default of `beta`, which is 0.5 there; and in having one group of
    parameters unless the caller makes more.
    """

    beta: float = number(0.01, "in [0, 1]")
    seed: int = integer(0)

    guarantees = frozenset({Guarantee.POSITIVELY_HOMOGENEOUS})

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {COUNTER: StateEntry(0, 0, int), TARGETS: StateEntry(2)}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The coefficients of `sum_i g_i'` in the gradients, and the next targets."""
        # On lists, which are faster than arrays one number at a time.
        cosines, norms = problem.cosines.tolist(), problem.norms.tolist()
        targets = state[TARGETS].tolist()
        vanished = max(CANCELLED, 4.0 * problem.noise)
        total = norms.copy()  # coefficients of the unit gradients
        for i, others in enumerate(random_orders(self.seed, int(state[COUNTER]), problem.m)):
            # Of g_i' / ||g_i||: inner products with the unit gradients, length, and the sum of
            # the sizes of its coefficients.
            slopes, length, size = cosines[i], 1.0, 1.0
            for j in others:
                if length * length <= vanished * size * size:
                    break
                cosine = min(1.0, max(-1.0, slopes[j] / length))
                target = min(LARGEST, max(-LARGEST, targets[i][j]))
                targets[i][j] = (1.0 - self.beta) * targets[i][j] + self.beta * cosine
                if cosine < target:
                    # The part of g_i' across g_j stays as it is, and fixes the new length.
                    across = length * math.sqrt(1.0 - cosine * cosine)
                    longer = across / math.sqrt(1.0 - target * target)
                    step = longer * target - length * cosine
                    total[j] += norms[i] * step
                    slopes = [s + step * c for s, c in zip(slopes, cosines[j], strict=True)]
                    length, size = longer, size + abs(step)
        next_state = {COUNTER: state[COUNTER] + 1, TARGETS: np.array(targets)}
        return Solved(np.array(total) / problem.norms, state=next_state)
