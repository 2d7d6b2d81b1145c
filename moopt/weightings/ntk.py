"""NTK: weights against the size of each loss's tangent kernel."""

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


def ntk_weights(gramian: Tensor, losses: Tensor | None, *, active: Tensor | None = None) -> Tensor:
    """Return `w_i = sum_j s_j / s_i` with `s_i = ||grad sqrt(loss_i)||`.

    That is `||g_i|| / (2 sqrt(loss_i))`: the diagonal of the Gramian and the losses are enough.

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
        >>> from moopt.weightings.ntk import ntk_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> ntk_weights(G, torch.tensor([1.0, 1.0])).tolist()
        [3.0, 1.5]
    """
    rows = unit_rows(gramian.detach(), active)
    sizes, finite = loss_sizes(losses, rows, "NTK")
    kernels = torch.where(rows.live, rows.norms / sizes.sqrt(), 0.0)
    largest = kernels.amax(-1, keepdim=True)
    kernels = kernels / torch.where(largest > 0, largest, 1.0)
    total = kernels.sum(-1, keepdim=True)
    weights = torch.where(rows.live, total / torch.where(rows.live, kernels, 1.0), 0.0)
    return torch.where(finite[..., None], weights, mean_weights(gramian, active=rows.on))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NTK(Weighting):
    """Balance the rates at which the losses fall, through the size of their tangent kernels.

    For a loss that is a mean of squares, `r = sqrt(loss)` is its residual, and `s_i^2 =
    ||grad r_i||^2` the diagonal of the neural tangent kernel of the residuals: the rate at which
    gradient descent on `r_i^2` alone would lower it. With `w_i = sum_j s_j / s_i` the direction is
    `2 (sum_j s_j) sum_i sqrt(loss_i) u_i` in terms of unit gradients u_i: a sum in which a loss
    counts with its square root, whatever the size of its gradient.

    Raises:
        ValueError: at the call, if the losses are missing.

    Numerics: losses are taken by absolute value; one below 1e-12 of the largest counts as that
    much. Zero rows get weight 0. Common descent is not promised. NaN or infinity among the active
    rows or losses gives uniform weights. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G, losses=torch.tensor([1.0, 4.0]))
        >>> moopt.weightings.NTK()(statistics).weights.tolist()
        [2.0, 2.0]

    Source: S. Wang, X. Yu and P. Perdikaris, "When and Why PINNs Fail to Train: A Neural Tangent
    Kernel Perspective", arXiv 2007.14527, 2020, whose weights are quotients of traces, `tr(K) /
    tr(K_ii)`, over all residuals of an objective. Those are not available from mean losses: like a
    public toolkit for physics-informed networks (from memory) we take one residual per loss and
    the norms s_i themselves.
    """

    name: ClassVar[str] = "NTK"
    source: ClassVar[str] = (
        "S. Wang, X. Yu and P. Perdikaris, When and Why PINNs Fail to Train: A Neural Tangent"
        " Kernel Perspective, arXiv 2007.14527, 2020"
    )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"})

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        weights = ntk_weights(gramian, statistics.losses, active=active)
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)
