"""role_sums: the Gramian of the sums of the gradients of each role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from moopt.settings.roles import membership
from moopt.weightings.mean import mean_weights
from moopt.weightings.unit_rows import all_finite, pairs

CANCELLED = 64 * torch.finfo(torch.float64).eps
"""||sum g_i||^2 below this share of (sum ||g_i||)^2 is rounding: the sum is zero."""


class RoleSums(NamedTuple):
    """The sums of the active gradients of each of k roles, as if their losses were added up.

    Attributes:
        norms: float64 `[..., k]`; 0 where a role is absent or its sum is rounding.
        cosines: float64 `[..., k, k]`, in [-1, 1]; 0 where a norm is 0, the diagonal too.
        members: bool `[..., k, m]`, the active objectives of each role.
        finite: bool `[...]`; False where an active entry is NaN or infinite.
        active: bool `[..., m]`.
    """

    norms: Tensor
    cosines: Tensor
    members: Tensor
    finite: Tensor
    active: Tensor

    def weights(self, coefficients: Tensor) -> Tensor:
        """From `[..., k]` coefficients of the sums to `[..., m]` weights of the objectives.

        Uniform over the active objectives where the Gramian is not finite.
        """
        spread = torch.where(self.members, coefficients[..., :, None], 0.0).sum(-2)
        # `mean_weights` reads no more than the shape and the device of its first argument.
        uniform = mean_weights(self.active[..., None], active=self.active)
        return torch.where(self.finite[..., None], spread, uniform)


def role_sums(
    gramian: Tensor, roles: Sequence[Sequence[int]], active: Tensor | None = None
) -> RoleSums:
    """Return norms and cosines of the sums of the gradients of each role.

    Args:
        gramian: float64 `[..., m, m]`.
        roles: k lists of positions.
        active: bool `[..., m]`; None means all.

    Numerics: the inner products of sums lose as many digits as the gradients of one role cancel; a
    sum below `CANCELLED` of its terms is zero. No synchronisation.
    """
    m = gramian.shape[-1]
    on = torch.ones_like(gramian[..., 0], dtype=torch.bool)
    if active is not None:
        on = on & active.to(gramian.device)
    members = torch.stack([membership(role, m, gramian.device) for role in roles])
    members = members & on[..., None, :]
    finite = all_finite(gramian, None if active is None else on)
    clean = torch.where(pairs(on) & finite[..., None, None], gramian, 0.0)
    chosen = members.to(clean.dtype)
    inner = chosen @ clean @ chosen.mT
    squares = inner.diagonal(dim1=-2, dim2=-1)
    lengths = clean.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    total = (chosen * lengths[..., None, :]).sum(-1)
    present = squares > CANCELLED * total.square()
    norms = torch.where(present, squares, 0.0).sqrt()
    safe = torch.where(present, norms, 1.0)
    # Dividing twice keeps the product of two small norms from underflowing.
    cosines = (inner / safe[..., :, None] / safe[..., None, :]).clamp(-1.0, 1.0)
    cosines = torch.where(present[..., :, None] & present[..., None, :], cosines, 0.0)
    return RoleSums(norms, cosines, members, finite, on)
