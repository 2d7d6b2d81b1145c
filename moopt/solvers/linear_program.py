"""linear_program: the best point of a simplex cut by half-spaces, certified."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.door import check_limits, each_problem, spread

# The numbers of a problem are at most 1; what the pivots leave of a zero is far below these.
PIVOT = 1e-10
"""An entry this small cannot be a pivot."""

REDUCED = 1e-12
"""A gain this small, relative to its terms, is rounding; so is a violation of the rows."""

RATIO_TIE = 1e-12
"""Rows whose variables vanish within this of each other tie; the largest pivot of them is taken."""

ENTRY_ROUNDING = 2.0**-50
"""How well an entry of A is known, in units of the longest of its row: a few roundings."""

LARGEST_EXCUSE = 1e-6
"""What roundings of A are taken to make of a residual, at most: beyond it nothing is certified."""


def best_vertex(
    cost: Array,
    matrix: Array,
    bound: Array,
    *,
    budget: Array | None = None,
    tol: float = 1e-9,
    max_iter: int | None = None,
) -> Solved:
    """`linear_program` of one problem without masks; shapes are not checked.

    Args:
        cost, matrix, bound, budget: float64 `[n]`, `[p, n]`, `[p]`, `[n]`; a bound of -inf drops
            its row.
        tol, max_iter: as for `linear_program`.
    """
    n, p = len(cost), len(bound)
    trips = 50 * (n + p) + 100 if max_iter is None else max_iter
    s = np.ones(n) if budget is None else budget
    rows = bound != -math.inf
    a, b = matrix[rows], bound[rows]
    if not all(bool(np.isfinite(values).all()) for values in (cost, a, b, s)):
        return Solved(np.full(n, 1.0 / max(n, 1)), SolverStatus.NON_FINITE)
    if not s.any():
        return Solved(np.zeros(n), SolverStatus.INFEASIBLE, math.inf)
    # Every number of the problem in units of the longest of its kind; x in units of 1 / s.
    unit = float(s.max())
    c, s = cost / (float(np.abs(cost).max()) or 1.0), s / unit
    length = np.abs(a).max(-1)
    length = np.where(length > 0, length, np.abs(b) * unit)
    length[length == 0] = 1.0
    a, b = a / length[:, None], b / length * unit

    start = _equations(c, a, b, s)
    table = start.copy()
    basis, feasible, pivots = _solved(table, s, trips)
    point, y, v = _point_and_prices(start, table, basis, n)
    point /= s @ point
    gap = _gap(c, a, b, s, point, y, v)
    status = SolverStatus.CONVERGED if gap <= tol else SolverStatus.MAX_ITER
    if not feasible:
        status = SolverStatus.INFEASIBLE
    return Solved(point / unit, status, gap, pivots)


def _equations(c: Array, a: Array, b: Array, s: Array) -> Array:
    """The table before any pivot, float64 `[p + 3, n + p + 3]`.

    Columns: n variables x, p slacks, the largest violation t, the price of the budget, and the
    right-hand side. Rows: p half-spaces, the budget, and the reduced costs of the two phases,
    which minimise t and `-c . x`.
    """
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


def _solved(table: Array, s: Array, max_iter: int) -> tuple[NDArray[np.int64], bool, int]:
    """Pivot in place; return the basis, whether the rows can be met, and pivots."""
    n, lines = len(s), len(table) - 2
    violation = n + lines - 1
    basis = np.arange(n, n + lines)
    _exchange(table, basis, lines - 1, int(s.argmax()))
    level = table[:lines, -1]
    worst = int(level.argmin())
    feasible = not level[worst] < 0.0
    if not feasible:
        _exchange(table, basis, worst, violation)
    scale = np.append(s, np.zeros(lines - 1))
    pivots = 0
    while pivots < max_iter:
        gain = _gain(table[lines + 1 if feasible else lines], scale)
        if not gain.any():
            # The violation is minus the first phase's objective.
            size = max(float(level[basis < n].sum()), 1.0)
            if feasible or not -float(table[lines, -1]) <= REDUCED * size:
                return basis, feasible, pivots
            feasible = True
            continue
        dantzig = 4 * pivots < 3 * max_iter
        enter = int(gain.argmax() if dantzig else gain.nonzero()[0][0])
        column, height = table[:lines, enter].copy(), np.maximum(level, 0.0)
        if feasible:
            # t is zero and stays so: any entry in its row drives it out.
            out = basis == violation
            column[out], height[out] = np.abs(column[out]), 0.0
        blocks = (column > PIVOT).nonzero()[0]
        if not blocks.size:
            return basis, feasible, pivots
        column, height = column[blocks], height[blocks]
        near = height / column <= ((height + RATIO_TIE) / column).min()
        rank = column if dantzig else 1.0 / (1 + basis[blocks])
        rank = np.where(basis[blocks] == violation, math.inf, rank)
        _exchange(table, basis, int(blocks[np.where(near, rank, -math.inf).argmax()]), enter)
        pivots += 1
    return basis, True, pivots


def _exchange(table: Array, basis: NDArray[np.int64], row: int, column: int) -> None:
    """Make that column's variable basic in that row, in place."""
    pivot_row = table[row] / table[row, column]
    table -= table[:, column, None] * pivot_row
    table[row], basis[row] = pivot_row, column


