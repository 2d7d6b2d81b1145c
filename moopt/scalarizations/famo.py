"""FAMO: equal relative decrease of all losses, learned from the losses alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moopt.scalarizations.arguments import mask_of, softmax_of
from moopt.scalarizations.base import Scalarization, differentiated, out_of_domain, softmax
from moopt.settings.fields import number, per_objective
from moopt.settings.preference import Preference, checked_vector, numbers_in_order
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, StateEntry
from moopt.weightings.cleared import merged, restricted

LOGITS = "logits"
LOG_LOSSES = "log_losses"
MEAN = "mean_gradient"
SQUARE = "mean_square"
NUM_UPDATES = "num_updates"

BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
"""Adam's own defaults."""


def famo(
    losses: Tensor,
    logits: Tensor,
    *,
    min_losses: Tensor | None = None,
    eps: float = 1e-8,
    active: Tensor | None = None,
) -> Tensor:
    """Normalised log-loss: `c sum_i z_i log(loss_i - b_i + eps)`, `z = softmax(logits)`.

    `c = 1 / sum_i (z_i / (loss_i - b_i + eps))` counts as a constant, so that the derivatives in
    the losses sum to 1.

    Args:
        losses: `[..., m]`, > b, floating point; differentiable.
        logits: `[m]`, the logits of the objectives.
        min_losses: `[m]`, b, lower bounds of the losses; None means 0.
        eps: >= 0, keeps the logarithm from minus infinity.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`; NaN where a loss is not above its bound.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import famo
        >>> losses = torch.tensor([1.0, 4.0], requires_grad=True)
        >>> famo(losses, torch.zeros(2)).backward()
        >>> [round(w, 6) for w in losses.grad.tolist()]
        [0.8, 0.2]
    """
    on = mask_of(losses, active)
    above = losses if min_losses is None else losses - min_losses
    # A factor, so that the derivative is NaN too.
    above = (above + eps) * torch.where(above > 0, 1.0, float("nan")).to(above.dtype)
    above = torch.where(on, above, 1.0)
    shares = softmax_of(logits, losses, on)
    scale = 1.0 / (shares / above.detach()).sum(-1)
    return scale * (shares * above.log()).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FAMO(Scalarization):
    """Lower all losses at the same relative rate: `w_i = c z_i / (loss_i - b_i + eps)`.

    Use it for many objectives with positive losses: it costs one forward pass more than plain
    training, whatever their number. The weights are the derivative of `famo`, on the simplex. The
    logits learn from what the step did. After `optimizer.step()`, compute the losses of the *same
    batch* again and call

        optimizer.observe(losses)

    Adam then lowers the logits of the objectives whose logarithm fell most, along
    `d/dlogits sum_i softmax_i(logits) delta_i` with `delta_i = log(loss before) - log(loss after)`.
    Without `observe` the logits stay equal; `CommonDescent` warns then.

    Args:
        min_losses: b, lower bounds; a sequence in the order of the objectives, or a mapping from
            objective name; None means 0.
        lr: learning rate of the logits, >= 0; default 0.025, the paper's.
        weight_decay: gamma of the paper, >= 0; default 1e-3, the paper's (the official code uses
            1e-5). It draws the logits back to 0.
        eps: added under the logarithm, >= 0; default 1e-8, the official code's.

    Raises:
        TypeError: if `min_losses` are not numbers.
        ValueError: if a setting is out of range; at the call, if an objective has no bound.

    Numerics: a loss that is not above its bound (exactly at it, too) gives status OUT_OF_DOMAIN and
    uniform weights, and the logits learn nothing from that step; nor do they from an objective
    that is not finite, or not above its bound, after the step.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import FAMO
        >>> weighting, losses = FAMO(), torch.tensor([1.0, 4.0], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2), losses=losses)
        >>> weights, state, _ = weighting(statistics)
        >>> [round(w, 6) for w in weights.tolist()]
        [0.8, 0.2]
        >>> state = weighting.observe(state, torch.tensor([0.5, 4.0]))  # the first fell
        >>> bool(weighting(statistics, state).weights[0] < weights[0])
        True

    Source: B. Liu, Y. Feng, P. Stone and Q. Liu, "FAMO: Fast Adaptive Multitask Optimization",
    NeurIPS 2023, https://arxiv.org/abs/2306.03792.
    """

    min_losses: Preference | None = per_objective(checked_vector)
    lr: float = number(0.025, "finite and >= 0")
    weight_decay: float = number(1e-3, "finite and >= 0")
    eps: float = number(1e-8, "finite and >= 0")

    state_entries: ClassVar[Mapping[str, StateEntry]] = {
        LOGITS: StateEntry(1),
        LOG_LOSSES: StateEntry(1, np.inf),
        MEAN: StateEntry(1),
        SQUARE: StateEntry(1),
        NUM_UPDATES: StateEntry(1, 0, int),
    }

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return super().guarantees | {Guarantee.SIMPLEX, Guarantee.IDEMPOTENT}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`z_i / (loss_i - b_i + eps)` divided by their sum; the losses wait for those after."""
        assert problem.losses is not None
        above = problem.losses
        if self.min_losses is not None:
            above = above - problem.vector(self.min_losses, self.name, "min_losses")
        if above.min() <= 0.0:
            return out_of_domain(problem, self.unweighed(state))
        logarithms = np.log(above + self.eps)
        weights = softmax(state[LOGITS] - logarithms)
        return differentiated(weights, {**state, LOG_LOSSES: logarithms})

    def unweighed(self, state: State) -> State:
        """The state with no losses to learn from: those of an earlier step are out of date."""
        return {**state, LOG_LOSSES: np.full_like(state[LOG_LOSSES], np.inf)}

    def learn(self, state: State, losses_after: Array, names: Sequence[str] | None) -> State:
        """One step of Adam on the logits, from the losses before and after the update."""
        above = losses_after
        if self.min_losses is not None:
            count = len(above)
            above = above - numbers_in_order(self.min_losses, names, count, self.name, "min_losses")
        next_state = self.unweighed(state)
        index = np.flatnonzero(np.isfinite(state[LOG_LOSSES]) & np.isfinite(above) & (above > 0.0))
        if not len(index):
            return next_state
        known = restricted(state, self.state_axes, index)
        logits = known[LOGITS]
        delta = known[LOG_LOSSES] - np.log(above[index] + self.eps)
        shares = softmax(logits)
        slope = self.weight_decay * logits + shares * (delta - shares @ delta)
        moved = {**self.unweighed(known), **_adam_step(known, slope, self.lr)}
        return merged(next_state, moved, self.state_axes, index)


def _adam_step(state: State, gradient: Array, lr: float) -> State:
    """The logits and the moments after a step of Adam down `gradient`, `[m]`.

    Each entry has its own count, so that entries may come and go.

    Source: D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015,
    https://arxiv.org/abs/1412.6980.
    """
    count = state[NUM_UPDATES] + 1
    mean = BETAS[0] * state[MEAN] + (1 - BETAS[0]) * gradient
    square = BETAS[1] * state[SQUARE] + (1 - BETAS[1]) * gradient**2
    unbiased = mean / (1 - BETAS[0] ** count)
    size = np.sqrt(square / (1 - BETAS[1] ** count)) + ADAM_EPS
    logits = state[LOGITS] - lr * unbiased / size
    return {LOGITS: logits, MEAN: mean, SQUARE: square, NUM_UPDATES: count}
