"""unit_rows: the Gramian in scale-free coordinates, with what may and may not be divided."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from moopt.solvers.pseudo_inverse import runs_on_host


class UnitRows(NamedTuple):
    """A Gramian split into cosines and norms.

    Attributes:
        cosines: float64 `[..., m, m]`, `u_i . u_j` of the unit gradients; 0 where either row is
            not live.
        norms: float64 `[..., m]`, `||g_i||`; 1 where a row is not live, so that it can divide.
        on: bool `[..., m]`, the active rows.
        live: bool `[..., m]`, the active rows that are not zero.
        finite: bool `[...]`, whether every entry among the active rows is finite. Where it is
            False nothing is live.
    """

    cosines: Tensor
    norms: Tensor
    on: Tensor
    live: Tensor
    finite: Tensor


def unit_rows(gramian: Tensor, active: Tensor | None = None) -> UnitRows:
    """Split a Gramian into cosines and norms.

    Args:
        gramian: float64 `[..., m, m]`.
        active: bool `[..., m]`; False rows have no influence. None means all active.

    Numerics: exact for norms from 1e-150 to 1e150; reads no value on the host.

    Example:
        >>> import torch
        >>> from moopt.weightings.unit_rows import unit_rows
        >>> rows = unit_rows(torch.tensor([[4.0, -3.0], [-3.0, 9.0]], dtype=torch.float64))
        >>> rows.cosines.tolist(), rows.norms.tolist()
        ([[1.0, -0.5], [-0.5, 1.0]], [2.0, 3.0])
    """
    diagonal = gramian.diagonal(dim1=-2, dim2=-1)
    on = torch.ones_like(diagonal, dtype=torch.bool)
    if active is not None:
        on = on & active.to(gramian.device)
    finite = all_finite(gramian, None if active is None else on)
    live = on & (diagonal > 0) & finite[..., None]
    norms = torch.where(live, diagonal, 1.0).sqrt()
    # Dividing twice keeps the product of two small norms from underflowing.
    cosines = torch.where(pairs(live), gramian, 0.0) / norms[..., :, None] / norms[..., None, :]
    return UnitRows(cosines, norms, on, live, finite)


def unit_rows_on_host(
    gramian: list[list[float]], on: list[int]
) -> tuple[list[list[float]], list[float]] | None:
    """Cosines and norms of the rows `on`, in plain Python; None if one is zero or not finite.

    Example:
        >>> from moopt.weightings.unit_rows import unit_rows_on_host
        >>> unit_rows_on_host([[4.0, -3.0], [-3.0, 9.0]], [0, 1])
        ([[1.0, -0.5], [-0.5, 1.0]], [2.0, 3.0])
    """
    squares = [gramian[i][i] for i in on]
    if not all(0.0 < square < math.inf for square in squares):
        return None
    norms = [math.sqrt(square) for square in squares]
    cosines = [
        [gramian[i][j] / n / k for j, k in zip(on, norms, strict=True)]
        for i, n in zip(on, norms, strict=True)
    ]
    return (cosines, norms) if math.isfinite(sum(map(sum, cosines))) else None


def all_finite(gramian: Tensor, on: Tensor | None = None) -> Tensor:
    """bool `[...]`: whether every entry `[..., m, m]` among the rows `on` (None: all) is finite."""
    entries = torch.isfinite(gramian)
    if on is not None:
        entries = entries | ~pairs(on)
    # One reduction over everything takes a fraction of the time of one along each axis.
    return entries.all() if entries.dim() == 2 else entries.flatten(-2).all(-1)


def surely_finite(values: Tensor) -> bool:
    """Whether values on the host are known to be finite, at the price of their sum.

    False says nothing: they may be on a device, or finite with a sum that overflows.
    """
    return runs_on_host(values) and math.isfinite(values.sum())


def pairs(flags: Tensor) -> Tensor:
    """bool `[..., m, m]`: both are set."""
    return flags[..., :, None] & flags[..., None, :]
