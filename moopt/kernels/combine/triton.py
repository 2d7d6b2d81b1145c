"""The weighted sum of m rows of gradients in one Triton launch for each dtype, in place."""

from collections.abc import Collection, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from moopt.kernels.gates import DTYPES, combine_gate
from moopt.kernels.gramian.triton import TYPES
from moopt.kernels.pieces import Position, first_in
from moopt.kernels.table import is_plain, sent, tables

BLOCK = 1024


def combine_triton_(checked: Sequence[Position], weights: Tensor) -> list[Position]:
    """Overwrite the first tensor of every plain position with `sum_i weights[i] rows[i]`.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned; the first tensor of a position
            shares its memory with no other.
        weights: `[m]`, float64, where the rows lie.

    Returns:
        The positions that are left to the reference form: their entries differ in dtype, or do not
        lie in memory one element after another.
    """
    present = [position for position in checked if any(g is not None for g in position)]
    for table in tables(filter(is_plain, present), weights.device):
        targets = [first_in(flat).data_ptr() for flat in table.kept]
        combine_kernel[(len(table.parts),)](
            table.addresses,
            sent(torch.tensor(targets, dtype=torch.int64), weights.device),
            table.parts,
            weights,
            table.addresses.shape[1],
            M=len(weights),
            BLOCK=BLOCK,
            TYPE=TYPES[table.dtype],
            ALIGNED=table.aligned,
            num_warps=4,
        )
    return [position for position in present if not is_plain(position)]


def probe(
    device: torch.device, width: int | None = None, dtypes: Collection[torch.dtype] = ()
) -> str:
    """What differs from exact sums on small cases with every kind of border; empty if nothing.

    Args:
        device: where the rows are made.
        width: the number of rows; None means some.
        dtypes: of the entries; none means all.
    """
    # Triton's interpreter cuts bits off.
    truncates = (torch.bfloat16,) if device.type == "cpu" else ()
    widths = (1, 3, 9) if width is None else (width,)
    return combine_gate(combine_triton_, device, widths, dtypes or DTYPES, truncates=truncates)


@triton.jit
def rounded(x, TYPE: tl.constexpr):
    """Into 16 bits by way of float32: Triton's interpreter knows no other."""
    if TYPE == tl.float64:
        return x
    return x.to(tl.float32).to(TYPE)


@triton.jit
def combine_kernel(
    addresses,
    targets,
    parts,
    weights,
    num_positions,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """One part of one position: every row is read once, and the first one's memory written."""
    part = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    position = tl.load(parts + 3 * part)
    start = tl.load(parts + 3 * part + 1)
    size = tl.load(parts + 3 * part + 2)
    target = tl.load(targets + position).to(tl.pointer_type(TYPE)) + start
    full = size // BLOCK * BLOCK
    for offset in range(0, full, BLOCK):
        total = tl.full([BLOCK], -0.0, tl.float64)  # what is added to -0 comes through bit for bit
        for i in range(M):
            address = tl.load(addresses + i * num_positions + position)
            present = tl.broadcast_to(address, [BLOCK]) != 0
            row = address.to(tl.pointer_type(TYPE)) + start + offset + lanes
            if ALIGNED:
                row = tl.multiple_of(row, 16)  # bytes; it must be said here, not in a callee
            value = tl.load(row, mask=present, other=0.0).to(tl.float64)
            total += tl.where(present, tl.load(weights + i) * value, -0.0)
        out = target + offset + lanes
        if ALIGNED:
            out = tl.multiple_of(out, 16)
        tl.store(out, rounded(total, TYPE))
    if full < size:
        inside = full + lanes < size
        total = tl.full([BLOCK], -0.0, tl.float64)
        for i in range(M):
            address = tl.load(addresses + i * num_positions + position)
            present = tl.broadcast_to(address, [BLOCK]) != 0
            row = address.to(tl.pointer_type(TYPE)) + start + full + lanes
            value = tl.load(row, mask=inside & present, other=0.0).to(tl.float64)
            total += tl.where(present, tl.load(weights + i) * value, -0.0)
        tl.store(target + full + lanes, rounded(total, TYPE), mask=inside)
