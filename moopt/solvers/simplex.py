"""simplex_projection: the nearest point of the probability simplex."""

import numpy as np
import torch
from torch import Tensor

from moopt.records.result import Array, Solved
from moopt.solvers.door import each_problem


def project_onto_simplex(vector: Array) -> Array:
    """`simplex_projection` of one finite vector, float64 `[m]`, m >= 1."""
    # theta >= max(v) - 1: entries below it have weight zero, wherever they would overflow.
    v = np.maximum(vector - np.maximum.reduce(vector), -1.0)
    ordered = np.sort(v)[::-1]
    theta = float(np.maximum.reduce((ordered.cumsum() - 1.0) / np.arange(1.0, len(v) + 1.0)))
    weights = np.maximum(v - theta, 0.0)
    projected: Array = weights / np.add.reduce(weights)
    return projected


def simplex_projection(vector: Tensor, *, active: Tensor | None = None) -> Tensor:
    """The Euclidean projection of each vector onto the simplex of its active entries.

    Solves `min_w ||w - vector||^2` subject to `w >= 0, sum(w) = 1` and `w_i = 0` for inactive i.
    The solution is `w_i = max(vector_i - theta, 0)`, with theta such that the sum is one.

    Args:
        vector: real floating `[..., m]`.
        active: bool, broadcastable to `[..., m]`; None means all.

    Returns:
        float64 `[..., m]`, >= 0, with sum 1; exactly 0 on inactive entries (zero where nothing is
        active). Uniform over the active entries where one of them is NaN or infinite.

    Numerics: exact up to rounding, by one sort; the entries that share the weight are known
        without iteration.

    Example:
        >>> import torch
        >>> from moopt.solvers import simplex_projection
        >>> simplex_projection(torch.tensor([0.5, 1.5, -2.0])).tolist()
        [0.0, 1.0, 0.0]
        >>> simplex_projection(torch.tensor([0.75, 1.0])).tolist()
        [0.375, 0.625]

    Source: M. Held, P. Wolfe and H. P. Crowder, "Validation of subgradient optimization",
    Mathematical Programming 6, 1974, https://doi.org/10.1007/BF01580223; J. Duchi, S.
    Shalev-Shwartz, Y. Singer and T. Chandra, "Efficient projections onto the l1-ball for learning
    in high dimensions", ICML 2008, https://doi.org/10.1145/1390156.1390191.
    """

    def solve(one: Array, on: Array) -> Solved:
        weights = np.zeros(len(one))
        if on.any():
            kept = one[on]
            finite = bool(np.isfinite(kept).all())
            weights[on] = project_onto_simplex(kept) if finite else 1.0 / len(kept)
        return Solved(weights)

    on = torch.ones_like(vector, dtype=torch.bool) if active is None else active
    return each_problem(solve, (vector, 1), (on, 1)).weights
