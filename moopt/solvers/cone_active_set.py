"""cone_active_set: one projection onto the dual cone by a finite method."""

import math

import numpy as np

from moopt.records.result import Array
from moopt.solvers.sweep import sweep
from moopt.solvers.tolerances import DEPENDENT, RESIDUAL_ROUNDING


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
        if not candidates[enter] > RESIDUAL_ROUNDING * (size + float(z @ inside)):
            if verified:
                break
            z = _refined(cosines, table, need, inside, fixed, z)
            verified = True
            continue
        verified = False
        entering_value, pivot = 0.0, -1
        while pivot != enter and pivots < max_iter:
            slope = table[enter]
            on_face = slope * inside
            diagonal = float(slope[enter])
            length = float(z[enter]) / diagonal if diagonal > DEPENDENT else math.inf
            blocked = on_face > 0.0
            if length < math.inf:  # an infinite step times zero would be NaN
                blocked &= z * inside < length * on_face
            blocking = blocked.nonzero()[0]
            pivot = enter
            if blocking.size:
                ratios = z[blocking] / on_face[blocking]
                first = int(ratios.argmin())
                length, pivot = max(float(ratios[first]), 0.0), int(blocking[first])
            if length == math.inf:
                fixed[enter] += entering_value
                open_[enter] = 0.0
                break
            z -= length * slope
            entering_value += length
            joins = pivot == enter
            z[pivot] = entering_value if joins else 0.0
            inside[pivot] = 1.0 if joins else 0.0
            open_ = 1.0 - inside if not joins else open_ * (1.0 - inside)
            sweep(table, pivot, 1.0 if joins else -1.0)
            pivots += 1
        else:
            if pivot != enter:
                # Out of pivots half way: the value reached is feasible, and better than nothing.
                fixed[enter] += entering_value
    return np.maximum(z, 0.0) * inside + fixed, pivots


def _refined(
    cosines: Array, table: Array, need: Array, inside: Array, fixed: Array, z: Array
) -> Array:
    """One step of iterative refinement on the face, and the products off it from scratch."""
    s = z * inside
    error = -(need + cosines @ (s + fixed)) * inside
    s = np.maximum(s - table @ error, 0.0) * inside
    return np.where(inside > 0.0, s, -(need + cosines @ (s + fixed)))
