"""operations: the compiled host kernels, called on the rows of a step."""

import ctypes
from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from moopt.kernels.gates import combine_gate, gramian_gate, min_norm_gate, update_gate
from moopt.kernels.gathered import rounding
from moopt.kernels.native.library import library
from moopt.kernels.pieces import Position, numel
from moopt.kernels.table import PART, Table, is_plain, tables
from moopt.kernels.tolerances import CERTIFIED
from moopt.kernels.updates import scalars_of

KINDS = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
"""What kernels.cpp calls the dtypes."""

BLOCK, LANES = 1024, 32
"""Of kernels.cpp: in float32 a lane adds so many products, BLOCK / LANES, and float64 goes on."""

SEVERAL_THREADS = 10_000_000
"""Elements of a row, or products of a batch of solves, from which on more than one thread pays."""

SMALLEST = 2.0**-120
"""Weights of this size and up to its inverse are left to the compiled kernels."""

_HOST = torch.device("cpu")


def gramian_native(checked: Sequence[Position], m: int) -> tuple[Tensor, float]:
    """The inner products of the rows, and their rounding, as `measured_gramian` returns them.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned, in host memory.
        m: the number of rows.
    """
    n = sum(map(numel, checked))
    upper = torch.zeros(m, m, dtype=torch.float64)
    down, across = torch.triu_indices(m, m)
    narrow = False
    for table in tables(checked, _HOST):
        partial = torch.zeros(len(table.parts), len(down), dtype=torch.float64)
        _call("moopt_gramian", table, m, partial, _threads(n))
        upper[down, across] += partial.sum(0)
        narrow = narrow or table.dtype != torch.float64
    # Of the blocks, and of what is behind the last one: eight lanes of float64.
    noise = rounding(n / BLOCK + BLOCK / 8, torch.float64)
    if narrow:
        noise += rounding(BLOCK / LANES, torch.float32)
    return upper + upper.triu(1).T, noise


def combine_native_(checked: Sequence[Position], weights: Sequence[float]) -> list[Position]:
    """Overwrite the first tensor of every plain position with `sum_i weights[i] rows[i]`.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned, in host memory; the first tensor of
            a position shares its memory with no other.
        weights: m numbers.

    Returns:
        The positions that are left to the reference form: their entries differ in dtype, or do not
        lie in memory one element after another. All of them, where a weight is extreme.
    """
    factors = torch.tensor(weights, dtype=torch.float64)
    n = sum(map(numel, checked))
    if not all(w == 0.0 or SMALLEST <= abs(w) <= 1.0 / SMALLEST for w in weights):
        return [*checked]  # out of the range of float32, in which 16-bit rows are summed
    flags = list(map(is_plain, checked))
    for table in tables(compress(checked, flags), _HOST, plain=True):
        _call("moopt_combine", table, len(factors), factors, _threads(n))
    return [] if all(flags) else [p for p, plain in zip(checked, flags, strict=True) if not plain]


