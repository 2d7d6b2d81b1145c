"""dual_basis_on_host: the sum of the dual basis of one well-conditioned Gramian, for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moopt.weightings.dual_space_on_host import (
    RESIDUAL_TOL,
    SMALLEST_PIVOT,
    dual_space_weights_on_host,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LISTS = 4
"""Up to this m plain Python lists beat numpy."""


def dual_basis_on_host(
    gramian: Tensor, active: Tensor | None, rtol: float
) -> tuple[NDArray[np.float64], float] | None:
    """The weights and gap of `dual_space_mgda_weights(variant="dual_basis", length="keep")`.

    Args:
        gramian: float64 `[m, m]` on the CPU.
        active: bool `[m]`, or None.
        rtol: relative cut-off of the pseudo-inverse.

    Returns:
        None for all but well-conditioned, finite problems without zero rows.
    """
    import numpy as np

    array = gramian.numpy()
    if active is not None and not active.all():
        # The form goes by what is left, so that a mask and a smaller problem give the same bits.
        on = active.numpy()
        rest = dual_basis_on_host(torch.from_numpy(array[np.ix_(on, on)]), None, rtol)
        if rest is None:
            return None
        whole = np.zeros(len(array))
        whole[on] = rest[0]
        return whole, rest[1]
    size = len(array)
    if 0 < size <= LISTS:
        solved = dual_space_weights_on_host(gramian.tolist(), None, "dual_basis", "keep", rtol)
        return None if solved is None else (np.array(solved[0]), solved[1])
    squares = array.diagonal()
    if not size or not (squares.min() > 0.0 and np.isfinite(array).all()):
        return None
    norms = np.sqrt(squares)
    cosines = array / norms / norms[:, None]
    try:
        inverse = np.linalg.inv(cosines)
    except np.linalg.LinAlgError:  # exactly singular: the general form takes the pseudo-inverse
        return None
    # The largest eigenvalue of the inverse is at most its trace, that of the cosines at most m.
    trace = float(inverse.trace())
    if not 0.0 < trace * max(SMALLEST_PIVOT, rtol * size) < 1.0 or inverse.diagonal().min() <= 0.0:
        return None
    unit = inverse.sum(-1) / size
    unit += inverse @ (1.0 / size - cosines @ unit)
    residual = float(np.abs(cosines @ unit - 1.0 / size).max()) * size
    if not (residual <= RESIDUAL_TOL and unit.sum() > 0.0):
        return None
    weights = unit / norms
    return weights, residual
