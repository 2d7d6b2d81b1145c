"""RLW: weights drawn at random in every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.scalarizations.base import Scalarization, State, derivative, mask_of
from moopt.settings.numbers import check_seed
from moopt.weightings import Guarantee
from moopt.weightings.counter_random import counter_normal, stream_seed

COUNTER = "counter"


def rlw(losses: Tensor, noise: Tensor, *, active: Tensor | None = None) -> Tensor:
    """Random loss weighting: `sum_i softmax_i(noise) loss_i`.

    Args:
        losses: `[..., m]`, any sign, floating point; differentiable.
        noise: `[..., m]`; standard normal numbers, in the paper's main form.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import rlw
        >>> rlw(torch.tensor([1.0, 3.0]), torch.zeros(2)).item()
        2.0
    """
    on = mask_of(losses, active)
    # The lowest finite number, where -inf would make the softmax of no objective NaN.
    logits = noise.expand(losses.shape).masked_fill(~on, torch.finfo(losses.dtype).min)
    return (logits.softmax(-1) * torch.where(on, losses, 0.0)).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLW(Scalarization):
    """Draw the weights anew in every step: `w = softmax(n)`, n standard normal.

    A test of whether a method does more than noise would: weights on the simplex that know nothing
    of the losses. The weights of step k are a function of `seed` and k alone, the same on every
    device and in every process, and a resumed run goes on where it stopped.

    Args:
        seed: any integer; default 0.

    Raises:
        TypeError: if `seed` is not an integer.

    Numerics: defined for losses of any sign. The k-th active objective takes the k-th number. No
    synchronisation.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import RLW
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(3), losses=torch.ones(3))
        >>> first, state, _ = RLW(seed=1)(statistics)
        >>> second, state, _ = RLW(seed=1)(statistics, state)
        >>> round(first.sum().item(), 12), bool((first == second).any())
        (1.0, False)

    Source: B. Lin, F. Ye, Y. Zhang and I. W. Tsang, "Reasonable Effectiveness of Random Weighting:
    A Litmus Test for Multi-Task Learning", TMLR 2022; the normal distribution of its six.
    """

    seed: int = 0

    name: ClassVar[str] = "RLW"
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

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """No number drawn yet."""
        return {COUNTER: torch.zeros((), dtype=torch.int64, device=device)}

    def _weigh(
        self, losses: Tensor, active: Tensor, state: State, names: tuple[str, ...] | None
    ) -> tuple[Tensor, State]:
        seed = stream_seed(self.seed, 1)  # not the numbers of the weighting `Random`
        normal = counter_normal(seed, state[COUNTER], losses.shape[-1:])
        noise = normal[(active.cumsum(-1) - 1).clamp_min(0)]
        weights = derivative(lambda values: rlw(values, noise, active=active), losses)
        return weights, {COUNTER: state[COUNTER] + 1}
