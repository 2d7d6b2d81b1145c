"""linear_program on numpy arrays, one problem at a time: the simplex method, with an end."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moopt.records.status import SolverStatus
from moopt.solvers.simplex_tableau import LARGEST, PIVOT, REDUCED, ROUNDING, TIE

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
# (x, status code, gap, number of pivots)
HostResult = tuple[Array, int, float, int]


def linear_program_host(
    c: Array, a: Array, b: Array, s: Array, on: Flags, tol: float, max_iter: int
) -> HostResult:
    """`linear_program` for one problem: `[n]`, `[p, n]`, `[p]`, `[n]`, `[n]`."""
    n = len(c)
    rows = b != -math.inf
    if not on.all() or not rows.all():
        c, a, b, s = c[on], a[rows][:, on], b[rows], s[on]
    finite = all(bool(np.isfinite(values).all()) for values in (c, a, b, s))
    if not finite:
        return on / max(int(on.sum()), 1), int(SolverStatus.NON_FINITE), math.nan, 0
    if not s.any():
        return np.zeros(n), int(SolverStatus.INFEASIBLE), math.inf, 0
    # Every number of the problem in units of the longest of its kind; x in units of 1 / s.
    unit = float(s.max())
    c, s = c / (float(np.abs(c).max()) or 1.0), s / unit
    length = np.abs(a).max(-1)
    length = np.where(length > 0, length, np.abs(b) * unit)
    length[length == 0] = 1.0
    a, b = a / length[:, None], b / length * unit

    start = _equations(c, a, b, s)
    table, basis, feasible, pivots = _solved(start.copy(), s, max_iter)
    point, y, v = _point_and_prices(start, table, basis, len(c))
    point /= s @ point
    gap = _gap(c, a, b, s, point, y, v)
    status = SolverStatus.CONVERGED if gap <= tol else SolverStatus.MAX_ITER
    if not feasible:
        status = SolverStatus.INFEASIBLE
    x = np.zeros(n)
    x[on] = point / unit
    return x, int(status), gap, pivots


def _equations(c: Array, a: Array, b: Array, s: Array) -> Array:
    """The table of `simplex_tableau.equations`."""
    p, n = a.shape
    table = np.zeros((p + 3, n + p + 3))
    table[:p, :n] = -a
    table[:p, n : n + p] = np.eye(p)
    table[:p, n + p] = -1.0
    table[:p, -1] = -b
    table[p, :n] = s
    table[p, -2:] = 1.0
    table[p + 1, n + p] = 1.0
    table[p + 2, :n] = -c
    return table


def _solved(table: Array, s: Array, max_iter: int) -> tuple[Array, NDArray[np.int64], bool, int]:
    """Pivot in place; return the table, its basis, whether the rows can be met, and pivots."""
    n, lines = len(s), len(table) - 2
    violation = n + lines - 1
    first = int(s.argmax())
    basis = np.append(np.arange(n, violation), first)
    _exchange(table, lines - 1, first)
    level = table[:lines, -1]
    worst = int(level.argmin())
    feasible = not level[worst] < 0.0
    if not feasible:
        _exchange(table, worst, violation)
        basis[worst] = violation
    scale = np.append(s, np.zeros(lines - 1))
    for count in range(max_iter):
        at = (basis == violation).nonzero()[0]
        gain = _gain(table[lines + 1 if feasible else lines], scale)
        if not feasible and not gain.any():
            size = float(level[basis < n].sum())
            # The violation is minus the first phase's objective.
            if not -float(table[lines, -1]) <= REDUCED * max(size, 1.0):
                return table, basis, False, count
            feasible = True
            gain = _gain(table[lines + 1], scale)
        enter = int(gain.argmax())
        if gain[enter] == 0.0:
            return table, basis, True, count
        dantzig = 4 * count < 3 * max_iter
        if not dantzig:
            enter = int(gain.nonzero()[0][0])

        column = table[:lines, enter].copy()
        height = np.maximum(level, 0.0)
        if feasible and at.size:
            # t is zero and stays so: any entry in its row drives it out.
            column[at] = np.abs(column[at])
            height[at] = 0.0
        blocks = (column > PIVOT).nonzero()[0]
        if not blocks.size:
            return table, basis, feasible, count
        column, height = column[blocks], height[blocks]
        near = height / column <= ((height + TIE) / column).min()
        rank = column if dantzig else 1.0 / (1 + basis[blocks])
        rank = np.where(basis[blocks] == violation, math.inf, rank)
        leave = int(blocks[int(np.where(near, rank, -math.inf).argmax())])
        _exchange(table, leave, enter)
        basis[leave] = enter
    return table, basis, True, max_iter


def _exchange(table: Array, row: int, column: int) -> None:
    """Make that column's variable basic in that row, in place."""
    pivot_row = table[row] / table[row, column]
    table -= table[:, column, None] * pivot_row
    table[row] = pivot_row


def _gain(reduced: Array, scale: Array) -> Array:
    """How much each column gains, 0 where nothing but rounding."""
    candidates = reduced[: len(scale)]
    noise = REDUCED * (1.0 + abs(float(reduced[-2])) * scale)
    gain: Array = np.where(candidates < -noise, -candidates, 0.0)
    return gain


def _point_and_prices(
    start: Array, table: Array, basis: NDArray[np.int64], n: int
) -> tuple[Array, Array, float]:
    """`simplex_tableau.point_and_prices`, with nothing negative."""
    p = len(basis) - 1
    columns = np.append(table[:, n : n + p], table[:, -2:-1], axis=1)
    inverse, prices = columns[: p + 1], -columns[p + 2]
    matrix = start[: p + 1, basis]
    basic = table[: p + 1, -1]
    basic = basic + inverse @ (start[: p + 1, -1] - matrix @ basic)
    prices = prices + (start[p + 2, basis] - prices @ matrix) @ inverse
    values = np.zeros(table.shape[1])
    values[basis] = np.maximum(basic, 0.0)
    return values[:n], np.maximum(-prices[:p], 0.0), -float(prices[p])


def _gap(c: Array, a: Array, b: Array, s: Array, x: Array, y: Array, v: float) -> float:
    """The largest relative residual of the conditions of optimality, less what rounding may do."""
    size = np.abs(a)
    sizes = 1.0 + size @ x + np.abs(b)
    known = np.where(size > 0.0, ROUNDING, 0.0)
    of_rows, of_columns = np.minimum(known @ x, LARGEST), np.minimum(y @ known, LARGEST)
    missing = (b - a @ x - of_rows) / sizes
    better = (c + y @ a - v * s - of_columns) / (1.0 + y @ size + abs(v) * s)
    loss = v - float(b @ y) - float(c @ x) - float(of_rows @ y)
    loss /= 1.0 + float(np.abs(c) @ x) + float(y @ sizes)
    # numpy's maximum keeps a NaN, which is not within any tolerance.
    return float(np.maximum(np.append(missing, better).max(), max(loss, 0.0)).clip(0.0))