def _gain(reduced: Array, scale: Array) -> Array:
    """How much each column gains; 0 where that is only rounding."""
    candidates = reduced[: len(scale)]
    noise = REDUCED * (1.0 + abs(float(reduced[-2])) * scale)
    return np.where(candidates < -noise, -candidates, 0.0)


def _point_and_prices(
    start: Array, table: Array, basis: NDArray[np.int64], n: int
) -> tuple[Array, Array, float]:
    """The point and the prices of rows and budget, refined once; no entry of x or y is negative."""
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
    known = np.where(size > 0.0, ENTRY_ROUNDING, 0.0)
    of_rows = np.minimum(known @ x, LARGEST_EXCUSE)
    of_columns = np.minimum(y @ known, LARGEST_EXCUSE)
    missing = (b - a @ x - of_rows) / sizes
    better = (c + y @ a - v * s - of_columns) / (1.0 + y @ size + abs(v) * s)
    loss = v - float(b @ y) - float(c @ x) - float(of_rows @ y)
    loss /= 1.0 + float(np.abs(c) @ x) + float(y @ sizes)
    # numpy's maximum keeps a NaN, which is not within any tolerance.
    return float(np.maximum(np.append(missing, better).max(), max(loss, 0.0)).clip(0.0))


def linear_program(
    cost: Tensor,
    matrix: Tensor,
    bound: Tensor,
    *,
    budget: Tensor | None = None,
    active: Tensor | None = None,
    tol: float = 1e-9,
    max_iter: int | None = None,
) -> SolverResult:
    """The point of a simplex, cut by half-spaces, that earns the most.

    Solves `max_x c . x` subject to `A x >= b`, `s . x = 1` and `x >= 0`.

    Args:
        cost: real floating `[..., n]`, c.
        matrix: real floating `[..., p, n]`, A, p >= 1. Rows may differ in scale; entries within a
            row should not: choose the unit of each x_i, with `budget`, so that they are comparable.
        bound: real floating `[..., p]`, b; -inf drops a row, whose entries then do not matter.
        budget: real floating `[..., n]`, s >= 0; None means all 1. Where an entry is 0 that
            variable must be bounded by the rows.
        active: bool `[..., n]`; the other variables are exactly 0 and have no influence, not even
            when they hold NaN. None means all.
        tol: positive, dimensionless; the `gap` up to which the status is CONVERGED. Default 1e-9.
        max_iter: limit on pivots; default `50 (n + p) + 100`.

    Returns:
        `SolverResult`: weights x float64 `[..., n]`, x >= 0 with s . x = 1 up to rounding; status
        int64 `[...]`; gap float64 `[...]`; num_iter int64 `[...]`, pivots.
        gap is the largest residual of the conditions of optimality, with c, s and each row of A
        in units of its longest entry, x in units of 1 / max s, and prices y >= 0 of the rows and v
        of the budget: of `(b_j - A_j x) / (1 + |A_j| x + |b_j|)`, of
        `z_i / (1 + y . |A^i| + |v| s_i)` with `z = c + A'y - v s`, and of
        `(v - b . y - c . x) / (1 + |c| x + y . (1 + |A| x + |b|))`, each where positive. First
        each is lowered by what roundings of A, 2^-50 of the longest entry of a row, make of it,
        but by at most 1e-6: a row by 2^-50 times the sum of the x_i where A_ji is not 0, a column
        by that of such y_j, and the last by what the rows get, times y.
        status is INFEASIBLE where no point meets the rows, or no variable is active: x is then
        the point that violates them least, in units of the longest entry of each, and gap tells
        by how much; NON_FINITE, with equal weights and gap NaN, where an active entry is NaN or
        infinite; MAX_ITER where the gap exceeds `tol`; else CONVERGED.

    Raises:
        ValueError: if a shape or a setting is wrong.

    Numerics: float64 whatever the input; independent of the scales of c, of s and of each row.
        Entries of s below 1e-10 of the longest are too small to pivot on: MAX_ITER, or a point
        without that variable.
        The simplex method: the steepest column for three quarters of the pivots, then Bland's
        rule, which ends after finitely many; point and prices are refined once from the given
        numbers. Where several points are optimal, one of them is returned. The result carries
        no autograd graph.

    Example:
        >>> import torch
        >>> from moopt.solvers import linear_program
        >>> c, A = torch.tensor([2.0, 1.0]), torch.tensor([[0.0, 1.0]])
        >>> linear_program(c, A, torch.tensor([0.25])).weights.tolist()
        [0.75, 0.25]

    Source: G. B. Dantzig, "Maximization of a linear function of variables subject to linear
    inequalities", in Activity Analysis of Production and Allocation, 1951; R. G. Bland, "New
    finite pivoting rules for the simplex method", Mathematics of Operations Research 2, 1977,
    https://doi.org/10.1287/moor.2.2.103. One artificial variable, the largest violation, serves the
    first phase.
    """
    n = _checked_columns(cost, matrix, bound, budget, active)
    check_limits(tol, max_iter, "linear_program", "1e-9")

    def solve(c: Array, a: Array, b: Array, s: Array, on: NDArray[np.bool_]) -> Solved:
        inner = best_vertex(c[on], a[:, on], b, budget=s[on], tol=tol, max_iter=max_iter)
        return spread(inner, on, np.zeros(n))

    s = torch.ones(n) if budget is None else budget
    on = torch.ones(n, dtype=torch.bool) if active is None else active
    return each_problem(solve, (cost, 1), (matrix, 2), (bound, 1), (s, 1), (on, 1))


def _checked_columns(
    cost: Tensor, matrix: Tensor, bound: Tensor, budget: Tensor | None, active: Tensor | None
) -> int:
    """n, or ValueError."""
    shape = matrix.shape
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(
            "`matrix` of `linear_program` must have shape [..., p, n] with p, n >= 1; got"
            f" {list(shape)}. Pass one row for each half-space."
        )
    p, n = shape[-2:]
    named = {"cost": (cost, n), "bound": (bound, p), "budget": (budget, n), "active": (active, n)}
    for name, (given, size) in named.items():
        if given is not None and given.shape[-1:] != (size,):
            raise ValueError(
                f"`{name}` of `linear_program` must have shape [..., {size}] to fit a matrix of"
                f" {p} rows and {n} columns; got {list(given.shape)}. Pass {size} numbers."
            )
    return int(n)
