"""objective_rows: the objectives' part of the statistics, whatever the leading dimensions."""

from __future__ import annotations

import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import Mean
from moopt.weightings.objective_rows import objective_rows


@pytest.mark.parametrize("leading", [(), (2,), (2, 4)])
def test_auxiliary_rows_are_cut_off_and_a_mask_fits_what_is_left(leading: tuple[int, ...]) -> None:
    whole = torch.arange(25.0).reshape(5, 5).expand(*leading, 5, 5)
    mask = torch.tensor([True, False, True]).expand(*leading, 3)
    statistics = StepStatistics(gramian=whole, active=mask, auxiliary=("a#1", "b#1"))
    gramian, active = objective_rows(statistics)
    assert gramian.dtype == torch.float64
    assert torch.equal(gramian, whole[..., :3, :3].double())
    assert active is mask
    weights = Mean()(statistics).weights
    assert torch.equal(weights, torch.tensor([0.5, 0, 0.5, 0, 0]).double().expand(*leading, 5))


@pytest.mark.parametrize(
    "active",
    [torch.ones(2, 4, 5, dtype=torch.bool), torch.ones(4, dtype=torch.bool), torch.ones(3)],
)
def test_a_mask_that_does_not_fit_is_named(active: torch.Tensor) -> None:
    gramian = torch.eye(3).expand(2, 4, 3, 3)
    with pytest.raises(ValueError, match=r"`active` of `StepStatistics` must be .* \[\.\.\., 3\]"):
        objective_rows(StepStatistics(gramian=gramian, active=active))
