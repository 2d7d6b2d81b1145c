"""The Gramian of m rows of gradients in one Triton launch for each dtype.

Program p takes the parts p, p + P, p + 2 P, ... in that order, and the programs' sums are added in
a fixed order: the same bits from run to run. The README beside it derives bytes and rounding.
"""

from collections.abc import Collection, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from moopt.kernels.gates import DTYPES, general_gramian_gate, gramian_gate
from moopt.kernels.gathered import rounding
from moopt.kernels.metric import ROUNDINGS
from moopt.kernels.pieces import Position, numel
from moopt.kernels.table import PART, Table, tables

TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
"""The entries' dtypes, and what Triton calls them."""

BLOCKS = {1: 1024, 2: 1024, 3: 1024, 4: 512, 5: 512, 6: 256}
"""Elements of a row that a program of m rows holds at a time, where every pair has its own sum."""

METRIC_BLOCKS = {m: min(block, 512) for m, block in BLOCKS.items()}
"""The same in a metric: its roots take registers, and longer blocks spill."""

FEW_ROWS = 6
"""Up to here every pair of rows has its own sums: 21 of them still fit into the registers."""

TILE_BLOCK = 32
"""The same for tiles of 16 or 32 rows: a float32 product of more chains too many additions."""

LARGEST_TILE = 32

PROGRAMS_PER_CORE = 4


def gramian_triton(
    checked: Sequence[Position],
    m: int,
    device: torch.device,
    *,
    k: int | None = None,
    metric: bool = False,
) -> tuple[Tensor, float]:
    """The inner products of the rows, and their rounding, as `measured_gramian` returns them.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned.
        m: the number of rows.
        device: where they lie: CUDA, or the host under Triton's interpreter.
        k: the number of others, which come behind the rows in each position; None means the rows
            themselves.
        metric: whether the last entry of each position is a metric.
    """
    n = sum(map(numel, checked))
    in_pairs = k is None and m <= FEW_ROWS
    block = (METRIC_BLOCKS if metric else BLOCKS)[m] if in_pairs else TILE_BLOCK
    noise = rounding(n / block + 10, torch.float64)
    if not in_pairs:
        noise += rounding(TILE_BLOCK + 2, torch.float32)
    noise += metric * ROUNDINGS * rounding(1, torch.float64)
    total = torch.zeros(m, m if k is None else k, dtype=torch.float64, device=device)
    for table in tables(checked, device, metric=metric):
        if in_pairs:
            _add_pairs(total, table, m)
        else:
            _add_tiles(total, table, m, k)
    return (total if in_pairs or k is not None else total.triu() + total.triu(1).T), noise


def probe(
    device: torch.device,
    width: int | None = None,
    dtypes: Collection[torch.dtype] = (),
    *,
    cross: bool = False,
    metric: Collection[torch.dtype] = (),
) -> str:
    """What differs from exact sums on small cases with every kind of border; empty if nothing.

    Args:
        device: where the rows are made.
        width: the number of rows; None means one of every kind.
        dtypes: of the entries; none means all.
        cross: whether there are others beside the rows.
        metric: the dtypes of the metric; none means that there is no metric.
    """
    widths = (1, 3, FEW_ROWS, FEW_ROWS + 1, LARGEST_TILE + 1) if width is None else (width,)
    longest = {m: PART + 40 if m <= FEW_ROWS + 1 else 100 for m in widths}
    if cross or metric:
        # One case of several parts for each kernel: Triton's interpreter takes seconds for it.
        several = (widths[0],) if cross else (widths[0], FEW_ROWS + 1)
        longest = {m: PART + 40 if m in several else 100 for m in widths}
        return general_gramian_gate(
            lambda rows, m, k: gramian_triton(rows, m, device, k=k, metric=bool(metric)),
            device,
            longest,
            dtypes or DTYPES,
            cross=cross,
            metric=metric,
        )
    return gramian_gate(
        lambda rows, m: gramian_triton(rows, m, device), device, longest, dtypes or DTYPES
    )


def programs_for(table: Table) -> int:
    """How many programs share the parts of a table."""
    device = table.parts.device
    if device.type != "cuda":  # the interpreter runs one after the other
        return min(3, len(table.parts))
    cores = torch.cuda.get_device_properties(device).multi_processor_count
    return min(PROGRAMS_PER_CORE * cores, len(table.parts))


