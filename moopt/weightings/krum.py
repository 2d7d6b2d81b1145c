"""Krum: the gradients closest to their neighbours."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.krum_on_host import krum_on_host
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.unit_rows import all_finite, pairs

TIE = 64 * torch.finfo(torch.float64).eps
"""Scores this close, relative to the squared norms they are made of, differ by rounding only."""


def krum_weights(
    gramian: Tensor,
    *,
    num_byzantine: int = 0,
    num_selected: int = 1,
    active: Tensor | None = None,
) -> Tensor:
    """Return equal weights on the gradients with the smallest scores.

    The score of i is the sum of `||g_i - g_j||^2 = G_ii + G_jj - 2 G_ij` over its
    `m - num_byzantine - 2` (at least one) nearest others j. Ties go to the first.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        num_byzantine: f >= 0, how many gradients may be arbitrary.
        num_selected: how many gradients are averaged, >= 1; all, where fewer are active.
        active: bool `[..., m]`; the others get weight exactly 0 and do not count. None means all
            active.

    Returns:
        float64 `[..., m]` on the simplex; uniform where an active entry is not finite.

    Example:
        >>> import torch
        >>> from moopt.weightings.krum import krum_weights
        >>> rows = torch.tensor([[1.0, 0.0], [9.0, 9.0], [1.0, 0.1], [0.8, 0.0]])
        >>> krum_weights((rows @ rows.T).double(), num_selected=2).tolist()
        [0.5, 0.0, 0.5, 0.0]
    """
    gramian = gramian.detach()
    if gramian.dim() == 2 and gramian.dtype == torch.float64 and runs_on_host(gramian):
        solved = krum_on_host(gramian, active, num_byzantine, num_selected, TIE)
        if solved is not None:
            return torch.from_numpy(solved)
    m = gramian.shape[-1]
    on = torch.ones_like(gramian[..., 0], dtype=torch.bool)
    if active is not None:
        on = on & active.to(gramian.device)
    both = pairs(on)
    finite = all_finite(gramian, None if active is None else on)
    safe = torch.where(both & finite[..., None, None], gramian, 0.0)
    squares = safe.diagonal(dim1=-2, dim2=-1)
    # Symmetrised, so that two nearest neighbours of each other tie exactly.
    sizes = squares[..., :, None] + squares[..., None, :]
    distances = (sizes - safe - safe.mT).clamp_min(0.0)
    others = both & ~torch.eye(m, dtype=torch.bool, device=gramian.device)
    distances, nearest = torch.where(others, distances, math.inf).sort(dim=-1, stable=True)
    num_neighbours = (on.sum(-1, keepdim=True) - num_byzantine - 2).clamp_min(1)
    counted = (torch.arange(m, device=gramian.device) < num_neighbours)[..., None, :]
    counted = counted & distances.isfinite()
    scores = torch.where(counted, distances, 0.0).sum(-1)
    noise = TIE * torch.where(counted, sizes.take_along_dim(nearest, -1), 0.0).sum(-1)

    selected = torch.zeros_like(on)
    for _ in range(min(num_selected, m)):
        left = on & ~selected
        best, where = torch.where(left, scores, math.inf).min(-1, keepdim=True)
        ties = left & (scores - best <= noise + noise.gather(-1, where))
        selected = selected | (ties & (ties.cumsum(-1) == 1))
    return mean_weights(gramian, active=torch.where(finite[..., None], selected, on))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Krum(Weighting):
    """Follow the gradient that is closest to its neighbours, or the mean of several (multi-Krum).

    A defence of distributed training against workers that send arbitrary gradients: with m
    gradients of which f may be arbitrary, the score of each is the sum of its squared distances
    to the `m - f - 2` nearest others, and the smallest score wins. For `m >= 2 f + 3` the choice
    is resilient. Not a method for different objectives, whose gradients are meant to differ.

    Args:
        num_byzantine: f, >= 0; default 0.
        num_selected: how many gradients with the smallest scores are averaged, >= 1; default 1.

    Raises:
        ValueError: if a setting is out of range; at the call, if `num_byzantine` > 0 and there
            are fewer than 2 f + 3 objectives.

    Numerics: scores that differ by rounding only are ties, which go to the first; so the order of
    the objectives matters there. Where objectives are masked, the distances that count are at
    least one. NaN or infinity among the active rows gives uniform weights: a worker that sends
    them is not excluded, so that the overflow is seen. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> rows = torch.tensor([[1.0, 0.0], [9.0, 9.0], [1.0, 0.1], [0.8, 0.0]])
        >>> statistics = moopt.StepStatistics(gramian=(rows @ rows.T).double())
        >>> moopt.weightings.Krum(num_selected=2)(statistics).weights.tolist()
        [0.5, 0.0, 0.5, 0.0]

    Source: P. Blanchard, E. M. El Mhamdi, R. Guerraoui and J. Stainer, "Machine Learning with
    Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017. A peer sums distances where
    the paper sums their squares, which can select another gradient; we follow the paper.
    """

    num_byzantine: int = 0
    num_selected: int = 1

    name: ClassVar[str] = "Krum"
    source: ClassVar[str] = (
        "P. Blanchard, E. M. El Mhamdi, R. Guerraoui and J. Stainer, Machine Learning with"
        " Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS 2017"
    )

    def __post_init__(self) -> None:
        for field, smallest in (("num_byzantine", 0), ("num_selected", 1)):
            value = getattr(self, field)
            if not isinstance(value, int) or value < smallest:
                raise ValueError(
                    f"`{field}` of `Krum` must be an integer of at least {smallest}; got"
                    f" {value!r}. The default is {smallest}."
                )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset(
            {Guarantee.SIMPLEX, Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.IDEMPOTENT}
        )

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        m, needed = statistics.num_objectives, 2 * self.num_byzantine + 3
        if self.num_byzantine and m < needed:
            raise ValueError(
                f"`num_byzantine={self.num_byzantine}` of `Krum` needs at least {needed}"
                f" objectives; got {m}. Lower it to {max(m - 3, 0) // 2}, or pass more gradients."
            )
        weights = krum_weights(
            gramian,
            num_byzantine=self.num_byzantine,
            num_selected=self.num_selected,
            active=active,
        )
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)
