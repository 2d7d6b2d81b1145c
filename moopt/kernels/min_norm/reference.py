"""The minimum-norm point in plain PyTorch: no branch on values, no host synchronisation."""

import math

import torch
from torch import Tensor

from moopt.kernels.min_norm.tolerances import (
    CERTIFIED,
    DEPENDENT,
    RESOLUTION,
    ROUNDING,
    STATIONARY,
)
from moopt.kernels.sweep import swept
from moopt.records.status import SolverStatus

# Up to here 2^m - 1 faces at once are fewer kernel launches than one pivot after the other.
LARGEST_ENUMERATED = 8


def min_norm_reference(
    gramian: Tensor,
    active: Tensor | None = None,
    *,
    tol: float = 1e-10,
    max_iter: int | None = None,
    enumerate_faces: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Minimise w^T G w over the simplex, with shapes and launches that depend on `m` only.

    Args:
        gramian: float64 `[..., m, m]`, on any device.
        active: bool `[..., m]`; rows that are not active get weight 0 and have no influence.
            None, or no active row at all, means all.
        tol: the gap up to which the status is CONVERGED; default 1e-10.
        max_iter: the number of pivots, all of which are executed; default `3 m + 4`. Enumeration
            ignores it.
        enumerate_faces: try every face (m <= 10) instead of pivoting; default for m <= 8.

    Returns:
        weights float64 `[..., m]`, status int64 `[...]`, gap float64 `[...]` and num_iter int64
        `[...]`, as in `moopt.solvers.SolverResult`.

    Numerics: works in scale-free coordinates, as `moopt.solvers.min_norm_point` on the host, with
        the same tolerances. Reads no value, so that it runs on meta tensors and is traceable by
        `torch.compile(fullgraph=True)`.

    Example:
        >>> import torch
        >>> from moopt.kernels.min_norm import min_norm_reference
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> [round(w, 6) for w in min_norm_reference(G)[0].tolist()]
        [0.8, 0.2]
    """
    m = gramian.shape[-1]
    if active is None:
        active = torch.ones_like(gramian[..., 0], dtype=torch.bool)
    active = (active | ~active.any(-1, keepdim=True)).expand(gramian.shape[:-1])
    pairs = active[..., :, None] & active[..., None, :]
    finite = (gramian.isfinite() | ~pairs).all(-1).all(-1)
    eye = torch.eye(m, dtype=torch.bool, device=gramian.device)
    gramian = torch.where(pairs & finite[..., None, None], gramian, eye.to(gramian.dtype))

    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    zero = active & (norms == 0.0)
    # Zero and inactive rows: a harmless length, overwritten or cut off below.
    lengths = torch.where(active & ~zero, norms, 1.0)
    shortest = torch.where(active & ~zero, norms, math.inf).amin(-1, keepdim=True)
    r = torch.where(active & ~zero, shortest / lengths, 0.0)
    cosines = 0.5 * gramian + 0.5 * gramian.mT
    cosines = cosines / lengths[..., :, None] / lengths[..., None, :]
    usable = r > 0.0
    cosines = torch.where(
        usable[..., :, None] & usable[..., None, :], cosines.clamp(-1.0, 1.0), 0.0
    )
    cosines = torch.where(eye, 1.0, cosines)

    # The second right-hand side is the hull of the unit rows: where rows much longer than the
    # shortest cancel, r is lost in the rounding of C + r r^T, and it finds the weights without r.
    right = torch.stack([r, usable.to(r.dtype)], -2)
    if enumerate_faces if enumerate_faces is not None else m <= LARGEST_ENUMERATED:
        v, num_iter = _best_face(cosines[..., None, :, :], right)
    else:
        trips = 3 * m + 4 if max_iter is None else max_iter
        v, num_iter = _pivoted(cosines[..., None, :, :], right, trips)
    gaps, stationary, unresolved = _judged(cosines[..., None, :, :], r[..., None, :], v)
    doubtful = (unresolved[..., 0] | (gaps[..., 0] > CERTIFIED)) & ~stationary[..., 0]
    second = doubtful & unresolved.any(-1)
    weights = r * torch.where(second[..., None], v[..., 1, :], v[..., 0, :])
    weights = weights / weights.sum(-1, keepdim=True)
    gap = torch.where(second, gaps[..., 1], gaps[..., 0])
    degenerate = stationary | unresolved
    degenerate = torch.where(second, degenerate[..., 1], degenerate[..., 0])
    num_iter = torch.where(doubtful, num_iter.sum(-1), num_iter[..., 0])

    any_zero = zero.any(-1)
    weights = torch.where(any_zero[..., None], zero / zero.sum(-1, keepdim=True), weights)
    weights = torch.where(
        finite[..., None], weights, active / active.sum(-1, keepdim=True).to(weights.dtype)
    )
    gap = torch.where(any_zero, 0.0, gap)
    gap = torch.where(finite, gap, math.nan)
    status = torch.where(
        degenerate | any_zero,
        int(SolverStatus.DEGENERATE),
        torch.where(gap <= tol, int(SolverStatus.CONVERGED), int(SolverStatus.MAX_ITER)),
    )
    status = torch.where(finite, status, int(SolverStatus.NON_FINITE))
    num_iter = torch.where(any_zero | ~finite, 0, num_iter)
    return weights, status, gap, num_iter


def _judged(cosines: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """gap, stationary, unresolved: `moopt.solvers.equilibrated.certificate` on tensors."""
    y = (cosines * v[..., None, :]).sum(-1)
    squared = (v * y).sum(-1)
    s = (r * v).sum(-1)
    worst = (r * (squared / s)[..., None] - y).amax(-1).clamp_min(0.0)
    positive = squared > 0.0
    gap = worst / torch.where(positive, squared, 1.0).sqrt()
    gap = torch.where(positive | (worst == 0.0), gap, math.inf)
    return gap, squared <= STATIONARY * s * s, squared <= RESOLUTION * v.sum(-1).square()


def _best_face(cosines: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """v of the face with the best certificate: `moopt.solvers.exhaustive`, all faces at once."""
    m = r.shape[-1]
    codes = torch.arange(1, 2**m, device=r.device)
    faces = (codes[:, None] >> torch.arange(m, device=r.device)) & 1 == 1
    a = (cosines + r[..., :, None] * r[..., None, :])[..., None, :, :]
    pairs = faces[:, :, None] & faces[:, None, :]
    a = torch.where(pairs, a, torch.eye(m, dtype=r.dtype, device=r.device))
    right = torch.where(faces, r[..., None, :], 0.0)

    table = a
    regular = torch.ones_like(right[..., 0], dtype=torch.bool)
    for p in range(m):
        regular = regular & (table[..., p, p] > DEPENDENT)
        at_pivot = torch.arange(m, device=r.device) == p
        table = swept(
            table, table[..., p, :], table[..., p, p], at_pivot, torch.ones_like(right[..., 0])
        )
    v = -(table @ right[..., None])[..., 0]
    v = v - (table @ (right[..., None] - a @ v[..., None]))[..., 0]

    feasible = regular & (v >= 0.0).all(-1) & (v.sum(-1) > 0.0)
    v = torch.where(feasible[..., None], v.abs(), faces.to(r.dtype))  # abs: no weight of -0.0
    v = v / v.amax(-1, keepdim=True)
    gap, stationary, unresolved = _judged(cosines[..., None, :, :], r[..., None, :], v)
    # A zero up to rounding has no gap worth comparing: it wins, the closest to zero first.
    squared = (v * (v @ cosines)).sum(-1)
    score = torch.where(stationary | unresolved, squared / v.sum(-1).square() - 1.0, gap)
    score = torch.where(feasible & ~score.isnan(), score, math.inf)
    best = score.argmin(-1)[..., None, None]
    v = v.take_along_dim(best, -2)[..., 0, :]
    return v, torch.full_like(r[..., 0], 2**m - 1, dtype=torch.int64)


def _pivoted(cosines: Tensor, r: Tensor, trips: int) -> tuple[Tensor, Tensor]:
    """The active-set method of `moopt.solvers.active_set`, one pivot a trip."""
    rows = torch.arange(r.shape[-1], device=r.device)
    table = cosines + r[..., :, None] * r[..., None, :]
    z = r
    face = torch.zeros_like(r, dtype=torch.bool)
    driving = torch.zeros_like(r[..., 0], dtype=torch.bool)
    done = driving
    ray = driving
    enter = torch.zeros_like(r[..., 0], dtype=torch.int64)
    entering_value = torch.zeros_like(r[..., 0])
    pivots = enter
    for _ in range(trips):
        level, candidate = torch.where(face, 0.0, z).max(-1)
        noise = ROUNDING * (1.0 + torch.where(face, z, 0.0).sum(-1))
        enter = torch.where(driving, enter, candidate)
        done = done | (~driving & ~(level > noise))
        entering = rows == enter[..., None]
        slope = table.take_along_dim(enter[..., None, None], -2)[..., 0, :]
        diagonal = torch.where(entering, slope, 0.0).sum(-1)
        reduced = torch.where(entering, z, 0.0).sum(-1)
        dependent = diagonal <= DEPENDENT
        length = torch.where(dependent, math.inf, reduced / torch.where(dependent, 1.0, diagonal))
        blocks = face & (slope > 0.0)
        ratio = torch.where(blocks, z.clamp_min(0.0) / torch.where(blocks, slope, 1.0), math.inf)
        ratio, first = ratio.min(-1)
        blocked = ratio < length
        length = torch.minimum(ratio, length)
        found = ~done & length.isinf()
        move = ~done & ~found
        pivot = torch.where(blocked, first, enter)
        at_pivot = rows == pivot[..., None]

        length = torch.where(move, length, 0.0)
        entering_value = torch.where(driving, entering_value, 0.0) + length
        moved = z - length[..., None] * slope
        moved = torch.where(at_pivot, torch.where(blocked, 0.0, entering_value)[..., None], moved)
        direction = torch.where(entering, 1.0, torch.where(face, (-slope).clamp_min(0.0), 0.0))
        z = torch.where(move[..., None], moved, torch.where(found[..., None], direction, z))
        row = table.take_along_dim(pivot[..., None, None], -2)[..., 0, :]
        on_diagonal = torch.where(at_pivot, row, 0.0).sum(-1)
        sign = torch.where(blocked, -1.0, torch.ones_like(length))
        after = swept(table, row, on_diagonal, at_pivot, sign)
        table = torch.where(move[..., None, None], after, table)
        face = torch.where(
            move[..., None], face ^ at_pivot, torch.where(found[..., None], face | entering, face)
        )
        driving = move & blocked
        ray = ray | found
        done = done | found
        pivots = pivots + move.to(pivots.dtype)
    # Trips that ended half way: the row that entered in part is feasible, and better than nothing.
    entering = (rows == enter[..., None]) & driving[..., None]
    v = torch.where(face, z.clamp_min(0.0), 0.0)
    residual = r * (1.0 - (r * v).sum(-1, keepdim=True)) - (cosines * v[..., None, :]).sum(-1)
    correction = (table * torch.where(face, residual, 0.0)[..., None, :]).sum(-1)
    refined = torch.where(face, (v - correction).clamp_min(0.0), 0.0)
    v = torch.where((ray | driving)[..., None], v, refined)
    return torch.where(entering, entering_value[..., None], v), pivots
