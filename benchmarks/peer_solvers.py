"""Solvers of the two small problems by others: scipy, quadprog, and Frank-Wolfe as published.

Each is a function of a float64 Gramian in numpy. The problems are divided by the Gramian's mean
diagonal first, because these solvers know absolute tolerances only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
RIDGE = 1e-12
"""quadprog takes positive definite matrices alone."""


def absent(*packages: str) -> dict[str, str]:
    """Those that are not installed, and how to get them."""
    return {p: f"pip install {p}" for p in packages if importlib.util.find_spec(p) is None}


def frank_wolfe(gramian: Array, max_iter: int = 250, tol: float = 1e-5) -> Array:
    """The minimum-norm point by Frank-Wolfe steps of exact length; it stops at short steps.

    Source: O. Sener and V. Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS
    2018, https://arxiv.org/abs/1810.04650, Algorithm 2, the solver of LibMTL's MGDA; the limits
    are 250 steps and 1e-5. Written anew from the paper.
    """
    weights = np.full(len(gramian), 1.0 / len(gramian))
    for _ in range(max_iter):
        inner = gramian @ weights
        t = int(inner.argmin())
        now, across, there = float(weights @ inner), float(inner[t]), float(gramian[t, t])
        curvature = now - 2.0 * across + there
        length = min(max((now - across) / curvature, 0.0), 1.0) if curvature > 0.0 else 0.0
        weights *= 1.0 - length
        weights[t] += length
        if length < tol:
            break
    return weights


def _factor(gramian: Array) -> tuple[Array, float]:
    """F with F^T F = G / s, and the scale s."""
    scale = float(gramian.trace()) / len(gramian)
    values, vectors = np.linalg.eigh(gramian / scale)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T, scale


def nnls_hull(gramian: Array) -> Array:
    """The minimum-norm point by scipy's non-negative least squares.

    With v >= 0 and min |F v|^2 + (sum(v) - 1)^2 the weights are v over its sum: P. Wolfe, "Finding
    the nearest point in a polytope", Mathematical Programming, 1976.
    """
    from scipy.optimize import nnls

    factor, _ = _factor(gramian)
    rows = np.vstack([factor, np.ones(len(gramian))])
    v = nnls(rows, np.append(np.zeros(len(gramian)), 1.0))[0]
    return v / v.sum()


def nnls_cone(gramian: Array, preference: Array) -> Array:
    """min v^T G v with v >= u: u plus the non-negative least squares of its shift."""
    from scipy.optimize import nnls

    factor, _ = _factor(gramian)
    return preference + nnls(factor, -factor @ preference)[0]


def quadprog_hull(gramian: Array) -> Array:
    """The minimum-norm point by quadprog (Goldfarb and Idnani's dual method)."""
    m = len(gramian)
    constraints = np.hstack([np.ones((m, 1)), np.eye(m)])
    return _quadprog(gramian, constraints, np.append(1.0, np.zeros(m)), equalities=1)


def quadprog_cone(gramian: Array, preference: Array) -> Array:
    """min v^T G v with v >= u, by quadprog."""
    return _quadprog(gramian, np.eye(len(gramian)), preference, equalities=0)


def _quadprog(gramian: Array, constraints: Array, bounds: Array, equalities: int) -> Array:
    import quadprog

    m = len(gramian)
    scaled = gramian * (m / gramian.trace()) + RIDGE * np.eye(m)
    return quadprog.solve_qp(scaled, np.zeros(m), constraints, bounds, equalities)[0]


HULLS: dict[str, tuple[str | None, Callable[[Array], Array]]] = {
    "scipy nnls": ("scipy", nnls_hull),
    "quadprog": ("quadprog", quadprog_hull),
    "LibMTL's Frank-Wolfe": (None, frank_wolfe),
}
"""Minimum-norm solvers: the package that each needs, and its function."""

CONES: dict[str, tuple[str | None, Callable[[Array, Array], Array]]] = {
    "scipy nnls": ("scipy", nnls_cone),
    "quadprog": ("quadprog", quadprog_cone),
}
"""Solvers of the projection onto the dual cone."""
