"""PCGrad: each gradient projected off those it conflicts with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_seed
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.random_order import index_order, random_order, random_order_on_host
from moopt.weightings.unit_rows import unit_rows, unit_rows_on_host

Order = Literal["random", "given"]

COUNTER = "counter"

HOST_SIZE = 24
"""Up to this m plain Python beats torch on the host."""


def pcgrad_weights(
    gramian: Tensor, *, order: Tensor | None = None, active: Tensor | None = None
) -> Tensor:
    """Return the weights of the sum of the gradients after their projections.

    For each i, `g_i' = g_i`, then for the others j in turn
    `g_i' <- g_i' - min(0, g_i' . g_j) / ||g_j||^2 g_j`; the direction is `sum_i g_i'`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        order: int64 `[..., m, m - 1]`; row i holds the others of objective i in the order of the
            projections. None means by index.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.

    Returns:
        float64 `[..., m]`, all `>= 1` for active rows up to rounding; uniform where an active
        entry is not finite.

    Example:
        >>> import torch
        >>> from moopt.weightings.pcgrad import pcgrad_weights
        >>> G = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
        >>> pcgrad_weights(G).tolist()
        [2.0, 1.25]
    """
    gramian = gramian.detach()
    m = gramian.shape[-1]
    if order is None:
        order = index_order(m, gramian.device)
    rows = unit_rows(gramian, active)
    # Row i of `coefficients` is g_i' in terms of the unit gradients, of `slopes` its inner
    # products with them, both divided by ||g_i||.
    coefficients = torch.eye(m, dtype=torch.float64, device=gramian.device)
    coefficients = coefficients.expand(gramian.shape)
    slopes = rows.cosines
    for turn in range(m - 1):
        other = order[..., turn, None].expand(*gramian.shape[:-1], 1)
        conflict = slopes.gather(-1, other).clamp_max(0.0)
        coefficients = coefficients.scatter_add(-1, other, -conflict)
        slopes = slopes - conflict * rows.cosines.take_along_dim(other, -2)
    weights = (coefficients * (rows.norms * rows.on)[..., None]).sum(-2) / rows.norms
    weights = torch.where(rows.on, weights, 0.0)
    uniform = mean_weights(gramian, active=rows.on)
    return torch.where(rows.finite[..., None], weights, uniform)


def _weights_on_host(
    gramian: list[list[float]], on: list[int], order: Sequence[Sequence[int]]
) -> list[float] | None:
    """`pcgrad_weights` of one finite Gramian without zero rows, in plain Python; None for others.

    `order` counts active objectives only, whose indices are `on`.
    """
    rows = unit_rows_on_host(gramian, on)
    if rows is None:
        return None
    cosines, norms = rows
    total = norms[:]
    for i, others in enumerate(order):
        slopes, n = cosines[i], norms[i]
        for j in others:
            conflict = slopes[j]
            if conflict < 0.0:
                total[j] -= n * conflict
                slopes = [s - conflict * c for s, c in zip(slopes, cosines[j], strict=True)]
    weights = [0.0] * len(gramian)
    for i, t, n in zip(on, total, norms, strict=True):
        weights[i] = t / n
    return weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCGrad(Weighting):
    """Project each gradient off those that it conflicts with, then add them up.

    For each objective i, `g_i' = g_i` meets the other gradients g_j in random order; wherever
    `g_i' . g_j < 0` the component along g_j is removed. The direction is `sum_i g_i'`, the
    ordinary sum where nothing conflicts. Two objectives never conflict with the direction; from
    three on a later projection can undo an earlier one, so there is no promise.

    Args:
        order: "random" (default), a new order for every objective in every step; "given", the
            order of the objectives, which keeps no state.
        seed: of the random order, any integer; default 0.

    Raises:
        ValueError: if `order` is unknown.
        TypeError: if `seed` is not an integer.

    Numerics: computed on cosines, so that scales do not matter. The number of finite steps is the
    state (`counter`), so that a resumed run draws what an uninterrupted one would. All parameter
    groups of a batch share the order. NaN or infinity among the active rows gives uniform weights.
    No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
        >>> weights, state, _ = moopt.weightings.PCGrad()(moopt.StepStatistics(gramian=G))
        >>> weights.tolist(), int(state["counter"])
        ([2.0, 1.25], 1)

    Source: T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman and C. Finn, "Gradient Surgery for
    Multi-Task Learning", NeurIPS 2020, Algorithm 1. We differ only in computing with the Gramian:
    the coefficients of the projected gradients instead of the gradients.
    """

    order: Order = "random"
    seed: int = 0

    name: ClassVar[str] = "PCGrad"
    source: ClassVar[str] = (
        "T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman and C. Finn, Gradient Surgery for"
        " Multi-Task Learning, NeurIPS 2020"
    )

    def __post_init__(self) -> None:
        check_seed(self.name, self.seed)
        if self.order not in get_args(Order):
            raise ValueError(
                f"`order` of `PCGrad` must be one of {list(get_args(Order))}; got {self.order!r}."
                " Use 'random', as the paper does."
            )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.POSITIVELY_HOMOGENEOUS})

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {COUNTER: 0} if self.order == "random" else {}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """A counter at zero, or nothing for `order="given"`."""
        if self.order == "given":
            return {}
        return {COUNTER: torch.zeros((), dtype=torch.int64, device=device)}

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        m = statistics.num_objectives
        if state is None:
            state = self.initial_state(m, gramian.device)
        weights = None
        if gramian.dim() == 2 and m <= HOST_SIZE and runs_on_host(gramian):
            flags = [True] * m if active is None else active.tolist()
            on = [i for i, flag in enumerate(flags) if flag]
            solved = _weights_on_host(gramian.tolist(), on, self._order_on_host(state, len(on)))
            if solved is not None:
                weights = torch.tensor(solved, dtype=torch.float64)
                state = {key: value + 1 for key, value in state.items()}
        if weights is None:
            order = None
            if self.order == "random":
                order = random_order(self.seed, state[COUNTER], m, active)
            weights = pcgrad_weights(gramian, order=order, active=active)
            finite = unit_rows(gramian, active).finite.all()
            state = {key: value + finite for key, value in state.items()}
        return WeightingOutput(with_auxiliary_rows(weights, statistics), state, None)

    def _order_on_host(self, state: dict[str, Tensor], m: int) -> list[list[int]]:
        if self.order == "given":
            return [[j for j in range(m) if j != i] for i in range(m)]
        return random_order_on_host(self.seed, int(state[COUNTER]), m)
