"""DWA: more weight for the losses that fall slowest."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moopt.scalarizations.arguments import mask_of, softmax_of
from moopt.scalarizations.base import Scalarization, differentiated, softmax
from moopt.settings.fields import number
from moopt.weightings.base import Guarantee, Problem, Solved, State, StateEntry

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
    logits = torch.zeros_like(losses) if rates is None else rates / temperature
    return on.sum(-1) * (softmax_of(logits, losses, on) * torch.where(on, losses, 0.0)).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DWA(Scalarization):
    """Weigh each loss by how slowly it falls: `w_i = m softmax_i(r_j / T)`.

    `r_i` is the ratio of the objective's average loss over the last epoch to that over the one
    before; 1 until there are two. Epochs are counted in steps, for each objective by itself, so
    that objectives may come and go. The weights sum to m: with equal rates it is the plain sum.
    Take it to reproduce published results.

    Args:
        steps_per_epoch: how many steps one average spans, >= 1; default 100. Give the length of
            your epoch to reproduce the paper.
        temperature: T, > 0; default 2, the paper's.

    Raises:
        ValueError: if a setting is out of range.

    Numerics: defined for losses of any sign; a ratio that is not finite (an average of 0) counts
    as 1. Independent of the losses' scales.

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
    CVPR 2019, https://arxiv.org/abs/1803.10704. The count of steps in place of epochs is ours.
    """

    steps_per_epoch: int = 100
    temperature: float = number(2.0, "finite and > 0")

    guarantees = frozenset({Guarantee.PERMUTATION_EQUIVARIANT, Guarantee.POSITIVELY_HOMOGENEOUS})
    # An average of 0 is none yet: its ratio counts as 1.
    state_entries: ClassVar[Mapping[str, StateEntry]] = {
        LOSS_SUM: StateEntry(1),
        NUM_STEPS: StateEntry(1, 0, int),
        LAST: StateEntry(1),
        BEFORE_LAST: StateEntry(1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.steps_per_epoch, int) or self.steps_per_epoch < 1:
            raise ValueError(
                f"`steps_per_epoch` of `DWA` must be an int >= 1; got {self.steps_per_epoch!r}."
                " Use the number of steps of one epoch."
            )

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`m softmax_i(r_j / T)`, and the next averages."""
        assert problem.losses is not None
        last, before_last = state[LAST], state[BEFORE_LAST]
        rates = last / before_last
        rates = np.where(np.isfinite(rates), rates, 1.0)
        total, count = state[LOSS_SUM] + problem.losses, state[NUM_STEPS] + 1
        full = count >= self.steps_per_epoch
        next_state = {
            LOSS_SUM: np.where(full, 0.0, total),
            NUM_STEPS: np.where(full, 0, count),
            LAST: np.where(full, total / count, last),
            BEFORE_LAST: np.where(full, last, before_last),
        }
        return differentiated(problem.m * softmax(rates, self.temperature), next_state)
