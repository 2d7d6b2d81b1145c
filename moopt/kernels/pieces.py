"""Pieces: m rows of gradients, walked position by position in parts of bounded size."""

import functools
from collections.abc import Iterator, Sequence

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
    if len(rows) == 0:
        raise ValueError(f"`rows` of `{caller}` must hold at least one row; got none.")
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"`rows` of `{caller}` must have one entry per parameter in every row; got lengths"
            f" {lengths}. Pass None where a row has no gradient."
        )
    device: torch.device | None = None
    checked: list[Position] = []
    for index, column in enumerate(zip(*rows, strict=True)):
        position: Position = []
        shape: torch.Size | None = None
        for gradient in column:
            if gradient is None:
                position.append(None)
                continue
            if gradient.layout != torch.strided:
                raise TypeError(
                    f"`rows` of `{caller}` must hold dense tensors; got layout {gradient.layout} at"
                    f" position {index}. Build the layer with `sparse=False`, or pass"
                    " `gradient.to_dense()`."
                )
            dtype = gradient.dtype
            if not dtype.is_floating_point:
                if not dtype.is_complex:
                    raise TypeError(
                        f"`rows` of `{caller}` must hold floating-point or complex tensors; got"
                        f" {dtype} at position {index}. Pass gradients, not counts or masks."
                    )
                gradient = torch.view_as_real(gradient.resolve_conj())
            if shape is None:
                shape = gradient.shape
                device = gradient.device if device is None else device
            elif gradient.shape != shape:
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
            position.append(gradient)
        checked.append(position)
    return checked


def flatten(position: Position) -> Position | None:
    """Return the tensors as 1-D views in one common element order, or None if there is none."""
    present = [g for g in position if g is not None]
    if all(g.is_contiguous() for g in present):
        return [None if g is None else g.view(-1) for g in position]
    first = present[0]
    order = sorted(range(first.dim()), key=first.stride, reverse=True)
    permuted = [None if g is None else g.permute(order) for g in position]
    if all(g.is_contiguous() for g in permuted if g is not None):
        return [None if g is None else g.view(-1) for g in permuted]
    return None


def pieces(position: Position, limit: int) -> Iterator[Position]:
    """Yield views that together cover the position once, each of at most `limit` elements.

    The views of one piece correspond element by element across the rows. They are 1-D where
    the tensors share a dense memory order, and boxes cut along the leading dimensions
    elsewhere (slices with gaps, expanded tensors, rows in different memory orders).
    """
    first = next((g for g in position if g is not None), None)
    if first is None or first.numel() == 0:
        return
    flat = flatten(position)
    if flat is None:
        yield from _boxes(position, limit)
    elif first.numel() <= limit:
        yield flat
    else:
        for start in range(0, first.numel(), limit):
            yield [None if g is None else g[start : start + limit] for g in flat]


def _boxes(position: Position, limit: int) -> Iterator[Position]:
    first = next(g for g in position if g is not None)
    numel = first.numel()
    if numel <= limit:
        yield position
        return
    dim = next(d for d, size in enumerate(first.shape) if size > 1)
    inner = numel // first.shape[dim]
    width = max(1, limit // inner)
    for start in range(0, first.shape[dim], width):
        part = min(width, first.shape[dim] - start)
        yield from _boxes(
            [None if g is None else g.narrow(dim, start, part) for g in position], limit
        )


def concatenated(group: Sequence[Position], row: int) -> Tensor:
    """Return one row of a group of pieces as a contiguous 1-D tensor; missing entries are zero.

    The dtype is the promoted one of the row's tensors. A group of one piece is not copied
    where its tensor is contiguous.
    """
    present = [g for piece in group if (g := piece[row]) is not None]
    dtype = present[0].dtype
    if any(g.dtype != dtype for g in present):
        dtype = functools.reduce(torch.promote_types, (g.dtype for g in present))
    if len(group) == 1:
        return present[0].reshape(-1).contiguous()
    parts = []
    for piece in group:
        part = piece[row]
        if part is None:
            shape = next(g.shape for g in piece if g is not None)
            part = torch.zeros((), dtype=dtype, device=present[0].device).expand(shape)
        parts.append(part if part.dtype == dtype else part.to(dtype))
    flat: Tensor = torch._C._nn.flatten_dense_tensors(parts)
    return flat
