"""Any parameters, states and rows: the fused update against the reference form."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.kernels.combine_update import combine_update_
from moopt.kernels.combine_update.triton import combine_update_triton_
from moopt.kernels.pieces import Position, positions
from moopt.kernels.table import is_plain
from tests.kernels.fused.device import DEVICE
from tests.kernels.test_combine_update import Case, cases

TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Of the reference's values; the interpreter cuts off what does not fit into bfloat16."""


def checked_of(case: Case) -> list[Position]:
    parameters, states, rows, _, _ = case
    moved = [
        [None if g is None else g.clone().to(DEVICE) for g in column]
        for column in (parameters, *states, *rows)
    ]
    return positions(moved, caller="combine_update_")


@settings(deadline=None, max_examples=40)
@given(case=cases(dtypes=(torch.float64, torch.float32, torch.bfloat16, torch.float16)))
def test_the_update_agrees_with_the_reference(case: Case) -> None:
    parameters, states, rows, weights, numbers = case
    held = 1 + len(states)
    checked = checked_of(case)
    reached = [t for t, p in enumerate(checked) if any(g is not None for g in p[held:])]
    chosen = [checked[t] for t in reached]
    versions = [p[0]._version for p in chosen]  # type: ignore[union-attr]
    on_device = torch.tensor(weights, dtype=torch.float64, device=DEVICE)
    left = combine_update_triton_(chosen, held, on_device, numbers[reached])
    assert left == [k for k, position in enumerate(chosen) if not is_plain(position)]
    combine_update_(parameters, states, rows, weights, numbers)
    for k, t in enumerate(reached):
        if k in left:
            continue
        assert chosen[k][0]._version > versions[k]  # type: ignore[union-attr]
        columns: list[list[Tensor]] = [parameters, *states]
        for found, column in zip(chosen[k][:held], columns, strict=True):
            assert found is not None
            wanted, error = column[t].double(), found.cpu().double() - column[t].double()
            assert (error.abs() <= TOLERANCES[found.dtype] * (wanted.abs() + 1.0)).all()


def test_memory_beside_the_tensors_is_neither_read_nor_written() -> None:
    whole = torch.full((5, 1100), math.nan, device=DEVICE)
    whole[:, 33:1060] = 1.0
    position: Position = [row[33:1060] for row in whole]
    numbers = torch.tensor([[0.1, 0.9, 0.99, 1e-8, 0.0, 0.1, 2.0, 0.0]], dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64, device=DEVICE)
    assert combine_update_triton_([position], 3, ones, numbers) == []
    assert torch.isnan(whole[:, :33]).all()
    assert torch.isnan(whole[:, 1060:]).all()
    assert torch.isfinite(whole[:, 33:1060]).all()
    assert (whole[3:, 33:1060] == 1.0).all()  # the rows are only read


def test_numbers_on_the_device_are_those_of_the_host() -> None:
    numbers = torch.tensor([[0.1, 0.9, 0.99, 1e-8, 0.0, 0.1, 2.0, 0.0]], dtype=torch.float64)
    positions_ = [[torch.ones(2000, device=DEVICE) for _ in range(5)] for _ in range(2)]
    ones = torch.ones(2, dtype=torch.float64, device=DEVICE)
    for position, own in zip(positions_, (numbers, numbers.to(DEVICE)), strict=True):
        assert combine_update_triton_([[*position]], 3, ones, own) == []
    for host, device in zip(*positions_, strict=True):
        assert torch.allclose(host, device, rtol=1e-6)
