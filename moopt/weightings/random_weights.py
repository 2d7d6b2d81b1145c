"""Random: new random weights at every step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_seed
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.counter_random import counter_normal, counter_normal_on_host
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows

if TYPE_CHECKING:
    import numpy as np

COUNTER = "counter"

NUMBERS_AHEAD = 2**13
"""On the host so many numbers are made at a time: on a few, an operation is all overhead."""


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
        >>> from moopt.weightings.random_weights import random_weights
        >>> weights = random_weights(torch.eye(3), 0, torch.tensor(0))
        >>> bool((weights > 0).all()), round(float(weights.sum()), 12)
        (True, 1.0)
    """
    shape = gramian.shape[:-1]
    # The exponents are below 9 in size: a softmax needs no shift, and no row of -inf can arise.
    exponentials = counter_normal(seed, counter, shape[-1:]).exp()
    if active is None:
        return (exponentials / exponentials.sum()).expand(shape).clone()
    on = active.to(gramian.device).expand(shape)
    exponentials = torch.where(on, exponentials[(on.cumsum(-1) - 1).clamp_min(0)], 0.0)
    total = exponentials.sum(-1, keepdim=True)
    return exponentials / torch.where(total > 0, total, 1.0)


def draws_ahead(m: int) -> int:
    """How many draws of m numbers the host makes at a time."""
    return max(NUMBERS_AHEAD // max(m, 1), 1)


def _random_weights_on_host(shape: torch.Size, seed: int, counter: int) -> Tensor:
    m = shape[-1]
    block, place = divmod(counter, draws_ahead(m))
    weights = torch.from_numpy(_draws_ahead(seed, block, m)[place].copy())
    return weights if len(shape) == 1 else weights.repeat(*shape[:-1], 1)


@functools.lru_cache(maxsize=64)
def _draws_ahead(seed: int, block: int, m: int) -> np.ndarray:
    """float64 `[draws, m]`: the weights of one draw after the other, a function of the arguments.

    An array, since one row of it is copied in half the time of a row of a tensor.
    """
    # numpy is loaded by the first use, not by `import moopt`.
    import numpy as np

    draws = draws_ahead(m)
    weights = np.exp(counter_normal_on_host(seed, block * draws, draws, m))
    weights /= weights.sum(-1, keepdims=True)
    return weights


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

    Numerics: ignores the Gramian's values, so NaN and infinity reach the direction. The number of
    calls is the state (`counter`), so that a resumed run draws what an uninterrupted one would.
    The numbers are made on the device by integer operations; their normal quantiles may differ
    between devices in the last bits. No synchronisation. On the host hundreds of draws are
    made at a time and kept for the next calls.

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
        counter = state[COUNTER]
        on_host = runs_on_host(gramian) and counter.is_cpu and counter.dtype == torch.int64
        if active is None and on_host:
            number = int(counter)
            weights = _random_weights_on_host(gramian.shape[:-1], self.seed, number)
            following = counter.new_full((), number + 1)  # sooner done than an addition
        else:
            weights = random_weights(gramian, self.seed, counter, active=active)
            following = counter + 1
        output = with_auxiliary_rows(weights, statistics)
        return WeightingOutput(output, {COUNTER: following}, None)
