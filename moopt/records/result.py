"""SolverResult: what every solver returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SolverResult(NamedTuple):
    """Weights with their certificate.

    Attributes:
        weights: float64 `[..., m]`, the solution.
        status: int64 `[...]`, codes of `moopt.SolverStatus`.
        gap: float64 `[...]`, a relative duality gap (>= 0; dimensionless): the certificate.
        num_iter: int64 `[...]`, iterations or pivots taken.

    Example:
        >>> import torch
        >>> from moopt.solvers import min_norm_point
        >>> result = min_norm_point(torch.eye(2, dtype=torch.float64))
        >>> result.weights.tolist()
        [0.5, 0.5]
    """

    weights: Tensor
    status: Tensor
    gap: Tensor
    num_iter: Tensor
