"""fixed_point_host: damped Newton for G a = a^(-1/alpha) on numpy arrays, for speed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moopt.records.status import SolverStatus
from moopt.solvers.equilibrated import equilibrated
from moopt.solvers.host import min_norm_array

Array = NDArray[np.float64]
# (weights, status code, gap, number of Newton steps) of one Gramian.
HostResult = tuple[Array, int, float, int]

STEPS = 0.5 ** np.arange(10.0)
"""Fractions of the Newton step that are tried where it is long."""

SHORT = 0.25
"""Largest relative change of a weight for which the full Newton step converges quadratically."""

STAY_POSITIVE = 0.95
"""Share of the way to the first weight of zero that a step may go."""

EXACT = 1e-14
"""A relative residual at which the iteration stops early: rounding is next."""


def fixed_point_host(
    gramian: Array, active: list[bool] | None, alpha: float, tol: float, max_iter: int
) -> HostResult:
    """`moopt.solvers.fixed_point.fixed_point` of one Gramian; nothing is checked."""
    m = len(gramian)
    if active is not None and not all(active):
        index = np.array(active).nonzero()[0]
        weights = np.zeros(m)
        if not index.size:
            return weights, int(SolverStatus.DEGENERATE), 0.0, 0
        inner = fixed_point_host(gramian[np.ix_(index, index)], None, alpha, tol, max_iter)
        weights[index] = inner[0]
        return weights, *inner[1:]
    # Extreme norm ratios may overflow on the way; the certificate is the judge.
    with np.errstate(all="ignore"):
        total = float(np.add.reduce(gramian, axis=None))
        # A difference with itself is 0 unless the sum overflowed or an entry is not finite.
        if total - total != 0.0 and not np.isfinite(gramian).all():
            return np.full(m, 1.0 / m), int(SolverStatus.NON_FINITE), math.nan, 0
        squares = gramian.diagonal()
        if squares[squares.argmin()] <= 0.0:
            zeros = (squares <= 0.0).astype(np.float64)
            return zeros / zeros.sum(), int(SolverStatus.DEGENERATE), 0.0, 0
        norms = np.sqrt(squares)
        cosines, _ = equilibrated(gramian, norms)
        return _solved(cosines, norms, alpha, tol, max_iter)


def _solved(cosines: Array, norms: Array, alpha: float, tol: float, max_iter: int) -> HostResult:
    power = 1.0 / alpha
    longest = float(norms[norms.argmax()])
    unit = longest ** ((power - 1.0) / (power + 1.0)) / norms
    simplex, status, _, _ = min_norm_array(cosines, None, "auto", tol, None)
    if status == SolverStatus.DEGENERATE:
        return np.asarray(simplex) * unit, status, 0.0, 0
    r = (norms / longest) ** (power - 1.0)
    b = started(cosines, r, power)
    best, gap, num_iter = b, math.inf, 0
    for num_iter in range(max_iter + 1):
        products = cosines @ b
        wanted = r * b**-power
        residual = float(np.maximum.reduce(np.abs(products / wanted - 1.0)))
        if residual < gap:
            best, gap = b, residual
        elif gap <= tol:
            break
        if gap <= EXACT or num_iter == max_iter:
            break
        b = b * (1.0 + newton_step(cosines, r, power, b, products, wanted))
    code = SolverStatus.CONVERGED if gap <= tol else SolverStatus.MAX_ITER
    return best * unit, int(code), gap, num_iter


def started(cosines: Array, r: Array, power: float) -> Array:
    """The solution for orthogonal gradients, at its best length for these."""
    b = r ** (1.0 / (1.0 + power))
    size = max(float(b @ (cosines @ b)), 1e-12 * float(b @ b))
    return b * (float(np.add.reduce(r * b ** (1.0 - power))) / size) ** (1.0 / (1.0 + power))


def newton_step(
    cosines: Array, r: Array, power: float, b: Array, products: Array, wanted: Array
) -> Array:
    """The relative change of b: a Newton step, shortened to the lowest potential found.

    The potential is `1/2 b'Cb - sum_i r_i h(b_i)` with `h' = b^(-power)`: strictly convex. Scaled
    by the square roots of `b_i h'_i r_i`, its Hessian is at least `power` times the identity.
    """
    scale = np.sqrt(b * wanted)
    ratio = b / scale
    hessian = cosines * ratio * ratio[:, None]
    hessian.flat[:: len(b) + 1] += power
    change = np.linalg.solve(hessian, (wanted - products) * ratio) / scale
    if float(np.maximum.reduce(np.abs(change))) <= SHORT:
        return change
    lowest = float(np.minimum.reduce(change))
    steps = STEPS * min(1.0, STAY_POSITIVE / -lowest if lowest < 0.0 else 1.0)
    move = b * change
    grown = 1.0 + steps[:, None] * change
    if power == 1.0:
        gain = np.log(grown) @ r
    else:
        gain = grown ** (1.0 - power) @ (r * b ** (1.0 - power)) / (1.0 - power)
    potential = steps * float(move @ products)
    potential = potential + 0.5 * steps * steps * float(move @ (cosines @ move)) - gain
    return change * steps[int(potential.argmin())]
