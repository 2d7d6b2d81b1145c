"""GradNorm: weights learned so that slow objectives get longer gradients."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from moopt.settings.fields import number
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, StateEntry, Weighting
from moopt.weightings.problem import EPS

WEIGHTS = "weights"
INITIAL_LOSSES = "initial_losses"
NUM_STEPS = "num_steps"

REACHED = 64 * EPS
"""Distance from the target, relative to the mean length, that is rounding: no step is taken."""


def grad_norm_step(
    weights: Array, norms: Array, ratios: Array, *, alpha: float = 1.5, lr: float = 0.025
) -> Array:
    """The weights after one step of gradient descent on the distance from the targets.

    With the lengths `L_i = w_i ||g_i||`, their mean L and the targets `T_i = L (ratio_i /
    mean(ratio))^alpha`, taken as constants, the distance is `sum_i |L_i - T_i| / L`; the step is
    taken in `log w_i`, `w_i <- w_i exp(-lr sign(L_i - T_i) L_i / L)`, and the weights are then
    divided by their mean.

    Args:
        weights: float64 `[m]`, positive.
        norms: float64 `[m]`, `||g_i||`.
        ratios: float64 `[m]`, positive, each loss over its initial value.
        alpha: strength of the restoring force, >= 0.
        lr: of the weights, dimensionless, >= 0.

    Example:
        >>> import numpy as np
        >>> from moopt.weightings.grad_norm import grad_norm_step
        >>> weights = grad_norm_step(np.ones(2), np.array([3.0, 1.0]), np.ones(2), lr=0.1)
        >>> [round(w, 4) for w in weights.tolist()]
        [0.9003, 1.0997]
    """
    lengths = weights * norms
    relative = lengths / (lengths.mean() or 1.0)
    targets = (ratios / (ratios.mean() or 1.0)) ** alpha
    distance = relative - targets
    step = np.where(np.abs(distance) > REACHED, np.sign(distance) * relative, 0.0)
    moved = weights * np.exp(-lr * step)
    return moved / (moved.mean() or 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradNorm(Weighting):
    """Learn the weights so that every objective trains at a similar rate.

    Use it for positive losses of which some fall faster than others. The length `w_i ||g_i||` of
    each weighted gradient is drawn to a target: the mean length times `r_i^alpha`, where `r_i` is
    the loss relative to its first value, over the mean of these ratios. An objective that has
    fallen less than the others gets a longer gradient. The weights start at one, and always have
    mean one over the active objectives; each step uses the present weights and then moves them.

    Args:
        alpha: strength of the restoring force, >= 0; default 1.5. 0 makes all lengths equal.
        lr: learning rate of the weights, >= 0, dimensionless; default 0.025. A weight moves by at
            most `exp(lr m)` in a step.

    Raises:
        ValueError: if a setting is out of range; at the call, if the losses are missing.

    Numerics: independent of the scale of the gradients and of each loss. Losses are taken by
    absolute value and should be positive: one that changes sign has no rate; one below 1e-12 of
    the largest counts as that much. Zero gradients keep their weight up to the common factor. An
    absent objective keeps its weight, a new one starts at one.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[9.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G, losses=torch.tensor([1.0, 1.0]))
        >>> weighting = moopt.weightings.GradNorm(lr=0.1)
        >>> weights, state, _ = weighting(statistics)
        >>> weights.tolist(), [round(w, 4) for w in weighting(statistics, state).weights.tolist()]
        ([1.0, 1.0], [0.9003, 1.0997])

    Source: Z. Chen, V. Badrinarayanan, C.-Y. Lee and A. Rabinovich, "GradNorm: Gradient
    Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018,
    https://arxiv.org/abs/1711.02257, Algorithm 1. We differ in two points. The weights take a step
    of plain gradient descent in `log w_i`, not in `w_i`, on the distance over the mean length: they
    stay positive, and `lr` is dimensionless. And lengths are measured over all shared parameters,
    where the paper takes the last shared layer (for that, pass `shared=` to `moopt.CommonDescent`).
    """

    alpha: float = number(1.5, "finite and >= 0")
    lr: float = number(0.025, "finite and >= 0")

    sees_zero_gradients: ClassVar[bool] = True

    guarantees = frozenset({Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT})

    needs = frozenset({"losses"})

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {
            WEIGHTS: StateEntry(1, 1.0),
            INITIAL_LOSSES: StateEntry(1),
            NUM_STEPS: StateEntry(1, 0, int),
        }

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The present weights, of mean one; the state moves on by `grad_norm_step`."""
        sizes = problem.loss_sizes
        weights = state[WEIGHTS] / (state[WEIGHTS].mean() or 1.0)
        initial = np.where(state[NUM_STEPS] > 0, state[INITIAL_LOSSES], sizes)
        ratios = sizes / np.where(initial > 0.0, initial, 1.0)
        moved = grad_norm_step(weights, problem.norms, ratios, alpha=self.alpha, lr=self.lr)
        next_state = {WEIGHTS: moved, INITIAL_LOSSES: initial, NUM_STEPS: state[NUM_STEPS] + 1}
        return Solved(weights, state=next_state)
