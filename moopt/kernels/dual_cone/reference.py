"""Projections onto the dual cone in plain PyTorch: no branch on values, no synchronisation."""

import math

import torch
from torch import Tensor

from moopt.kernels.min_norm.reference import LARGEST_ENUMERATED
from moopt.kernels.min_norm.tolerances import DEPENDENT, RESOLUTION, ROUNDING
from moopt.kernels.sweep import swept
from moopt.records.status import SolverStatus


def dual_cone_reference(
    gramian: Tensor,
    preference: Tensor,
    active: Tensor,
    *,
    separate: bool,
    tol: float = 1e-10,
    max_iter: int | None = None,
    enumerate_faces: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Combine projections onto the dual cone; shapes and launches depend on `m` only.

    Args:
        gramian: float64 `[..., m, m]`, on any device.
        preference: float64 `[..., m]`, the combination u.
        active: bool `[..., m]`; the others get weight 0 and have no influence.
        separate: False projects `sum_i u_i g_i`; True returns `sum_i u_i` times the projection
            of g_i.
        tol: the gap up to which the status is CONVERGED; default 1e-10.
        max_iter: the number of pivots, all of which are executed; default `4 m + 4`. Enumeration
            ignores it.
        enumerate_faces: try every face (m <= 10) instead of pivoting; default for m <= 8.

    Returns:
        weights float64 `[..., m]`, status int64 `[...]`, gap float64 `[...]` and num_iter int64
        `[...]`, as in `moopt.solvers.dual_cone.dual_cone_point`.

    Numerics: works in scale-free coordinates, as on the host, with the same tolerances. Reads no
        value, so that it runs on meta tensors and is traceable by
        `torch.compile(fullgraph=True)`.

    Example:
        >>> import torch
        >>> from moopt.kernels.dual_cone import dual_cone_reference
        >>> G = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
        >>> u, on = torch.ones(2, dtype=torch.float64), torch.tensor([True, True])
        >>> dual_cone_reference(G, u, on, separate=True)[0].tolist()
        [2.0, 1.25]
    """
    m = gramian.shape[-1]
    pairs = active[..., :, None] & active[..., None, :]
    finite = (gramian.isfinite() | ~pairs).all(-1).all(-1)
    finite = finite & (preference.isfinite() | ~active).all(-1)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    live = active & (norms > 0.0) & finite[..., None]
    norms = torch.where(live, norms, 1.0)
    pairs = live[..., :, None] & live[..., None, :]
    eye = torch.eye(m, dtype=torch.bool, device=gramian.device)
    cosines = torch.where(pairs, 0.5 * gramian + 0.5 * gramian.mT, 0.0)
    # Two divisions: the product of two norms can underflow where the entry does not.
    cosines = (cosines / norms[..., :, None] / norms[..., None, :]).clamp(-1.0, 1.0)
    cosines = torch.where(eye, 1.0, cosines)

    lengths = torch.where(live, preference, 0.0) * norms
    scale = lengths.abs().amax(-1, keepdim=True)
    scale = torch.where(scale > 0.0, scale, 1.0)
    relative = lengths / scale
    if separate:
        starts, shares = eye.to(cosines.dtype), relative
    else:
        starts, shares = relative[..., None, :], torch.ones_like(relative[..., :1])
    need = starts @ cosines
    if enumerate_faces if enumerate_faces is not None else m <= LARGEST_ENUMERATED:
        shifts = _best_face(cosines[..., None, :, :], starts, need)
        num_iter = torch.full_like(need[..., 0], 2**m, dtype=torch.int64)
    else:
        trips = 4 * m + 4 if max_iter is None else max_iter
        shifts, num_iter = _pivoted(cosines[..., None, :, :], starts, need, trips)
    residual = _residual(shifts, need + shifts @ cosines)
    residual = (shares.abs() * residual).sum(-1)
    shift = (shares[..., None, :] @ shifts)[..., 0, :]
    v = relative + shift
    square = (v * (cosines @ v[..., None])[..., 0]).sum(-1)
    zero = square <= RESOLUTION * v.abs().sum(-1).square()
    gap = torch.where(zero, 0.0, residual / torch.where(zero, 1.0, square).sqrt())

    weights = torch.where(active, preference, 0.0)
    weights = torch.where(live, weights + shift * scale / norms, weights)
    uniform = active / active.sum(-1, keepdim=True).clamp_min(1).to(weights.dtype)
    weights = torch.where(finite[..., None], weights, uniform)
    gap = torch.where(finite, gap, math.nan)
    status = torch.where(gap <= tol, int(SolverStatus.CONVERGED), int(SolverStatus.MAX_ITER))
    status = torch.where(zero, int(SolverStatus.DEGENERATE), status)
    status = torch.where(finite, status, int(SolverStatus.NON_FINITE))
    return weights, status, gap, num_iter.sum(-1).expand(status.shape)


def _residual(shift: Tensor, y: Tensor) -> Tensor:
    """max_i |min(s_i, y_i)|: zero where, and only where, s is the solution."""
    return torch.minimum(shift, y).abs().amax(-1)


def _best_face(cosines: Tensor, starts: Tensor, need: Tensor) -> Tensor:
    """s of the face with the smallest relative residual, all faces at once."""
    m = need.shape[-1]
    codes = torch.arange(2**m, device=need.device)
    faces = (codes[:, None] >> torch.arange(m, device=need.device)) & 1 == 1
    pairs = faces[:, :, None] & faces[:, None, :]
    a = torch.where(
        pairs, cosines[..., None, :, :], torch.eye(m, dtype=need.dtype, device=need.device)
    )
    table = a
    regular = torch.ones_like(a[..., 0, 0], dtype=torch.bool)
    for p in range(m):
        diagonal = table[..., p, p]
        regular = regular & (diagonal > DEPENDENT)
        at_pivot = torch.arange(m, device=need.device) == p
        table = swept(table, table[..., p, :], diagonal, at_pivot, torch.ones_like(diagonal))
    right = torch.where(faces, -need[..., None, :], 0.0)
    s = -(table @ right[..., None])[..., 0]
    s = s - (table @ (right[..., None] - a @ s[..., None]))[..., 0]
    s = torch.where(regular[..., None] & faces, s.clamp_min(0.0), 0.0)
    v = starts[..., None, :] + s
    y = (cosines[..., None, :, :] @ v[..., None])[..., 0]
    square = (v * y).sum(-1)
    size = v.abs().sum(-1)
    # Where the point is zero up to rounding its length is noise, and its terms are the measure.
    measure = torch.maximum(square, RESOLUTION * size.square()).sqrt()
    score = torch.where(
        measure > 0.0, _residual(s, y) / torch.where(measure > 0.0, measure, 1.0), 0.0
    )
    best = score.nan_to_num(nan=math.inf).argmin(-1)[..., None, None]
    return s.take_along_dim(best, -2)[..., 0, :]


def _pivoted(cosines: Tensor, starts: Tensor, need: Tensor, trips: int) -> tuple[Tensor, Tensor]:
    """`moopt.solvers.active_set.cone_active_set`, one pivot a trip."""
    rows = torch.arange(need.shape[-1], device=need.device)
    table = cosines.expand(*need.shape[:-1], *cosines.shape[-2:])
    z = -need
    # One shape for all that the trips carry.
    start_size = torch.zeros_like(z[..., 0]) + starts.abs().sum(-1)
    face = torch.zeros_like(z, dtype=torch.bool)
    left_out = face
    fixed = torch.zeros_like(z)
    driving = torch.zeros_like(start_size, dtype=torch.bool)
    enter = torch.zeros_like(start_size, dtype=torch.int64)
    entering_value = torch.zeros_like(start_size)
    pivots = enter
    for _ in range(trips):
        level, candidate = torch.where(face | left_out, 0.0, z).max(-1)
        noise = ROUNDING * (start_size + torch.where(face, z, 0.0).sum(-1))
        enter = torch.where(driving, enter, candidate)
        busy = driving | (level > noise)
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
        ray = busy & length.isinf()
        move = busy & ~ray
        pivot = torch.where(blocked, first, enter)
        at_pivot = rows == pivot[..., None]

        length = torch.where(move, length, 0.0)
        entering_value = torch.where(driving, entering_value, 0.0) + length
        moved = z - length[..., None] * slope
        moved = torch.where(at_pivot, torch.where(blocked, 0.0, entering_value)[..., None], moved)
        z = torch.where(move[..., None], moved, z)
        row = table.take_along_dim(pivot[..., None, None], -2)[..., 0, :]
        on_diagonal = torch.where(at_pivot, row, 0.0).sum(-1)
        sign = torch.where(blocked, -1.0, torch.ones_like(length))
        after = swept(table, row, on_diagonal, at_pivot, sign)
        table = torch.where(move[..., None, None], after, table)
        face = torch.where(move[..., None], face ^ at_pivot, face)
        # A row along whose path nothing blocks has a product that is zero up to rounding.
        fixed = torch.where(ray[..., None] & entering, fixed + entering_value[..., None], fixed)
        left_out = torch.where(ray[..., None], left_out | entering, left_out)
        left_out = left_out & ~(move & blocked)[..., None]
        driving = move & blocked
        pivots = pivots + move.to(pivots.dtype)
    # Trips that ended half way: the row that entered in part is feasible, and better than nothing.
    entering = (rows == enter[..., None]) & driving[..., None]
    fixed = torch.where(entering, fixed + entering_value[..., None], fixed)
    s = torch.where(face, z.clamp_min(0.0), 0.0)
    error = -(need + (cosines @ (s + fixed)[..., None])[..., 0])
    correction = (table @ torch.where(face, error, 0.0)[..., None])[..., 0]
    s = torch.where(face, (s - correction).clamp_min(0.0), 0.0)
    return s + fixed, pivots
