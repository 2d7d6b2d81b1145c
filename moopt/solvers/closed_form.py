"""The minimum-norm point of two or three rows, written out."""

from __future__ import annotations

# An edge whose third row misses optimality by less than this (relative to the norms) is the
# solution up to rounding; the certificate of the caller has the last word.
EDGE_SLACK = 1e-13


def closed_form_two(cosine: float, r0: float, r1: float) -> tuple[float, float]:
    """Return v >= 0, weights proportional to r * v, for two rows with the given cosine.

    On the line through both rows C v is proportional to r, so v = (r0 - c r1, r1 - c r0) up to
    a factor; where one entry is not positive, the other row is the point.
    """
    v0, v1 = r0 - cosine * r1, r1 - cosine * r0
    if v0 > 0.0:
        return (v0, v1) if v1 > 0.0 else (1.0, 0.0)
    return (0.0, 1.0) if v1 > 0.0 else (1.0, 1.0)


def closed_form_three(
    c01: float, c02: float, c12: float, r0: float, r1: float, r2: float
) -> tuple[float, float, float] | None:
    """Return v >= 0, weights proportional to r * v, for three rows with the given cosines.

    On the plane through all three v = adj(C) r up to a factor. Where that has a negative entry
    the point lies on an edge or is a row; each is tried and kept if the rows left out agree,
    (C v)_k s >= r_k v^T C v with s = r^T v.

    Returns:
        v, or None where rounding leaves no candidate standing (nearly dependent rows).
    """
    v0 = (1.0 - c12 * c12) * r0 + (c02 * c12 - c01) * r1 + (c01 * c12 - c02) * r2
    v1 = (c02 * c12 - c01) * r0 + (1.0 - c02 * c02) * r1 + (c01 * c02 - c12) * r2
    v2 = (c01 * c12 - c02) * r0 + (c01 * c02 - c12) * r1 + (1.0 - c01 * c01) * r2
    if v0 > 0.0 and v1 > 0.0 and v2 > 0.0:
        return v0, v1, v2
    if c01 >= r1 / r0 and c02 >= r2 / r0:
        return 1.0, 0.0, 0.0
    if c01 >= r0 / r1 and c12 >= r2 / r1:
        return 0.0, 1.0, 0.0
    if c02 >= r0 / r2 and c12 >= r1 / r2:
        return 0.0, 0.0, 1.0
    edge = _edge(c01, c02, c12, r0, r1, r2)
    if edge is not None:
        return edge[0], edge[1], 0.0
    edge = _edge(c02, c01, c12, r0, r2, r1)
    if edge is not None:
        return edge[0], 0.0, edge[1]
    edge = _edge(c12, c01, c02, r1, r2, r0)
    if edge is not None:
        return 0.0, edge[0], edge[1]
    return None


def _edge(
    cij: float, cik: float, cjk: float, ri: float, rj: float, rk: float
) -> tuple[float, float] | None:
    vi, vj = ri - cij * rj, rj - cij * ri
    if vi > 0.0 and vj > 0.0:
        s = ri * vi + rj * vj
        squared = vi * (vi + cij * vj) + vj * (vj + cij * vi)
        if (cik * vi + cjk * vj) * s >= rk * squared - EDGE_SLACK * s * (vi + vj):
            return vi, vj
    return None
