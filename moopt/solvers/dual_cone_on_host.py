"""dual_cone_host: projections onto the dual cone on numpy arrays, many at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.min_norm.tolerances import CERTIFIED, DEPENDENT, RESOLUTION, ROUNDING
from moopt.solvers.equilibrated import equilibrated
from moopt.status import SolverStatus

# Exchanges of whole faces before one problem goes to the finite method; nearly all need fewer.
EXCHANGES = 8

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


def exchanged_faces(cosines: Array, need: Array) -> tuple[Array, int]:
    """Block principal pivoting: all wrong rows change sides at once, in all problems at once.

    Fast, but not proven to end: what it returns is a candidate that the residual judges.

    Args:
        cosines: `[m, m]`.
        need: `[k, m]`, the products C u of each problem.

    Returns:
        The shifts `[k, m]`, >= 0, and the number of equations solved.

    Source: J. J. Júdice and F. M. Pires, "A block principal pivoting algorithm for large-scale
    strictly monotone linear complementarity problems", Computers and Operations Research 1994.
    """
    shifts = np.zeros(need.shape)
    left = np.arange(len(need))
    face = need < 0.0
    eye = np.eye(len(cosines))
    solved = 0
    for _ in range(EXCHANGES):
        pairs = face[:, :, None] & face[:, None, :]
        right = np.where(face, need, 0.0)
        try:
            s = np.linalg.solve(np.where(pairs, cosines, eye), -right[..., None])[..., 0]
        except np.linalg.LinAlgError:
            break
        solved += len(s)
        y = need + s @ cosines
        noise = ROUNDING * (1.0 + len(eye) * float(np.maximum.reduce(s, axis=None)))
        wrong = np.where(face, s, y) < -noise
        shifts[left] = np.maximum(s, 0.0)
        again = np.logical_or.reduce(wrong, axis=1)
        if not np.logical_or.reduce(again):
            break
        left, need, face = left[again], need[again], (face ^ wrong)[again]
    return shifts, solved


def cone_active_set(cosines: Array, start: Array, max_iter: int) -> tuple[Array, int]:
    """The finite method, for one problem: `min_{s >= 0} 1/2 s' C s + (C u)' s`.

    The pivots of `moopt.solvers.active_set`, with another right-hand side: one row at a time
    enters the face, and its shift grows until its own inner product vanishes or another shift
    does. Where it depends on the face and nothing blocks it, its inner product is zero up to
    rounding: it is left out until the face shrinks.

    Returns:
        The shift `[m]`, >= 0, and the number of pivots.

    Source: R. W. Cottle and G. B. Dantzig, "Complementary pivot theory of mathematical
    programming", Linear Algebra and its Applications, 1968.
    """
    table = cosines.copy()
    need = cosines @ start
    size = float(np.abs(start).sum())
    # z holds s on the face and -y off it: one update serves both.
    z = -need
    inside = np.zeros_like(z)
    open_ = np.ones_like(z)
    fixed = np.zeros_like(z)
    pivots, verified = 0, False
    while pivots < max_iter:
        candidates = z * open_
        enter = int(candidates.argmax())
        if not candidates[enter] > ROUNDING * (size + float(z @ inside)):
            if verified:
                break
            z = _refined(cosines, table, need, inside, fixed, z)
            verified = True
            continue
        verified = False
        grown, pivot = 0.0, -1
        while pivot != enter and pivots < max_iter:
            slope = table[enter]
            on_face = slope * inside
            diagonal = float(slope[enter])
            length = float(z[enter]) / diagonal if diagonal > DEPENDENT else math.inf
            blocking = ((z * inside < length * on_face) & (on_face > 0.0)).nonzero()[0]
            pivot = enter
            if blocking.size:
                ratios = z[blocking] / on_face[blocking]
                first = int(ratios.argmin())
                length, pivot = max(float(ratios[first]), 0.0), int(blocking[first])
            if length == math.inf:
                fixed[enter] += grown
                open_[enter] = 0.0
                break
            z -= length * slope
            grown += length
            joins = pivot == enter
            z[pivot] = grown if joins else 0.0
            inside[pivot] = 1.0 if joins else 0.0
            open_ = 1.0 - inside if not joins else open_ * (1.0 - inside)
            _sweep(table, pivot, 1.0 if joins else -1.0)
            pivots += 1
        else:
            if pivot != enter:
                # Out of pivots half way: what has grown is feasible, and better than nothing.
                fixed[enter] += grown
    return np.maximum(z, 0.0) * inside + fixed, pivots


def _sweep(table: Array, p: int, sign: float) -> None:
    """Sweep row and column p in (sign 1) or out (sign -1); the table stays symmetric."""
    row = table[p].copy()
    scaled = row / row[p]
    table -= row[:, None] * scaled
    if sign < 0.0:
        scaled = -scaled
    table[p] = scaled
    table[:, p] = scaled
    table[p, p] = -1.0 / row[p]


def _refined(
    cosines: Array, table: Array, need: Array, inside: Array, fixed: Array, z: Array
) -> Array:
    """One step of iterative refinement on the face, and the products off it from scratch."""
    s = z * inside
    error = -(need + cosines @ (s + fixed)) * inside
    s = np.maximum(s - table @ error, 0.0) * inside
    return np.where(inside > 0.0, s, -(need + cosines @ (s + fixed)))
