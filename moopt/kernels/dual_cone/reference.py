"""Projections onto the dual cone in plain PyTorch: no branch on values, no synchronisation."""

import math

import torch
from torch import Tensor

from moopt.kernels.faces import LARGEST_ENUMERATED, Pivots, concluded, scale_free, solved_on_faces
from moopt.kernels.tolerances import RESIDUAL_ROUNDING, RESOLUTION


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
    cosines, norms, live, finite = scale_free(gramian, active)
    finite = finite & (preference.isfinite() | ~active).all(-1)
    live = live & finite[..., None]
    lengths = torch.where(live, preference, 0.0) * norms
    scale = lengths.abs().amax(-1, keepdim=True)
    scale = torch.where(scale > 0.0, scale, 1.0)
    relative = lengths / scale
    if separate:
        starts, shares = torch.eye(m, dtype=norms.dtype, device=norms.device), relative
    else:
        starts, shares = relative[..., None, :], torch.ones_like(relative[..., :1])
    need = starts @ cosines
    if enumerate_faces if enumerate_faces is not None else m <= LARGEST_ENUMERATED:
        shifts = _best_face(cosines[..., None, :, :], starts, need)
        num_iter = torch.full_like(need[..., 0], 2**m, dtype=torch.int64)
    else:
        trips = 4 * m + 4 if max_iter is None else max_iter
        shifts, num_iter = _pivoted(cosines[..., None, :, :], starts, need, trips)
    residual = (shares.abs() * _residual(shifts, need + shifts @ cosines)).sum(-1)
    shift = (shares[..., None, :] @ shifts)[..., 0, :]
    v = relative + shift
    square = (v * (cosines @ v[..., None])[..., 0]).sum(-1)
    size = v.abs().sum(-1)
    zero = square <= RESOLUTION * size.square()
    gap = torch.where(zero, 0.0, residual / torch.where(zero, 1.0, square).sqrt())

    sound = residual <= RESIDUAL_ROUNDING * size
    weights = torch.where(active, preference, 0.0)
    weights = torch.where(live, weights + shift * scale / norms, weights)
    weights, status, gap = concluded(weights, gap, zero, active, finite, tol, sound)
    return weights, status, gap, num_iter.sum(-1).expand(status.shape)


def _residual(shift: Tensor, y: Tensor) -> Tensor:
    """max_i |min(s_i, y_i)|: zero where, and only where, s is the solution."""
    return torch.minimum(shift, y).abs().amax(-1)


def _best_face(cosines: Tensor, starts: Tensor, need: Tensor) -> Tensor:
    """s of the face with the smallest relative residual, all faces at once."""
    s, independent = solved_on_faces(cosines, -need)
    s = torch.where(independent[..., None], s.clamp_min(0.0), 0.0)
    v = starts[..., None, :] + s
    y = (cosines[..., None, :, :] @ v[..., None])[..., 0]
    square = (v * y).sum(-1)
    size = v.abs().sum(-1)
    # Where the point is zero up to rounding its length is noise, and its terms are the measure.
    measure = torch.maximum(square, RESOLUTION * size.square()).sqrt()
    score = torch.where(measure > 0.0, _residual(s, y) / measure, 0.0)
    best = score.nan_to_num(nan=math.inf).argmin(-1)[..., None, None]
    return s.take_along_dim(best, -2)[..., 0, :]


def _pivoted(cosines: Tensor, starts: Tensor, need: Tensor, trips: int) -> tuple[Tensor, Tensor]:
    """`moopt.solvers.active_set.cone_active_set`, one pivot a trip."""
    table = cosines.expand(*need.shape[:-1], *cosines.shape[-2:])
    pivots = Pivots(table, -need, starts.abs().sum(-1))
    fixed = torch.zeros_like(need)
    left_out = torch.zeros_like(need, dtype=torch.bool)
    for _ in range(trips):
        found, _ = pivots.pivot(left_out)
        # A row along whose path nothing blocks has a product that is zero up to rounding.
        fixed = torch.where(found, fixed + pivots.value[..., None], fixed)
        left_out = (left_out | found) & ~pivots.driving[..., None]

    def residual(s: Tensor) -> Tensor:
        return -(need + (cosines @ s[..., None])[..., 0])

    return pivots.refined(fixed, residual), pivots.count
