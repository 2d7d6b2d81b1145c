"""The pivots of the simplex method in plain PyTorch: no branch on values, no synchronisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moopt.solvers.simplex_tableau import PIVOT, REDUCED, TIE, Tableau


def simplex_on_device(start: Tableau, s: Tensor, on: Tensor, trips: int) -> Tableau:
    """Pivot a fixed number of times; a finished problem stays as it is.

    Args:
        start: of `first_vertex`.
        s: float64 `[..., n]`, the budget, at most 1.
        on: bool `[..., n]`, the variables that count.
        trips: three quarters of them enter the steepest column, the rest follow Bland's rule.
    """
    # Every index and flag keeps a last axis of one, which saves a trace hundreds of operations.
    table, basis = start.table, start.basis
    lines, n = basis.shape[-1], on.shape[-1]
    violation = table.shape[-1] - 3
    feasible, count = start.feasible[..., None], start.num_iter[..., None]
    over = torch.zeros_like(feasible)
    rows = torch.arange(lines + 2, device=table.device)
    may_enter = torch.nn.functional.pad(on, (0, lines - 1), value=True)
    may_enter = torch.nn.functional.pad(may_enter, (0, 2), value=False)[..., None, :]
    budget = REDUCED * torch.nn.functional.pad(s, (0, lines + 1))[..., None, :]
    for trip in range(trips):
        dantzig = 4 * trip < 3 * trips
        level = table[..., :lines, -1].clamp_min(0.0)
        reduced = table[..., lines:, :-1]
        noise = reduced[..., -1:].abs() * budget + REDUCED
        gains = torch.where(may_enter & (reduced + noise < 0.0), reduced, 0.0)
        # The first phase ends where nothing lowers the violation, which is minus its objective.
        settled = gains[..., 0, :].amin(-1, keepdim=True) == 0.0
        size = torch.where(basis < n, level, 0.0).sum(-1, keepdim=True).clamp_min(1.0)
        feasible = feasible | (settled & (-table[..., lines, -1:] <= REDUCED * size))
        gain = torch.where(feasible, gains[..., 1, :], gains[..., 0, :])
        best, enter = gain.min(-1, keepdim=True)
        if not dantzig:
            enter = (gain < 0.0).to(torch.int64).argmax(-1, keepdim=True)

        entries = table.take_along_dim(enter[..., None], -1)
        column = entries[..., :lines, 0]
        is_violation = basis == violation
        # In the second phase t is zero and stays so: any entry in its row drives it out.
        frozen = is_violation & feasible
        column = torch.where(frozen, column.abs(), column)
        level = torch.where(frozen, 0.0, level)
        blocks = column > PIVOT
        safe = torch.where(blocks, column, 1.0)
        limit = torch.where(blocks, (level + TIE) / safe, math.inf).amin(-1, keepdim=True)
        near = blocks & (level / safe <= limit)
        rank = column if dantzig else 1.0 / (1 + basis)
        rank = torch.where(is_violation, math.inf, rank)
        leave = torch.where(near, rank, -math.inf).argmax(-1, keepdim=True)

        over = over | (best == 0.0) | limit.isinf()
        hot = (rows == leave) & ~over
        row = table.take_along_dim(leave[..., None], -2)
        pivot = row.take_along_dim(enter[..., None], -1)
        row = row / torch.where(over[..., None], 1.0, pivot)
        moved = torch.where(hot[..., None], row, table - entries * row)
        table = torch.where(over[..., None], table, moved)
        basis = torch.where(hot[..., :lines], enter, basis)
        count = count + (~over).to(count.dtype)
    # Out of pivots is no proof that the rows cannot be met.
    feasible = feasible | (count == trips)
    return Tableau(table, basis, feasible[..., 0], count[..., 0])
