"""The minimum-norm point in plain PyTorch: no branch on values, no host synchronisation."""

import math

import torch
from torch import Tensor

from moopt.kernels.faces import LARGEST_ENUMERATED, Pivots, concluded, scale_free, solved_on_faces
from moopt.kernels.tolerances import CERTIFIED, RESOLUTION, STATIONARY

LARGEST_FUSED = 64
"""Rows of a problem that fit into the registers of one program of a GPU."""


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
    cosines, norms, live, finite = scale_free(gramian, active)
    zero = active & ~live & finite[..., None]
    shortest = torch.where(live, norms, math.inf).amin(-1, keepdim=True)
    r = torch.where(live, shortest / norms, 0.0)
    cosines = cosines[..., None, :, :]

    # The second right-hand side is the hull of the unit rows: where rows much longer than the
    # shortest cancel, r is lost in the rounding of C + r r^T, and it finds the weights without r.
    right = torch.stack([r, live.to(r.dtype)], -2)
    if enumerate_faces if enumerate_faces is not None else m <= LARGEST_ENUMERATED:
        v, num_iter = _best_face(cosines, right)
    else:
        v, num_iter = _pivoted(cosines, right, 3 * m + 4 if max_iter is None else max_iter)
    gaps, stationary, unresolved = _judged(cosines, r[..., None, :], v)
    doubtful = (unresolved[..., 0] | (gaps[..., 0] > CERTIFIED)) & ~stationary[..., 0]
    second = doubtful & unresolved.any(-1)
    weights = r * torch.where(second[..., None], v[..., 1, :], v[..., 0, :])
    weights = weights / weights.sum(-1, keepdim=True)
    gap = torch.where(second, gaps[..., 1], gaps[..., 0])
    degenerate = stationary | unresolved
    degenerate = torch.where(second, degenerate[..., 1], degenerate[..., 0])
    num_iter = torch.where(doubtful, num_iter.sum(-1), num_iter[..., 0])

    any_zero = zero.any(-1)
    weights = torch.where(any_zero[..., None], zero.double() / zero.sum(-1, keepdim=True), weights)
    gap = torch.where(any_zero, 0.0, gap)
    weights, status, gap = concluded(weights, gap, degenerate | any_zero, active, finite, tol)
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
    v, independent = solved_on_faces(cosines + r[..., :, None] * r[..., None, :], r)
    feasible = independent & (v >= 0.0).all(-1) & (v.sum(-1) > 0.0)
    v = torch.where(feasible[..., None], v.abs(), 1.0)  # abs: no weight of -0.0
    v = v / v.amax(-1, keepdim=True)
    gap, stationary, unresolved = _judged(cosines[..., None, :, :], r[..., None, :], v)
    # A zero up to rounding has no gap worth comparing: it wins, the closest to zero first.
    squared = (v * (v @ cosines)).sum(-1)
    score = torch.where(stationary | unresolved, squared / v.sum(-1).square() - 1.0, gap)
    score = torch.where(feasible & ~score.isnan(), score, math.inf)
    best = score.argmin(-1)[..., None, None]
    v = v.take_along_dim(best, -2)[..., 0, :]
    return v, torch.full_like(r[..., 0], 2 ** r.shape[-1] - 1, dtype=torch.int64)


def _pivoted(cosines: Tensor, r: Tensor, trips: int) -> tuple[Tensor, Tensor]:
    """The active-set method of `moopt.solvers.active_set`, one pivot a trip."""
    pivots = Pivots(cosines + r[..., :, None] * r[..., None, :], r, 1.0)
    direction = torch.zeros_like(r)
    done = torch.zeros_like(r[..., :1], dtype=torch.bool)
    for _ in range(trips):
        found, slope = pivots.pivot(done)
        now = found.any(-1, keepdim=True)
        falling = torch.where(pivots.face, (-slope).clamp_min(0.0), 0.0)
        direction = torch.where(now, torch.where(found, 1.0, falling), direction)
        done = done | now

    def residual(v: Tensor) -> Tensor:
        return r * (1.0 - (r * v).sum(-1, keepdim=True)) - (cosines * v[..., None, :]).sum(-1)

    return torch.where(done, direction, pivots.refined(0.0, residual)), pivots.count
