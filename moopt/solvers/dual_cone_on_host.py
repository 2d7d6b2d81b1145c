"""dual_cone_host: projections onto the dual cone on numpy arrays, many at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.min_norm.tolerances import CERTIFIED, RESOLUTION, ROUNDING
from moopt.records.status import SolverStatus
from moopt.solvers.cone_active_set import cone_active_set
from moopt.solvers.equilibrated import equilibrated
from moopt.solvers.exchanged_faces import exchanged_faces

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


# (weights, status code, gap, number of iterations) of one Gramian.
HostResult = tuple[Array, int, float, int]


def dual_cone_host(
    gramian: Array,
    preference: Array,
    active: list[bool] | None,
    separate: bool,
    tol: float,
    max_iter: int | None,
) -> HostResult:
    """`moopt.solvers.dual_cone.dual_cone_combination` of one Gramian; nothing is checked."""
    m = len(preference)
    if active is not None and not all(active):
        index = np.array(active).nonzero()[0]
        weights = np.zeros(m)
        if not index.size:
            return weights, int(SolverStatus.DEGENERATE), 0.0, 0
        weights[index], status, gap, num_iter = dual_cone_host(
            gramian[np.ix_(index, index)], preference[index], None, separate, tol, max_iter
        )
        return weights, status, gap, num_iter
    # Sums and extreme norm ratios may overflow on the way; the certificate is the judge.
    with np.errstate(all="ignore"):
        total = float(np.add.reduce(gramian, axis=None) + np.add.reduce(preference))
        # A difference with itself is 0 unless the sum overflowed or an entry is not finite.
        if total - total != 0.0 and not (
            np.isfinite(gramian).all() and np.isfinite(preference).all()
        ):
            return np.full(m, 1.0 / m), int(SolverStatus.NON_FINITE), math.nan, 0
        squares = gramian.diagonal()
        if squares[squares.argmin()] <= 0.0:
            return _without_zero_rows(gramian, preference, squares > 0.0, separate, tol, max_iter)
        norms = np.sqrt(squares)
        return _combined(gramian, preference, norms, separate, tol, max_iter)


def _without_zero_rows(
    gramian: Array, preference: Array, live: Mask, separate: bool, tol: float, max_iter: int | None
) -> HostResult:
    """A zero row keeps its preference as weight, which moves nothing."""
    if not live.any():
        return preference.copy(), int(SolverStatus.DEGENERATE), 0.0, 0
    projected, status, gap, num_iter = dual_cone_host(
        gramian, preference, live.tolist(), separate, tol, max_iter
    )
    return np.where(live, projected, preference), status, gap, num_iter


def _combined(
    gramian: Array,
    preference: Array,
    norms: Array,
    separate: bool,
    tol: float,
    max_iter: int | None,
) -> HostResult:
    cosines, _ = equilibrated(gramian, norms)
    lengths = preference * norms
    scale = float(np.maximum.reduce(np.abs(lengths))) or 1.0
    relative = lengths / scale
    limit = 10 * len(norms) + 20 if max_iter is None else max_iter
    if separate:
        # The combination of unit gradient i is row i of the unit matrix: its products are C_i.
        shifts, residuals, num_iter = _projected(cosines, None, cosines, limit)
        shift = relative @ shifts
        residual = float(np.abs(relative) @ residuals)
    else:
        need = (cosines @ relative)[None]
        shifts, residuals, num_iter = _projected(cosines, relative[None], need, limit)
        shift, residual = shifts[0], float(residuals[0])
    v = relative + shift
    square = float(v @ (cosines @ v))
    size = float(np.add.reduce(np.abs(v)))
    weights = preference + shift * scale / norms
    if square <= RESOLUTION * size * size:
        return weights, int(SolverStatus.DEGENERATE), 0.0, num_iter
    gap = residual / math.sqrt(square)
    status = SolverStatus.CONVERGED if gap <= tol else SolverStatus.MAX_ITER
    return weights, int(status), gap, num_iter


def _projected(
    cosines: Array, starts: Array | None, need: Array, limit: int
) -> tuple[Array, Array, int]:
    """The shifts `[k, m]` that solve k problems, their residuals `[k]`, all iterations.

    `starts` None is the unit matrix; `need` `[k, m]` is `starts C`.
    """
    lowest = float(np.minimum.reduce(need, axis=None))
    if lowest >= 0.0:
        return np.zeros(need.shape), np.zeros(len(need)), 0
    shifts, num_iter = exchanged_faces(cosines, need)
    y = need + shifts @ cosines
    residuals = np.maximum.reduce(np.abs(np.minimum(shifts, y)), axis=1)
    if float(np.maximum.reduce(residuals)) <= ROUNDING:
        return shifts, residuals, num_iter
    v = shifts + (np.eye(len(cosines)) if starts is None else starts)
    size = np.add.reduce(np.abs(v), axis=1)
    square = np.maximum(np.add.reduce(v * y, axis=1), RESOLUTION * size * size)
    for p in (~(residuals <= CERTIFIED * np.sqrt(square))).nonzero()[0].tolist():
        start = np.eye(1, len(cosines), p)[0] if starts is None else starts[p]
        one, more = cone_active_set(cosines, start, limit)
        num_iter += more
        rest = float(np.abs(np.minimum(one, need[p] + one @ cosines)).max())
        if not rest >= residuals[p]:
            shifts[p], residuals[p] = one, rest
    return shifts, residuals, num_iter
