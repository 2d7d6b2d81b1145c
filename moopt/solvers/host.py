"""Transitional."""

from __future__ import annotations

import math

import numpy as np

from moopt.solvers.equilibrated import equilibrated
from moopt.solvers.min_norm import min_norm


def min_norm_array(rows, active, solver, tol, max_iter):  # type: ignore[no-untyped-def]
    gramian = np.asarray(rows, dtype=np.float64)
    m = len(gramian)
    if active is not None and not all(active) and any(active):
        index = [i for i in range(m) if active[i]]
        inner, status, gap, n = min_norm_array(
            gramian[np.ix_(index, index)], None, solver, tol, max_iter
        )
        weights = np.zeros(m)
        weights[index] = inner
        return weights, status, gap, n
    if not np.isfinite(gramian).all():
        return np.full(m, 1.0 / m), 3, math.nan, 0
    squares = gramian.diagonal()
    if squares[squares.argmin()] <= 0.0:
        zeros = (squares <= 0.0).astype(np.float64)
        return zeros / zeros.sum(), 2, 0.0, 0
    norms = np.sqrt(squares)
    s = min_norm(equilibrated(gramian, norms)[0], norms, solver=solver, tol=tol, max_iter=max_iter)
    return s.weights, int(s.status or 0), s.gap, s.num_iter


def min_norm_host(rows, active=None, *, solver="auto", tol=1e-10, max_iter=None):  # type: ignore[no-untyped-def]
    w, status, gap, n = min_norm_array(rows, active, solver, tol, max_iter)
    return list(map(float, w)), status, gap, n
