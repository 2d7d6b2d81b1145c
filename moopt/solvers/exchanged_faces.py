"""exchanged_faces: non-negative quadratic problems by exchanging whole faces, many at once."""

import numpy as np
from numpy.typing import NDArray

from moopt.records.result import Array
from moopt.solvers.tolerances import RESIDUAL_ROUNDING

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
    face = need < 0.0
    eye = np.eye(len(matrix))
    solved = 0
    for _ in range(EXCHANGES):
        try:
            s = _on_faces(matrix, eye, face, need)
        except np.linalg.LinAlgError:
            break
        solved += len(s)
        y = need + s @ matrix
        noise = RESIDUAL_ROUNDING * (1.0 + len(eye) * float(np.maximum.reduce(s, axis=None)))
        wrong = np.where(face, s, y) < -noise
        solutions[left] = np.maximum(s, 0.0)
        again = np.logical_or.reduce(wrong, axis=1)
        if not np.logical_or.reduce(again):
            break
        left, need, face = left[again], need[again], (face ^ wrong)[again]
    return solutions, solved


def _on_faces(matrix: Array, eye: Array, face: Mask, need: Array) -> Array:
    """The s `[k, m]` with `M s + need = 0` on each face and `s = 0` off it."""
    if len(need) == 1:
        index = face[0].nonzero()[0]
        s = np.zeros(need.shape)
        s[0, index] = np.linalg.solve(matrix[index[:, None], index], -need[0, index])
        return s
    if len(eye) < COMPACT_FROM:
        pairs = face[:, :, None] & face[:, None, :]
        right = np.where(face, need, 0.0)
        return np.linalg.solve(np.where(pairs, matrix, eye), -right[..., None])[..., 0]
    size = int(np.add.reduce(face, axis=1).max())
    index = np.argsort(~face, axis=1, kind="stable")[:, :size]
    on = np.take_along_axis(face, index, 1)
    block = matrix[index[:, :, None], index[:, None, :]]
    block = np.where(on[:, :, None] & on[:, None, :], block, eye[:size, :size])
    right = np.where(on, np.take_along_axis(need, index, 1), 0.0)
    s = np.zeros(need.shape)
    np.put_along_axis(s, index, np.linalg.solve(block, -right[..., None])[..., 0], 1)
    return s
