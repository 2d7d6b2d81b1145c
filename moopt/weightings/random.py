"""Random: new random weights at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.record import StepStatistics
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.common_settings import check_seed
from moopt.weightings.counter_random import counter_uniform, counter_uniform_on_host
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.unit_rows import all_finite, surely_finite

COUNTER = "counter"

SMALLEST_UNIFORM = 2.0**-54
"""In place of an exact zero, whose normal quantile is infinite: half the generator's resolution."""


def random_weights(
    gramian: Tensor, seed: int, counter: Tensor, *, active: Tensor | None = None
) -> Tensor:
    """Return the softmax of independent standard normal numbers.

    Args:
        gramian: `[..., m, m]`; only its shape and device matter. Leading dimensions share the
            numbers.
        seed: any integer.
        counter: int64 `[]`, the number of the draw.
        active: bool `[..., m]`; the others get weight exactly 0, and the active ones the numbers
            that they would get without them. None means all active.

    Returns:
        float64 `[..., m]`, positive and adding up to one over the active rows.

    Example:
        >>> import torch
        >>> from moopt.weightings.random import random_weights
        >>> weights = random_weights(torch.eye(3), 0, torch.tensor(0))
        >>> bool((weights > 0).all()), round(float(weights.sum()), 12)
        (True, 1.0)
    """
    shape = gramian.shape[:-1]
    if runs_on_host(gramian) and runs_on_host(counter):
        numbers = counter_uniform_on_host(seed, int(counter), shape[-1])
        uniform = torch.tensor(numbers, dtype=torch.float64)
    else:
        uniform = counter_uniform(seed, counter, (shape[-1],))
    normal = torch.special.ndtri(uniform.clamp_min(SMALLEST_UNIFORM))
    if active is None:
        weights = normal.softmax(-1)
        return weights if len(shape) == 1 else weights.expand(shape).clone()
    on = active.to(gramian.device).expand(shape)
    normal = normal[(on.cumsum(-1) - 1).clamp_min(0)]
    # The exponents are below 9 in size: no shift is needed, and no row of -inf can arise.
    exponentials = torch.where(on, normal.exp(), 0.0)
    total = exponentials.sum(-1, keepdim=True)
    return exponentials / torch.where(total > 0, total, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(Weighting):
    """Weights drawn anew at every step: the softmax of standard normal numbers.

    The litmus test of the field: a method that does not beat random weights has not shown that
    its weights matter. The direction is the gradient of a random convex combination of the
    losses, in expectation that of their mean.

    Args:
        seed: any integer; default 0.

    Raises:
        TypeError: `seed` is not an integer.

    Numerics: ignores the Gramian's values, except that NaN or infinity among the active rows
    gives uniform weights and draws nothing. The number of finite steps is the state (`counter`),
    so that a resumed run draws what an uninterrupted one would. The numbers are made on the
    device by integer operations; their normal quantiles may differ between devices in the last
    bits. No synchronisation.

    Example:
        >>> import torch, moopt
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2, dtype=torch.float64))
        >>> weighting = moopt.weightings.Random(seed=1)
        >>> first, state, _ = weighting(statistics)
        >>> second = weighting(statistics, state).weights
        >>> torch.equal(first, second), torch.equal(first, weighting(statistics).weights)
        (False, True)

    Source: B. Lin, F. Ye, Y. Zhang and I. W. Tsang, "Reasonable Effectiveness of Random
    Weighting: A Litmus Test for Multi-Task Learning", TMLR 2022, Algorithm 2 (random gradient
    weighting). Its loss-weighting twin needs one backward pass only: see
    `moopt.scalarizations`.
    """

    seed: int = 0

    name: ClassVar[str] = "Random"
    source: ClassVar[str] = (
        "B. Lin, F. Ye, Y. Zhang and I. W. Tsang, Reasonable Effectiveness of Random Weighting: A"
        " Litmus Test for Multi-Task Learning, TMLR 2022"
    )

    def __post_init__(self) -> None:
        check_seed(self.name, self.seed)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset(
            {Guarantee.SIMPLEX, Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.IDEMPOTENT}
        )

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {COUNTER: 0}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """A counter at zero."""
        return {COUNTER: torch.zeros((), dtype=torch.int64, device=device)}

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        if state is None:
            state = self.initial_state(statistics.num_objectives, gramian.device)
        weights = random_weights(gramian, self.seed, state[COUNTER], active=active)
        if active is None and surely_finite(gramian):
            following = {COUNTER: state[COUNTER] + 1}
            return WeightingOutput(with_auxiliary_rows(weights, statistics), following, None)
        finite = all_finite(gramian, None if active is None else active.to(gramian.device))
        weights = torch.where(finite[..., None], weights, mean_weights(gramian, active=active))
        following = {COUNTER: state[COUNTER] + finite.all()}
        return WeightingOutput(with_auxiliary_rows(weights, statistics), following, None)
