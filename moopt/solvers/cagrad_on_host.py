"""cagrad_host: the one-dimensional dual of CAGrad on numpy arrays, for speed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.min_norm.tolerances import CERTIFIED, RESOLUTION
from moopt.records.status import SolverStatus
from moopt.solvers.dual_cone_on_host import dual_cone_host
from moopt.solvers.equilibrated import equilibrated
from moopt.solvers.host import min_norm_array

Array = NDArray[np.float64]
# ||g_w||^2, the weights of the direction, its gap, and by how much each row misses the optimum.
Judged = tuple[float, Array, float, Array]
# (weights, status code, gap, number of minimum-norm problems) of one Gramian.
HostResult = tuple[Array, int, float, int]

STEP_DOWN = 1e-4
"""Factor by which the upper bound of the root is tried where there is no lower one."""

EXCHANGES = 20
"""Exchanges of whole faces before the finite method takes over; most problems need fewer."""

EXACT = 1e-3 * CERTIFIED
"""A gap at which the root finder stops early: rounding is next."""


def cagrad_host(
    gramian: Array, active: list[bool] | None, c: float, tol: float, max_iter: int
) -> HostResult:
    """`moopt.solvers.cagrad.cagrad_point` of one Gramian; nothing is checked."""
    m = len(gramian)
    if active is not None and not all(active):
        index = np.array(active).nonzero()[0]
        weights = np.zeros(m)
        if not index.size:
            return weights, int(SolverStatus.DEGENERATE), 0.0, 0
        inner = cagrad_host(gramian[np.ix_(index, index)], None, c, tol, max_iter)
        weights[index] = inner[0]
        return weights, *inner[1:]
    share = np.full(m, 1.0 / m)
    # Sums and extreme norm ratios may overflow on the way; the certificate is the judge.
    with np.errstate(all="ignore"):
        total = float(np.add.reduce(gramian, axis=None))
        # A difference with itself is 0 unless the sum overflowed or an entry is not finite.
        if total - total != 0.0 and not np.isfinite(gramian).all():
            return share, int(SolverStatus.NON_FINITE), math.nan, 0
        largest = float(np.maximum.reduce(gramian.diagonal()))
        if not largest > 0.0:
            return share, int(SolverStatus.DEGENERATE), 0.0, 0
        if c == 0.0:
            return share, int(SolverStatus.CONVERGED), 0.0, 0
        return _solved(gramian / largest, share, c, tol, max_iter)


def _solved(gramian: Array, share: Array, c: float, tol: float, max_iter: int) -> HostResult:
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    lengths = np.where(norms > 0.0, norms, 1.0)
    slope = gramian @ share
    square = float(share @ slope)
    if square <= RESOLUTION * float(share @ norms) ** 2:
        return share, int(SolverStatus.DEGENERATE), 0.0, 0
    radius = c * math.sqrt(square)
    cross = slope[:, None] + slope

    def judged(w: Array) -> Judged:
        products = gramian @ w
        q = max(float(w @ products), 0.0)
        if q == 0.0:
            return 0.0, share, math.inf, np.zeros(len(w))
        length = math.sqrt(q)
        weights = share + (radius / length) * w
        reached = slope + (radius / length) * products
        size = math.sqrt(max(float(weights @ (gramian @ weights)), 0.0)) or 1.0
        violation = (float(w @ slope) + radius * length - reached) / lengths
        return q, weights, max(float(np.maximum.reduce(violation)), 0.0) / size, violation

    guess = _exchanged(gramian, slope / math.sqrt(square), norms, c, judged)
    if guess is not None and guess[1] <= EXACT:
        return guess[0], int(SolverStatus.CONVERGED), guess[1], guess[2]
    first = np.asarray(min_norm_array(gramian, None, "auto", tol, None)[0])
    q, best, gap, _ = judged(first)
    num_iter = 1
    low, high, last, last_q = q, 1.0, 0.0, q
    if q <= RESOLUTION * float(first @ norms) ** 2:
        nearest = dual_cone_host(gramian, share, None, False, tol, None)
        shift = nearest[0] - share
        if float(shift @ (gramian @ shift)) <= (1.0 + CERTIFIED) * radius * radius:
            return nearest[0], int(SolverStatus.DEGENERATE), nearest[2], num_iter
        low, last_q = 0.0, 0.0
    point = low if low > 0.0 else STEP_DOWN
    while num_iter <= max_iter and not gap <= EXACT and low < high:
        step = math.sqrt(point) / radius
        shifted = gramian + step * cross + step * step * square
        w = np.asarray(min_norm_array(shifted, None, "auto", tol, None)[0])
        q, weights, its_gap, _ = judged(w)
        num_iter += 1
        if not its_gap >= gap:
            best, gap = weights, its_gap
        if q >= point:
            low = max(low, q)
        if q <= point:
            high = min(high, q)
        steep = (q - last_q) / (point - last) if point != last else 0.0
        last, last_q = point, q
        point = (q - steep * point) / (1.0 - steep) if steep < 1.0 else 0.0
        if low == 0.0:
            point = STEP_DOWN * high
        elif not low <= point <= high:
            point = math.sqrt(low * high)
    status = SolverStatus.CONVERGED if gap <= tol else SolverStatus.MAX_ITER
    return best, int(status), gap, num_iter


def _exchanged(
    gramian: Array, products: Array, norms: Array, c: float, judged: Callable[[Array], Judged]
) -> tuple[Array, float, int] | None:
    """Weights, gap and trips: the solution on one face after another, until no row is wrong.

    On the affine hull of a face `w = a + t e` for the right-hand side t, so that
    `t^2 = a'Ga + t^2 e'Ge` gives t. Fast, but not proven to end: its gap is the judge.

    Args:
        products: `[m]`, g_i . g0 / ||g0||.
    """
    if not norms[norms.argmin()] > 0.0:
        return None
    cosines, r = equilibrated(gramian, norms)
    right = np.stack([r, products / norms], 1)
    face = np.ones(len(norms), dtype=bool)
    best: tuple[Array, float, int] | None = None
    for trip in range(1, EXCHANGES + 1):
        index = face.nonzero()[0]
        if not index.size:
            break
        block, rows = cosines[np.ix_(index, index)], right[index]
        inner = rows[:, 0]
        try:
            a, x = np.linalg.solve(block + inner[:, None] * inner, rows).T
        except np.linalg.LinAlgError:
            break
        a = a / float(inner @ a)
        e = float(inner @ x) * a - x
        bend = 1.0 - float(e @ (block @ e)) / (c * c)
        # Without a root on this face t grows until a weight reaches zero: e tells which.
        length = math.sqrt(max(float(a @ (block @ a)), 0.0) / bend) / c if bend > 0.0 else 0.0
        v = a + length * e if bend > 0.0 else e
        wrong = np.zeros_like(face)
        wrong[index] = v < 0.0
        if bend > 0.0:
            w = np.zeros_like(norms)
            w[index] = inner * np.maximum(v, 0.0)
            w /= np.add.reduce(w)
            _, weights, gap, violation = judged(w)
            if best is None or not gap >= best[1]:
                best = weights, gap, trip
            if not wrong.any():
                if gap <= EXACT:
                    break
                wrong = ~face & (violation > 0.0)
        if not wrong.any():
            break
        face = face ^ wrong
    return best
