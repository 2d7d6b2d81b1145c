"""The minimum-norm point in Triton: one program for each problem, all of it in registers.

The pivots are those of `moopt.kernels.faces.Pivots`, one after another until none is
left, so that a solve takes as many as it needs and a batch is one launch. Vectors lie along the
columns `[1, TILE]` and are turned by the diagonal of a tile: Triton 3.6 fails on loops that mix
row and column slices.
"""

from collections.abc import Collection

import torch
import triton
import triton.language as tl
from torch import Tensor

from moopt.kernels import tolerances
from moopt.kernels.gates import min_norm_gate
from moopt.kernels.min_norm.reference import LARGEST_FUSED
from moopt.records.status import SolverStatus

LARGEST = LARGEST_FUSED
"""Problems of more rows do not fit into the registers of one program."""

CERTIFIED = tl.constexpr(tolerances.CERTIFIED)
DEPENDENT = tl.constexpr(tolerances.DEPENDENT)
RESOLUTION = tl.constexpr(tolerances.RESOLUTION)
RESIDUAL_ROUNDING = tl.constexpr(tolerances.RESIDUAL_ROUNDING)
STATIONARY = tl.constexpr(tolerances.STATIONARY)
CONVERGED = tl.constexpr(int(SolverStatus.CONVERGED))
MAX_ITER = tl.constexpr(int(SolverStatus.MAX_ITER))
DEGENERATE = tl.constexpr(int(SolverStatus.DEGENERATE))
NON_FINITE = tl.constexpr(int(SolverStatus.NON_FINITE))