def _add_pairs(total: Tensor, table: Table, m: int) -> None:
    programs = programs_for(table)
    pairs = m * (m + 1) // 2
    partial = torch.empty(pairs, programs, dtype=torch.float64, device=total.device)
    pairs_kernel[(programs,)](
        table.addresses,
        table.parts,
        _metric_of(table),
        partial,
        len(table.parts),
        table.addresses.shape[1],
        M=m,
        BLOCK=(BLOCKS if table.metric is None else METRIC_BLOCKS)[m],
        METRIC=table.metric is not None,
        METRIC_TYPE=TYPES[table.metric_dtype or table.dtype],
        TYPE=TYPES[table.dtype],
        ALIGNED=table.aligned,
        num_warps=4,
    )
    width = triton.next_power_of_2(programs)
    pairs_sum_kernel[(1,)](partial, total, programs, M=m, WIDTH=width)


def _metric_of(table: Table) -> Tensor:
    """What the kernels are given as the metric; without one they do not look at it."""
    return table.addresses if table.metric is None else table.metric


def _add_tiles(total: Tensor, table: Table, m: int, k: int | None) -> None:
    programs = programs_for(table)
    columns = m if k is None else k
    small = max(m, columns) <= 16 or table.dtype == torch.float64 or table.metric is not None
    tile = 16 if small else LARGEST_TILE  # float64 entries of more rows take too many registers
    tiles_down, tiles_across = triton.cdiv(m, tile), triton.cdiv(columns, tile)
    partial = torch.empty(
        programs, tiles_down * tile, tiles_across * tile, dtype=torch.float64, device=total.device
    )
    tiles_kernel[(programs, tiles_down, tiles_across)](
        table.addresses,
        table.addresses if k is None else table.addresses[m:],
        table.parts,
        _metric_of(table),
        partial,
        len(table.parts),
        table.addresses.shape[1],
        m,
        columns,
        TILE=tile,
        BLOCK=TILE_BLOCK,
        TYPE=TYPES[table.dtype],
        SAME=k is None,
        METRIC=table.metric is not None,
        METRIC_TYPE=TYPES[table.metric_dtype or table.dtype],
        num_warps=4,
    )
    total += partial.sum(0)[:m, :columns]


@triton.jit
def pair_sums(
    addresses,
    parts,
    metric,
    num_parts,
    num_positions,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    METRIC: tl.constexpr,
    METRIC_TYPE: tl.constexpr,
):
    """This program's share of the inner products: a float64 sum for each pair i <= j of rows."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    lanes = tl.arange(0, BLOCK)
    whole = ()
    for _ in tl.static_range(M * (M + 1) // 2):
        whole = whole + (tl.sum(tl.zeros([2], tl.float64)),)
    for part in range(program, num_parts, programs):
        position = tl.load(parts + 3 * part)
        start = tl.load(parts + 3 * part + 1)
        size = tl.load(parts + 3 * part + 2)
        full = size // BLOCK * BLOCK
        rows = ()
        present = ()
        for i in tl.static_range(M):
            address = tl.load(addresses + i * num_positions + position)
            rows = rows + (address.to(tl.pointer_type(TYPE)) + start,)
            present = present + (tl.broadcast_to(address, [BLOCK]) != 0,)
        if METRIC:
            scale = tl.load(metric + position).to(tl.pointer_type(METRIC_TYPE))
            scale += start * tl.load(metric + num_positions + position)
        sums = ()
        for _ in tl.static_range(M * (M + 1) // 2):
            sums = sums + (tl.zeros([BLOCK], tl.float64),)
        for offset in range(0, full, BLOCK):
            if METRIC:
                at = scale + offset + lanes
                if ALIGNED:
                    at = tl.multiple_of(at, 16)
                root = tl.sqrt(tl.load(at).to(tl.float64))
            values = ()
            for i in tl.static_range(M):
                at = rows[i] + offset + lanes
                if ALIGNED:
                    at = tl.multiple_of(at, 16)  # bytes; it must be said here, not in a callee
                value = tl.load(at, mask=present[i], other=0.0).to(tl.float64)
                if METRIC:
                    value *= root
                values = values + (value,)
            added = ()
            for i in tl.static_range(M):
                for j in tl.static_range(i, M):
                    pair = sums[i * M - i * (i - 1) // 2 + (j - i)]
                    added = added + (pair + values[i] * values[j],)
            sums = added
        if full < size:
            inside = full + lanes < size
            if METRIC:
                weights = tl.load(scale + full + lanes, mask=inside, other=0.0)
                root = tl.sqrt(weights.to(tl.float64))
            values = ()
            for i in tl.static_range(M):
                value = tl.load(rows[i] + full + lanes, mask=inside & present[i], other=0.0)
                value = value.to(tl.float64)
                if METRIC:
                    value *= root
                values = values + (value,)
            added = ()
            for i in tl.static_range(M):
                for j in tl.static_range(i, M):
                    pair = sums[i * M - i * (i - 1) // 2 + (j - i)]
                    added = added + (pair + values[i] * values[j],)
            sums = added
        flushed = ()
        for pair in tl.static_range(M * (M + 1) // 2):
            flushed = flushed + (whole[pair] + tl.sum(sums[pair]),)
        whole = flushed
    return whole


@triton.jit
def pairs_kernel(
    addresses,
    parts,
    metric,
    partial,
    num_parts,
    num_positions,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    METRIC: tl.constexpr,
    METRIC_TYPE: tl.constexpr,
):
    """One float64 sum for each pair i <= j of rows and each program: `partial[pair, program]`."""
    whole = pair_sums(
        addresses,
        parts,
        metric,
        num_parts,
        num_positions,
        M,
        BLOCK,
        TYPE,
        ALIGNED,
        METRIC,
        METRIC_TYPE,
    )
    for pair in tl.static_range(M * (M + 1) // 2):
        tl.store(partial + pair * tl.num_programs(0) + tl.program_id(0), whole[pair])


@triton.jit
def pairs_sum_kernel(partial, total, programs, M: tl.constexpr, WIDTH: tl.constexpr):
    """Add the programs' sums to the Gramian, both halves of it."""
    lanes = tl.arange(0, WIDTH)
    for i in tl.static_range(M):
        for j in tl.static_range(i, M):
            pair = i * M - i * (i - 1) // 2 + (j - i)
            sums = tl.load(partial + pair * programs + lanes, mask=lanes < programs, other=0.0)
            value = tl.load(total + i * M + j) + tl.sum(sums)
            tl.store(total + i * M + j, value)
            if i != j:
                tl.store(total + j * M + i, value)


