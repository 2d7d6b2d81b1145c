"""GradVac: each gradient turned towards those that are less similar than they used to be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number, check_seed
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.dual_space_mgda import CANCELLED
from moopt.weightings.gradvac_on_host import gradvac_on_host
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.random_order import index_order, random_order
from moopt.weightings.unit_rows import UnitRows, pairs, unit_rows

COUNTER = "counter"
TARGETS = "targets"

SMALLEST_SINE = 1e-3
"""Of a target angle: a smaller one would take more than a thousand times g_j to reach."""

LARGEST = math.sqrt(1.0 - SMALLEST_SINE**2)

HOST_SIZE = 16
"""Up to this m plain Python beats torch on the host."""


def gradvac_weights(
    gramian: Tensor,
    targets: Tensor,
    *,
    beta: float = 0.01,
    order: Tensor | None = None,
    active: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weights of the sum of the turned gradients, and the next targets.

    For each i, `g_i' = g_i`, then for the others j in turn, with `c = cos(g_i', g_j)` and the
    target t: where c < t, `g_i' <- g_i' + ||g_i'|| (t sqrt(1 - c^2) - c sqrt(1 - t^2)) /
    (||g_j|| sqrt(1 - t^2)) g_j`, which makes the cosine t; the next target is
    `(1 - beta) t + beta c`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        targets: float64 `[..., m, m]`, in [-1, 1]; row i holds the targets of objective i.
        beta: in [0, 1].
        order: int64 `[..., m, m - 1]`; row i holds the others of objective i in turn. None means
            by index.
        active: bool `[..., m]`; the others get weight exactly 0, have no influence and keep their
            targets. None means all active.

    Returns:
        weights float64 `[..., m]`, uniform where an active entry is not finite; next targets
        float64 `[..., m, m]`.

    Example:
        >>> import torch
        >>> from moopt.weightings.gradvac import gradvac_weights
        >>> G = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> weights, targets = gradvac_weights(G, torch.zeros(2, 2, dtype=torch.float64), beta=0.5)
        >>> weights.tolist(), targets.tolist()
        ([1.5, 1.5], [[0.0, -0.25], [-0.25, 0.0]])
    """
    return _turned(unit_rows(gramian.detach(), active), targets, beta, order)


