"""dual_space_weights_on_host: DualSpaceMGDA of one small Gramian in plain Python, for speed."""

from __future__ import annotations

import math
import operator

RESIDUAL_TOL = 1e-3
"""Relative residual of the dual equations up to which they count as solved.

Any value below 1 proves common descent. Rounding leaves about 1e-6 at the cut-off of the
pseudo-inverse; dependent gradients leave about 1.
"""

SMALLEST_PIVOT = 1e-8
"""Smallest pivot for which elimination is accurate: its error, eps / 1e-8, is then refined."""


def dual_space_weights_on_host(
    gramian: list[list[float]],
    active: list[bool] | None,
    variant: str,
    length: str,
    rtol: float,
) -> tuple[list[float], float] | None:
    """Return weights and residual, or None for all but well-conditioned, finite problems.

    The formulas of `dual_space_mgda_weights`, which documents the arguments. In torch most of the
    time goes into starting some sixty operations on three numbers.
    """
    m = len(gramian)
    live = [i for i in range(m) if active is None or active[i]]
    if not live or not all(0.0 < gramian[i][i] < math.inf for i in live):
        return None
    norms = [math.sqrt(gramian[i][i]) for i in live]
    cosines = [
        [gramian[i][j] / n / k for j, k in zip(live, norms, strict=True)]
        for i, n in zip(live, norms, strict=True)
    ]
    inverse = _inverse_on_host(cosines, rtol)
    if inverse is None:
        return None
    largest, share = max(norms), 1.0 / len(live)
    if variant == "dual_basis":
        coefficients = [share for _ in live]
    elif variant == "unit_dual":
        coefficients = [share / math.sqrt(row[i]) for i, row in enumerate(inverse)]
    else:
        coefficients = [
            share * n / largest / row[i]
            for i, (n, row) in enumerate(zip(norms, inverse, strict=True))
        ]
    unit = [_dot(row, coefficients) for row in inverse]
    error = [c - _dot(row, unit) for c, row in zip(coefficients, cosines, strict=True)]
    unit = [u + _dot(row, error) for u, row in zip(unit, inverse, strict=True)]
    residual = max(
        abs(c - _dot(row, unit)) / c for c, row in zip(coefficients, cosines, strict=True)
    )
    square = _dot(coefficients, unit)
    if not (residual <= RESIDUAL_TOL and square > 0.0):
        return None
    factor = largest if variant == "projected" else 1.0
    if length == "mean_gradient":
        mean = [share * n / largest for n in norms]
        mean_square = _dot(mean, [_dot(row, mean) for row in cosines])
        factor = largest * math.sqrt(max(mean_square, 0.0) / square)
    weights = [0.0] * m
    for i, u, n in zip(live, unit, norms, strict=True):
        weights[i] = factor * u / n
    return weights, residual


def _dot(left: list[float], right: list[float]) -> float:
    return sum(map(operator.mul, left, right))


def _inverse_on_host(matrix: list[list[float]], rtol: float) -> list[list[float]] | None:
    """The inverse by Gauss-Jordan sweeps; None where an eigenvalue may fall below the cut-off."""
    size = len(matrix)
    work = [row[:] for row in matrix]
    for k in range(size):
        pivot = work[k][k]
        if not pivot > SMALLEST_PIVOT:
            return None
        scaled = [x / pivot for x in work[k]]
        scaled[k] = 1.0 / pivot
        for i in range(size):
            if i != k:
                row = work[i]
                factor = row[k]
                row[k] = 0.0
                work[i] = [x - factor * y for x, y in zip(row, scaled, strict=True)]
        work[k] = scaled
    # The largest eigenvalue of the inverse is at most its trace, that of the matrix at most m.
    trace = sum(work[k][k] for k in range(size))
    return work if trace * max(SMALLEST_PIVOT, rtol * size) < 1.0 else None
