"""AugmentedTchebycheff: the largest weighted loss, and a little of all."""

import dataclasses

import torch
from torch import Tensor

from moopt.scalarizations.arguments import mask_of, preference_or_uniform, shifted_losses
from moopt.scalarizations.base import differentiated
from moopt.scalarizations.preferred import PreferredScalarization
from moopt.settings.fields import number
from moopt.weightings.base import Guarantee, Problem, Solved, State


def augmented_tchebycheff(
    losses: Tensor,
    preference: Tensor | None = None,
    *,
    reference: Tensor | None = None,
    rho: float = 0.05,
    active: Tensor | None = None,
) -> Tensor:
    """Augmented Tchebycheff: `max_i p_i (loss_i - z_i) + rho sum_i (loss_i - z_i)`.

    Args:
        losses: `[..., m]`, any sign, floating point; differentiable but where the maximum is
            reached twice: there the derivative is shared equally.
        preference: `[m]`, p, >= 0; None means `1 / m`.
        reference: `[m]`, the ideal point z; None means 0.
        rho: share of the sum, >= 0.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import augmented_tchebycheff
        >>> losses = torch.tensor([1.0, 3.0], requires_grad=True)
        >>> augmented_tchebycheff(losses, torch.ones(2), rho=0.5).backward()
        >>> losses.grad.tolist()
        [0.5, 1.5]
    """
    on = mask_of(losses, active)
    values = shifted_losses(losses, reference, on)
    weighted = preference_or_uniform(preference, losses, on) * values
    return weighted.masked_fill(~on, -torch.inf).amax(-1) + rho * values.sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentedTchebycheff(PreferredScalarization):
    """Lower the worst weighted loss, and a little all of them: `w_i = p_i [i is worst] + rho`.

    Use it for a lower worst loss, or for points of a non-convex front. The weights are the
    derivative of `augmented_tchebycheff`. The maximum alone accepts weakly Pareto optimal points,
    where some loss could still be lowered at no cost; the sum excludes them. The weights jump
    whenever another objective becomes the worst: `STCH` is the smooth form.

    Args:
        preference: p, >= 0; a sequence in the order of the objectives, or a mapping from objective
            name; None means `1 / m`.
        reference: the ideal point z, below every loss; as `preference`; None means 0.
        rho: share of the sum, >= 0; default 0.05.

    Raises:
        TypeError: if a vector is not one of numbers.
        ValueError: if a setting is out of range; at the call, if an objective has no entry.

    Numerics: defined for losses of any sign; ties share the maximum's derivative equally.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import AugmentedTchebycheff
        >>> losses = torch.tensor([1.0, 3.0])
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2), losses=losses)
        >>> AugmentedTchebycheff(preference=[2.0, 1.0], rho=0.5)(statistics).weights.tolist()
        [0.5, 1.5]

    Source: R. E. Steuer and E.-U. Choo, "An interactive weighted Tchebycheff procedure for multiple
    objective programming", Mathematical Programming 26, 1983, https://doi.org/10.1007/BF02591870.
    No absolute values are taken here: above the ideal point they would change nothing. The default
    of `rho` is that of J. Knowles' ParEGO, 2006, https://doi.org/10.1109/TEVC.2005.851274, which
    weighs the sum by the preference too.
    """

    rho: float = number(0.05, "finite and >= 0")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        homogeneous = {Guarantee.POSITIVELY_HOMOGENEOUS} if self.reference is None else set()
        return super().guarantees | homogeneous

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`p_i / (number of worst)` for the worst, and rho for all."""
        p = problem.vector(self.preference, self.name)
        values = p * self._above_reference(problem)
        worst = values == values.max()
        return differentiated(p * worst / worst.sum() + self.rho)
