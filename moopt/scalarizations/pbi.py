"""PBI: distance along a preference ray, and a penalty for leaving it."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from moopt.scalarizations.arguments import mask_of, shifted_losses, unit_preference
from moopt.scalarizations.base import differentiated
from moopt.scalarizations.preferred import PreferredScalarization, unit_vector
from moopt.settings.fields import number
from moopt.weightings.base import EPS, Guarantee, Problem, Solved, State

ROUNDINGS_ON_THE_RAY = 64
"""Units of rounding: a distance to the ray below this many, relative to ||loss - z||, is zero."""


def pbi(
    losses: Tensor,
    preference: Tensor | None = None,
    *,
    reference: Tensor | None = None,
    theta: float = 5.0,
    active: Tensor | None = None,
) -> Tensor:
    """Penalty boundary intersection: `d1 + theta d2` with, for `f = loss - z` and `u = p / ||p||`,

    `d1 = f . u` (how far along the ray) and `d2 = ||f - d1 u||` (how far from it).

    Args:
        losses: `[..., m]`, any sign, floating point; differentiable. On the ray, where d2 has no
            derivative, that of d2 counts as 0.
        preference: `[m]`, p, >= 0, the direction of the ray; None means all equal.
        reference: `[m]`, z, where the ray starts; None means 0.
        theta: penalty, >= 0.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import pbi
        >>> losses = torch.tensor([4.0, 3.0])
        >>> round(pbi(losses, torch.tensor([1.0, 0.0]), theta=2.0).item(), 6)
        10.0
    """
    on = mask_of(losses, active)
    values = shifted_losses(losses, reference, on)
    unit = unit_preference(preference, losses, on)
    # s is homogeneous in f: dividing by a constant keeps the squares in range.
    size = values.detach().abs().amax(-1, keepdim=True)
    size = size.where(size > 0, 1.0)
    scaled = values / size
    along = (scaled * unit).sum(-1, keepdim=True)
    away = scaled - along * unit
    floor = ROUNDINGS_ON_THE_RAY * torch.finfo(losses.dtype).eps
    far = away.norm(dim=-1, keepdim=True) > floor * scaled.norm(dim=-1, keepdim=True)
    away = torch.where(far, away, 0.0)
    return (size * (along + theta * away.norm(dim=-1, keepdim=True))).squeeze(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PBI(PreferredScalarization):
    """Go down a preference ray: `w = u + theta (f - d1 u) / d2`, with `f` and `u` as in `pbi`.

    Use it for losses in a given proportion. The weights are the derivative of `pbi`. The losses are
    drawn to the ray `z + t p`, t > 0: a trade-off in proportion p. An objective far below the ray
    gets a *negative* weight: it is raised to bring the others down, so this is not common descent.

    Args:
        preference: p, >= 0, the proportion of the losses aimed at; a sequence in the order of the
            objectives, or a mapping from objective name; None means equal losses.
        reference: z, where the ray starts, below every loss; as `preference`; None means 0.
        theta: penalty, >= 0; default 5. Small, the ray is ignored; large, the losses first move
            to the ray and then along it.

    Raises:
        TypeError: if a vector is not one of numbers.
        ValueError: if a setting is out of range; at the call, if an objective has no entry.

    Numerics: defined for losses of any sign; within 64 units of rounding of the ray the penalty has
    no derivative and is left out. Independent of a common scale of the losses. Present objectives
    that all have preference 0 make no ray: status OUT_OF_DOMAIN and uniform weights.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import PBI
        >>> losses = torch.tensor([4.0, 3.0])
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2), losses=losses)
        >>> PBI(preference=[1.0, 0.0], theta=2.0)(statistics).weights.tolist()
        [1.0, 2.0]

    Source: Q. Zhang and H. Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on
    Decomposition", IEEE Transactions on Evolutionary Computation 11, 2007,
    https://doi.org/10.1109/TEVC.2007.892759, for the formula and for theta = 5.
    """

    theta: float = number(5.0, "finite and >= 0")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        homogeneous = {Guarantee.POSITIVELY_HOMOGENEOUS} if self.reference is None else set()
        return super().guarantees | homogeneous

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`u + theta (f - d1 u) / d2`; u alone on the ray."""
        unit = unit_vector(problem.vector(self.preference, self.name))
        values = self._above_reference(problem)
        values = values / (np.abs(values).max() or 1.0)
        away = values - (values @ unit) * unit
        distance = np.linalg.norm(away)
        far = distance > ROUNDINGS_ON_THE_RAY * EPS * np.linalg.norm(values)
        return differentiated(unit + self.theta * away / distance if far else unit)
