"""The problem in scale-free coordinates, with the certificate of its solutions."""

import math
from typing import NamedTuple

import numpy as np

from moopt.kernels.tolerances import RESOLUTION, STATIONARY
from moopt.records.result import Array
from moopt.records.status import SolverStatus


class Certificate(NamedTuple):
    """How good weights are.

    Attributes:
        gap: `max_i (||x||^2 - x . g_i) / (||x|| ||g_i||)`, at least 0.
        stationary: ||x||^2 <= STATIONARY * min ||g_i||^2.
        unresolved: the rounding of the Gramian hides whether x is zero.
    """

    gap: float
    stationary: bool
    unresolved: bool

    def status(self, tol: float) -> SolverStatus:
        """The `SolverStatus` that this certificate deserves."""
        if self.stationary or self.unresolved:
            return SolverStatus.DEGENERATE
        return SolverStatus.CONVERGED if self.gap <= tol else SolverStatus.MAX_ITER


def cosines_of(gramian: Array, norms: Array) -> Array:
    """Cosines of a Gramian: symmetric, in [-1, 1], with unit diagonal, and 0 beside a zero row."""
    scale = norms if norms.all() else np.where(norms > 0.0, norms, 1.0)
    half = 0.5 * gramian
    # Two divisions: the product of two norms can underflow where the entry does not.
    cosines: Array = (half + half.T) / scale
    cosines /= scale[:, None]
    np.minimum(cosines, 1.0, out=cosines)
    np.maximum(cosines, -1.0, out=cosines)
    cosines.flat[:: len(norms) + 1] = 1.0
    return cosines


def equilibrated(gramian: Array, norms: Array) -> tuple[Array, Array]:
    """Return (C, r): the cosines, and r_i = min_j n_j / n_i."""
    return cosines_of(gramian, norms), norms[norms.argmin()] / norms


def certificate(cosines: Array, r: Array, v: Array) -> Certificate:
    """Certify the weights proportional to r * v.

    With x = J^T w, y = C v, s = r^T v and shortest norm n, x . g_i = n ||g_i|| y_i / s and
    ||x||^2 = n^2 v^T y / s^2. Nothing here depends on scales, and y_i is accurate relative to
    the length of the rows that it sums.
    """
    y = cosines @ v
    squared = float(v @ y)
    s = float(r @ v)
    violation = r * (squared / s) - y
    worst = float(violation[violation.argmax()])
    total = float(np.add.reduce(v))
    if squared > 0.0:
        gap = max(worst, 0.0) / math.sqrt(squared)
    else:
        # Only rounding makes ||x||^2 negative; a point that is zero has no direction to certify.
        gap = 0.0 if worst <= 0.0 else math.inf
    return Certificate(gap, squared <= STATIONARY * s * s, squared <= RESOLUTION * total * total)
