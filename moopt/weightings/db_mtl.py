"""DBMTL: gradients of the logarithms of the losses, all as long as the longest."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.loss_sizes import loss_sizes
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.unit_rows import unit_rows


def db_mtl_weights(
    gramian: Tensor, losses: Tensor | None, *, active: Tensor | None = None
) -> Tensor:
    """Return `w_i = max_j (||g_j|| / loss_j) / ||g_i||`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        losses: `[m]` or `[..., m]`; the absolute values count.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active. Zero rows count as inactive.

    Returns:
        float64 `[..., m]`; uniform where an active entry or loss is not finite.

    Raises:
        ValueError: if there are no losses.

    Example:
        >>> import torch
        >>> from moopt.weightings.db_mtl import db_mtl_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> db_mtl_weights(G, torch.tensor([0.25, 1.0])).tolist()
        [4.0, 2.0]
    """
    rows = unit_rows(gramian.detach(), active)
    sizes, finite = loss_sizes(losses, rows, "DBMTL")
    longest = torch.where(rows.live, rows.norms / sizes, 0.0).amax(-1, keepdim=True)
    weights = torch.where(rows.live, longest / rows.norms, 0.0)
    return torch.where(finite[..., None], weights, mean_weights(gramian, active=rows.on))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DBMTL(Weighting):
    """Dual balancing: the logarithms of the losses, with gradients scaled to the largest norm.

    `grad log(loss_i) = g_i / loss_i` does not depend on the scale of a loss; each is then scaled
    to `a = max_j ||g_j|| / loss_j`, and they are added up: `d = a sum_i u_i` with the unit
    gradients u_i. The direction is the sum of the unit gradients, the length that of the most
    sensitive logarithm: it grows without bound as a loss goes to zero while its gradient does not.

    Raises:
        ValueError: at the call, if the losses are missing.

    Numerics: losses are taken by absolute value; one below 1e-12 of the largest counts as that
    much. Zero rows get weight 0. Common descent is not promised. NaN or infinity among the active
    rows or losses gives uniform weights. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G, losses=torch.tensor([0.25, 1.0]))
        >>> moopt.weightings.DBMTL()(statistics).weights.tolist()
        [4.0, 2.0]

    Source: B. Lin, W. Jiang, F. Ye, Y. Zhang, P. Chen, Y.-C. Chen, S. Liu and J. T. Kwok,
    "Dual-Balancing for Multi-Task Learning", arXiv 2308.12029, 2023. We differ in leaving out the
    moving average of the gradients, which the Gramian of one step cannot express, and in the floor
    of the losses, where their code adds 1e-8 to each (from memory).
    """

    name: ClassVar[str] = "DBMTL"
    source: ClassVar[str] = (
        "B. Lin, W. Jiang, F. Ye, Y. Zhang, P. Chen, Y.-C. Chen, S. Liu and J. T. Kwok,"
        " Dual-Balancing for Multi-Task Learning, arXiv 2308.12029, 2023"
    )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.SCALE_EQUIVARIANT, Guarantee.PERMUTATION_EQUIVARIANT})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"})

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        weights = db_mtl_weights(gramian, statistics.losses, active=active)
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)