def min_norm_triton(
    gramian: Tensor,
    active: Tensor | None = None,
    *,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `min_norm_reference`, in one launch; m is at most `LARGEST`."""
    m, batch = gramian.shape[-1], gramian.shape[:-2]
    if active is None:
        active = torch.ones_like(gramian[..., 0], dtype=torch.bool)
    flags = active.expand(*batch, m).reshape(-1, m).to(torch.int8).contiguous()
    problems = gramian.reshape(-1, m, m).contiguous()
    count = len(problems)
    weights = torch.empty(count, m, dtype=torch.float64, device=gramian.device)
    status = torch.empty(count, dtype=torch.int64, device=gramian.device)
    gap = torch.empty(count, dtype=torch.float64, device=gramian.device)
    num_iter = torch.empty_like(status)
    tile = tile_of(m)
    if count:
        min_norm_kernel[(count,)](
            problems,
            flags,
            weights,
            status,
            gap,
            num_iter,
            tol,
            3 * m + 4 if max_iter is None else max_iter,
            M=m,
            TILE=tile,
            num_warps=warps_of(tile),
        )
    shaped = (x.view(batch) for x in (status, gap, num_iter))
    return weights.view(*batch, m), *shaped  # type: ignore[return-value]


def tile_of(m: int) -> int:
    """The width of the square of registers that holds m rows."""
    return max(4, int(triton.next_power_of_2(m)))


def warps_of(tile: int) -> int:
    """The warps of a program; one of up to 8 rows needs no barrier."""
    return 1 if tile <= 8 else 4 if tile <= 32 else 8


def probe(
    device: torch.device, width: int | None = None, dtypes: Collection[torch.dtype] = ()
) -> str:
    """What differs from the reference on small problems of every kind; empty if nothing.

    Args:
        device: where the Gramians are made.
        width: the number of rows; None means some.
        dtypes: Gramians are float64.
    """
    widths = (1, 2, 3, 8, 17, LARGEST) if width is None else (width,)
    for m in widths:
        active = torch.arange(m, device=device) != 1
        gramian = torch.where(active, 1.0, 0.01).double().diag()
        weights = min_norm_triton(gramian, active)[0]
        if not bool((weights[~active] == 0.0).all()):
            return f"m = {m}: a row that is not active has a weight"
    return min_norm_gate(min_norm_triton, device, widths)


@triton.jit
def turned(x, eye):
    """A vector along the columns as one along the rows."""
    return tl.sum(tl.where(eye, x, 0.0), axis=1, keep_dims=True)


@triton.jit
def total(x):
    return tl.sum(tl.sum(x, axis=1), axis=0)


@triton.jit
def largest(x):
    return tl.max(tl.max(x, axis=1), axis=0)


@triton.jit
def smallest(x):
    return tl.min(tl.min(x, axis=1), axis=0)


@triton.jit
def product(matrix, x, eye):
    """`matrix @ x` for a symmetric matrix."""
    return tl.sum(matrix * turned(x, eye), axis=0, keep_dims=True)


@triton.jit
def pivot(table, z, face, left_out, driving, enter, value, size, rows, cols, TILE: tl.constexpr):
    """One pivot, as `moopt.kernels.faces.Pivots.pivot` makes it, where one is to be made.

    Returns:
        table, z, face, driving, enter, value after it; whether it was made; whether nothing blocks
        the path of the entering row; and how fast v falls on the face along that path.
    """
    free = tl.where((face > 0) | (left_out > 0), 0.0, z)
    level = largest(free)
    candidate = smallest(tl.where(free == level, cols, TILE))
    noise = RESIDUAL_ROUNDING * (size + total(tl.where(face > 0, z, 0.0)))
    busy = (driving > 0) | (level > noise)
    enter = tl.where(driving > 0, enter, candidate)
    at_enter = cols == enter
    slope = tl.sum(tl.where(rows == enter, table, 0.0), axis=0, keep_dims=True)
    diagonal = total(tl.where(at_enter, slope, 0.0))
    missing = total(tl.where(at_enter, z, 0.0))
    independent = diagonal > DEPENDENT
    length = tl.where(independent, missing / tl.where(independent, diagonal, 1.0), float("inf"))
    blocks = (face > 0) & (slope > 0.0)
    ratios = tl.where(blocks, tl.maximum(z, 0.0) / tl.where(blocks, slope, 1.0), float("inf"))
    ratio = smallest(ratios)
    first = smallest(tl.where(ratios == ratio, cols, TILE))
    blocked = ratio < length
    length = tl.minimum(ratio, length)
    move = busy & (length < float("inf"))
    stuck = busy & (length == float("inf"))
    length = tl.where(move, length, 0.0)
    value = tl.where(driving > 0, value, 0.0) + length
    row = tl.where(blocked, first, enter)
    at = cols == row
    at_down = rows == row
    across = tl.sum(tl.where(at_down, table, 0.0), axis=0, keep_dims=True)
    down = tl.sum(tl.where(at, table, 0.0), axis=1, keep_dims=True)
    corner = total(tl.where(at, across, 0.0))
    corner = tl.where(move, corner, 1.0)
    sign = tl.where(blocked, -1.0, 1.0)
    swept = table - down * (across / corner)
    swept = tl.where(at_down, sign * across / corner, swept)
    swept = tl.where(at, sign * down / corner, swept)
    swept = tl.where(at & at_down, -1.0 / corner, swept)
    table = tl.where(move, swept, table)
    arrived = tl.where(blocked, 0.0, value)
    z = tl.where(move, tl.where(at, arrived, z - length * slope), z)
    face = tl.where(move, tl.where(at, 1 - face, face), face)
    driving = tl.where(move & blocked, 1, 0)
    made = tl.where(move, 1, 0)
    return table, z, face, driving, enter, value, made, tl.where(stuck, 1, 0), slope


@triton.jit
def pivoted(cosines, right, right_down, rows, cols, eye, max_iter, TILE: tl.constexpr):
    """v >= 0 with `(C + r r^T) v = r` on its face, and the number of pivots."""
    table = cosines + right_down * right
    z = right
    face = tl.zeros([1, TILE], tl.int32)
    direction = tl.zeros([1, TILE], tl.float64)
    value = tl.sum(tl.zeros([TILE], tl.float64), axis=0)
    enter = tl.sum(tl.zeros([TILE], tl.int32), axis=0)
    driving = enter
    count = enter
    found = enter
    trips = enter
    go = enter + 1
    while (go > 0) & (trips < max_iter):
        table, z, face, driving, enter, value, go, stuck, slope = pivot(
            table, z, face, face, driving, enter, value, 1.0, rows, cols, TILE
        )
        falling = tl.where(face > 0, tl.maximum(-slope, 0.0), 0.0)
        direction = tl.where(stuck > 0, tl.where(cols == enter, 1.0, falling), direction)
        found = tl.maximum(found, stuck)
        count += go
        trips += 1
    fixed = tl.where((cols == enter) & (driving > 0), value, 0.0)
    v = tl.where(face > 0, tl.maximum(z, 0.0), 0.0)
    whole = v + fixed
    rest = right * (1.0 - total(right * whole)) - product(cosines, whole, eye)
    v = v - product(table, tl.where(face > 0, rest, 0.0), eye)
    v = tl.where(face > 0, tl.maximum(v, 0.0), 0.0) + fixed
    return tl.where(found > 0, direction, v), count


@triton.jit
def judged(cosines, r, v, eye, live):
    """The gap of the weights `r v`, and whether the point is zero or lost in rounding."""
    y = product(cosines, v, eye)
    squared = total(v * y)
    s = total(r * v)
    level = squared / tl.where(s > 0.0, s, 1.0)
    worst = tl.maximum(largest(tl.where(live, r * level - y, 0.0)), 0.0)
    positive = squared > 0.0
    gap = worst / tl.sqrt(tl.where(positive, squared, 1.0))
    gap = tl.where(positive | (worst == 0.0), gap, float("inf"))
    gap = tl.where(s > 0.0, gap, float("inf"))
    size = total(v)
    return gap, squared <= STATIONARY * s * s, squared <= RESOLUTION * size * size


@triton.jit
def min_norm_tile(gramian, active, rows, cols, max_iter, TILE: tl.constexpr):
    """The minimum-norm point of one Gramian in registers.

    Args:
        gramian: float64 `[TILE, TILE]`.
        active: int32 `[1, TILE]`, 0 for rows that do not exist.

    Returns:
        weights `[1, TILE]`, gap, whether the point is zero up to rounding, whether the problem is
        finite, and the number of pivots.
    """
    eye = rows == cols
    on = active > 0
    on_down = tl.sum(tl.where(eye, active, 0), axis=1, keep_dims=True) > 0
    bad = (gramian - gramian != 0.0) & on & on_down
    finite = total(tl.where(bad, 1, 0)) == 0
    gramian = tl.where(on & on_down & finite, gramian, 0.0)
    norms = tl.sqrt(tl.maximum(tl.sum(tl.where(eye, gramian, 0.0), axis=0, keep_dims=True), 0.0))
    live = on & (norms > 0.0)
    norms = tl.where(live, norms, 1.0)
    norms_down = turned(norms, eye)
    live_down = turned(live.to(tl.float64), eye) > 0.0
    cosines = 0.5 * gramian + 0.5 * tl.trans(gramian)
    cosines = cosines / norms_down / norms
    cosines = tl.minimum(tl.maximum(cosines, -1.0), 1.0)
    cosines = tl.where(eye, 1.0, tl.where(live & live_down, cosines, 0.0))
    shortest = smallest(tl.where(live, norms, float("inf")))
    r = tl.where(live, shortest / norms, 0.0)
    r_down = tl.where(live_down, shortest / norms_down, 0.0)
    v, num_iter = pivoted(cosines, r, r_down, rows, cols, eye, max_iter, TILE)
    gap, stationary, unresolved = judged(cosines, r, v, eye, live)
    if (unresolved | (gap > CERTIFIED)) & (stationary == 0):
        # Where rows much longer than the shortest cancel, r is lost in the rounding of C + r r^T,
        # and the hull of the unit rows finds the weights without it.
        ones, ones_down = live.to(tl.float64), live_down.to(tl.float64)
        v2, more = pivoted(cosines, ones, ones_down, rows, cols, eye, max_iter, TILE)
        gap2, stationary2, unresolved2 = judged(cosines, r, v2, eye, live)
        num_iter += more
        if unresolved | unresolved2:
            v, gap, stationary, unresolved = v2, gap2, stationary2, unresolved2
    weights = r * v
    sum_of_weights = total(weights)
    weights = weights / tl.where(sum_of_weights > 0.0, sum_of_weights, 1.0)
    zero_rows = (on & (live == 0)).to(tl.float64)
    zeros = total(zero_rows)
    weights = tl.where(zeros > 0.0, zero_rows / tl.maximum(zeros, 1.0), weights)
    gap = tl.where(zeros > 0.0, 0.0, gap)
    nothing = stationary | unresolved | (zeros > 0.0)
    num_iter = tl.where((zeros > 0.0) | (finite == 0), 0, num_iter)
    shares = on.to(tl.float64)
    weights = tl.where(finite, weights, shares / tl.maximum(total(shares), 1.0))
    return weights, gap, nothing, finite, num_iter


@triton.jit
def min_norm_kernel(
    gramians,
    actives,
    weights,
    statuses,
    gaps,
    counts,
    tol,
    max_iter,
    M: tl.constexpr,
    TILE: tl.constexpr,
):
    problem = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, TILE)[:, None]
    cols = tl.arange(0, TILE)[None, :]
    inside = (rows < M) & (cols < M)
    gramian = tl.load(gramians + problem * M * M + rows * M + cols, mask=inside, other=0.0)
    active = tl.load(actives + problem * M + cols, mask=cols < M, other=0).to(tl.int32)
    everyone = tl.where(cols < M, 1, 0)
    active = tl.where(total(active) > 0, active, everyone)
    w, gap, nothing, finite, num_iter = min_norm_tile(gramian, active, rows, cols, max_iter, TILE)
    status = tl.where(gap <= tol, CONVERGED, MAX_ITER)
    status = tl.where(nothing, DEGENERATE, status)
    status = tl.where(finite, status, NON_FINITE)
    tl.store(weights + problem * M + cols, w, mask=cols < M)
    tl.store(statuses + problem, status.to(tl.int64))
    tl.store(gaps + problem, tl.where(finite, gap, float("nan")))
    tl.store(counts + problem, num_iter.to(tl.int64))
