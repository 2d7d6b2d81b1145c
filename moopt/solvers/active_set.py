"""The active-set method: finite and exact, for any number of objectives."""

import math

import numpy as np

from moopt.records.result import Array
from moopt.solvers.exchanged_faces import EXCHANGES, exchanged_faces
from moopt.solvers.sweep import sweep
from moopt.solvers.tolerances import DEPENDENT, RESIDUAL_ROUNDING

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

    One row j enters at a time. Its v_j grows while the active face follows the optimum, until
    the gradient of j vanishes (j joins the face) or another v_k reaches zero (k leaves it); each
    is one symmetric sweep of the tableau. Where the rows of the face and j are dependent, the
    objective is linear along that path: either some v_k blocks it, or the path is a ray of
    weights whose point is zero up to rounding, and the ray is the answer.

    Args:
        cosines: float64 `[m, m]`, the matrix C with unit diagonal.
        r: float64 `[m]` in (0, 1].
        max_iter: the largest number of pivots.

    Returns:
        v, `[m]`, >= 0 with a positive sum, and the number of pivots. Two shortcuts come first, and
        are kept only if they pass the same tests: for small m the face of all rows (1 pivot), for
        large m an exchange of whole faces (as many pivots as equations).

    Source: P. Wolfe, "Finding the nearest point in a polytope", Mathematical Programming, 1976,
    https://doi.org/10.1007/BF01580381; R. W. Cottle and G. B. Dantzig, "Complementary pivot theory
    of mathematical programming", Linear Algebra and its Applications, 1968, for the path of the
    entering row.
    """
    table = cosines + r[:, None] * r
    if len(r) < EXCHANGE_FROM:
        v, pivots = _on_full_face(cosines, table, r), 1
    elif max_iter >= EXCHANGES:
        v, pivots = _on_exchanged_face(cosines, table, r)
    else:
        v = None
    if v is not None:
        return v, pivots
    # z holds v on the face and the gradient r - A v off it: one update serves both.
    z = r.copy()
    inside, outside = np.zeros_like(r), np.ones_like(r)
    pivots = 0
    verified = False
    while pivots < max_iter:
        candidates = z * outside
        enter = int(candidates.argmax())
        if not candidates[enter] > RESIDUAL_ROUNDING * (1.0 + float(z @ inside)):
            if verified:
                break
            z = _refined(cosines, r, table, inside, z)
            verified = True
            continue
        verified = False
        entering_value = 0.0
        pivot = -1
        while pivot != enter and pivots < max_iter:
            slope = table[enter]
            diagonal = float(slope[enter])
            on_face = slope * inside
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
                ray = np.maximum(-on_face, 0.0)
                ray[enter] = 1.0
                return ray, pivots
            z -= length * slope
            entering_value += length
            joins = pivot == enter
            z[pivot] = entering_value if joins else 0.0
            inside[pivot], outside[pivot] = (1.0, 0.0) if joins else (0.0, 1.0)
            sweep(table, pivot, 1.0 if joins else -1.0)
            pivots += 1
        if pivot != enter:
            # Out of pivots half way: the row entered in part is feasible, better than nothing.
            inside[enter], z[enter] = 1.0, entering_value
    return np.maximum(z, 0.0) * inside, pivots


def _on_full_face(cosines: Array, a: Array, r: Array) -> Array | None:
    """v of the face that holds every row, refined once; None where it is not the answer."""
    try:
        inverse = np.linalg.inv(a)
    except np.linalg.LinAlgError:
        return None
    v = inverse @ r
    if not v[v.argmin()] > 0.0:
        return None
    residual = r * (1.0 - float(r @ v)) - cosines @ v
    allowed = INVERTED * (1.0 + float(np.add.reduce(v)))
    if not float(residual @ residual) < allowed * allowed:
        return None
    v += inverse @ residual
    return v if v[v.argmin()] >= 0.0 else None


def _on_exchanged_face(cosines: Array, a: Array, r: Array) -> tuple[Array | None, int]:
    """v of the face that block principal pivoting finds, refined once; None where it is wrong."""
    candidates, pivots = exchanged_faces(a, -r[None])
    v = candidates[0]
    face = v.nonzero()[0]
    residual = r * (1.0 - float(r @ v)) - cosines @ v
    size = 1.0 + float(np.add.reduce(v))
    largest = float(np.abs(residual[face]).max()) if face.size else math.inf
    if not largest < INVERTED * size:
        return None, pivots
    if largest <= RESIDUAL_ROUNDING * size and float(residual.max()) <= RESIDUAL_ROUNDING * size:
        return v, pivots
    try:
        v[face] += np.linalg.solve(a[face[:, None], face], residual[face])
    except np.linalg.LinAlgError:
        return None, pivots
    residual = r * (1.0 - float(r @ v)) - cosines @ v
    right = v.min() >= 0.0 and residual.max() <= RESIDUAL_ROUNDING * (1.0 + float(np.add.reduce(v)))
    return v if right else None, pivots


def _refined(
    cosines: Array,
    r: Array,
    table: Array,
    inside: Array,
    z: Array,
) -> Array:
    """One step of iterative refinement on the face, and the gradient off it from scratch."""
    v = z * inside
    residual = (r * (1.0 - float(r @ v)) - cosines @ v) * inside
    v = np.maximum(v - table @ residual, 0.0) * inside
    return np.where(inside > 0.0, v, r * (1.0 - float(r @ v)) - cosines @ v)
