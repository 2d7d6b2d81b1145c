"""Table: where the entries of m rows lie in device memory, for kernels that read lists of tensors.

No kernel here copies rows into one matrix: it looks the address of each tensor up, and works on
parts of bounded length, in an order that the table fixes.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moopt.kernels.pieces import Position, first_in, memory_order, numel

PART = 1 << 15
"""Elements of one part, a multiple of every block. Float32 sums run over one part at most."""

ALIGNMENT = 16
"""Bytes; addresses that are multiples of it are read 128 bits at a time."""


class Table(NamedTuple):
    """Rows of one dtype and one alignment.

    Attributes:
        addresses: int64 `[m, T]`, of the first element of each entry; 0 where a row has None.
        parts: int64 `[P, 3]`: position, first element and number of elements of each part.
        dtype: of every entry.
        aligned: whether all addresses are multiples of `ALIGNMENT`.
        kept: what the addresses lie in; copies live as long as the table does.
        metric: int64 `[2, T]`: the address of each position's metric, and by how many entries it
            goes on from element to element of the parts' starts: 1, or 0 where one part of it
            serves all, because the metric has one value. None without a metric.
        metric_dtype: of the metric.
    """

    addresses: Tensor
    parts: Tensor
    dtype: torch.dtype
    aligned: bool
    kept: list[Position]
    metric: Tensor | None = None
    metric_dtype: torch.dtype | None = None


def tables(
    checked: Iterable[Position],
    device: torch.device,
    *,
    plain: bool = False,
    metric: bool = False,
) -> Iterator[Table]:
    """One table for each dtype and alignment among the positions.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned, on one device.
        device: where they lie.
        plain: all of them are known to be plain.
        metric: the last entry of each position is its metric, and no row.
    """
    kinds: dict[tuple[torch.dtype, bool, torch.dtype | None], _Columns] = {}
    for position in checked:
        if not numel(position):
            continue
        weights, step = None, 0
        if metric:
            weights, step = _flat_metric(position)
            position = position[:-1]
        if not (plain or is_plain(position)):
            position = flattened(position)
        column = [0 if g is None else g.data_ptr() for g in position]
        scale = 0 if weights is None else weights.data_ptr()
        aligned = not any(address % ALIGNMENT for address in (*column, scale))
        kind = first_in(position).dtype, aligned, None if weights is None else weights.dtype
        kept, columns, scales = kinds.setdefault(kind, ([], [], []))
        kept.append([*position, weights] if metric else position)
        columns.append(column)
        scales.append([scale, step])
    for (dtype, aligned, metric_dtype), (kept, columns, scales) in kinds.items():
        addresses = _transposed(columns, device)
        parts = _parts(kept, device)
        yield Table(
            addresses,
            parts,
            dtype,
            aligned,
            kept,
            _transposed(scales, device) if metric else None,
            metric_dtype,
        )


_Columns = tuple[list[Position], list[list[int]], list[list[int]]]


def _transposed(columns: list[list[int]], device: torch.device) -> Tensor:
    return sent(torch.tensor(columns, dtype=torch.int64).T.contiguous(), device)


def _flat_metric(position: Position) -> tuple[Tensor, int]:
    """The metric in the order in which `flattened` puts the gradients, and its step.

    Of a metric of one value no more is written out than one part.
    """
    weights, rows = position[-1], position[:-1]
    assert weights is not None
    if not any(weights.stride()):
        one = weights.reshape(-1)[:1].resolve_neg()
        return one.expand(min(weights.numel(), PART)).contiguous(), 0
    return weights.permute(memory_order(rows)).contiguous().resolve_neg().view(-1), 1


def flattened(position: Position) -> Position:
    """The entries as contiguous 1-D tensors of one dtype, element by element in one order.

    They are views wherever the entries fill their memory in the same order, else copies.
    """
    dtypes = {g.dtype for g in position if g is not None}
    if len(dtypes) > 1:
        wide = torch.float64 if torch.float64 in dtypes else torch.float32
        position = [None if g is None else g.to(wide) for g in position]
    if not all(g is None or g.is_contiguous() for g in position):
        order = memory_order(position)
        position = [None if g is None else g.permute(order).contiguous() for g in position]
    return [None if g is None else g.resolve_neg().view(-1) for g in position]


def is_plain(position: Position) -> bool:
    """Whether the entries have one dtype, and their elements lie one after another in memory."""
    dtype = None
    for g in position:
        if g is not None:
            if not g.is_contiguous() or g.is_neg() or g.dtype is not (dtype or g.dtype):
                return False
            dtype = g.dtype
    return dtype is not None


_CAPTURED: list[Tensor] = []


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A small tensor in host memory on the device; the host does not wait for the copy.

    A CUDA graph copies it again whenever it is replayed: what is sent while one is captured stays
    in host memory for the life of the process, some kilobytes for each graph.
    """
    if device.type != "cuda" or host.device == device:
        return host.to(device)
    pinned = host.pin_memory()
    if torch.cuda.is_current_stream_capturing():
        _CAPTURED.append(pinned)
    return pinned.to(device, non_blocking=True)


def _parts(alike: Sequence[Position], device: torch.device) -> Tensor:
    return _parts_of(tuple(map(numel, alike)), device)


@functools.lru_cache(maxsize=16)
def _parts_of(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The same for the same sizes, which a model has in every step."""
    lengths = torch.tensor(sizes)
    counts = -(-lengths // PART)
    position = torch.arange(len(sizes)).repeat_interleave(counts)
    before = (counts.cumsum(0) - counts)[position]
    start = (torch.arange(len(position)) - before) * PART
    size = torch.minimum(lengths[position] - start, torch.tensor(PART))
    return sent(torch.stack([position, start, size], 1), device)
