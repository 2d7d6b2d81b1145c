"""metric: a diagonal metric, checked, as one more entry of every position."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moopt.kernels.pieces import Position, Rows

ROUNDINGS = 2
"""Relative, of each product, in eps: twice the root's, and those of the two gradients times it."""


def with_metric(
    checked: list[Position], rows: Rows, metric: Sequence[Tensor | None]
) -> list[Position]:
    """The positions with the metric behind the last row, expanded to the shape of the gradients.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned for the rows.
        rows: as they were given.
        metric: one entry per position; None where no row has a gradient. Its values are not read.

    Raises:
        ValueError: if its length, a shape or a device is not that of the rows.
        TypeError: if an entry is sparse or not real.
    """
    if len(metric) != len(checked):
        raise ValueError(
            f"`metric` of `gramian` must have one entry per parameter, {len(checked)}; got"
            f" {len(metric)}. Pass None where no row has a gradient."
        )
    columns = zip(*rows, strict=True)
    return [
        [*position, _expanded(weights, column, position, index)]
        for index, (position, column, weights) in enumerate(
            zip(checked, columns, metric, strict=True)
        )
    ]


def _expanded(
    weights: Tensor | None, column: Sequence[Tensor | None], position: Position, index: int
) -> Tensor | None:
    given = next((g for g in column if g is not None), None)
    real = next((g for g in position if g is not None), None)
    if given is None or real is None:
        return None
    if weights is None:
        raise ValueError(
            f"`metric` of `gramian` must have an entry wherever a row has a gradient; got None at"
            f" position {index}. Pass `torch.ones(())` there for the plain inner product."
        )
    if weights.layout != torch.strided or not weights.dtype.is_floating_point:
        raise TypeError(
            f"`metric` of `gramian` must hold dense, real floating-point tensors; got"
            f" {weights.layout} of {weights.dtype} at position {index}. Pass the diagonal of the"
            " metric."
        )
    if weights.shape not in (given.shape, torch.Size()):
        raise ValueError(
            f"`metric` of `gramian` must have the shape of the gradients, {list(given.shape)}, or"
            f" []; got {list(weights.shape)} at position {index}. Pass one entry per parameter"
            " in the order of the rows."
        )
    if weights.device != given.device:
        raise ValueError(
            f"`metric` of `gramian` must lie where the gradients lie, on {given.device}; got"
            f" {weights.device} at position {index}. Move it there."
        )
    if given.is_complex():
        weights = weights[..., None]  # real and imaginary parts share it
    return weights.expand(real.shape)
