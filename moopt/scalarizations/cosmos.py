"""COSMOS: a weighted sum, and a reward for losses in the proportion of the preference."""

import dataclasses

import numpy as np
from torch import Tensor

from moopt.scalarizations.arguments import (
    mask_of,
    preference_or_uniform,
    shifted_losses,
    unit_preference,
)
from moopt.scalarizations.base import Scalarization, differentiated, out_of_domain
from moopt.scalarizations.preferred import unit_vector
from moopt.settings.fields import number, per_objective
from moopt.settings.preference import Preference
from moopt.weightings.base import EPS, Problem, Solved, State


def cosmos(
    losses: Tensor,
    preference: Tensor | None = None,
    *,
    penalty: float = 1.0,
    active: Tensor | None = None,
) -> Tensor:
    """Penalised weighted sum: `sum_i p_i loss_i - penalty cos(p, loss)`.

    Args:
        losses: `[..., m]`, any sign, not all 0, floating point; differentiable.
        preference: `[m]`, p, >= 0; None means `1 / m`.
        penalty: lambda of the paper, >= 0.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`; NaN where every loss is 0, as the cosine has no value there.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import cosmos
        >>> round(cosmos(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])).item(), 6)
        2.4
    """
    on = mask_of(losses, active)
    values = shifted_losses(losses, None, on)
    weights = preference_or_uniform(preference, losses, on)
    unit = unit_preference(preference, losses, on)
    # The cosine does not depend on a constant scale, which keeps the squares in range.
    scaled = values / values.detach().abs().amax(-1, keepdim=True)
    cosine = (scaled * unit).sum(-1) / scaled.norm(dim=-1)
    return (weights * values).sum(-1) - penalty * cosine


@dataclasses.dataclass(frozen=True, kw_only=True)
class COSMOS(Scalarization):
    """Draw a weighted sum of the losses l to a ray: `w = p - penalty (u - cos l/||l||) / ||l||`.

    Use it for models that are conditioned on a preference. The weights are the derivative of
    `cosmos`, with `u = p / ||p||` and `cos = cos(p, l)`. In the paper the network also takes p as
    an input and p is sampled again for each batch, which gives a whole front from one network; that
    is the model's part. Here p is fixed. The penalty does not scale with the losses: choose it
    beside their size.

    Args:
        preference: p, >= 0; a sequence in the order of the objectives, or a mapping from objective
            name; None means `1 / m`.
        penalty: lambda of the paper, >= 0; default 1. The paper uses 0.01 to 8.

    Raises:
        TypeError: if the preference is not one of numbers.
        ValueError: if a setting is out of range; at the call, if an objective has no entry.

    Numerics: a weight may be negative. The penalty's part grows as `1 / ||l||`: losses that are all
    0, or so small beside the penalty that p is lost in the rounding of that part, give status
    OUT_OF_DOMAIN and uniform weights.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import COSMOS
        >>> losses = torch.tensor([1.0, 1.0])
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2), losses=losses)
        >>> COSMOS(penalty=0.0)(statistics).weights.tolist()
        [0.5, 0.5]

    Source: M. Ruchte and J. Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective
    Learning", ICDM 2021, https://arxiv.org/abs/2103.13392. The default of `penalty` is ours.
    """

    preference: Preference | None = per_objective()
    penalty: float = number(1.0, "finite and >= 0")

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`p - penalty (u - cos l/||l||) / ||l||`."""
        assert problem.losses is not None
        p = problem.vector(self.preference, self.name)
        size = np.abs(problem.losses).max()
        scaled = problem.losses / size
        length = np.linalg.norm(scaled)
        ray, unit = scaled / length, unit_vector(p)
        away = self.penalty / length / size * (unit - (unit @ ray) * ray)
        if not EPS * self.penalty / length / size < p.max():
            return out_of_domain(problem)
        return differentiated(p - away)
