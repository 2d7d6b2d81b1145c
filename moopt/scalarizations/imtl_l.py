"""IMTLL: learned scales that bring every loss to one."""

import dataclasses
from typing import ClassVar

from torch import Tensor

from moopt.scalarizations.log_scale import LearnedLogScale
from moopt.scalarizations.uw import uw


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
    return 2.0 * uw(losses, -log_scales, active=active)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMTLL(LearnedLogScale):
    """Learn a scale for each loss: `w_i = exp(s_i)`, so that `exp(s_i) loss_i` goes to 1.

    Use it for positive losses in different units. Every step also takes a gradient step on the
    scales: `s_i <- s_i - lr (exp(s_i) loss_i - 1)`, as in joint training by SGD with this `lr`.
    They settle at `s_i = -log loss_i`, so that the weight goes to `1 / loss_i`; near there `1 / lr`
    steps close the gap by a factor e. Objectives that are absent keep their scale. It is `UW` with
    `s -> -s`, times two.

    A step that would carry `s_i` past `-log loss_i` by more than 1 ends at `-log loss_i`. With the
    default `lr` that takes `exp(s_i) loss_i` above 760: the loss is weighed by `1 / loss_i` from
    the next step on, where plain descent would drive its weight to zero for good. (A spike of that
    size in a single batch silences its objective for some `1 / lr` steps per factor e.) Other steps
    are as published.

    Args:
        lr: learning rate of the scales, >= 0; default 0.01. 0 keeps them as they are.

    Raises:
        ValueError: if `lr` is out of range.

    Numerics: the scales start at `exp(0) = 1`: the plain sum. A loss <= 0 (or below 2.3e-308) gives
    status OUT_OF_DOMAIN and uniform weights, and leaves every scale as it was.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import IMTLL
        >>> losses = torch.tensor([1.0, 3.0])
        >>> output = IMTLL(lr=0.1)(moopt.StepStatistics(gramian=torch.eye(2), losses=losses))
        >>> output.weights.tolist(), output.state["log_scales"].tolist()
        ([1.0, 1.0], [0.0, -0.2])

    Source: L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao and W. Zhang, "Towards
    Impartial Multi-task Learning", ICLR 2021, https://openreview.net/forum?id=IMPnRXEWpvr, the loss
    balance (IMTL-L). The paper learns the scales with the model's own optimizer; here they have
    their own `lr`. The limit of the step is ours.
    """

    key: ClassVar[str] = "log_scales"
    sign: ClassVar[float] = -1.0
    factor: ClassVar[float] = 1.0
