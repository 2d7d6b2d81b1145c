"""pcd_on_host: PCD of one Gramian in numpy, for speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EASY = 1e-12
"""Residual of the optimality conditions that a regular problem leaves, in units of its lengths."""

NEAR = 1e2
"""Coefficients of a regular problem are at most this long, in the same units: farther out the
constraints nearly contradict each other."""


def pcd_on_host(
    gramian: Tensor,
    mean_squares: Tensor,
    primary: int,
    secondary: Sequence[int],
    tau: float,
    active: Tensor | None,
) -> tuple[NDArray[np.float64], float, int] | None:
    """The weights, gap and number of equations of `pcd_weights`, which documents the arguments.

    Returns:
        None for all but regular problems: finite, the primary gradient there, no zero gradient,
        and constraints that a vector of moderate length meets.
    """
    import numpy as np

    from moopt.solvers.exchanged_faces import exchanged_faces

    array = gramian.numpy()
    counted = array
    if active is not None:
        on = active.numpy()
        if not on[primary]:
            return None
        secondary = [j for j in secondary if on[j]]
        counted = array[np.ix_(on, on)]
    seats = [primary, *secondary]
    squares = array.diagonal()[seats]
    # Sums may overflow on the way; such problems are not regular.
    with np.errstate(all="ignore"):
        if not (np.isfinite(counted).all() and squares.min() > 0.0):
            return None
        norms = np.sqrt(squares)
        cosines = array[np.ix_(seats, seats)] / norms / norms[:, None]
        lengths = norms / np.sqrt(mean_squares.numpy()[seats])
        coefficients = np.zeros(len(seats))
        coefficients[0] = lengths[0]
        need = cosines[0, 1:] * lengths[0] - tau * lengths[1:]
        gap, solved = 0.0, 0
        if need.min(initial=0.0) < 0.0:
            walls = cosines[1:, 1:]
            shifts, solved = exchanged_faces(walls, need[None])
            shift = shifts[0]
            unit = lengths[0] + tau * lengths[1:].max()
            gap = float(np.abs(np.minimum(shift, need + walls @ shift)).max() / unit)
            if not (gap <= EASY and shift.max() <= NEAR * unit):
                return None
            coefficients[1:] = shift
        squared = float(coefficients @ cosines @ coefficients)
        if not squared > EASY * coefficients.sum() ** 2:
            return None
        weights = np.zeros(len(array))
        weights[seats] = norms[0] / math.sqrt(squared) * coefficients / norms
    return weights, gap, solved
