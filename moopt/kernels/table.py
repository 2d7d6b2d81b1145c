"""Table: where the entries of m rows lie in device memory, for kernels that read lists of tensors.

No kernel here copies rows into one matrix: it looks the address of each tensor up, and works on
parts of bounded length, in an order that the table fixes.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moopt.kernels.pieces import Position, first_in, numel

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
    """

    addresses: Tensor
    parts: Tensor
    dtype: torch.dtype
    aligned: bool
    kept: list[Position]


def tables(
    checked: Iterable[Position], device: torch.device, *, plain: bool = False
) -> Iterator[Table]:
    """One table for each dtype and alignment among the positions.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned, on one device.
        device: where they lie.
        plain: all of them are known to be plain.
    """
    kinds: dict[tuple[torch.dtype, bool], tuple[list[Position], list[list[int]]]] = {}
    for position in checked:
        if not numel(position):
            continue
        if not (plain or is_plain(position)):
            position = flattened(position)
        column = [0 if g is None else g.data_ptr() for g in position]
        aligned = not any(address % ALIGNMENT for address in column)
        kept, columns = kinds.setdefault((first_in(position).dtype, aligned), ([], []))
        kept.append(position)
        columns.append(column)
    for (dtype, aligned), (kept, columns) in kinds.items():
        addresses = sent(torch.tensor(columns, dtype=torch.int64).T.contiguous(), device)
        yield Table(addresses, _parts(kept, device), dtype, aligned, kept)


def flattened(position: Position) -> Position:
    """The entries as contiguous 1-D tensors of one dtype, element by element in one order.

    They are views wherever the entries fill their memory in the same order, else copies.
    """
    dtypes = {g.dtype for g in position if g is not None}
    if len(dtypes) > 1:
        wide = torch.float64 if torch.float64 in dtypes else torch.float32
        position = [None if g is None else g.to(wide) for g in position]
    if not all(g is None or g.is_contiguous() for g in position):
        first = first_in(position)
        order = sorted(range(first.dim()), key=first.stride, reverse=True)
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
