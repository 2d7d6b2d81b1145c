"""DWA: more weight for the losses that fall slowest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.scalarizations.base import Scalarization, State, derivative, mask_of
from moopt.settings.numbers import check_number
from moopt.weightings import Guarantee

LOSS_SUM = "loss_sum"
NUM_STEPS = "num_steps"
LAST = "last_average"
BEFORE_LAST = "average_before_last"


def dwa(
    losses: Tensor,
    rates: Tensor | None = None,
    *,
    temperature: float = 2.0,
    active: Tensor | None = None,
) -> Tensor:
    """Dynamic weight average: `m sum_i softmax_i(r_j / T) loss_i`.

    Args:
        losses: `[..., m]`, floating point; differentiable.
        rates: `[m]`, r, the ratio of each objective's last average loss to the one before; larger
            means slower. None means all equal.
        temperature: T, > 0; large, the weights are equal.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import dwa
        >>> dwa(torch.tensor([1.0, 2.0])).item()
        3.0
    """
    on = mask_of(losses, active)
    logits = torch.zeros_like(losses) if rates is None else rates.expand(losses.shape) / temperature
    # The lowest finite number, where -inf would make the softmax of no objective NaN.
    shares = logits.masked_fill(~on, torch.finfo(losses.dtype).min).softmax(-1)
    return on.sum(-1) * (shares * torch.where(on, losses, 0.0)).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DWA(Scalarization):
    """Weigh each loss by how slowly it falls: `w_i = m softmax_i(r_j / T)`.

    `r_i` is the ratio of the objective's average loss over the last epoch to that over the one
    before; 1 until there are two. Epochs are counted in steps, for each objective by itself, so
    that objectives may come and go. The weights sum to m: with equal rates it is the plain sum.

    Args:
        steps_per_epoch: how many steps one average spans, >= 1; default 100. Give the length of
            your epoch to reproduce the paper.
        temperature: T, > 0; default 2, the paper's.

    Raises:
        ValueError: if a setting is out of range.

    Numerics: defined for losses of any sign; a ratio that is not finite (an average of 0) counts
    as 1. Independent of the losses' scales. No synchronisation.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import DWA
        >>> weighting, state = DWA(steps_per_epoch=1), None
        >>> for losses in ([4.0, 4.0], [2.0, 4.0], [1.0, 4.0]):
        ...     statistics = moopt.StepStatistics(gramian=torch.eye(2), losses=torch.tensor(losses))
        ...     weights, state, _ = weighting(statistics, state)
        >>> [round(w, 3) for w in weights.tolist()]  # the second loss does not fall
        [0.876, 1.124]

    Source: S. Liu, E. Johns and A. J. Davison, "End-to-End Multi-Task Learning with Attention",
    CVPR 2019. The count of steps in place of epochs is ours.
    """

    steps_per_epoch: int = 100
    temperature: float = 2.0

    name: ClassVar[str] = "DWA"
    source: ClassVar[str] = (
        "S. Liu, E. Johns and A. J. Davison, End-to-End Multi-Task Learning with Attention, CVPR"
        " 2019"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.steps_per_epoch, int) or self.steps_per_epoch < 1:
            raise ValueError(
                f"`steps_per_epoch` of `DWA` must be an int >= 1; got {self.steps_per_epoch!r}."
                " Use the number of steps of one epoch."
            )
        check_number(self.name, "temperature", self.temperature, "finite and > 0", use="2.0")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return super().guarantees | {Guarantee.POSITIVELY_HOMOGENEOUS}

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {LOSS_SUM: 1, NUM_STEPS: 1, LAST: 1, BEFORE_LAST: 1}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """No step counted, no average known (0, whose ratio counts as 1)."""
        zero = torch.zeros(num_objectives, dtype=torch.float64, device=device)
        return {
            LOSS_SUM: zero,
            NUM_STEPS: zero.to(torch.int64),
            LAST: zero.clone(),
            BEFORE_LAST: zero.clone(),
        }

    def _weigh(
        self, losses: Tensor, active: Tensor, state: State, names: tuple[str, ...] | None
    ) -> tuple[Tensor, State]:
        rates = state[LAST] / state[BEFORE_LAST]
        rates = rates.where(rates.isfinite(), 1.0)
        weights = derivative(
            lambda values: dwa(values, rates, temperature=self.temperature, active=active), losses
        )
        total = torch.where(active, state[LOSS_SUM] + losses, state[LOSS_SUM])
        count = state[NUM_STEPS] + active
        full = count >= self.steps_per_epoch
        return weights, {
            LOSS_SUM: torch.where(full, 0.0, total),
            NUM_STEPS: torch.where(full, 0, count),
            LAST: torch.where(full, total / count.clamp_min(1), state[LAST]),
            BEFORE_LAST: torch.where(full, state[LAST], state[BEFORE_LAST]),
        }
