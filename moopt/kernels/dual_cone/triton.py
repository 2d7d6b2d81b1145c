"""Projections onto the dual cone in Triton: one program for each problem, all of it in registers.

The pivots are those of `moopt.kernels.min_norm.triton`, the projections of the rows follow one
after another.
"""

from collections.abc import Collection

import torch
import triton
import triton.language as tl
from torch import Tensor

from moopt.kernels import tolerances
from moopt.kernels.dual_cone.gate import dual_cone_gate
from moopt.kernels.min_norm.triton import (
    largest,
    pivot,
    product,
    tile_of,
    total,
    turned,
    warps_of,
)
from moopt.records.status import SolverStatus

LARGEST = 32
"""Problems of more rows do not fit into the registers of one program."""

RESIDUAL_ROUNDING = tl.constexpr(tolerances.RESIDUAL_ROUNDING)
RESOLUTION = tl.constexpr(tolerances.RESOLUTION)
CONVERGED = tl.constexpr(int(SolverStatus.CONVERGED))
MAX_ITER = tl.constexpr(int(SolverStatus.MAX_ITER))
DEGENERATE = tl.constexpr(int(SolverStatus.DEGENERATE))
NON_FINITE = tl.constexpr(int(SolverStatus.NON_FINITE))


def dual_cone_triton(
    gramian: Tensor,
    preference: Tensor,
    active: Tensor,
    *,
    separate: bool,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `dual_cone_reference`, in one launch; m is at most `LARGEST`."""
    m = gramian.shape[-1]
    batch = torch.broadcast_shapes(gramian.shape[:-2], preference.shape[:-1], active.shape[:-1])
    problems = gramian.expand(*batch, m, m).reshape(-1, m, m).contiguous()
    count = len(problems)
    wanted = preference.expand(*batch, m).reshape(-1, m).double().contiguous()
    flags = active.expand(*batch, m).reshape(-1, m).to(torch.int8).contiguous()
    weights = torch.empty(count, m, dtype=torch.float64, device=gramian.device)
    status = torch.empty(count, dtype=torch.int64, device=gramian.device)
    gap = torch.empty(count, dtype=torch.float64, device=gramian.device)
    num_iter = torch.empty_like(status)
    tile = tile_of(m)
    if count:
        dual_cone_kernel[(count,)](
            problems,
            wanted,
            flags,
            weights,
            status,
            gap,
            num_iter,
            tol,
            4 * m + 4 if max_iter is None else max_iter,
            M=m,
            TILE=tile,
            SEPARATE=separate,
            num_warps=warps_of(tile),
        )
    shaped = (x.view(batch) for x in (status, gap, num_iter))
    return weights.view(*batch, m), *shaped  # type: ignore[return-value]


def probe(
    device: torch.device, width: int | None = None, dtypes: Collection[torch.dtype] = ()
) -> str:
    """What differs from the reference on small problems of every kind; empty if nothing.

    Args:
        device: where the Gramians are made.
        width: the number of rows; None means some.
        dtypes: Gramians are float64.
    """
    widths = (1, 2, 3, 8, 17) if width is None else (width,)
    return dual_cone_gate(dual_cone_triton, device, widths)


@triton.jit
def projected(cosines, start, rows, cols, eye, max_iter, TILE: tl.constexpr):
    """The shift s >= 0 of one combination of unit rows, its residual, and the number of pivots."""
    need = product(cosines, start, eye)
    table = cosines
    z = 0.0 - need
    size = total(tl.abs(start))
    face = tl.zeros([1, TILE], tl.int32)
    left_out = tl.zeros([1, TILE], tl.int32)
    fixed = tl.zeros([1, TILE], tl.float64)
    value = tl.sum(tl.zeros([TILE], tl.float64), axis=0)
    enter = tl.sum(tl.zeros([TILE], tl.int32), axis=0)
    driving = enter
    count = enter
    trips = enter
    go = enter + 1
    while (go > 0) & (trips < max_iter):
        table, z, face, driving, enter, value, made, stuck, _ = pivot(
            table, z, face, left_out, driving, enter, value, size, rows, cols, TILE
        )
        # A row along whose path nothing blocks has a product that is zero up to rounding.
        here = tl.where(cols == enter, stuck, 0)
        fixed = tl.where(here > 0, fixed + value, fixed)
        left_out = tl.where(driving > 0, 0, tl.maximum(left_out, here))
        count += made
        go = made + stuck
        trips += 1
    fixed += tl.where((cols == enter) & (driving > 0), value, 0.0)
    s = tl.where(face > 0, tl.maximum(z, 0.0), 0.0)
    rest = 0.0 - (need + product(cosines, s + fixed, eye))
    s = s - product(table, tl.where(face > 0, rest, 0.0), eye)
    s = tl.where(face > 0, tl.maximum(s, 0.0), 0.0) + fixed
    wrong = tl.abs(tl.minimum(s, need + product(cosines, s, eye)))
    return s, largest(wrong), count


@triton.jit
def dual_cone_tile(
    gramian,
    preference,
    active,
    rows,
    cols,
    max_iter,
    M: tl.constexpr,
    TILE: tl.constexpr,
    SEPARATE: tl.constexpr,
):
    """The projection of one Gramian in registers.

    Args:
        gramian: float64 `[TILE, TILE]`.
        preference: float64 `[1, TILE]`.
        active: int32 `[1, TILE]`, 0 for rows that do not exist.

    Returns:
        weights `[1, TILE]`, gap, whether the point is zero up to rounding, whether the problem is
        finite, the number of pivots, and 1 where what is left of the gap is rounding.
    """
    eye = rows == cols
    on = active > 0
    on_down = tl.sum(tl.where(eye, active, 0), axis=1, keep_dims=True) > 0
    bad = (gramian - gramian != 0.0) & on & on_down
    spoiled = total(tl.where(bad, 1, 0))
    spoiled += total(tl.where(on & (preference - preference != 0.0), 1, 0))
    finite = spoiled == 0
    gramian = tl.where(on & on_down & finite, gramian, 0.0)
    norms = tl.sqrt(tl.maximum(tl.sum(tl.where(eye, gramian, 0.0), axis=0, keep_dims=True), 0.0))
    live = on & (norms > 0.0)
    norms = tl.where(live, norms, 1.0)
    live_down = turned(live.to(tl.float64), eye) > 0.0
    cosines = 0.5 * gramian + 0.5 * tl.trans(gramian)
    cosines = cosines / turned(norms, eye) / norms
    cosines = tl.minimum(tl.maximum(cosines, -1.0), 1.0)
    cosines = tl.where(eye, 1.0, tl.where(live & live_down, cosines, 0.0))
    lengths = tl.where(live, preference, 0.0) * norms
    scale = largest(tl.abs(lengths))
    scale = tl.where(scale > 0.0, scale, 1.0)
    relative = lengths / scale
    if SEPARATE:
        shift = tl.zeros([1, TILE], tl.float64)
        residual = tl.sum(tl.zeros([TILE], tl.float64), axis=0)
        num_iter = tl.sum(tl.zeros([TILE], tl.int32), axis=0)
        for p in range(M):
            start = tl.where(cols == p, 1.0, 0.0)
            s, wrong, more = projected(cosines, start, rows, cols, eye, max_iter, TILE)
            share = total(tl.where(cols == p, relative, 0.0))
            shift += share * s
            residual += tl.abs(share) * wrong
            num_iter += more
    else:
        shift, residual, num_iter = projected(cosines, relative, rows, cols, eye, max_iter, TILE)
    v = relative + shift
    square = total(v * product(cosines, v, eye))
    size = total(tl.abs(v))
    nothing = square <= RESOLUTION * size * size
    gap = tl.where(nothing, 0.0, residual / tl.sqrt(tl.where(nothing, 1.0, square)))
    weights = tl.where(on, preference, 0.0)
    weights = tl.where(live, weights + shift * scale / norms, weights)
    shares = on.to(tl.float64)
    weights = tl.where(finite, weights, shares / tl.maximum(total(shares), 1.0))
    sound = tl.where(residual <= RESIDUAL_ROUNDING * size, 1, 0)
    return weights, gap, nothing, finite, num_iter, sound


@triton.jit
def dual_cone_kernel(
    gramians,
    preferences,
    actives,
    weights,
    statuses,
    gaps,
    counts,
    tol,
    max_iter,
    M: tl.constexpr,
    TILE: tl.constexpr,
    SEPARATE: tl.constexpr,
):
    problem = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, TILE)[:, None]
    cols = tl.arange(0, TILE)[None, :]
    inside = (rows < M) & (cols < M)
    gramian = tl.load(gramians + problem * M * M + rows * M + cols, mask=inside, other=0.0)
    preference = tl.load(preferences + problem * M + cols, mask=cols < M, other=0.0)
    active = tl.load(actives + problem * M + cols, mask=cols < M, other=0).to(tl.int32)
    w, gap, nothing, finite, num_iter, sound = dual_cone_tile(
        gramian, preference, active, rows, cols, max_iter, M, TILE, SEPARATE
    )
    status = tl.where(gap <= tol, CONVERGED, MAX_ITER)
    status = tl.where(sound > 0, CONVERGED, status)
    status = tl.where(nothing, DEGENERATE, status)
    status = tl.where(finite, status, NON_FINITE)
    tl.store(weights + problem * M + cols, w, mask=cols < M)
    tl.store(statuses + problem, status.to(tl.int64))
    tl.store(gaps + problem, tl.where(finite, gap, float("nan")))
    tl.store(counts + problem, num_iter.to(tl.int64))
