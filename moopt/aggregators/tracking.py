"""TrackingAggregator: methods that keep a row per objective from step to step."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from moopt.aggregators.base import GradientAggregator, State
from moopt.records.step_statistics import StepStatistics


class TrackingAggregator(GradientAggregator):
    """Weights over rows that follow the gradients from step to step.

    Beside its small state it keeps one number for each objective and parameter entry, the tracked
    rows `t_1 ... t_m`: m times the memory of the parameters, in float32 at least. In a step

    1. `t_i <- follow(t_i, c_i g_i)`, entry by entry, with a factor `c_i` for each objective;
    2. the weights are made of a summary of the rows: their Gramian, or one number each;
    3. `d = sum_i w_i t_i`, or `sum_i w_i g_i`.

    The rows lie where the parameters lie, and in the optimizer's state dict. An objective that is
    inactive or absent keeps its row; one that joins late starts with zeros. A step whose gradients
    are not finite changes no row and no state, and its direction is NaN. (A distributed checkpoint
    with `flatten_optimizer_state_dict=True` writes each row once per parameter: leave it False.)

    Class attributes:
        tracked: what a row is, in the keys of the state dict.
        combines_tracked: whether the direction combines the tracked rows, and the summary is their
            Gramian `[m, m]`; else it combines the gradients, and the summary is `[m]`.
        combines_absent: whether the tracked rows of objectives that are absent from a step take
            part in its direction. Then `weigh` sees every objective that was ever given, in
            `statistics.names`, and `active` marks rows above the noise floor; every parameter
            counts as shared; and a step with a single objective is one like any other.

    Example:
        >>> from moopt.aggregators import MoCo
        >>> MoCo.tracked, MoCo.combines_tracked
        ('average', True)
    """

    tracked: ClassVar[str]
    combines_tracked: ClassVar[bool]
    combines_absent: ClassVar[bool] = False

    def factors(self, statistics: StepStatistics) -> Tensor:
        """c, float64 `[m]`: what each gradient is multiplied by before it is tracked."""
        return torch.ones_like(statistics.gramian[..., 0])

    @abc.abstractmethod
    def follow(
        self, tracked: Tensor, gradients: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, Tensor | None]:
        """The rows after this step, of one parameter.

        Args:
            tracked: `[m, ...]`, the rows so far; not to be written to.
            gradients: `[m, ...]`, `c_i g_i` in the rows' dtype.
            statistics: of the step.
            state: the present one.

        Returns:
            The new rows, and this parameter's share `[m]` of the summary (None where the summary
            is the rows' Gramian).
        """

    @abc.abstractmethod
    def weigh(
        self, summary: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, State]:
        """(the weights, float64 `[m]`, 0 where inactive; the next state).

        What it returns for an objective that is absent from the step is not kept.

        Args:
            summary: float64, see `combines_tracked`.
            statistics: of the step; `active` is given.
            state: the present one.
        """
