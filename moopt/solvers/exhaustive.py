"""Enumeration of every face: the oracle for small `m`."""

import functools

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.tolerances import RESOLUTION, STATIONARY
from moopt.records.result import Array


def exhaustive(cosines: Array, r: Array) -> tuple[Array, int]:
    """Try the `2^m - 1` faces and return v of the face with the best certificate.

    The point of face S has v_S proportional to A_S^{-1} r_S with A = C + r r^T.

    Args:
        cosines: float64 `[m, m]`, the matrix C with unit diagonal, m <= 10.
        r: float64 `[m]` in (0, 1].

    Returns:
        v, `[m]`, >= 0 with a positive sum, and the number of faces tried.
    """
    faces = _faces(len(r))
    masked = np.where(
        faces[:, :, None] & faces[:, None, :], cosines + r[:, None] * r, np.eye(len(r))
    )
    right = np.where(faces, r, 0.0)[:, :, None]
    try:
        inverses = np.linalg.inv(masked)
    except np.linalg.LinAlgError:
        inverses = np.linalg.pinv(masked, hermitian=True)
    solutions = inverses @ right
    solutions += inverses @ (right - masked @ solutions)
    v = solutions[:, :, 0]
    # The rows themselves are always feasible, so there is something to choose from.
    v = v[(v >= 0.0).all(-1) & (v.sum(-1) > 0.0)]
    v /= v.max(-1, keepdims=True)
    y = v @ cosines
    squared = (v * y).sum(-1)
    s = v @ r
    worst = (r * (squared / s)[:, None] - y).max(-1)
    gap = np.maximum(worst, 0.0) / np.sqrt(np.maximum(squared, np.finfo(np.float64).tiny))
    relative = squared / v.sum(-1) ** 2
    zero = (relative <= RESOLUTION) | (squared <= STATIONARY * s * s)
    # A zero up to rounding has no gap worth comparing: it wins, the closest to zero first.
    score = np.where(zero, relative - 1.0, gap)
    return v[int(score.argmin())], len(faces)


@functools.cache
def _faces(m: int) -> NDArray[np.bool_]:
    codes = np.arange(1, 2**m)
    return (codes[:, None] >> np.arange(m)) & 1 == 1
