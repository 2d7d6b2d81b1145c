"""TrimmedMean: the mean of each entry without its extremes."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from moopt.aggregators.entrywise import EntrywiseAggregator
from moopt.weightings.base import Guarantee, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrimmedMean(EntrywiseAggregator):
    """Average every entry of the gradients without its k largest and k smallest values.

    Use it for many similar objectives of which up to k may be corrupt, such as clients in federated
    learning. Objectives that matter one by one are the wrong input: the extremes it cuts are what
    they ask for.

    Args:
        trim: k, how many to cut on either side, >= 0; default 1. A step needs at least 2 k + 1
            objectives; where some of them are inactive it cuts fewer rather than all.

    Raises:
        ValueError: if `trim` is out of range; at the call, if there are too few objectives.

    Numerics: sorts m values per entry; peak extra memory is that of the m gradients of one
    parameter. No synchronisation.

    Example:
        >>> import torch
        >>> from moopt.aggregators import TrimmedMean
        >>> TrimmedMean()([torch.tensor([v]) for v in (0.0, 1.0, 3.0, 100.0)]).tolist()
        [2.0]

    Source: D. Yin, Y. Chen, K. Ramchandran and P. Bartlett, "Byzantine-Robust Distributed Learning:
    Towards Optimal Statistical Rates", ICML 2018, https://arxiv.org/abs/1803.01498. Leaving out
    inactive objectives is our addition.
    """

    trim: int = 1

    guarantees = frozenset(
        {
            Guarantee.POSITIVELY_HOMOGENEOUS,
            Guarantee.PERMUTATION_EQUIVARIANT,
            Guarantee.IDEMPOTENT,
        }
    )

    def __post_init__(self) -> None:
        if not isinstance(self.trim, int) or self.trim < 0:
            raise ValueError(f"`trim` of `TrimmedMean` must be an int >= 0; got {self.trim!r}.")

    def _aggregate(
        self, rows: Tensor, active: Tensor, names: Sequence[str] | None, state: State, position: int
    ) -> Tensor:
        m, count = len(rows), int(active.sum())
        if m < 2 * self.trim + 1:
            raise ValueError(
                f"`trim` of `TrimmedMean` must leave an objective: {self.trim} on either side needs"
                f" at least {2 * self.trim + 1}; got {m}. Use a smaller `trim`."
            )
        if count == 0:
            return rows.sum(0)  # zero
        cut = min(self.trim, (count - 1) // 2)
        return rows[active].sort(dim=0).values[cut : count - cut].mean(0)
