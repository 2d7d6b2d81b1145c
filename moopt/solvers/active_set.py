"""The active-set method: finite and exact, for any number of objectives."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.min_norm.tolerances import DEPENDENT, ROUNDING

# Inverses with larger entries are too inaccurate to begin from.
ILL_CONDITIONED = 1e8


def active_set(
    cosines: NDArray[np.float64], r: NDArray[np.float64], max_iter: int
) -> tuple[NDArray[np.float64], int]:
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
        v, `[m]`, >= 0 with a positive sum, and the number of pivots (1 where every row turned
        out to be on the face, which one factorization tells).

    Source: P. Wolfe, "Finding the nearest point in a polytope", Mathematical Programming, 1976;
    R. W. Cottle and G. B. Dantzig, "Complementary pivot theory of mathematical programming",
    Linear Algebra and its Applications, 1968, for the path of the entering row.
    """
    a = cosines + r[:, None] * r
    # z holds v on the face and the gradient r - A v off it: one update serves both.
    table, z, face, pivots = a, r.copy(), np.zeros(len(r), dtype=bool), 0
    full = _full_face(a, r)
    if full is not None:
        table, z = full
        face[:] = True
        pivots = 1
    verified = False
    while pivots < max_iter:
        candidates = np.where(face, 0.0, z)
        enter = int(candidates.argmax())
        if not candidates[enter] > ROUNDING * (1.0 + float(z @ face)):
            if verified:
                break
            z = _refined(cosines, r, table, face, z)
            verified = True
            continue
        verified = False
        grown = 0.0
        pivot = -1
        while pivot != enter and pivots < max_iter:
            slope = table[enter]
            diagonal = float(slope[enter])
            dependent = diagonal <= DEPENDENT
            length = math.inf if dependent else float(z[enter]) / diagonal
            pivot = enter
            blocking = (face & (slope > 0.0 if dependent else z < length * slope)).nonzero()[0]
            if blocking.size:
                ratios = z[blocking] / slope[blocking]
                first = int(ratios.argmin())
                length, pivot = max(float(ratios[first]), 0.0), int(blocking[first])
            if length == math.inf:
                ray = np.where(face, np.maximum(-slope, 0.0), 0.0)
                ray[enter] = 1.0
                return ray, pivots
            z -= length * slope
            grown += length
            z[pivot] = grown if pivot == enter else 0.0
            face[pivot] = not face[pivot]
            _sweep(table, pivot, 1.0 if pivot == enter else -1.0)
            pivots += 1
        if pivot != enter:
            # Out of pivots half way: the partly grown row is feasible, and better than nothing.
            face[enter], z[enter] = True, grown
    v = np.where(face, np.maximum(z, 0.0), 0.0)
    return v, pivots


def _full_face(
    a: NDArray[np.float64], r: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The swept tableau and z of the face that holds every row, where it holds the answer."""
    try:
        inverse = np.linalg.inv(a)
    except np.linalg.LinAlgError:
        return None
    v = inverse @ r
    if v.min() > 0.0 and np.abs(inverse).max() < ILL_CONDITIONED:
        return -inverse, v
    return None


def _sweep(table: NDArray[np.float64], p: int, sign: float) -> None:
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
    cosines: NDArray[np.float64],
    r: NDArray[np.float64],
    table: NDArray[np.float64],
    face: NDArray[np.bool_],
    z: NDArray[np.float64],
) -> NDArray[np.float64]:
    """One step of iterative refinement on the face, and the gradient off it from scratch."""
    v = z * face
    residual = (r * (1.0 - float(r @ v)) - cosines @ v) * face
    v = np.maximum(v - table @ residual, 0.0) * face
    return np.where(face, v, r * (1.0 - float(r @ v)) - cosines @ v)
