"""The problem in scale-free coordinates, and the certificate of its solutions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.min_norm.tolerances import RESOLUTION, STATIONARY
from moopt.status import SolverStatus

CONVERGED = int(SolverStatus.CONVERGED)
MAX_ITER = int(SolverStatus.MAX_ITER)
DEGENERATE = int(SolverStatus.DEGENERATE)
NON_FINITE = int(SolverStatus.NON_FINITE)


def equilibrated_lists(
    rows: list[list[float]], norms: list[float]
) -> tuple[list[list[float]], list[float]]:
    """Return (C, r): cosines with unit diagonal, symmetrised, and r_i = min_j n_j / n_i."""
    shortest = min(norms)
    cosines = [[1.0] * len(norms) for _ in norms]
    for i, (row, n) in enumerate(zip(rows, norms, strict=True)):
        for j in range(i):
            # Two divisions: the product of two norms can underflow where the entry does not.
            cosine = (0.5 * row[j] + 0.5 * rows[j][i]) / n / norms[j]
            cosines[i][j] = cosines[j][i] = min(1.0, max(-1.0, cosine))
    return cosines, [shortest / n for n in norms]


def equilibrated(
    gramian: NDArray[np.float64], norms: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same on arrays."""
    cosines = 0.5 * gramian
    cosines = (cosines + cosines.T) / norms
    cosines /= norms[:, None]
    np.minimum(cosines, 1.0, out=cosines)
    np.maximum(cosines, -1.0, out=cosines)
    np.fill_diagonal(cosines, 1.0)
    return cosines, norms.min() / norms


def certificate_lists(
    cosines: list[list[float]], r: list[float], v: list[float]
) -> tuple[float, bool, bool]:
    """Return (gap, stationary, unresolved) of the weights proportional to r * v.

    With x = J^T w, y = C v, s = r^T v and shortest norm n, x . g_i = n ||g_i|| y_i / s and
    ||x||^2 = n^2 v^T y / s^2. Nothing here depends on scales, and y_i is accurate relative to
    the length of the rows that it sums.
    """
    y = [sum([c * x for c, x in zip(row, v, strict=True)]) for row in cosines]
    squared = sum([a * b for a, b in zip(v, y, strict=True)])
    s = sum([a * b for a, b in zip(r, v, strict=True)])
    level = squared / s
    worst = max([level * a - b for a, b in zip(r, y, strict=True)])
    return _verdict(worst, squared, s, sum(v))


def certificate(
    cosines: NDArray[np.float64], r: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[float, bool, bool]:
    """The same on arrays."""
    y = cosines @ v
    squared = float(v @ y)
    s = float(r @ v)
    worst = float((r * (squared / s) - y).max())
    return _verdict(worst, squared, s, float(v.sum()))


def _verdict(worst: float, squared: float, s: float, total: float) -> tuple[float, bool, bool]:
    if squared > 0.0:
        gap = max(worst, 0.0) / math.sqrt(squared)
    else:
        # Only rounding makes ||x||^2 negative; a point that is zero has no direction to certify.
        gap = 0.0 if worst <= 0.0 else math.inf
    return gap, squared <= STATIONARY * s * s, squared <= RESOLUTION * total * total


def status_code(gap: float, stationary: bool, unresolved: bool, tol: float) -> int:
    """The code that a certificate deserves."""
    if stationary or unresolved:
        return DEGENERATE
    return CONVERGED if gap <= tol else MAX_ITER
