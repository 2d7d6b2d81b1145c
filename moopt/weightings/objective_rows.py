"""objective_rows: the part of `StepStatistics` that is about objectives, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics


def objective_rows(statistics: StepStatistics) -> tuple[Tensor, Tensor | None]:
    """Return the objectives' Gramian, float64 `[..., m, m]`, and their mask or None.

    Auxiliary rows are cut off: a method that uses them reads `statistics` itself.

    Args:
        statistics: of one step.

    Raises:
        ValueError: if `active` is not a bool tensor with m entries.
    """
    gramian, active = statistics.gramian, statistics.active
    if statistics.auxiliary:
        m = statistics.num_objectives
        gramian = gramian[..., :m, :m]
    if gramian.dtype != torch.float64:
        gramian = gramian.to(torch.float64)
    if active is not None:
        _check_mask(active, gramian.shape[-1])
    return gramian, active


def _check_mask(active: Tensor, m: int) -> None:
    if active.dtype != torch.bool or active.shape[-1:] != (m,):
        raise ValueError(
            f"`active` of `StepStatistics` must be a bool tensor of shape [..., {m}]; got"
            f" {active.dtype} of shape {list(active.shape)}. Pass one flag per objective."
        )


def with_auxiliary_rows(weights: Tensor, statistics: StepStatistics) -> Tensor:
    """Append weight 0 for each auxiliary row: `[..., m]` becomes `[..., m + k]`."""
    if not statistics.auxiliary:
        return weights
    return torch.nn.functional.pad(weights, (0, len(statistics.auxiliary)))
