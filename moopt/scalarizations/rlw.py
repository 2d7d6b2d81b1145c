"""RLW: weights drawn at random in every step."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.scalarizations.arguments import mask_of, softmax_of
from moopt.scalarizations.base import Scalarization, differentiated, softmax
from moopt.settings.fields import integer
from moopt.weightings.base import Guarantee, Problem, Solved, State, StateEntry
from moopt.weightings.draws import COUNTER, draws

STREAM = 1
"""Not the numbers of the weighting `Random` of the same seed."""


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
    return (softmax_of(noise, losses, on) * torch.where(on, losses, 0.0)).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLW(Scalarization):
    """Draw other weights in every step: `w = softmax(n)`, n standard normal.

    Use it to test whether a method does more than noise would: weights on the simplex that know
    nothing of the losses. The weights of step k are a function of `seed` and k alone, the same on
    every device and in every process, and a resumed run goes on where it stopped.

    Args:
        seed: any integer; default 0.

    Raises:
        TypeError: if `seed` is not an integer.

    Numerics: defined for losses of any sign. The k-th active objective takes the k-th number.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import RLW
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(3), losses=torch.ones(3))
        >>> first, state, _ = RLW(seed=1)(statistics)
        >>> second, state, _ = RLW(seed=1)(statistics, state)
        >>> round(first.sum().item(), 12), bool((first == second).any())
        (1.0, False)

    Source: B. Lin, F. Ye, Y. Zhang and I. W. Tsang, "Reasonable Effectiveness of Random Weighting:
    A Litmus Test for Multi-Task Learning", TMLR 2022, https://arxiv.org/abs/2111.10603; the normal
    distribution of its six.
    """

    seed: int = integer(0)

    guarantees = frozenset(
        {Guarantee.SIMPLEX, Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.IDEMPOTENT}
    )
    state_entries: ClassVar[Mapping[str, StateEntry]] = {COUNTER: StateEntry(0, 0, int)}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`softmax(n)`."""
        noise = draws(self.seed, int(state[COUNTER]), STREAM).standard_normal(problem.m)
        return differentiated(softmax(noise), {COUNTER: state[COUNTER] + 1})
