"""The fused step: Gramian, weights and certificate in one Triton launch.

Every program adds its share of the inner products. The one that ends last adds up what all of them
left, in the order of the programs, and solves in registers. The order of the sums is fixed: the
same bits from run to run, whichever program ends last.
"""

import functools
from collections.abc import Collection, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from moopt.kernels import tolerances
from moopt.kernels.dual_cone.triton import dual_cone_tile
from moopt.kernels.gates import DTYPES
from moopt.kernels.gramian.triton import (
    BLOCKS,
    FEW_ROWS,
    TYPES,
    gramian_triton,
    pair_sums,
    programs_for,
)
from moopt.kernels.gramian_min_norm.gate import gramian_min_norm_gate
from moopt.kernels.gramian_min_norm.numbers import size_of
from moopt.kernels.min_norm.triton import (
    largest,
    min_norm_tile,
    product,
    smallest,
    tile_of,
    total,
    turned,
    warps_of,
)
from moopt.kernels.pieces import Position
from moopt.kernels.table import PART, tables
from moopt.records.device_point import DevicePoint
from moopt.records.status import SolverStatus

DESCENT_TOL = tl.constexpr(tolerances.DESCENT_TOL)
RESOLVED = tl.constexpr(tolerances.RESOLVED)
PROPORTIONATE = tl.constexpr(tolerances.PROPORTIONATE)
CONVERGED = tl.constexpr(int(SolverStatus.CONVERGED))
MAX_ITER = tl.constexpr(int(SolverStatus.MAX_ITER))
DEGENERATE = tl.constexpr(int(SolverStatus.DEGENERATE))
NON_FINITE = tl.constexpr(int(SolverStatus.NON_FINITE))
HULL = tl.constexpr(int(DevicePoint.HULL))
UNIT_HULL = tl.constexpr(int(DevicePoint.UNIT_HULL))
CONE_OF_EACH = tl.constexpr(int(DevicePoint.CONE_OF_EACH))


