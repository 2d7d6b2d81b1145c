"""simplex_projection: the nearest point of the probability simplex."""

from __future__ import annotations

import torch
from torch import Tensor


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
        without iteration. Branch-free; reads no value, so it does not synchronise a device.

    Example:
        >>> import torch
        >>> from moopt.solvers import simplex_projection
        >>> simplex_projection(torch.tensor([0.5, 1.5, -2.0])).tolist()
        [0.0, 1.0, 0.0]
        >>> simplex_projection(torch.tensor([0.75, 1.0])).tolist()
        [0.375, 0.625]

    Source: M. Held, P. Wolfe and H. P. Crowder, "Validation of subgradient optimization",
    Mathematical Programming 6, 1974; J. Duchi, S. Shalev-Shwartz, Y. Singer and T. Chandra,
    "Efficient projections onto the l1-ball for learning in high dimensions", ICML 2008.
    """
    v = vector.to(torch.float64)
    on = torch.ones_like(v, dtype=torch.bool)
    if active is not None:
        on = on & active
    finite = (torch.isfinite(v) | ~on).all(-1, keepdim=True)
    v = torch.where(on & finite, v, -torch.inf)
    # theta >= max(v) - 1, so that an entry at the maximum minus one has weight zero: the place
    # where inactive entries, and all that would overflow, do no harm.
    v = (v - v.amax(-1, keepdim=True)).nan_to_num(nan=-1.0).clamp_min(-1.0)
    ordered = v.sort(-1, descending=True).values
    count = torch.arange(1, v.shape[-1] + 1, dtype=torch.float64, device=v.device)
    theta = ((ordered.cumsum(-1) - 1.0) / count).amax(-1, keepdim=True)
    weights = (v - theta).clamp_min(0.0)
    weights = torch.where(finite & on, weights, on.to(torch.float64))
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
