"""The weighted sum of m rows and the update along it, in one Triton launch for each dtype."""

from collections.abc import Collection, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from moopt.kernels.combine.triton import rounded
from moopt.kernels.gates import DTYPES, update_gate
from moopt.kernels.gramian.triton import TYPES
from moopt.kernels.pieces import Position
from moopt.kernels.table import is_plain, sent, tables
from moopt.kernels.updates import scalars_of

BLOCK = 1024


def combine_update_triton_(
    checked: Sequence[Position], held: int, weights: Tensor, numbers: Tensor
) -> list[int]:
    """Update the first `held` tensors of every plain position along `sum_i weights[i] rows[i]`.

    Args:
        checked: the parameter, its states and the rows at each position, at least one row of which
            has an entry, as `moopt.kernels.pieces.positions` returned them.
        held: how many tensors of a position stand before the rows.
        weights: `[m]`, float64, where the rows lie.
        numbers: float64 `[T, S]`, there or in host memory; see `moopt.kernels.combine_update`.

    Returns:
        Which positions are left to the reference form: their entries differ in dtype, or do not lie
        in memory one element after another.
    """
    place = {id(position): t for t, position in enumerate(checked) if is_plain(position)}
    plain = [checked[t] for t in place.values()]
    scalars = scalars_of(numbers, held - 1)
    for table in tables(plain, weights.device, plain=True):
        which = torch.tensor([place[id(position)] for position in table.kept])
        combine_update_kernel[(len(table.parts),)](
            table.addresses,
            table.parts,
            weights,
            sent(scalars[sent(which, scalars.device)], weights.device),
            table.addresses.shape[1],
            M=len(weights),
            HELD=held,
            BLOCK=BLOCK,
            TYPE=TYPES[table.dtype],
            ALIGNED=table.aligned,
            num_warps=4,
        )
    # What autograd saved for a backward pass must not be taken for what is there now.
    torch.autograd.graph.increment_version([g for position in plain for g in position[:held]])
    return [t for t in range(len(checked)) if id(checked[t]) not in place]


def probe(
    device: torch.device, width: int | None = None, dtypes: Collection[torch.dtype] = ()
) -> str:
    """What differs from the definition on small cases with every kind of border; empty if nothing.

    Args:
        device: where the rows are made.
        width: the number of rows; None means some.
        dtypes: of the entries; none means all.
    """
    # Triton's interpreter cuts bits off.
    truncates = (torch.bfloat16,) if device.type == "cpu" else ()
    widths = (1, 3, 9) if width is None else (width,)
    return update_gate(
        combine_update_triton_, device, widths, dtypes or DTYPES, truncates=truncates
    )


