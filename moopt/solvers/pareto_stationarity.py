"""stationarity: how far a point is from Pareto stationarity, whatever the losses' scales."""

from typing import NamedTuple

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.min_norm import min_norm_point


class Stationarity(NamedTuple):
    """The distance from stationarity, and the point that attains it.

    Attributes:
        value: float64 `[...]`, in [0, 1].
        result: weights of the minimum-norm point of the *unit* gradients, with its certificate.

    Example:
        >>> from moopt.solvers import Stationarity
        >>> Stationarity._fields
        ('value', 'result')
    """

    value: Tensor
    result: SolverResult


def stationarity(gramian: Tensor, *, active: Tensor | None = None) -> Stationarity:
    """The smallest norm in the convex hull of the active unit gradients.

    With u_i = g_i / ||g_i|| it is `min over the simplex of ||sum_i w_i u_i||`: 0 exactly at Pareto
    stationary points, 1 where all gradients point the same way. The common descent direction that
    attains it has this cosine, or a larger one, with every gradient.

    Args:
        gramian: real floating `[..., m, m]`, the inner products of the gradients.
        active: bool `[..., m]`; other rows have no influence. None means all.

    Returns:
        `Stationarity(value, result)`. A zero gradient makes the point stationary. NaN where an
        active entry is not finite.

    Numerics: invariant to the scale of every row.

    Example:
        >>> import torch
        >>> from moopt.solvers import stationarity
        >>> G = torch.tensor([[1.0, -2.0], [-2.0, 4.0]], dtype=torch.float64)
        >>> float(stationarity(G).value)
        0.0
        >>> round(float(stationarity(torch.eye(4)).value), 6)
        0.5
    """
    gramian = gramian.to(torch.float64)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    scale = norms.where(norms > 0, 1.0)
    # Dividing twice keeps the product of two small norms from underflowing.
    cosines = gramian / scale[..., :, None] / scale[..., None, :]
    result = min_norm_point(cosines, active=active)
    if active is not None:
        # Weight 0 times NaN would still be NaN.
        cosines = cosines.masked_fill(~(active[..., :, None] & active[..., None, :]), 0.0)
    image = (cosines @ result.weights[..., None])[..., 0]
    value = (result.weights * image).sum(-1).clamp_min(0.0).sqrt()
    value = value.masked_fill(result.status == int(SolverStatus.DEGENERATE), 0.0)
    value = value.masked_fill(result.status == int(SolverStatus.NON_FINITE), float("nan"))
    return Stationarity(value, result)