@triton.jit
def tiles_kernel(
    left,
    right,
    parts,
    metric,
    partial,
    num_parts,
    num_positions,
    m,
    k,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,
    SAME: tl.constexpr,
    METRIC: tl.constexpr,
    METRIC_TYPE: tl.constexpr,
):
    """The inner products of TILE rows with TILE others, for each program: one tile of `partial`.

    Tiles below the diagonal of a Gramian are left at zero: they are those above it, turned.
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    down = tl.program_id(1) * TILE + tl.arange(0, TILE)
    across = tl.program_id(2) * TILE + tl.arange(0, TILE)
    lanes = tl.arange(0, BLOCK)
    whole = tl.zeros([TILE, TILE], tl.float64)
    if (not SAME) or (tl.program_id(1) <= tl.program_id(2)):
        for part in range(program, num_parts, programs):
            position = tl.load(parts + 3 * part)
            start = tl.load(parts + 3 * part + 1)
            size = tl.load(parts + 3 * part + 2)
            a = tl.load(left + down * num_positions + position, mask=down < m, other=0)
            b = tl.load(right + across * num_positions + position, mask=across < k, other=0)
            rows = a.to(tl.pointer_type(TYPE)) + start
            columns = b.to(tl.pointer_type(TYPE)) + start
            if METRIC:
                scale = tl.load(metric + position).to(tl.pointer_type(METRIC_TYPE))
                scale += start * tl.load(metric + num_positions + position)
            for offset in range(0, size, BLOCK):
                inside = offset + lanes < size
                x = tl.load(
                    rows[:, None] + offset + lanes[None, :],
                    mask=(a != 0)[:, None] & inside[None, :],
                    other=0.0,
                )
                y = tl.load(
                    columns[None, :] + offset + lanes[:, None],
                    mask=(b != 0)[None, :] & inside[:, None],
                    other=0.0,
                )
                if METRIC:  # in float64: the product may leave the range of float32
                    weights = tl.load(scale + offset + lanes, mask=inside, other=0.0)
                    root = tl.sqrt(weights.to(tl.float64))
                    x = x.to(tl.float64) * root[None, :]
                    y = y.to(tl.float64) * root[:, None]
                if TYPE == tl.float64:
                    whole += tl.sum(x[:, None, :] * tl.trans(y)[None, :, :], axis=2)
                else:
                    # Rows of size 1: no product leaves the range of float32.
                    if not METRIC:
                        x = x.to(tl.float32)
                        y = y.to(tl.float32)
                    x_size = tl.max(tl.abs(x), axis=1, keep_dims=True)
                    y_size = tl.max(tl.abs(y), axis=0, keep_dims=True)
                    x_size = tl.where(x_size > 0.0, x_size, 1.0)
                    y_size = tl.where(y_size > 0.0, y_size, 1.0)
                    unit = tl.dot(
                        (x / x_size).to(tl.float32),
                        (y / y_size).to(tl.float32),
                        input_precision="ieee",
                    )
                    whole += unit.to(tl.float64) * x_size.to(tl.float64) * y_size.to(tl.float64)
    width = tl.num_programs(2) * TILE
    height = tl.num_programs(1) * TILE
    place = (program * height + down)[:, None] * width + across[None, :]
    tl.store(partial + place, whole)
