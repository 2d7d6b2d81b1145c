"""Pieces: m rows of gradients, walked position by position in parts of bounded size."""

import math
from collections.abc import Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor

Rows = Sequence[Sequence[Tensor | None]]
Position = list[Tensor | None]


def positions(rows: Rows, *, caller: str) -> list[Position]:
    """For every position t the m tensors `rows[:][t]`, checked and viewed as real.

    Args:
        rows: `m >= 1` sequences of the same length; None is a zero gradient.
        caller: the public function that the error messages name.

    Returns:
        `m` entries of one shape on one device for each position: a dense floating-point tensor or
        None; complex tensors come as their real views.

    Raises:
        ValueError: if the rows differ in length, or tensors of one position in shape or device.
        TypeError: if a tensor is sparse or not floating point.
    """
    check_lengths(rows, caller=caller)
    device: torch.device | None = None
    checked: list[Position] = []
    for index, column in enumerate(zip(*rows, strict=True)):
        position = list(column)
        shape: torch.Size | None = None
        for i, gradient in enumerate(column):
            if gradient is None:
                continue
            if gradient.layout != torch.strided or not gradient.dtype.is_floating_point:
                gradient = position[i] = _as_real(gradient, index, caller)
            device = device or gradient.device
            shape = gradient.shape if shape is None else shape
            if gradient.shape != shape:
                raise ValueError(
                    f"`rows` of `{caller}` must agree in shape at every position; got"
                    f" {list(shape)} and {list(gradient.shape)} at position {index}. Pass the"
                    " gradients of the same parameters in the same order."
                )
            if gradient.device != device:
                raise ValueError(
                    f"`rows` of `{caller}` must lie on one device; got {device} and"
                    f" {gradient.device} at position {index}. Call it once per device."
                )
        checked.append(position)
    return checked


def check_lengths(rows: Rows, *, caller: str) -> None:
    """Raise a ValueError unless there are rows, all of one length; as `positions` does."""
    if len(rows) == 0:
        raise ValueError(f"`rows` of `{caller}` must hold at least one row; got none.")
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"`rows` of `{caller}` must have one entry per parameter in every row; got lengths"
            f" {lengths}. Pass None where a row has no gradient."
        )


def _as_real(gradient: Tensor, index: int, caller: str) -> Tensor:
    if gradient.layout != torch.strided:
        raise TypeError(
            f"`rows` of `{caller}` must hold dense tensors; got {gradient.layout} at position"
            f" {index}. Build the layer with `sparse=False`, or pass `gradient.to_dense()`."
        )
    if not gradient.is_complex():
        raise TypeError(
            f"`rows` of `{caller}` must hold floating-point or complex tensors; got"
            f" {gradient.dtype} at position {index}. Pass gradients, not counts or masks."
        )
    return torch.view_as_real(gradient.resolve_conj())


def first_in(position: Position) -> Tensor:
    """The first tensor of a position that has one."""
    return next(g for g in position if g is not None)


def memory_order(position: Position) -> list[int]:
    """The axes of the first tensor of a position, the slowest in memory first."""
    first = first_in(position)
    return sorted(range(first.dim()), key=first.stride, reverse=True)


def numel(position: Position) -> int:
    """How many elements each row has there."""
    for gradient in position:
        if gradient is not None:
            return gradient.numel()
    return 0


def pieces(position: Position, limit: int, *, in_order: bool = False) -> Iterator[Position]:
    """Yield views that together cover the position once, each of at most `limit` elements.

    The views of one piece correspond element by element across the rows. Where the tensors share
    a dense memory order they are contiguous; elsewhere (slices with gaps, expanded tensors, rows in
    different memory orders) they are boxes, cut along the leading dimensions.

    Args:
        position: of entries that correspond.
        limit: the most elements of a piece.
        in_order: the pieces follow the order of the elements rather than that of the memory.
    """
    size = numel(position)
    if size == 0:
        return
    if not (in_order or _contiguous(position)):
        order = memory_order(position)
        position = [None if g is None else g.permute(order) for g in position]
    if size <= limit:
        yield position
    elif _contiguous(position):
        flat = [None if g is None else g.view(-1) for g in position]
        yield from _cut(flat, 0, limit)
    else:
        shape = first_in(position).shape
        dim = next(d for d, length in enumerate(shape) if length > 1)
        for box in _cut(position, dim, max(1, limit * shape[dim] // size)):
            yield from pieces(box, limit, in_order=in_order)


def _cut(position: Position, dim: int, width: int) -> Iterator[Position]:
    columns = [repeat(None) if g is None else g.split(width, dim) for g in position]
    return map(list, zip(*columns, strict=False))


def _contiguous(position: Position) -> bool:
    return all([g is None or g.is_contiguous() for g in position])  # faster than a generator


def groups(
    checked: Sequence[Position], limit: int, *, alone: float = math.inf
) -> Iterator[list[Position]]:
    """Yield all pieces of the positions, put together up to `limit` elements.

    Args:
        checked: what `positions` returned.
        limit: the most elements of a piece, and of the pieces of a group together.
        alone: a piece of so many elements and more is a group by itself.
    """
    group: list[Position] = []
    size = 0
    for position in checked:
        for piece in pieces(position, limit):
            length = numel(piece)
            if length >= alone:
                yield [piece]
                continue
            if size + length > limit:
                yield group
                group, size = [], 0
            group.append(piece)
            size += length
    if group:
        yield group


def concatenated(group: Sequence[Position], row: int) -> Tensor:
    """Return one row of a group of pieces as a contiguous 1-D tensor; missing entries are zero.

    The dtype is the promoted one of the row's tensors. A group of one piece is not copied
    where its tensor is contiguous.
    """
    parts = []
    for piece in group:
        part = piece[row]
        if part is None:
            first = first_in(piece)
            part = first.new_zeros(()).expand(first.shape)
        parts.append(part)
    if len(parts) == 1:
        return parts[0].contiguous().view(-1)
    flat: Tensor = torch._C._nn.flatten_dense_tensors(parts)
    return flat
