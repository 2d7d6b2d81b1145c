"""UW: learned uncertainties."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from moopt.scalarizations.arguments import mask_of
from moopt.scalarizations.log_scale import LearnedLogScale


def uw(losses: Tensor, log_variances: Tensor, *, active: Tensor | None = None) -> Tensor:
    """Uncertainty weighting: `sum_i (exp(-s_i) loss_i + s_i) / 2`.

    Args:
        losses: `[..., m]`, > 0, floating point; differentiable.
        log_variances: `[m]`, s; differentiable, to be learned.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import uw
        >>> uw(torch.tensor([1.0, 2.0]), torch.zeros(2)).item()
        1.5
    """
    on = mask_of(losses, active)
    terms = (-log_variances).exp() * torch.where(on, losses, 0.0) + log_variances
    return 0.5 * torch.where(on, terms, 0.0).sum(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UW(LearnedLogScale):
    """Learn each objective's uncertainty: `w_i = exp(-s_i) / 2`, `s_i` its log-variance.

    Use it for positive losses in different units. Every step also takes a gradient step on the
    log-variances: `s_i <- s_i - lr ds/ds_i` with `ds/ds_i = (1 - exp(-s_i) loss_i) / 2`, as in
    joint training by SGD with this `lr`. They settle where `s_i = log loss_i`, so that the weight
    goes to `1 / (2 loss_i)`; near there `2 / lr` steps close the gap by a factor e. Objectives that
    are absent keep their log-variance.

    A step that would carry `s_i` past `log loss_i` by more than 1 ends at `log loss_i`. With the
    default `lr` that takes a loss 1700 times the variance: it is weighed by `1 / (2 loss_i)` from
    the next step on, where plain descent would drive its weight to zero for good. (A spike of that
    size in a single batch silences its objective for some `2 / lr` steps per factor e.) Other steps
    are as published.

    Args:
        lr: learning rate of the log-variances, >= 0; default 0.01. 0 keeps them as they are.

    Raises:
        ValueError: if `lr` is out of range.

    Numerics: the log-variances start at 0. A loss <= 0 (or below 2.3e-308) gives status
    OUT_OF_DOMAIN and uniform weights, and leaves every log-variance as it was.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import UW
        >>> losses = torch.tensor([1.0, 3.0])
        >>> output = UW(lr=0.1)(moopt.StepStatistics(gramian=torch.eye(2), losses=losses))
        >>> output.weights.tolist(), output.state["log_variances"].tolist()
        ([0.5, 0.5], [0.0, 0.1])

    Source: A. Kendall, Y. Gal and R. Cipolla, "Multi-Task Learning Using Uncertainty to Weigh
    Losses for Scene Geometry and Semantics", CVPR 2018, https://arxiv.org/abs/1705.07115. The paper
    learns the log-variances with the model's own optimizer; here they have their own `lr`, so that
    they are neither decayed nor clipped with the model. The limit of the step is ours.
    """

    key: ClassVar[str] = "log_variances"
    sign: ClassVar[float] = 1.0
    factor: ClassVar[float] = 0.5
