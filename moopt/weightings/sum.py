"""Sum: the sum of the gradients."""

import dataclasses
from typing import ClassVar

import numpy as np

from moopt.weightings.base import Array, Guarantee, Problem, State, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sum(Weighting):
    """Add the gradients up: `w_i = 1` for every active objective.

    The direction is the gradient of the summed loss: ordinary training with `sum(losses)`, but
    with a record that tells whether the objectives conflict.

    Numerics: ignores the gradients.

    Example:
        >>> import torch, moopt
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> moopt.Sum()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [1.0, 1.0]

    Source: linear scalarization; no single origin.
    """

    reads_gradients: ClassVar[bool] = False

    guarantees = frozenset({Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT})

    def weigh(self, problem: Problem, state: State) -> Array:
        """1 for each objective."""
        return np.ones(problem.m)
