"""The active-set method: finite and exact, for any number of objectives."""

import functools
import math
from collections.abc import Callable

import numpy as np

from moopt.kernels.tolerances import DEPENDENT, RESIDUAL_ROUNDING
from moopt.records.result import Array
from moopt.solvers.exchanged_faces import EXCHANGES, exchanged_faces

# From this m on a few equations on whole faces cost less than the first dozen pivots.
EXCHANGE_FROM = 16
# A first solution with a smaller residual than this, relative to 1 + sum(v), comes from a sound
# inverse: one refinement squares it, below rounding. A singular matrix gives one of order 1.
INVERTED = 1e-8


def active_set(cosines: Array, r: Array, max_iter: int) -> tuple[Array, int]:
    """Solve `min_{v >= 0} 1/2 v^T A v - r^T v`, A = C + r r^T.

    With unit rows u_i = g_i / ||g_i||, C = U U^T and r_i = min_j ||g_j|| / ||g_i||, the
    minimum-norm point of the convex hull of the g_i has weights w proportional to r * v: this is
    Wolfe's method, the fully corrective Frank-Wolfe method, in coordinates that no scale or norm
    ratio can spoil.

    Args:
        cosines: float64 `[m, m]`, the matrix C with unit diagonal.
        r: float64 `[m]` in (0, 1].
        max_iter: the largest number of pivots.

    Returns:
        v, `[m]`, >= 0 with a positive sum, and the number of pivots. Two shortcuts come first, and
        are kept only if they pass the same tests: for small m the face of all rows (1 pivot), for
        large m an exchange of whole faces (as many pivots as equations).

    Source: P. Wolfe, "Finding the nearest point in a polytope", Mathematical Programming, 1976,
    https://doi.org/10.1007/BF01580381.
    """
    a = cosines + r[:, None] * r
    v, pivots = None, 1
    if len(r) < EXCHANGE_FROM:
        v = _on_full_face(cosines, a, r)
    elif max_iter >= EXCHANGES:
        v, pivots = _on_exchanged_face(cosines, a, r)
    if v is not None:
        return v, pivots
    return _pivoted(a, functools.partial(_gradient, cosines, r), 1.0, max_iter)


def cone_active_set(cosines: Array, start: Array, max_iter: int) -> tuple[Array, int]:
    """Project `U' u` onto the dual cone: solve `min_{s >= 0} 1/2 s' C s + (C u)' s`.

    Args:
        cosines: float64 `[m, m]`, the matrix C = U U' with unit diagonal.
        start: float64 `[m]`, u.
        max_iter: the largest number of pivots.

    Returns:
        The shift s `[m]`, >= 0, and the number of pivots.
    """
    need = cosines @ start
    size = float(np.abs(start).sum())

    def gradient(shift: Array) -> Array:
        return -(need + cosines @ shift)

    return _pivoted(cosines, gradient, size, max_iter)


def _gradient(cosines: Array, r: Array, v: Array) -> Array:
    """`r - A v`, in the form that loses least where r^T v is near 1."""
    gradient: Array = r * (1.0 - float(r @ v)) - cosines @ v
    return gradient


def _on_full_face(cosines: Array, a: Array, r: Array) -> Array | None:
    """v of the face that holds every row, refined once; None where it is not the answer."""
    try:
        inverse = np.linalg.inv(a)
    except np.linalg.LinAlgError:
        return None
    v = inverse @ r
    if not v[v.argmin()] > 0.0:
        return None
    residual = _gradient(cosines, r, v)
    allowed = INVERTED * (1.0 + float(np.add.reduce(v)))
    if not float(residual @ residual) < allowed * allowed:
        return None
    v += inverse @ residual
    return v if v[v.argmin()] >= 0.0 else None


def _on_exchanged_face(cosines: Array, a: Array, r: Array) -> tuple[Array | None, int]:
    """v of the face that block principal pivoting finds, refined once; None where it is wrong."""
    (v,), pivots = exchanged_faces(a, -r[None])
    for _ in range(2):
        gradient = _gradient(cosines, r, v)
        wrong = np.where(v > 0.0, np.abs(gradient), gradient)
        if float(wrong.max()) <= RESIDUAL_ROUNDING * (1.0 + float(v.sum())) and v.min() >= 0.0:
            return v, pivots
        face = v.nonzero()[0]
        try:
            v[face] += np.linalg.solve(a[face[:, None], face], gradient[face])
        except np.linalg.LinAlgError:
            break
    return None, pivots


