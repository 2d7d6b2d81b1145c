"""off_span: a combination of gradients, projected off the span of some of them."""

from __future__ import annotations

import torch
from torch import Tensor

from moopt.solvers.pseudo_inverse import DEFAULT_RTOL, pseudo_inverse

REFINEMENTS = 3
"""Rounds of projection: one solves, the others remove what the explicit inverse left."""


def off_span(
    cosines: Tensor, start: Tensor, walls: Tensor, *, rtol: float = DEFAULT_RTOL
) -> Tensor:
    """Return coefficients of the vector nearest to a given one that is orthogonal to the walls.

    With unit rows U and cosines C = U U', `argmin ||U' y - U' x||` subject to `u_j . U' y = 0` for
    every wall j: `y = x - C_W^+ (C x)_W`.

    Args:
        cosines: float64 `[..., m, m]`, finite; rows and columns of absent gradients are 0.
        start: float64 `[..., m]`, x.
        walls: bool `[..., m]`, W.
        rtol: relative cut-off of the pseudo-inverse.

    Returns:
        y, float64 `[..., m]`, which differs from x on the walls only.

    Example:
        >>> import torch
        >>> from moopt.solvers.off_span import off_span
        >>> C = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
        >>> x = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> off_span(C, x, torch.tensor([False, True])).tolist()
        [1.0, -0.6]
    """
    pairs = walls[..., :, None] & walls[..., None, :]
    inverse = pseudo_inverse(torch.where(pairs, cosines, 0.0), rtol=rtol)
    moved = start
    for _ in range(REFINEMENTS):
        slopes = torch.where(walls, _apply(cosines, moved), 0.0)
        moved = moved - _apply(inverse, slopes)
    return moved


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, batched."""
    return (matrix @ vector[..., None])[..., 0]
