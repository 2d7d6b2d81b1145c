"""SolverResult and Solved: weights with their certificate, as tensors and as plain numbers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moopt.records.status import SolverStatus

Array = NDArray[np.float64]
"""float64, on the host."""

State = Mapping[str, NDArray[Any]]
"""What a method keeps from step to step: a flat dictionary of arrays."""


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


class Solved(NamedTuple):
    """The same for one problem in plain numbers: what a method answers.

    Attributes:
        weights: float64 `[m]`.
        status: how the solver ended; None for methods without one.
        gap: its certificate; NaN for methods without one.
        num_iter: iterations or pivots taken.
        state: the method's next state; None leaves it as it was.

    Example:
        >>> import numpy as np
        >>> from moopt.records.result import Solved
        >>> Solved(np.ones(2)).gap
        nan
    """

    weights: Array
    status: SolverStatus | None = None
    gap: float = math.nan
    num_iter: int = 0
    state: State | None = None
