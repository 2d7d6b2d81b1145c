"""Mean: the average of the gradients."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moopt.records.result import Array, State
from moopt.weightings.base import Guarantee, Weighting
from moopt.weightings.problem import Problem


def mean_weights(gramian: Tensor, *, active: Tensor | None = None) -> Tensor:
    """Return the uniform weights `w_i = 1 / (number of active objectives)`.

    Args:
        gramian: `[..., m, m]`; only its shape and device matter.
        active: bool `[..., m]`; False rows get weight exactly 0. None means all active.

    Returns:
        float64 `[..., m]`; all zero where no objective is active.

    Example:
        >>> import torch
        >>> from moopt.weightings.mean import mean_weights
        >>> mean_weights(torch.eye(3), active=torch.tensor([True, False, True])).tolist()
        [0.5, 0.0, 0.5]
    """
    shape = gramian.shape[:-1]
    if active is None:
        return torch.full(shape, 1.0 / shape[-1], dtype=torch.float64, device=gramian.device)
    on = active.to(device=gramian.device, dtype=torch.float64).expand(shape)
    return on / on.sum(-1, keepdim=True).clamp_min(1.0)


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

    name: ClassVar[str] = "Mean"
    reads_gradients: ClassVar[bool] = False
    source: ClassVar[str] = "Linear scalarization with equal weights; no single origin"

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset(
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
