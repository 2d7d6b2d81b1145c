"""quota_point: the nearest vector that makes at least given progress on every gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.dual_cone import dual_cone_point

FARTHEST = 1e4
"""Distance, in units of the problem's lengths, from which quotas count as infeasible: gradients
opposite up to an angle of 1e-4 or so."""

RESIDUAL_TOL = 1e-9
"""Residual of the optimality conditions, in units of the problem's lengths, that is zero: the
rounding 2e-16, times `FARTHEST`, with two digits to spare."""


def quota_point(cosines: Tensor, start: Tensor, quotas: Tensor, walls: Tensor) -> SolverResult:
    """Return the coefficients of the nearest vector to a given one that meets every quota.

    With unit rows U and cosines C = U U', `argmin ||U' y - U' x||` subject to
    `u_j . U' y >= quota_j` for every wall j: `y = x + s` with `s >= 0` on the walls.

    Args:
        cosines: float64 `[..., m, m]`, finite; rows and columns of absent gradients are 0.
        start: float64 `[..., m]`, x.
        quotas: float64 `[..., m]`, >= 0; read on the walls only.
        walls: bool `[..., m]`.

    Returns:
        y; the gap is `max_j |min(s_j, slack_j)|`, in units of `||U' x|| + max_j quota_j`; the
        status is CONVERGED, or INFEASIBLE where the gap stays above 1e-9: no vector within 1e4 of
        these units meets the quotas.

    Numerics: with one more coordinate, so long that the answer keeps it, the constraints become a
        cone, and `dual_cone_point` solves the problem; the residual is computed afresh.

    Example:
        >>> import torch
        >>> from moopt.solvers.quota_point import quota_point
        >>> C = torch.eye(2, dtype=torch.float64)
        >>> x, quotas = torch.tensor([[1.0, 0.0], [0.0, 0.75]], dtype=torch.float64)
        >>> y = quota_point(C, x, quotas, torch.tensor([False, True])).weights
        >>> [round(value, 12) for value in y.tolist()]
        [1.0, 0.75]
    """
    along = _apply(cosines, start)
    need = torch.where(walls, along - quotas, 0.0)
    unit = (start * along).sum(-1, keepdim=True).clamp_min(0.0).sqrt()
    unit = unit + torch.where(walls, quotas, 0.0).amax(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)
    pairs = walls[..., :, None] & walls[..., None, :]
    column = torch.cat([need, (FARTHEST * unit).square()], -1)
    cone = torch.nn.functional.pad(torch.where(pairs, cosines, 0.0), (0, 0, 0, 1))
    # The last row is that of x with the long coordinate.
    cone = torch.cat([cone, column[..., None]], -1)
    cone = torch.cat([cone[..., :-1, :], column[..., None, :]], -2)
    preference = torch.zeros_like(column)
    preference[..., -1].fill_(1.0)
    active = torch.nn.functional.pad(walls, (0, 1), value=True)
    solved = dual_cone_point(cone, preference, active=active)
    shift = torch.where(walls, solved.weights[..., :-1], 0.0).clamp_min(0.0)
    slack = need + torch.where(walls, _apply(cosines, shift), 0.0)
    gap = (torch.minimum(shift, slack).abs() / unit).amax(-1)
    status = torch.where(
        gap <= RESIDUAL_TOL, int(SolverStatus.CONVERGED), int(SolverStatus.INFEASIBLE)
    )
    return SolverResult(start + shift, status, gap, solved.num_iter)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, batched."""
    return (matrix @ vector[..., None])[..., 0]