@triton.jit
def entries(address, at, lanes, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Where one block of a tensor lies."""
    block = address.to(tl.pointer_type(TYPE)) + at + lanes
    if ALIGNED:
        block = tl.multiple_of(block, 16)  # bytes
    return block


@triton.jit
def direction(
    addresses,
    weights,
    num_positions,
    at,
    lanes,
    inside,
    M: tl.constexpr,
    HELD: tl.constexpr,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """One block of the weighted sum, in float64 and rounded once into what the update runs in."""
    total = tl.zeros(lanes.shape, tl.float64)
    for i in tl.range(0, M, num_stages=2):
        address = tl.load(addresses + (HELD + i) * num_positions)
        present = inside & (tl.broadcast_to(address, lanes.shape) != 0)
        row = entries(address, at, lanes, TYPE, ALIGNED)
        value = tl.load(row, mask=present, other=0.0).to(tl.float64)
        total += tl.where(address != 0, tl.load(weights + i), 0.0) * value
    return total.to(tl.float64 if TYPE == tl.float64 else tl.float32)


@triton.jit
def sgd_block(
    addresses,
    weights,
    scalars,
    num_positions,
    at,
    lanes,
    inside,
    M: tl.constexpr,
    HELD: tl.constexpr,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """SGD of one block, in the order of torch's fused form."""
    d = direction(addresses, weights, num_positions, at, lanes, inside, M, HELD, TYPE, ALIGNED)
    MATH: tl.constexpr = d.dtype
    sign = tl.load(scalars).to(MATH)
    decay = tl.load(scalars + 1).to(MATH)
    lr = tl.load(scalars + 2).to(MATH)
    p_at = entries(tl.load(addresses), at, lanes, TYPE, ALIGNED)
    p = tl.load(p_at, mask=inside, other=0.0).to(MATH)
    d = sign * d
    d = tl.where(decay != 0.0, d + decay * p, d)
    if HELD == 2:
        momentum = tl.load(scalars + 3).to(MATH)
        fresh = tl.load(scalars + 4).to(MATH)
        nesterov = tl.load(scalars + 5) != 0.0
        b_at = entries(tl.load(addresses + num_positions), at, lanes, TYPE, ALIGNED)
        b = tl.load(b_at, mask=inside, other=0.0).to(MATH)
        b = momentum * b + fresh * d
        tl.store(b_at, rounded(b, TYPE), mask=inside)
        d = tl.where(nesterov, d + momentum * b, b)
    tl.store(p_at, rounded(p - lr * d, TYPE), mask=inside)


@triton.jit
def adam_block(
    addresses,
    weights,
    scalars,
    num_positions,
    at,
    lanes,
    inside,
    M: tl.constexpr,
    HELD: tl.constexpr,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Adam of one block, in the order of torch's fused form."""
    d = direction(addresses, weights, num_positions, at, lanes, inside, M, HELD, TYPE, ALIGNED)
    MATH: tl.constexpr = d.dtype
    sign = tl.load(scalars).to(MATH)
    coupled = tl.load(scalars + 1).to(MATH)
    decoupled = tl.load(scalars + 2).to(MATH)
    beta1 = tl.load(scalars + 3)
    beta2 = tl.load(scalars + 4)
    length = tl.load(scalars + 5).to(MATH)
    root = tl.load(scalars + 6).to(MATH)
    eps = tl.load(scalars + 7).to(MATH)
    p_at = entries(tl.load(addresses), at, lanes, TYPE, ALIGNED)
    m_at = entries(tl.load(addresses + num_positions), at, lanes, TYPE, ALIGNED)
    v_at = entries(tl.load(addresses + 2 * num_positions), at, lanes, TYPE, ALIGNED)
    p = tl.load(p_at, mask=inside, other=0.0).to(MATH)
    m = tl.load(m_at, mask=inside, other=0.0).to(MATH)
    v = tl.load(v_at, mask=inside, other=0.0).to(MATH)
    d = sign * d
    d = tl.where(coupled != 0.0, d + coupled * p, d)
    p = tl.where(decoupled != 0.0, p - decoupled * p, p)
    m = beta1.to(MATH) * m + (1.0 - beta1).to(MATH) * d
    v = beta2.to(MATH) * v + (1.0 - beta2).to(MATH) * d * d
    tl.store(m_at, rounded(m, TYPE), mask=inside)
    tl.store(v_at, rounded(v, TYPE), mask=inside)
    if HELD == 4:
        w_at = entries(tl.load(addresses + 3 * num_positions), at, lanes, TYPE, ALIGNED)
        w = tl.load(w_at, mask=inside, other=0.0).to(MATH)
        v = tl.maximum(w, v, propagate_nan=tl.PropagateNan.ALL)
        tl.store(w_at, rounded(v, TYPE), mask=inside)
    size = tl.sqrt(v) / root + eps
    tl.store(p_at, rounded(p - length * m / size, TYPE), mask=inside)


@triton.jit
def combine_update_kernel(
    addresses,
    parts,
    weights,
    scalars,
    num_positions,
    M: tl.constexpr,
    HELD: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """One part of one position: rows, parameter and states are read once, and the latter written.

    Args:
        HELD: how many tensors stand before the rows: up to two for SGD, else for Adam.
    """
    part = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    position = tl.load(parts + 3 * part)
    start = tl.load(parts + 3 * part + 1)
    size = tl.load(parts + 3 * part + 2)
    at = addresses + position
    own = scalars + position * (6 if HELD < 3 else 8)
    full = size // BLOCK * BLOCK
    for offset in range(0, full, BLOCK):
        every = tl.full([BLOCK], True, tl.int1)
        block = start + offset
        if HELD < 3:
            sgd_block(at, weights, own, num_positions, block, lanes, every, M, HELD, TYPE, ALIGNED)
        else:
            adam_block(at, weights, own, num_positions, block, lanes, every, M, HELD, TYPE, ALIGNED)
    if full < size:
        rest = full + lanes < size
        block = start + full
        if HELD < 3:
            sgd_block(at, weights, own, num_positions, block, lanes, rest, M, HELD, TYPE, ALIGNED)
        else:
            adam_block(at, weights, own, num_positions, block, lanes, rest, M, HELD, TYPE, ALIGNED)
