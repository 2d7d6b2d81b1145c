"""Mean: the average of the gradients."""

import dataclasses
from typing import ClassVar

import numpy as np

from moopt.weightings.base import Array, Guarantee, Problem, State, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean(Weighting):
    """Average the gradients: `w_i = 1/m` over the m active objectives.

    The direction is the gradient of the mean loss: linear scalarization, the baseline of every
    comparison. It raises an objective whose gradient has a negative inner product with the mean.

    Numerics: ignores the gradients.

    Example:
        >>> import torch, moopt
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> moopt.Mean()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [0.5, 0.5]

    Source: linear scalarization; no single origin.
    """

    reads_gradients: ClassVar[bool] = False

    guarantees = frozenset(
        {
            Guarantee.SIMPLEX,
            Guarantee.POSITIVELY_HOMOGENEOUS,
            Guarantee.PERMUTATION_EQUIVARIANT,
            Guarantee.IDEMPOTENT,
        }
    )

    def weigh(self, problem: Problem, state: State) -> Array:
        """`1 / m`, whatever the gradients are."""
        return np.full(problem.m, problem.share)
