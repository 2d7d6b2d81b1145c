"""exchanged_faces: non-negative quadratic problems by exchanging whole faces, many at once."""

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.tolerances import RESIDUAL_ROUNDING
from moopt.records.result import Array

# Exchanges of whole faces before a problem goes to a finite method; nearly all need fewer.
EXCHANGES = 8

# From this m on, gathering the rows of each face costs less than equations on all rows.
COMPACT_FROM = 16

Mask = NDArray[np.bool_]


def exchanged_faces(matrix: Array, need: Array) -> tuple[Array, int]:
    """`min_{s >= 0} 1/2 s' M s + need' s` by block principal pivoting, in all problems at once.

    All wrong rows change sides at once: fast, but not proven to end. What it returns is a
    candidate that the residual judges.

    Args:
        matrix: M, `[m, m]`, symmetric positive semi-definite with a diagonal of order 1.
        need: `[k, m]`, one problem each.

    Returns:
        The solutions s `[k, m]`, >= 0, and the number of equations solved.

    Source: J. J. Júdice and F. M. Pires, "A block principal pivoting algorithm for large-scale
    strictly monotone linear complementarity problems", Computers and Operations Research, 1994,
    https://doi.org/10.1016/0305-0548(94)90106-6.
    """
    solutions = np.zeros(need.shape)
    left = np.arange(len(need))
    face, solved = need < 0.0, 0
    for _ in range(EXCHANGES):
        try:
            s = _on_faces(matrix, face, need)
        except np.linalg.LinAlgError:
            break
        solved += len(s)
        solutions[left] = np.maximum(s, 0.0)
        noise = RESIDUAL_ROUNDING * (1.0 + len(matrix) * float(np.maximum.reduce(s, axis=None)))
        wrong = np.where(face, s, need + s @ matrix) < -noise
        again = np.logical_or.reduce(wrong, axis=1)
        if not np.logical_or.reduce(again):
            break
        left, need, face = left[again], need[again], (face ^ wrong)[again]
    return solutions, solved


def _on_faces(matrix: Array, face: Mask, need: Array) -> Array:
    """The s `[k, m]` with `M s + need = 0` on each face and `s = 0` off it."""
    m = len(matrix)
    if len(need) == 1:
        index = face[0].nonzero()[0]
        s = np.zeros(need.shape)
        s[0, index] = np.linalg.solve(matrix[index[:, None], index], -need[0, index])
        return s
    if m < COMPACT_FROM:
        blocks = np.where(face[:, :, None] & face[:, None, :], matrix, np.eye(m))
        return np.linalg.solve(blocks, np.where(face, -need, 0.0)[..., None])[..., 0]
    # The rows of each face, filled up with rows of a unit matrix to the size of the largest.
    size = int(np.add.reduce(face, axis=1).max())
    wide, right = np.eye(m + size), np.zeros((len(need), m + size))
    wide[:m, :m], right[:, :m] = matrix, -need
    index = np.argsort(~face, axis=1, kind="stable")[:, :size]
    index = np.where(np.take_along_axis(face, index, 1), index, np.arange(m, m + size))
    blocks = wide.take(index[:, :, None] * (m + size) + index[:, None, :])
    right = np.take_along_axis(right, index, 1)
    s = np.zeros((len(need), m + size))
    np.put_along_axis(s, index, np.linalg.solve(blocks, right[..., None])[..., 0], 1)
    return s[:, :m]
