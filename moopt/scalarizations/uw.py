"""UW: learned uncertainties."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.scalarizations.base import Scalarization, State, derivatives, mask_of
from moopt.settings.numbers import check_number

LOG_VARIANCES = "log_variances"


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
class UW(Scalarization):
    """Learn each objective's uncertainty: `w_i = exp(-s_i) / 2`, `s_i` its log-variance.

    Every step also takes a gradient step on the log-variances: `s_i <- s_i - lr ds/ds_i` with
    `ds/ds_i = (1 - exp(-s_i) loss_i) / 2`, as in joint training by SGD with this `lr`. They settle
    where `s_i = log loss_i`, so that the weight goes to `1 / (2 loss_i)`; near there `2 / lr` steps
    close the gap by a factor e. Objectives that are absent keep their log-variance.

    Args:
        lr: learning rate of the log-variances, >= 0; default 0.01. 0 keeps them as they are.
            A loss far above 1 moves its log-variance by about `lr loss / 2` in the first step:
            choose `lr` below 1 / loss.

    Raises:
        ValueError: if `lr` is out of range.

    Numerics: the log-variances start at 0. They need losses > 0: with a loss <= 0 its log-variance
    falls without end and its weight grows. No synchronisation.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import UW
        >>> losses = torch.tensor([1.0, 3.0])
        >>> output = UW(lr=0.1)(moopt.StepStatistics(gramian=torch.eye(2), losses=losses))
        >>> output.weights.tolist(), output.state["log_variances"].tolist()
        ([0.5, 0.5], [0.0, 0.1])

    Source: A. Kendall, Y. Gal and R. Cipolla, "Multi-Task Learning Using Uncertainty to Weigh
    Losses for Scene Geometry and Semantics", CVPR 2018. The paper learns the log-variances with
    the model's own optimizer; here they have their own `lr`, so that they are neither decayed nor
    clipped with the model.
    """

    lr: float = 0.01

    name: ClassVar[str] = "UW"
    source: ClassVar[str] = (
        "A. Kendall, Y. Gal and R. Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses"
        " for Scene Geometry and Semantics, CVPR 2018"
    )

    def __post_init__(self) -> None:
        check_number(self.name, "lr", self.lr, "finite and >= 0", use="0.01")

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {LOG_VARIANCES: 1}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """Log-variances 0: unit variances."""
        return {LOG_VARIANCES: torch.zeros(num_objectives, dtype=torch.float64, device=device)}

    def _weigh(
        self, losses: Tensor, active: Tensor, state: State, names: tuple[str, ...] | None
    ) -> tuple[Tensor, State]:
        logs = state[LOG_VARIANCES].expand(losses.shape)
        weights, slopes = derivatives(lambda values, s: uw(values, s, active=active), losses, logs)
        return weights, {LOG_VARIANCES: logs - self.lr * slopes}
