"""GLS: the geometric mean of the losses."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from moopt.scalarizations.arguments import mask_of
from moopt.scalarizations.base import Scalarization, differentiated, out_of_domain
from moopt.weightings.base import Guarantee, Problem, Solved, State


def gls(losses: Tensor, *, active: Tensor | None = None) -> Tensor:
    """Geometric loss: `(prod_i loss_i) ^ (1 / m)`.

    Args:
        losses: `[..., m]`, > 0, floating point; differentiable.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`; NaN where a loss is negative; 0, without a derivative, where one is 0.

    Numerics: through logarithms, so that a product of many losses neither overflows nor vanishes.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import gls
        >>> round(gls(torch.tensor([1.0, 4.0])).item(), 6)
        2.0
    """
    on = mask_of(losses, active)
    logarithms = torch.where(on, losses, 1.0).log()
    return (logarithms.sum(-1) / on.sum(-1).clamp_min(1)).exp()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GLS(Scalarization):
    """Lower the geometric mean of the losses: `w_i = gls(loss) / (m loss_i)`.

    Use it for positive losses in different units. The weights are the derivative of `gls`.
    Rescaling one loss changes the length of the step and not its direction: the losses' units do
    not matter.

    Numerics: a loss <= 0 gives status OUT_OF_DOMAIN and uniform weights; a loss that goes to 0
    takes all the weight.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import GLS
        >>> losses = torch.tensor([1.0, 4.0])
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2), losses=losses)
        >>> [round(w, 12) for w in GLS()(statistics).weights.tolist()]
        [1.0, 0.25]

    Source: S. Chennupati, G. Sistu, S. Yogamani and S. Rawashdeh, "MultiNet++: Multi-Stream Feature
    Aggregation and Geometric Loss Strategy for Multi-Task Learning", CVPR Workshops 2019,
    https://arxiv.org/abs/1904.08492.
    """

    guarantees = frozenset(
        {
            Guarantee.SCALE_EQUIVARIANT,
            Guarantee.POSITIVELY_HOMOGENEOUS,
            Guarantee.PERMUTATION_EQUIVARIANT,
        }
    )

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`gls(loss) / (m loss_i)`, through logarithms."""
        assert problem.losses is not None
        if problem.losses.min() <= 0.0:
            return out_of_domain(problem)
        logarithms = np.log(problem.losses)
        return differentiated(np.exp(logarithms.mean() - logarithms) / problem.m)
