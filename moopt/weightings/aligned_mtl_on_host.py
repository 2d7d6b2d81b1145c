"""aligned_mtl_on_host: AlignedMTL of one Gramian in numpy, for speed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from moopt.solvers.principal_components import GRADED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EASY = 1e-6
"""Ratio of eigenvalues down to which `eigh` resolves the smallest to ten digits."""


def aligned_mtl_on_host(
    gramian: Tensor,
    preference: Tensor | None,
    active: Tensor | None,
    scale_mode: str,
    rtol: float,
    cancelled: float,
) -> NDArray[np.float64] | None:
    """The weights of `aligned_mtl_weights`, which documents the arguments.

    Returns:
        float64 `[m]`; None for all but finite problems without zero rows whose singular values
        lie within six decades.
    """
    import numpy as np

    array = gramian.numpy()
    m = len(array)
    on = None if active is None else active.numpy()
    p = None if preference is None else preference.numpy()
    if on is not None:
        array = array[np.ix_(on, on)]
        p = None if p is None else p[on]
    size = len(array)
    squares = array.diagonal()
    if not size or not (squares.min() > 0.0 and np.isfinite(array).all()):
        return None
    if p is None:
        p = np.full(size, 1.0 / size)
    relative = np.sqrt(squares) / math.sqrt(squares.max())
    cosines = array / np.sqrt(squares) / np.sqrt(squares)[:, None]
    # No eigenvalue of the cosines is smaller than the smallest of the Gramian of rows <= 1.
    values, left = np.linalg.eigh(cosines * relative * relative[:, None])
    if values[0] > max(EASY * values[-1], rtol * size):
        sigma, left = np.sqrt(values[::-1]), left[:, ::-1]
    else:
        values, vectors = np.linalg.eigh(cosines)
        kept = values > rtol * values[-1]
        factor = relative[:, None] * vectors[:, kept] * np.sqrt(values[kept])
        left, sigma, _ = np.linalg.svd(factor, full_matrices=False)
        if not sigma[-1] > GRADED * sigma[0]:
            return None
    if scale_mode == "min":
        scale = sigma[-1]
    elif scale_mode == "median":
        scale = sigma[len(sigma) // 2]
    else:
        scale = np.sqrt((sigma * sigma).mean())
    shares = p @ left
    shares[np.abs(shares) <= cancelled * (np.abs(p) @ np.abs(left))] = 0.0
    weights = left @ (scale / sigma * shares)
    if on is None:
        return weights
    whole = np.zeros(m)
    whole[on] = weights
    return whole