def _pivoted(
    matrix: Array, gradient: Callable[[Array], Array], size: float, max_iter: int
) -> tuple[Array, int]:
    """Solve `min_{v >= 0} 1/2 v^T M v - g^T v` by pivots.

    One row j enters at a time. Its v_j grows while the active face follows the optimum, until
    the gradient of j vanishes (j joins the face) or another v_k reaches zero (k leaves it); each
    is one symmetric sweep of the tableau. Where the rows of the face and j are dependent and no
    v_k blocks the path, the gradient of j is zero up to rounding: j keeps the value that it has,
    and is left out until the face shrinks.

    Args:
        matrix: float64 `[m, m]`, M, positive semi-definite with a diagonal of order 1.
        gradient: of v, `g - M v` from scratch.
        size: of the terms of g; a gradient of their rounding is zero.
        max_iter: the largest number of pivots; a row that entered in part by then is feasible,
            and better than nothing.

    Returns:
        v, `[m]`, >= 0, and the number of pivots.

    Source: R. W. Cottle and G. B. Dantzig, "Complementary pivot theory of mathematical
    programming", Linear Algebra and its Applications, 1968, for the path of the entering row.
    """
    table, rows = matrix.copy(), matrix[0]
    inside, outside, fixed = np.zeros_like(rows), np.ones_like(rows), np.zeros_like(rows)
    # z holds v on the face and the gradient off it: one update serves both. Off the face v is 0,
    # but in `fixed` for the row that enters and for those that were left out.
    z = gradient(fixed)
    pivots, verified = 0, False
    while pivots < max_iter:
        candidates = z * outside
        enter = int(candidates.argmax())
        if not candidates[enter] > RESIDUAL_ROUNDING * (size + float(z @ inside)):
            if verified:
                break
            z, verified = _refined(table, gradient, inside, fixed, z), True
            continue
        verified, pivot = False, -1
        while pivot != enter and pivots < max_iter:
            slope = table[enter]
            on_face = slope * inside
            diagonal = float(slope[enter])
            if diagonal > DEPENDENT:
                length = float(z[enter]) / diagonal
                blocking = (z * inside < length * on_face).nonzero()[0]
            else:
                length = math.inf
                blocking = (on_face > 0.0).nonzero()[0]
            pivot = enter
            if blocking.size:
                ratios = z[blocking] / on_face[blocking]
                first = int(ratios.argmin())
                length, pivot = max(float(ratios[first]), 0.0), int(blocking[first])
            if length == math.inf:
                outside[enter] = 0.0
                break
            z -= length * slope
            fixed[enter] += length
            z[pivot], fixed[pivot] = fixed[pivot], 0.0
            if pivot == enter:
                inside[pivot], outside[pivot] = 1.0, 0.0
            else:
                inside[pivot] = 0.0
                outside = 1.0 - inside
            sweep(table, pivot, 1.0 if pivot == enter else -1.0)
            pivots += 1
    return np.maximum(z, 0.0) * inside + fixed, pivots


def _refined(
    table: Array, gradient: Callable[[Array], Array], inside: Array, fixed: Array, z: Array
) -> Array:
    """One step of iterative refinement on the face, and the gradient off it from scratch."""
    v = z * inside
    v = np.maximum(v - table @ (gradient(v + fixed) * inside), 0.0) * inside
    return np.where(inside > 0.0, v, gradient(v + fixed))


def sweep(table: Array, p: int, sign: float) -> None:
    """Sweep row and column p in (sign 1) or out (sign -1); the table stays symmetric.

    Sweeping in all rows of a matrix turns it into minus its inverse; sweeping in some, into the
    tableau of the equations on those rows. Sweeping out undoes it.
    """
    row = table[p].copy()
    scaled = row / row[p]
    table -= row[:, None] * scaled
    table[p] = table[:, p] = scaled if sign > 0.0 else -scaled
    table[p, p] = -1.0 / row[p]
