"""linear_program on tensors: no branch on values, no synchronisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.simplex_on_device import simplex_on_device
from moopt.solvers.simplex_tableau import (
    LARGEST,
    ROUNDING,
    equations,
    first_vertex,
    point_and_prices,
)


def linear_program_on_device(
    c: Tensor, a: Tensor, b: Tensor, s: Tensor, on: Tensor, tol: float, trips: int
) -> SolverResult:
    """`linear_program`, of tensors of full shape.

    Args:
        c, a, b, s: float64 `[..., n]`, `[..., p, n]`, `[..., p]` and `[..., n]`.
        on: bool `[..., n]`, the variables that count.
        tol: the gap up to which the status is CONVERGED.
        trips: the number of pivots, all of which are executed.
    """
    rows = b != -math.inf
    cells = rows[..., :, None] & on[..., None, :]
    finite = (torch.isfinite(a) | ~cells).all(-1).all(-1) & (torch.isfinite(b) | ~rows).all(-1)
    finite = finite & ((torch.isfinite(c) & torch.isfinite(s)) | ~on).all(-1)
    c, s = (torch.where(on & finite[..., None], v, 0.0) for v in (c, s))
    a = torch.where(cells & finite[..., None, None], a, 0.0)
    b = torch.where(rows & finite[..., None], b, 0.0)

    # Every number of the problem in units of the longest of its kind; x in units of 1 / s.
    unit = _positive(s.amax(-1, keepdim=True))
    c, s = c / _positive(c.abs().amax(-1, keepdim=True)), s / unit
    length = a.abs().amax(-1)
    length = _positive(torch.where(length > 0, length, b.abs() * unit))
    a, b = a / length[..., None], b / length * unit

    table = equations(c, a, b, s, rows)
    end = simplex_on_device(first_vertex(table, on), s, on, trips)
    x, y, v = point_and_prices(table, end)
    x = torch.where(on, x.clamp_min(0.0), 0.0)
    x = x / _positive((s * x).sum(-1, keepdim=True))
    y = torch.where(rows, y.clamp_min(0.0), 0.0)
    gap = _gap(c, a, b, s, x, y, v)

    possible = (s > 0).any(-1)
    gap = torch.where(possible, gap, math.inf)
    status = torch.where(gap <= tol, int(SolverStatus.CONVERGED), int(SolverStatus.MAX_ITER))
    status = torch.where(possible & end.feasible, status, int(SolverStatus.INFEASIBLE))
    status = torch.where(finite, status, int(SolverStatus.NON_FINITE))
    gap = torch.where(finite, gap, math.nan)
    equal = on / on.sum(-1, keepdim=True).clamp_min(1).to(torch.float64)
    return SolverResult(torch.where(finite[..., None], x / unit, equal), status, gap, end.num_iter)


def _gap(c: Tensor, a: Tensor, b: Tensor, s: Tensor, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """The largest relative residual, less what rounding may do, `[...]`."""
    sizes = 1.0 + (a.abs() @ x[..., None])[..., 0] + b.abs()
    known = ROUNDING * (a != 0.0).to(a.dtype)
    of_rows = (known @ x[..., None])[..., 0].clamp_max(LARGEST)
    of_columns = (known.mT @ y[..., None])[..., 0].clamp_max(LARGEST)
    missing = (b - (a @ x[..., None])[..., 0] - of_rows) / sizes
    slope = c + (a.mT @ y[..., None])[..., 0] - v[..., None] * s - of_columns
    better = slope / (1.0 + (a.abs().mT @ y[..., None])[..., 0] + v.abs()[..., None] * s)
    value = v - (b * y).sum(-1) - (c * x).sum(-1) - (of_rows * y).sum(-1)
    loss = value / (1.0 + (c.abs() * x).sum(-1) + (y * sizes).sum(-1))
    return torch.maximum(torch.maximum(missing.amax(-1), better.amax(-1)), loss).clamp_min(0.0)


def _positive(value: Tensor) -> Tensor:
    """The value, or 1 where it is 0, so that it can divide."""
    return torch.where(value > 0, value, 1.0)
