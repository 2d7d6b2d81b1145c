"""The minimum-norm point of two or three rows, written out."""

import math

from moopt.kernels.tolerances import RESOLUTION, STATIONARY

# The closed forms lose digits where rows are nearly dependent; a larger gap than this sends the
# problem to the active-set method, whatever the caller's tolerance is.
CLOSED_FORM_GAP = 1e-12
# An edge that misses optimality by less than this, relative to the norms, is a candidate.
EDGE_SLACK = 1e-13

# Weights proportional to the objectives' order, the gap, and whether the point is zero.
ClosedForm = tuple[list[float], float, bool]
Row = tuple[float, float, float]
# Each row, and each edge, with what is left over.
ORDERS = ((0, 1, 2), (1, 2, 0), (2, 0, 1))


def closed_form_two(c: float, n0: float, n1: float) -> ClosedForm | None:
    """Weights of two rows with cosine c and norms > 0, with gap and stationarity.

    With r_i = min_j n_j / n_i and cosine c, weights are proportional to r * v, where C v is
    proportional to r on the line through both rows: v = (r_0 - c r_1, r_1 - c r_0). Where an
    entry is not positive, the other row is the point.

    Returns:
        (weights, gap, stationary), or None where rounding denies the result its certificate.
    """
    r0, r1 = (1.0, n0 / n1) if n0 < n1 else (n1 / n0, 1.0)
    v0, v1 = r0 - c * r1, r1 - c * r0
    if v0 <= 0.0:
        v0, v1 = (0.0, 1.0) if v1 > 0.0 else (1.0, 1.0)
    elif v1 <= 0.0:
        v0, v1 = 1.0, 0.0
    y0, y1 = v0 + c * v1, v1 + c * v0
    squared = v0 * y0 + v1 * y1
    w0, w1 = r0 * v0, r1 * v1
    s = w0 + w1
    worst = max(r0 * squared / s - y0, r1 * squared / s - y1)
    certified = _certified(worst, squared, s, v0 + v1)
    return None if certified is None else ([w0 / s, w1 / s], *certified)


def closed_form_three(
    c01: float, c02: float, c12: float, n0: float, n1: float, n2: float
) -> ClosedForm | None:
    """Weights of three rows with these cosines and norms > 0, with gap and stationarity.

    On the plane through all three rows v = adj(C) r up to a factor. Where that has an entry that
    is not positive, the point lies on an edge or is a row; each is tried and kept if the rows
    left out agree, (C v)_k s >= r_k v^T C v with s = r^T v.

    Returns:
        (weights, gap, stationary), or None where rounding denies the result its certificate.
    """
    shortest = min(n0, n1, n2)
    r0, r1, r2 = shortest / n0, shortest / n1, shortest / n2
    a01, a02, a12 = c02 * c12 - c01, c01 * c12 - c02, c01 * c02 - c12
    v0 = (1.0 - c12 * c12) * r0 + a01 * r1 + a02 * r2
    v1 = a01 * r0 + (1.0 - c02 * c02) * r1 + a12 * r2
    v2 = a02 * r0 + a12 * r1 + (1.0 - c01 * c01) * r2
    if not (v0 > 0.0 and v1 > 0.0 and v2 > 0.0):
        found = _on_boundary(((1.0, c01, c02), (c01, 1.0, c12), (c02, c12, 1.0)), (r0, r1, r2))
        if found is None:
            return None
        v0, v1, v2 = found
    y0 = v0 + c01 * v1 + c02 * v2
    y1 = c01 * v0 + v1 + c12 * v2
    y2 = c02 * v0 + c12 * v1 + v2
    squared = v0 * y0 + v1 * y1 + v2 * y2
    w0, w1, w2 = r0 * v0, r1 * v1, r2 * v2
    s = w0 + w1 + w2
    level = squared / s
    worst = max(r0 * level - y0, r1 * level - y1, r2 * level - y2)
    certified = _certified(worst, squared, s, v0 + v1 + v2)
    return None if certified is None else ([w0 / s, w1 / s, w2 / s], *certified)


def _on_boundary(c: tuple[Row, Row, Row], r: Row) -> list[float] | None:
    """v of the row or the edge that the rows left out agree with."""
    for i, j, k in ORDERS:
        if c[i][j] * r[i] >= r[j] and c[i][k] * r[i] >= r[k]:
            return [float(row == i) for row in range(3)]
    for i, j, k in ORDERS:
        vi, vj = r[i] - c[i][j] * r[j], r[j] - c[i][j] * r[i]
        if vi > 0.0 and vj > 0.0:
            s = r[i] * vi + r[j] * vj
            squared = vi * (vi + c[i][j] * vj) + vj * (vj + c[i][j] * vi)
            slack = EDGE_SLACK * s * (vi + vj)
            if (c[i][k] * vi + c[j][k] * vj) * s >= r[k] * squared - slack:
                v = [0.0, 0.0, 0.0]
                v[i], v[j] = vi, vj
                return v
    return None


def _certified(worst: float, squared: float, s: float, total: float) -> tuple[float, bool] | None:
    """(gap, stationary) of a point with the given measures; None where it has no certificate."""
    stationary = squared <= STATIONARY * s * s
    if squared > 0.0:
        gap = worst / math.sqrt(squared) if worst > 0.0 else 0.0
    else:
        gap = 0.0 if worst <= 0.0 else math.inf
    if stationary or (gap <= CLOSED_FORM_GAP and squared > RESOLUTION * total * total):
        return gap, stationary
    return None
