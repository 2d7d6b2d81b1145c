"""off_span: a combination of gradients, projected off the span of some of them."""

from moopt.kernels.tolerances import EPS
from moopt.records.result import Array
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL, pseudo_inverse

REFINEMENTS = 3
"""Rounds of projection: one solves, the others remove what the explicit inverse left."""


def off_span(
    cosines: Array, start: Array, walls: Array, *, rtol: float = DEFAULT_RTOL, noise: float = EPS
) -> Array:
    """Return coefficients of the vector nearest to a given one that is orthogonal to the walls.

    With unit rows U and cosines C = U U', `argmin ||U' y - U' x||` subject to `u_j . U' y = 0` for
    every wall j: `y = x - C_W^+ (C x)_W`.

    Args:
        cosines: float64 `[m, m]`, symmetric with unit diagonal.
        start: float64 `[m]`, x.
        walls: bool `[m]`, W.
        rtol, noise: of the pseudo-inverse; see `moopt.solvers.pseudo_inverse`.

    Returns:
        y, float64 `[m]`, which differs from x on the walls only.

    Example:
        >>> import numpy as np
        >>> from moopt.solvers.off_span import off_span
        >>> C = np.array([[1.0, 0.6], [0.6, 1.0]])
        >>> off_span(C, np.array([1.0, 0.0]), np.array([False, True])).tolist()
        [1.0, -0.6]
    """
    index = walls.nonzero()[0]
    moved = start.copy()
    if not index.size:
        return moved
    rows = cosines[index]
    inverse = pseudo_inverse(rows[:, index], rtol=rtol, noise=noise)
    for _ in range(REFINEMENTS):
        moved[index] -= inverse @ (rows @ moved)
    return moved
