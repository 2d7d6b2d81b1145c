"""IMTLL: learned scales that bring every loss to one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.scalarizations.base import Scalarization, State, derivatives, mask_of
from moopt.settings.numbers import check_number

LOG_SCALES = "log_scales"


def imtl_l(losses: Tensor, log_scales: Tensor, *, active: Tensor | None = None) -> Tensor:
    """Impartial loss balance: `sum_i (exp(s_i) loss_i - s_i)`.

    Args:
        losses: `[..., m]`, > 0, floating point; differentiable.
        log_scales: `[m]`, s; differentiable, to be learned.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import imtl_l
        >>> imtl_l(torch.tensor([1.0, 2.0]), torch.zeros(2)).item()
        3.0
    """
    on = mask_of(losses, active)
    terms = log_scales.exp() * torch.where(on, losses, 0.0) - log_scales
    return torch.where(on, terms, 0.0).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMTLL(Scalarization):
    """Learn a scale for each loss: `w_i = exp(s_i)`, so that `exp(s_i) loss_i` goes to 1.

    Every step also takes a gradient step on the scales: `s_i <- s_i - lr (exp(s_i) loss_i - 1)`, as
    in joint training by SGD with this `lr`. They settle at `s_i = -log loss_i`, so that the weight
    goes to `1 / loss_i`; near there `1 / lr` steps close the gap by a factor e. Objectives that are
    absent keep their scale. It is `UW` with `s -> -s`, times two.

    Args:
        lr: learning rate of the scales, >= 0; default 0.01. 0 keeps them as they are. A loss far
            above 1 moves its scale by about `lr loss` in the first step: choose `lr` below
            1 / loss.

    Raises:
        ValueError: if `lr` is out of range.

    Numerics: the scales start at `exp(0) = 1`: the plain sum. They need losses > 0: with a loss
    <= 0 its scale grows without end. No synchronisation.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import IMTLL
        >>> losses = torch.tensor([1.0, 3.0])
        >>> output = IMTLL(lr=0.1)(moopt.StepStatistics(gramian=torch.eye(2), losses=losses))
        >>> output.weights.tolist(), output.state["log_scales"].tolist()
        ([1.0, 1.0], [0.0, -0.2])

    Source: L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao and W. Zhang, "Towards
    Impartial Multi-task Learning", ICLR 2021, the loss balance (IMTL-L). The paper learns the
    scales with the model's own optimizer; here they have their own `lr`.
    """

    lr: float = 0.01

    name: ClassVar[str] = "IMTLL"
    source: ClassVar[str] = (
        "L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao and W. Zhang, Towards"
        " Impartial Multi-task Learning, ICLR 2021"
    )

    def __post_init__(self) -> None:
        check_number(self.name, "lr", self.lr, "finite and >= 0", use="0.01")

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {LOG_SCALES: 1}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """Log-scales 0: the plain sum."""
        return {LOG_SCALES: torch.zeros(num_objectives, dtype=torch.float64, device=device)}

    def _weigh(
        self, losses: Tensor, active: Tensor, state: State, names: tuple[str, ...] | None
    ) -> tuple[Tensor, State]:
        logs = state[LOG_SCALES].expand(losses.shape)
        weights, slopes = derivatives(
            lambda values, s: imtl_l(values, s, active=active), losses, logs
        )
        return weights, {LOG_SCALES: logs - self.lr * slopes}
