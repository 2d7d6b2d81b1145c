"""The host solvers of `min_norm_point`: closed forms on Python floats, the rest on numpy arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.min_norm.tolerances import CERTIFIED
from moopt.records.status import SolverStatus
from moopt.solvers.active_set import active_set
from moopt.solvers.closed_form import closed_form_three, closed_form_two
from moopt.solvers.equilibrated import certificate, equilibrated
from moopt.solvers.exhaustive import exhaustive
from moopt.solvers.frank_wolfe import DEFAULT_MAX_ITER, Variant, frank_wolfe

# The variant of `frank_wolfe` that each solver names.
FRANK_WOLFE: dict[str, Variant] = {
    "frank_wolfe": "vanilla",
    "away_step": "away_step",
    "pairwise": "pairwise",
}

CONVERGED = int(SolverStatus.CONVERGED)
MAX_ITER = int(SolverStatus.MAX_ITER)
DEGENERATE = int(SolverStatus.DEGENERATE)
NON_FINITE = int(SolverStatus.NON_FINITE)

Rows = list[list[float]] | NDArray[np.float64]
# (weights, status code, gap, number of iterations) of one Gramian.
HostResult = tuple[list[float], int, float, int]
ArrayResult = tuple[list[float] | NDArray[np.float64], int, float, int]


def min_norm_host(
    rows: Rows,
    active: list[bool] | None = None,
    *,
    solver: str = "auto",
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> HostResult:
    """`min_norm_point` for one Gramian whose numbers are already on the host; nothing is checked.

    Args:
        rows: `[m, m]`, nested lists of floats or a float64 array.
        active: `m` booleans, or None for all.
        solver, tol, max_iter: as in `min_norm_point`.

    Returns:
        (weights, status code, gap, number of iterations) as a list of floats, int, float, int.
    """
    weights, status, gap, num_iter = min_norm_array(rows, active, solver, tol, max_iter)
    listed = weights if isinstance(weights, list) else weights.tolist()
    return listed, status, gap, num_iter


def min_norm_array(
    rows: Rows, active: list[bool] | None, solver: str, tol: float, max_iter: int | None
) -> ArrayResult:
    """`min_norm_host` without the conversion of its weights to a list."""
    m = len(rows)
    if active is not None and not all(active) and any(active):
        index = [i for i in range(m) if active[i]]
        dropped = [[float(rows[i][j]) for j in index] for i in index]
        inner, status, gap, num_iter = min_norm_array(dropped, None, solver, tol, max_iter)
        weights = np.zeros(m)
        weights[index] = inner
        return weights, status, gap, num_iter
    if m <= 3 and solver == "auto":
        small = _small(rows if isinstance(rows, list) else rows.tolist(), tol)
        if small is not None:
            return small
    gramian = np.asarray(rows, dtype=np.float64)
    # Sums and extreme norm ratios may overflow on the way; the certificate is the judge.
    with np.errstate(all="ignore"):
        # A difference with itself is 0 unless the sum overflowed or an entry is not finite.
        total = np.add.reduce(gramian, axis=None)
        if total - total != 0.0 and not np.isfinite(gramian).all():
            return [1.0 / m] * m, NON_FINITE, math.nan, 0
        squares = gramian.diagonal()
        if squares[squares.argmin()] <= 0.0:
            zeros = (squares <= 0.0).astype(np.float64)
            return zeros / zeros.sum(), DEGENERATE, 0.0, 0
        return _iterated(*equilibrated(gramian, np.sqrt(squares)), solver, tol, max_iter)


def _small(rows: list[list[float]], tol: float) -> HostResult | None:
    """The closed forms; None for whatever is not regular, which the general path handles."""
    if len(rows) == 2:
        (g00, g01), (g10, g11) = rows
        if not (0.0 < g00 < math.inf and 0.0 < g11 < math.inf):
            return None
        g01 = 0.5 * g01 + 0.5 * g10
        if not math.isfinite(g01):
            return None
        solved = closed_form_two(g00, g01, g11)
    elif len(rows) == 3:
        (g00, g01, g02), (g10, g11, g12), (g20, g21, g22) = rows
        if not (0.0 < g00 < math.inf and 0.0 < g11 < math.inf and 0.0 < g22 < math.inf):
            return None
        g01, g02, g12 = 0.5 * g01 + 0.5 * g10, 0.5 * g02 + 0.5 * g20, 0.5 * g12 + 0.5 * g21
        if not math.isfinite(g01 + g02 + g12):
            return None
        solved = closed_form_three(g00, g01, g02, g11, g12, g22)
    else:
        return None
    if solved is None:
        return None
    weights, gap, stationary = solved
    status = DEGENERATE if stationary else CONVERGED if gap <= tol else MAX_ITER
    return weights, status, gap, 1


def _iterated(
    cosines: NDArray[np.float64],
    r: NDArray[np.float64],
    solver: str,
    tol: float,
    max_iter: int | None,
) -> tuple[NDArray[np.float64], int, float, int]:
    def solve(right: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        if solver in FRANK_WOLFE:
            limit = DEFAULT_MAX_ITER if max_iter is None else max_iter
            return frank_wolfe(cosines, right, FRANK_WOLFE[solver], tol, limit)
        if solver == "exhaustive":
            return exhaustive(cosines, right)
        return active_set(cosines, right, 10 * len(r) + 20 if max_iter is None else max_iter)

    v, num_iter = solve(r)
    judged = certificate(cosines, r, v)
    doubtful = judged.unresolved or judged.gap > CERTIFIED
    if doubtful and not judged.stationary and solver not in FRANK_WOLFE:
        # Where rows much longer than the shortest cancel, r is lost in the rounding of
        # C + r r^T; the hull of the unit rows, r = 1, finds the same weights without r.
        other, more = solve(np.ones_like(r))
        num_iter += more
        second = certificate(cosines, r, other)
        if judged.unresolved or second.unresolved:
            v, judged = other, second
    weights = r * v
    weights /= np.add.reduce(weights)
    return weights, judged.status(tol), judged.gap, num_iter
