"""STCH: the smooth maximum of the weighted losses."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from moopt.scalarizations.arguments import mask_of, preference_or_uniform, shifted_losses
from moopt.scalarizations.base import differentiated, softmax
from moopt.scalarizations.preferred import PreferredScalarization
from moopt.settings.fields import number
from moopt.settings.preference import numbers_in_order
from moopt.weightings.base import Problem, Solved, State


def stch(
    losses: Tensor,
    preference: Tensor | None = None,
    *,
    reference: Tensor | None = None,
    mu: float = 0.1,
    active: Tensor | None = None,
) -> Tensor:
    """Smooth Tchebycheff: `mu log sum_i exp(p_i (loss_i - z_i) / mu)`.

    Args:
        losses: `[..., m]`, any sign, floating point; differentiable.
        preference: `[m]`, p, >= 0; None means `1 / m`.
        reference: `[m]`, the ideal point z; None means 0.
        mu: smoothing, > 0, in units of a weighted loss; the maximum as it goes to 0.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`, between the largest weighted loss and that plus `mu log m`.

    Numerics: centred at the maximum, so that nothing overflows.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import stch
        >>> losses = torch.tensor([1.0, 3.0], requires_grad=True)
        >>> stch(losses, torch.ones(2), mu=0.01).backward()
        >>> losses.grad.tolist()
        [0.0, 1.0]
    """
    on = mask_of(losses, active)
    values = preference_or_uniform(preference, losses, on) * shifted_losses(losses, reference, on)
    values = values.masked_fill(~on, -torch.inf)
    largest = values.detach().amax(-1, keepdim=True)
    return mu * ((values - largest) / mu).logsumexp(-1) + largest.squeeze(-1)


NEGLIGIBLE = 1e-9
"""A loss with at most this share of the largest weight is not trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class STCH(PreferredScalarization):
    """Lower the worst weighted loss: `w_i = p_i softmax_i(p_j (loss_j - z_j) / mu)`.

    Use it for a lower worst loss. The weights are the derivative of `stch`. Minimising it reaches
    every (weakly) Pareto optimal point for some preference p, also on a non-convex front, where a
    fixed weighted sum cannot. The weights sum to at most `max_i p_i`: with the default preference
    `1 / m` the step is m times shorter than that of a mean.

    Args:
        preference: p, >= 0; a sequence in the order of the objectives, or a mapping from objective
            name; None means `1 / m`.
        reference: the ideal point z, below every loss; as `preference`; None means 0.
        mu: smoothing, > 0; default 0.1. It has the unit of a weighted loss: large beside their
            differences, the weights are nearly p; small, the worst objective takes all, and a
            warning names one that has had no weight in 20 steps in a row.

    Raises:
        TypeError: if a vector is not one of numbers.
        ValueError: if a setting is out of range; at the call, if an objective has no entry.

    Numerics: defined for losses of any sign, and for every `mu`: nothing overflows.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import STCH
        >>> losses = torch.tensor([1.0, 1.0])
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2), losses=losses)
        >>> STCH()(statistics).weights.tolist()
        [0.25, 0.25]

    Source: X. Lin, X. Zhang, Z. Yang, F. Liu, Z. Wang and Q. Zhang, "Smooth Tchebycheff
    Scalarization for Multi-Objective Optimization", ICML 2024, https://arxiv.org/abs/2402.19078.
    The default of `mu` is ours: the paper compares 0.01 to 1 and finds no single best value.
    """

    mu: float = number(0.1, "finite and > 0")

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`p_i softmax_i(p_j (loss_j - z_j) / mu)`."""
        p = problem.vector(self.preference, self.name)
        values = p * self._above_reference(problem)
        return differentiated(p * softmax(values, self.mu))

    def neglected(self, names: Sequence[str], weights: Tensor) -> Mapping[str, str]:
        """Those whose softmax is below `NEGLIGIBLE` of the largest one: `mu` is too small."""
        p = np.ones(len(names))
        if self.preference is not None:
            given = numbers_in_order(self.preference, names, len(names), self.name, "preference")
            p = np.array(given)
        soft = weights.numpy() / np.where(p > 0.0, p, 1.0)
        low = (p > 0.0) & (soft <= NEGLIGIBLE * soft.max())
        why = (
            f"weight is below {NEGLIGIBLE:g} of the largest one, for its preference. Raise `mu`"
            " towards the differences of the weighted losses, or bring these to one scale."
        )
        return {name: why for name, on in zip(names, low.tolist(), strict=True) if on}