def combine_update_native_(
    checked: Sequence[Position], held: int, weights: Sequence[float], numbers: Tensor
) -> list[int]:
    """Update the first `held` tensors of every plain position along `sum_i weights[i] rows[i]`.

    Args:
        checked: the parameter, its states and the rows at each position, at least one row of which
            has an entry, as `moopt.kernels.pieces.positions` returned them, in host memory.
        held: how many tensors of a position stand before the rows.
        weights: m numbers.
        numbers: float64 `[T, S]`; see `moopt.kernels.combine_update`.

    Returns:
        Which positions are left to the reference form: their entries differ in dtype, or do not lie
        in memory one element after another. All of them, where a weight is extreme.
    """
    if not all(w == 0.0 or SMALLEST <= abs(w) <= 1.0 / SMALLEST for w in weights):
        return list(range(len(checked)))  # out of the range of float32, in which 16 bits are summed
    compiled, why_not = library()
    assert compiled is not None, why_not
    place = {id(position): t for t, position in enumerate(checked) if is_plain(position)}
    plain = [checked[t] for t in place.values()]
    factors = torch.tensor(weights, dtype=torch.float64)
    scalars = scalars_of(numbers, held - 1)
    threads = _threads(sum(map(numel, checked)))
    for table in tables(plain, _HOST, plain=True):
        own = scalars[torch.tensor([place[id(position)] for position in table.kept])]
        code = compiled.moopt_combine_update(
            ctypes.c_int(KINDS[table.dtype]),
            ctypes.c_void_p(table.addresses.data_ptr()),
            ctypes.c_int64(len(weights)),
            ctypes.c_int64(held),
            ctypes.c_int64(table.addresses.shape[1]),
            ctypes.c_void_p(table.parts.data_ptr()),
            ctypes.c_int64(len(table.parts)),
            ctypes.c_void_p(factors.data_ptr()),
            ctypes.c_void_p(own.data_ptr()),
            ctypes.c_int(threads),
        )
        assert code == 0
    # What autograd saved for a backward pass must not be taken for what is there now.
    increment_version([g for position in plain for g in position[:held] if g is not None])
    return [t for t in range(len(checked)) if id(checked[t]) not in place]


def min_norm_native(
    gramians: Tensor, *, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `min_norm_reference` with pivots, every row active, for a batch in host memory.

    Args:
        gramians: float64 `[..., m, m]`.
        tol: the gap up to which the status is CONVERGED.
        max_iter: limit on pivots.
    """
    *batch, m, _ = gramians.shape
    problems = gramians.reshape(-1, m, m).contiguous()
    count = len(problems)
    weights = torch.empty(count, m, dtype=torch.float64)
    gap = torch.empty(count, dtype=torch.float64)
    status, num_iter = torch.empty(2, count, dtype=torch.int64)
    compiled, why_not = library()
    assert compiled is not None, why_not
    compiled.moopt_min_norm(
        ctypes.c_void_p(problems.data_ptr()),
        ctypes.c_int64(count),
        ctypes.c_int64(m),
        ctypes.c_double(tol),
        ctypes.c_int64(max_iter),
        *(ctypes.c_void_p(out.data_ptr()) for out in (weights, status, gap, num_iter)),
        ctypes.c_int(_threads(count * m**3)),
    )
    shaped = (out.view(batch) for out in (status, gap, num_iter))
    return weights.view(*batch, m), *shaped  # type: ignore[return-value]


def _threads(n: int) -> int:
    return torch.get_num_threads() if n >= SEVERAL_THREADS else 1


def _call(name: str, table: Table, m: int, numbers: Tensor, threads: int) -> None:
    compiled, why_not = library()
    assert compiled is not None, why_not
    code = getattr(compiled, name)(
        ctypes.c_int(KINDS[table.dtype]),
        ctypes.c_void_p(table.addresses.data_ptr()),
        ctypes.c_int64(m),
        ctypes.c_int64(table.addresses.shape[1]),
        ctypes.c_void_p(table.parts.data_ptr()),
        ctypes.c_int64(len(table.parts)),
        ctypes.c_void_p(numbers.data_ptr()),
        ctypes.c_int(threads),
    )
    assert code == 0


def probe() -> str:
    """What differs from exact sums on small cases with every kind of border; empty if nothing."""
    longest = dict.fromkeys((1, 2, 3, 4, 5, 9), PART + 40)
    return (
        gramian_gate(gramian_native, _HOST, longest)
        or combine_gate(
            lambda rows, weights: combine_native_(rows, weights.tolist()), _HOST, longest
        )
        or update_gate(
            lambda rows, held, weights, numbers: combine_update_native_(
                rows, held, weights.tolist(), numbers
            ),
            _HOST,
            (1, 3),
        )
        or min_norm_gate(
            lambda g: min_norm_native(g, tol=CERTIFIED, max_iter=10 * g.shape[-1] + 20), _HOST
        )
    )
