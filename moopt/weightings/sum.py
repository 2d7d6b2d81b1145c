"""Sum: the sum of the gradients."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows


def sum_weights(gramian: Tensor, *, active: Tensor | None = None) -> Tensor:
    """Return the weights `w_i = 1` for every active objective.

    Args:
        gramian: `[..., m, m]`; only its shape and device matter.
        active: bool `[..., m]`; False rows get weight exactly 0. None means all active.

    Returns:
        float64 `[..., m]`.

    Example:
        >>> import torch
        >>> from moopt.weightings.sum import sum_weights
        >>> sum_weights(torch.eye(2)).tolist()
        [1.0, 1.0]
    """
    shape = gramian.shape[:-1]
    if active is None:
        return torch.full(shape, 1.0, dtype=torch.float64, device=gramian.device)
    return active.to(device=gramian.device, dtype=torch.float64).expand(shape).clone()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sum(Weighting):
    """Add the gradients up: `w_i = 1` for every active objective.

    The direction is the gradient of the summed loss: today's training with `sum(losses)`, but
    with a record that tells whether the objectives conflict.

    Numerics: ignores the Gramian's values, so NaN and infinity reach the direction. No
    synchronisation.

    Example:
        >>> import torch, moopt
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> moopt.Sum()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [1.0, 1.0]

    Source: linear scalarization; no single origin.
    """

    name: ClassVar[str] = "Sum"
    source: ClassVar[str] = "Linear scalarization with unit weights; no single origin"

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT})

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        weights = sum_weights(gramian, active=active)
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)
