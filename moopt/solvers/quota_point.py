"""quota_point: the nearest vector that makes at least given progress on every gradient."""

import math

import numpy as np

from moopt.kernels.tolerances import EPS
from moopt.records.result import Array, Solved
from moopt.records.status import SolverStatus
from moopt.solvers.dual_cone import dual_cone
from moopt.solvers.exchanged_faces import exchanged_faces

FARTHEST = 1e4
"""Distance, in units of the problem's lengths, from which quotas count as infeasible: gradients
opposite up to an angle of 1e-4 or so."""

QUOTA_TOL = 1e-9
"""Residual of the optimality conditions, in units of the problem's lengths, that is zero: the
rounding 2e-16, times `FARTHEST`, with two digits to spare."""


def quota_point(
    cosines: Array, start: Array, quotas: Array, walls: Array, *, noise: float = EPS
) -> Solved:
    """Return the coefficients of the nearest vector to a given one that meets every quota.

    With unit rows U and cosines C = U U', `argmin ||U' y - U' x||` subject to
    `u_j . U' y >= quota_j` for every wall j: `y = x + s` with `s >= 0` on the walls.

    Args:
        cosines: float64 `[m, m]`, symmetric with unit diagonal.
        start: float64 `[m]`, x.
        quotas: float64 `[m]`, >= 0; read on the walls only.
        walls: bool `[m]`.
        noise: relative rounding of a cosine.

    Returns:
        y; the gap is `max_j |min(s_j, slack_j)|`, in units of `||U' x|| + max_j quota_j`; the
        status is CONVERGED, or INFEASIBLE where the gap stays above 1e-9: no vector within 1e4 of
        these units meets the quotas.

    Numerics: by block pivoting. Where its answer is not certified, or far away: with one more
        coordinate, so long that the answer keeps it, the constraints become a cone, and `dual_cone`
        solves the problem. The residual is computed afresh.

    Example:
        >>> import numpy as np
        >>> from moopt.solvers.quota_point import quota_point
        >>> x, quotas = np.array([[1.0, 0.0], [0.0, 0.75]])
        >>> y = quota_point(np.eye(2), x, quotas, np.array([False, True])).weights
        >>> [round(value, 12) for value in y.tolist()]
        [1.0, 0.75]
    """
    index = walls.nonzero()[0]
    k, along = len(index), cosines @ start
    short = along[index] - quotas[index]
    if not k or float(np.minimum.reduce(short)) >= 0.0:
        return Solved(start.copy(), SolverStatus.CONVERGED, 0.0)
    unit = math.sqrt(max(float(start @ along), 0.0)) + float(np.maximum.reduce(quotas[index]))
    inner, need = cosines[np.ix_(index, index)], short / unit
    shifts, num_iter = exchanged_faces(inner, need[None])
    shift = shifts[0]
    gap = _residual(inner, need, shift)
    if not (gap <= QUOTA_TOL and float(np.add.reduce(shift)) <= FARTHEST):
        # The last row is that of x with the long coordinate.
        cone = np.ones((k + 1, k + 1))
        cone[:k, :k] = inner
        cone[k, :k] = cone[:k, k] = np.clip(need / FARTHEST, -1.0, 1.0)
        norms, preference = np.append(np.ones(k), FARTHEST), np.append(np.zeros(k), 1.0)
        solved = dual_cone(cone, norms, preference, noise=noise)
        shift, num_iter = np.maximum(solved.weights[:k], 0.0), solved.num_iter
        gap = _residual(inner, need, shift)
    weights = start.copy()
    weights[index] += unit * shift
    status = SolverStatus.CONVERGED if gap <= QUOTA_TOL else SolverStatus.INFEASIBLE
    return Solved(weights, status, gap, num_iter)


def _residual(inner: Array, need: Array, shift: Array) -> float:
    """How far a shift is from the optimality conditions."""
    return float(np.maximum.reduce(np.abs(np.minimum(shift, need + inner @ shift))))
