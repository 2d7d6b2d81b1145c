"""Frank-Wolfe and its away-step and pairwise variants, for reproducing papers."""

import math

import numpy as np

from moopt.kernels.tolerances import STATIONARY
from moopt.records.result import Array

# Vanilla Frank-Wolfe needs O(1 / tol) steps; a larger default would stall a training step.
DEFAULT_MAX_ITER = 1000

FRANK_WOLFE = ("frank_wolfe", "away_step", "pairwise")
"""The variants, by the names that `min_norm_point` has for them."""


def frank_wolfe(
    cosines: Array, r: Array, variant: str, tol: float, max_iter: int
) -> tuple[Array, int]:
    """Minimise f(w) = w^T K w over the simplex, K = C / (r r^T), with exact line search.

    Each step moves along d = e_s - w (frank_wolfe), d = w - e_a where that descends faster
    (away_step), or d = e_s - e_a (pairwise), with s the smallest and a the largest entry of K w
    among the rows that carry weight. Stops where the relative certificate meets `tol`, or the
    point is zero up to `STATIONARY`.

    Args:
        cosines: float64 `[m, m]`, the matrix C with unit diagonal.
        r: float64 `[m]` in (0, 1].
        variant: one of `FRANK_WOLFE`.
        tol: bound on `max_i (||x||^2 - x . g_i) / (||x|| ||g_i||)`.
        max_iter: the largest number of steps.

    Returns:
        v = w / r, `[m]`, >= 0 with a positive sum, and the number of steps.

    Source: M. Frank and P. Wolfe, "An algorithm for quadratic programming", Naval Research
    Logistics Quarterly, 1956, https://doi.org/10.1002/nav.3800030109; S. Lacoste-Julien and
    M. Jaggi, "On the global linear convergence of Frank-Wolfe optimization variants", NeurIPS 2015,
    https://arxiv.org/abs/1511.05932. It starts from the shortest row.
    """
    kernel = cosines / r / r[:, None]
    w = np.zeros_like(r)
    w[int(r.argmax())] = 1.0
    steps = 0
    while steps < max_iter:
        q = kernel @ w
        f = float(w @ q)
        if f <= STATIONARY or float(((f - q) * r).max()) <= tol * math.sqrt(f):
            break
        direction, longest, away = _direction(w, q, f, variant)
        slope = -float(direction @ q)
        curvature = float(direction @ kernel @ direction)
        length = min(slope / curvature, longest) if curvature > 0.0 else longest
        if not (slope > 0.0 and length > 0.0):
            break  # rounding: no descent is left along the direction
        w = np.maximum(w + length * direction, 0.0)
        if away >= 0 and length == longest:
            w[away] = 0.0  # a drop step: the row leaves the support exactly
        w /= w.sum()
        steps += 1
    return w / r, steps


def _direction(w: Array, q: Array, f: float, variant: str) -> tuple[Array, float, int]:
    """The direction, the longest feasible step, and the row it may drop (-1 for none)."""
    towards = int(q.argmin())
    if variant == "frank_wolfe":
        direction = -w
        direction[towards] += 1.0
        return direction, 1.0, -1
    away = int(np.where(w > 0.0, q, -np.inf).argmax())
    if variant == "pairwise":
        direction = np.zeros_like(w)
        direction[towards] += 1.0
        direction[away] -= 1.0
        return direction, float(w[away]), away
    if f - q[towards] >= q[away] - f or w[away] >= 1.0:
        return _direction(w, q, f, "frank_wolfe")
    direction = w.copy()
    direction[away] -= 1.0
    return direction, float(w[away] / (1.0 - w[away])), away