def _turned(
    rows: UnitRows, targets: Tensor, beta: float, order: Tensor | None
) -> tuple[Tensor, Tensor]:
    shape, m = rows.cosines.shape, rows.cosines.shape[-1]
    if order is None:
        order = index_order(m, rows.cosines.device)
    targets = targets.expand(shape)
    following = targets
    # Row i of `coefficients` is g_i' in terms of the unit gradients, of `slopes` its inner
    # products with them, both divided by ||g_i||.
    coefficients = torch.eye(m, dtype=torch.float64, device=rows.cosines.device).expand(shape)
    slopes = rows.cosines
    both = pairs(rows.live)
    for turn in range(m - 1):
        other = order[..., turn, None].expand(*shape[:-1], 1)
        square = (coefficients * slopes).sum(-1, keepdim=True)
        terms = coefficients.abs().sum(-1, keepdim=True).square()
        # A gradient that has vanished has no cosine.
        usable = both.gather(-1, other) & (square > CANCELLED * terms)
        length = torch.where(usable, square, 1.0).sqrt()
        cosine = (slopes.gather(-1, other) / length).clamp(-1.0, 1.0)
        former = targets.gather(-1, other)
        target = former.clamp(-LARGEST, LARGEST)
        sine = (1.0 - target.square()).sqrt()
        step = length * (target * (1.0 - cosine.square()).sqrt() / sine - cosine)
        step = torch.where(usable & (cosine < target), step, 0.0)
        coefficients = coefficients.scatter_add(-1, other, step)
        slopes = slopes + step * rows.cosines.take_along_dim(other, -2)
        seen = torch.where(usable, (1.0 - beta) * former + beta * cosine, former)
        following = following.scatter(-1, other, seen)
    weights = (coefficients * (rows.norms * rows.on)[..., None]).sum(-2) / rows.norms
    weights = torch.where(rows.on, weights, 0.0)
    uniform = mean_weights(rows.cosines, active=rows.on)
    return torch.where(rows.finite[..., None], weights, uniform), following


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradVac(Weighting):
    """Gradient vaccine: turn each gradient until it is as similar to the others as usual.

    Where `PCGrad` removes a conflict only when a cosine is negative, GradVac compares the cosine
    of g_i' and g_j with a target, the moving average of what it has been, and adds a multiple of
    g_j that restores it. The direction is `sum_i g_i'`. The targets start at zero, so the first
    step is PCGrad's.

    Args:
        beta: share of the newest cosine in the targets, in [0, 1]; default 0.01. 0 keeps them at
            zero: PCGrad.
        seed: of the random order in which an objective meets the others, any integer; default 0.

    Raises:
        ValueError: if `beta` is out of range.
        TypeError: if `seed` is not an integer.

    Numerics: computed on cosines, so that scales do not matter. A target is limited to
    sqrt(1 - 1e-6): to restore a cosine of one, an infinite multiple of g_j would be needed. A pair
    with a zero gradient, or whose modified gradient has vanished, keeps its target. The state
    holds the targets and the number of finite steps. NaN or infinity among the active rows gives
    uniform weights and leaves the state alone. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> weighting = moopt.weightings.GradVac(beta=0.5)
        >>> weights, state, _ = weighting(moopt.StepStatistics(gramian=G))
        >>> weights.tolist(), state["targets"].tolist()
        ([1.5, 1.5], [[0.0, -0.25], [-0.25, 0.0]])

    Source: Z. Wang, Y. Tsvetkov, O. Firat and Y. Cao, "Gradient Vaccine: Investigating and
    Improving Multi-task Optimization in Massively Multilingual Models", ICLR 2021, Algorithm 1
    (from memory; there beta is 0.01, peers default to 0.5). We differ in the limit of the target,
    where peers add 1e-8 to the denominators, and in one group of parameters unless the caller
    makes more.
    """

    beta: float = 0.01
    seed: int = 0

    name: ClassVar[str] = "GradVac"
    source: ClassVar[str] = (
        "Z. Wang, Y. Tsvetkov, O. Firat and Y. Cao, Gradient Vaccine: Investigating and Improving"
        " Multi-task Optimization in Massively Multilingual Models, ICLR 2021"
    )

    def __post_init__(self) -> None:
        check_seed(self.name, self.seed)
        check_number(self.name, "beta", self.beta, "in [0, 1]", use="0.01 for the newest cosine")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.POSITIVELY_HOMOGENEOUS})

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {COUNTER: 0, TARGETS: 2}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """A counter at zero and targets of zero."""
        m = num_objectives
        return {
            COUNTER: torch.zeros((), dtype=torch.int64, device=device),
            TARGETS: torch.zeros(m, m, dtype=torch.float64, device=device),
        }

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        m = statistics.num_objectives
        if state is None:
            state = self.initial_state(m, gramian.device)
        solved = None
        if gramian.dim() == 2 and m <= HOST_SIZE and runs_on_host(gramian):
            solved = gradvac_on_host(
                gramian,
                state[TARGETS],
                state[COUNTER],
                active,
                seed=self.seed,
                beta=self.beta,
                largest=LARGEST,
                cancelled=CANCELLED,
            )
        if solved is not None:
            weights, targets = solved
            counter = state[COUNTER] + 1
        else:
            rows = unit_rows(gramian.detach(), active)
            order = random_order(self.seed, state[COUNTER], m, active)
            weights, targets = _turned(rows, state[TARGETS], self.beta, order)
            counter = state[COUNTER] + rows.finite.all()
        following = {COUNTER: counter, TARGETS: targets}
        return WeightingOutput(with_auxiliary_rows(weights, statistics), following, None)