def gramian_min_norm_triton(
    checked: Sequence[Position],
    losses: Tensor,
    kept: Tensor,
    *,
    point: DevicePoint,
    known: Sequence[bool] | None = None,
    preference: Tensor | None = None,
    scale: Tensor | None = None,
    inactive_tol: float = 0.0,
    eps: float = 0.0,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> Tensor:
    """As `moopt.kernels.gramian_min_norm.gramian_min_norm`, of m <= `LARGEST_FUSED` rows.

    One launch for up to `FEW_ROWS` rows of one dtype and alignment; else one for each of those, and
    one that solves.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned; at least one entry.
        losses: float64 `[m]`, where the rows lie.
        kept, point, known, preference, scale: as for `gramian_min_norm`.
        inactive_tol, eps, tol, max_iter: as for `gramian_min_norm`.
    """
    m, device = len(losses), losses.device
    flags = [True] * m if known is None else list(known)
    bits = sum(1 << i for i, on in enumerate(flags) if on)
    packed = torch.empty(size_of(m), dtype=torch.float64, device=device)
    scale = _one(device) if scale is None else scale.double()
    tile = tile_of(m)
    after = {
        **{
            "losses": losses,
            "kept": kept,
            "preferences": kept if preference is None else preference,
        },
        **{"scales": scale, "packed": packed, "known": bits - (1 << 64 if bits >> 63 else 0)},
        **{
            "inactive_tol": inactive_tol,
            "eps": max(eps, 0.0),
            "tol": tol,
            "max_iter": 4 * m + 4 if max_iter is None else max_iter,
        },
        **{"M": m, "TILE": tile, "POINT": int(point)},
        "PREFERRED": preference is not None,
    }
    every = list(tables(checked, device)) if m <= FEW_ROWS else []
    if len(every) != 1:
        gramian = gramian_triton(checked, m, device)[0]
        solve_kernel[(1,)](gramian, **after, num_warps=warps_of(tile))
        return packed
    (table,) = every
    programs = programs_for(table)
    gramian_min_norm_kernel[(programs,)](
        table.addresses,
        table.parts,
        torch.empty(m * (m + 1) // 2, programs, dtype=torch.float64, device=device),
        _counter(device, torch.cuda.current_stream(device) if device.type == "cuda" else None),
        num_parts=len(table.parts),
        num_positions=table.addresses.shape[1],
        **after,
        WIDTH=triton.next_power_of_2(programs),
        BLOCK=BLOCKS[m],
        TYPE=TYPES[table.dtype],
        ALIGNED=table.aligned,
        num_warps=4,
    )
    return packed


@functools.cache
def _counter(device: torch.device, stream: object) -> Tensor:
    """How many programs have ended; the last one sets it back to zero."""
    return torch.zeros(1, dtype=torch.int32, device=device)


@functools.cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=device)


def probe(
    device: torch.device, width: int | None = None, dtypes: Collection[torch.dtype] = ()
) -> str:
    """What differs from the reference on small rows of every kind; empty if nothing.

    Args:
        device: where the rows are made.
        width: the number of rows, at most `LARGEST_FUSED`; None means some.
        dtypes: of the entries; none means all.
    """
    widths = (1, 3, FEW_ROWS + 1) if width is None else (width,)
    longest = {m: PART + 40 if m <= FEW_ROWS else 100 for m in widths}
    return gramian_min_norm_gate(gramian_min_norm_triton, device, longest, dtypes or DTYPES)


@triton.jit
def certified(gramian, norms, weights, active, eye, eps):
    """Whether a direction raises no active row and is more than rounding; and which it raises."""
    inner = product(gramian, weights, eye)
    length = tl.sqrt(tl.maximum(total(weights * inner), 0.0))
    size = total(tl.abs(weights) * norms)
    rounding = tl.maximum(eps, 64 * 2.220446049250313e-16)
    slack = norms * (DESCENT_TOL * length + rounding * size)
    raised = (inner < -slack) & (active > 0)
    # Written so that NaN is neither descent nor length.
    lowers = total(tl.where((inner >= -slack) | (active == 0), 0, 1)) == 0
    return lowers & (length * RESOLVED > eps * size), raised


@triton.jit
def settle(
    gramian,
    losses,
    kept,
    preferences,
    scales,
    packed,
    known,
    inactive_tol,
    eps,
    tol,
    max_iter,
    rows,
    cols,
    M: tl.constexpr,
    TILE: tl.constexpr,
    POINT: tl.constexpr,
    PREFERRED: tl.constexpr,
):
    """From a Gramian in registers to the packed numbers of the step: `weigh_reference`."""
    eye = rows == cols
    inside = cols < M
    factor = tl.load(scales)
    gramian = gramian / factor / factor
    value = tl.load(losses + cols, mask=inside, other=0.0)
    given = inside & (((known >> cols.to(tl.int64)) & 1) == 1)
    spoiled = total(tl.where(gramian - gramian != 0.0, 1, 0))
    spoiled += total(tl.where(given & (value - value != 0.0), 1, 0))
    finite = spoiled == 0
    safe = tl.where(finite, gramian, 0.0)
    norms = tl.sqrt(tl.maximum(tl.sum(tl.where(eye, safe, 0.0), axis=0, keep_dims=True), 0.0))

    longest = largest(norms)
    size = tl.abs(value)
    at_longest = smallest(tl.where(inside & (norms == longest), cols, TILE))
    size_of_longest = total(tl.where(cols == at_longest, size, 0.0))
    # (size / size_of_longest) / (norms / longest), without a division by zero.
    expected = size_of_longest * (norms / tl.where(longest > 0.0, longest, 1.0))
    small = (size * PROPORTIONATE > expected) & (size < PROPORTIONATE * expected)
    low = (norms <= inactive_tol * longest) & (small == 0)
    active = tl.where(low, 0, 1)
    active = tl.where(longest == 0.0, 1, active)
    active = tl.where(inactive_tol == 0.0, 1, active)
    if M == 1:
        active = tl.zeros([1, TILE], tl.int32) + 1
    active = tl.where(inside, active, 0)
    on = active > 0

    live = on & (norms > 0.0)
    live_down = turned(live.to(tl.float64), eye) > 0.0
    lengths = tl.where(live, norms, 1.0)
    units = 0.5 * safe + 0.5 * tl.trans(safe)
    units = units / turned(lengths, eye) / lengths
    units = tl.minimum(tl.maximum(units, -1.0), 1.0)
    units = tl.where(eye, 1.0, units)
    units = tl.where(live & live_down, units, 0.0)
    hull, hull_gap, hull_nothing, _, _ = min_norm_tile(units, active, rows, cols, max_iter, TILE)
    squared = tl.maximum(total(hull * product(units, hull, eye)), 0.0)
    stationarity = tl.where(hull_nothing, 0.0, tl.sqrt(squared))
    weights = hull / lengths
    gap = hull_gap
    nothing = hull_nothing
    exact = hull_gap <= tol
    if POINT == HULL:
        weights, gap, nothing, _, _ = min_norm_tile(safe, active, rows, cols, max_iter, TILE)
        exact = gap <= tol
    if POINT >= CONE_OF_EACH:
        wanted = tl.where(on, 1.0 / tl.maximum(total(active), 1), 0.0).to(tl.float64)
        if PREFERRED:
            wanted = tl.load(preferences + cols, mask=inside, other=0.0)
        each: tl.constexpr = POINT == CONE_OF_EACH
        weights, gap, nothing, _, _, sound = dual_cone_tile(
            safe, wanted, active, rows, cols, max_iter, M, TILE, each
        )
        exact = tl.where(sound > 0, 1, tl.where(gap <= tol, 1, 0)) > 0
        # A zero row gets no weight, unless there is no other.
        some = total(live.to(tl.int32))
        zeros = tl.where(on, 1.0 / tl.maximum(total(active), 1), 0.0).to(tl.float64)
        weights = tl.where(live, weights, tl.where(some > 0, 0.0, zeros))
    status = tl.where(exact, CONVERGED, MAX_ITER)
    status = tl.where(nothing, DEGENERATE, status)

    sound, raised = certified(safe, norms, weights, active, eye, eps)
    count = total(active).to(tl.float64)
    others = hull / lengths * (total(tl.where(on, norms, 0.0)) / count)
    sound2, raised2 = certified(safe, norms, others, active, eye, eps)
    falls = (sound == 0) & sound2 & finite
    weights = tl.where(sound, weights, tl.where(sound2, others, 0.0))
    raised = tl.where(sound, raised.to(tl.int32), raised2.to(tl.int32))
    status = tl.where(sound | sound2, status, DEGENERATE)
    status = tl.where(finite, status, NON_FINITE)
    weights = tl.where(finite, weights, 1.0 / M)
    active = tl.where(finite, active, tl.where(inside, 1, 0))

    idle = tl.load(kept + cols, mask=inside, other=0.0)
    idle = tl.where(active > 0, 0.0, idle + 1.0)
    fallbacks = tl.load(kept + M) + tl.where(falls, 1.0, 0.0)
    steps = tl.load(kept + M + 1) + 1.0
    tl.store(kept + cols, idle, mask=inside)
    tl.store(kept + M, fallbacks)
    tl.store(kept + M + 1, steps)

    tl.store(packed + cols, weights, mask=inside)
    tl.store(packed + M + cols, value, mask=inside)
    tl.store(packed + 2 * M + cols, active.to(tl.float64), mask=inside)
    rises = tl.where(finite, raised, 0)
    tl.store(packed + 3 * M + cols, rises.to(tl.float64), mask=inside)
    tl.store(packed + 4 * M + cols, idle, mask=inside)
    tl.store(packed + 5 * M + rows * M + cols, gramian, mask=inside & (rows < M))
    tail = packed + 5 * M + M * M
    tl.store(tail, status.to(tl.float64))
    tl.store(tail + 1, tl.where(finite, gap, float("nan")))
    tl.store(tail + 2, tl.where(finite, stationarity, float("nan")))
    tl.store(tail + 3, tl.where((sound | sound2) & finite, 1.0, 0.0))
    tl.store(tail + 4, tl.where(falls, 1.0, 0.0))
    tl.store(tail + 5, fallbacks)
    tl.store(tail + 6, steps)


@triton.jit
def solve_kernel(
    gramians,
    losses,
    kept,
    preferences,
    scales,
    packed,
    known,
    inactive_tol,
    eps,
    tol,
    max_iter,
    M: tl.constexpr,
    TILE: tl.constexpr,
    POINT: tl.constexpr,
    PREFERRED: tl.constexpr,
):
    """The step of a Gramian that lies in memory."""
    rows = tl.arange(0, TILE)[:, None]
    cols = tl.arange(0, TILE)[None, :]
    inside = (rows < M) & (cols < M)
    gramian = tl.load(gramians + rows * M + cols, mask=inside, other=0.0)
    settle(
        gramian,
        losses,
        kept,
        preferences,
        scales,
        packed,
        known,
        inactive_tol,
        eps,
        tol,
        max_iter,
        rows,
        cols,
        M,
        TILE,
        POINT,
        PREFERRED,
    )


@triton.jit
def gramian_min_norm_kernel(
    addresses,
    parts,
    partial,
    counter,
    losses,
    kept,
    preferences,
    scales,
    packed,
    num_parts,
    num_positions,
    known,
    inactive_tol,
    eps,
    tol,
    max_iter,
    M: tl.constexpr,
    TILE: tl.constexpr,
    POINT: tl.constexpr,
    PREFERRED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """A share of the inner products; and the whole step, in the program that ends last."""
    programs = tl.num_programs(0)
    whole = pair_sums(
        addresses,
        parts,
        addresses,
        num_parts,
        num_positions,
        M,
        BLOCK,
        TYPE,
        ALIGNED,
        METRIC=False,
        METRIC_TYPE=TYPE,
    )
    for pair in tl.static_range(M * (M + 1) // 2):
        tl.store(partial + pair * programs + tl.program_id(0), whole[pair])
    # All threads have stored before the one that counts says so; whoever counts last sees it all.
    tl.debug_barrier()
    ended = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
    if ended == programs - 1:
        rows = tl.arange(0, TILE)[:, None]
        cols = tl.arange(0, TILE)[None, :]
        lanes = tl.arange(0, WIDTH)
        gramian = tl.zeros([TILE, TILE], tl.float64)
        for i in tl.static_range(M):
            for j in tl.static_range(i, M):
                place = i * M - i * (i - 1) // 2 + (j - i)
                # Past the first cache, which other programs do not write to.
                sums = tl.load(
                    partial + place * programs + lanes,
                    mask=lanes < programs,
                    other=0.0,
                    cache_modifier=".cg",
                )
                here = ((rows == i) & (cols == j)) | ((rows == j) & (cols == i))
                gramian = tl.where(here, tl.sum(sums), gramian)
        tl.store(counter, 0)
        settle(
            gramian,
            losses,
            kept,
            preferences,
            scales,
            packed,
            known,
            inactive_tol,
            eps,
            tol,
            max_iter,
            rows,
            cols,
            M,
            TILE,
            POINT,
            PREFERRED,
        )
