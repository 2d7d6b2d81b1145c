"""AlignedMTL: the principal components of the gradients, made equally long."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.solvers.principal_components import principal_components
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.weightings.aligned_mtl_on_host import aligned_mtl_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.dual_space_mgda import CANCELLED
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.old_preference import (
    Preference,
    checked_preference,
    preference_needs,
    preference_vector,
)
from moopt.weightings.unit_rows import unit_rows

ScaleMode = Literal["min", "median", "rmse"]

SMALLEST_EIGENVALUE = 1e-8
"""Relative: rounding of the Gramian, 1e-16, then moves the smallest component by 1e-8 at most."""


def aligned_mtl_weights(
    gramian: Tensor,
    preference: Tensor | None = None,
    *,
    active: Tensor | None = None,
    scale_mode: ScaleMode = "min",
    rtol: float = SMALLEST_EIGENVALUE,
) -> Tensor:
    """Return `w = scale V diag(1 / sigma) V' p` over the principal components of the gradients.

    With `G = V diag(sigma^2) V'` over the non-zero sigma. The matrix of the aligned gradients
    has all its singular values equal to `scale`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        preference: float64 `[m]` or `[..., m]`, p; None means `1 / (number of active)`.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        scale_mode: "min", the smallest non-zero sigma; "median", the (lower) median of them;
            "rmse", the root of their mean square.
        rtol: relative cut-off of the eigenvalues of the cosines, below which sigma is zero;
            default 1e-8.

    Returns:
        float64 `[..., m]`, of any sign; p where every gradient is zero, uniform where an active
        entry is not finite.

    Example:
        >>> import torch
        >>> from moopt.weightings.aligned_mtl import aligned_mtl_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> aligned_mtl_weights(G).tolist()
        [0.5, 0.25]
    """
    gramian = gramian.detach()
    if gramian.dim() == 2 and runs_on_host(gramian):
        solved = aligned_mtl_on_host(gramian, preference, active, scale_mode, rtol, CANCELLED)
        if solved is not None:
            return torch.from_numpy(solved)
    rows = unit_rows(gramian, active)
    uniform = mean_weights(gramian, active=rows.on)
    p = uniform if preference is None else torch.where(rows.on, preference, 0.0)
    norms = torch.where(rows.live, rows.norms, 0.0)
    largest = norms.amax(-1, keepdim=True)
    relative = norms / torch.where(largest > 0, largest, 1.0)
    sigma, vectors, rank = principal_components(rows.cosines, relative, rtol=rtol)
    if scale_mode == "rmse":
        mean = sigma.square().sum(-1, keepdim=True) / rank.clamp_min(1)[..., None]
        scale = mean.sqrt()
    else:
        # sigma falls: the smallest is the last of `rank`, the lower median in the middle.
        chosen = (rank - 1).clamp_min(0) if scale_mode == "min" else rank // 2
        scale = sigma.gather(-1, chosen[..., None])
    lengths = scale / torch.where(sigma > 0, sigma, 1.0)
    shares = (p[..., None, :] @ vectors)[..., 0, :]
    terms = (p.abs()[..., None, :] @ vectors.abs())[..., 0, :]
    # A preference orthogonal to a component has no share of it, not a rounding of one.
    shares = torch.where(shares.abs() > CANCELLED * terms, shares, 0.0)
    weights = (vectors * (lengths * shares)[..., None, :]).sum(-1)
    weights = torch.where((rank > 0)[..., None], weights, p)
    weights = torch.where(rows.finite[..., None], weights, uniform)
    return torch.where(rows.on, weights, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignedMTL(Weighting):
    """Align the principal components of the gradients, then average.

    The gradients `J = V diag(sigma) E'` are replaced by the matrix with the same singular vectors
    and all singular values equal, `scale V E'`, whose condition number is one: no direction in
    the span of the gradients dominates for its size. In weights: `w = scale V diag(1/sigma) V' p`.
    Only non-zero singular values count, so that dependent gradients do not stop the training.

    Args:
        scale_mode: "min" (default), the smallest non-zero singular value, the paper's; "median"
            (lower) or "rmse" (root mean square), of the authors' code.
        preference: one number >= 0 per objective, by position or by name, not renormalised when
            an objective is inactive; default `1 / (number of active objectives)`.
        rtol: relative cut-off in [0, 1), default 1e-8, of the eigenvalues of the *cosines*: the
            rank does not depend on the norms, and a small gradient is not cut off. Gradients
            that differ by less than 1e-4 of their length count as one.

    Raises:
        ValueError: if a setting is out of range; at the call, if an objective has no preference.

    Numerics: sigma is accurate relative to itself, see `moopt.solvers.principal_components`. With
    "min" the step shrinks with the *smallest* component, and near a loss of rank it jumps: a
    discontinuity of the method. Common descent is not promised. NaN or infinity among the active
    rows gives uniform weights. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G)
        >>> moopt.weightings.AlignedMTL()(statistics).weights.tolist()
        [0.5, 0.25]
        >>> moopt.weightings.AlignedMTL(preference=[1.0, 0.0])(statistics).weights.tolist()
        [1.0, 0.0]

    Source: D. Senushkin, N. Patakin, A. Kuznetsov and A. Konushin, "Independent Component
    Alignment for Multi-Task Learning", CVPR 2023, Algorithm 1; the scale modes follow the authors'
    code (through a peer's adaptation of it). We differ in deciding the rank on the cosines, where
    the code drops eigenvalues of the Gramian below `m eps` of the largest, and with them every
    gradient at less than about 1e-8 of the others.
    """

    scale_mode: ScaleMode = "min"
    preference: Preference | None = None
    rtol: float = SMALLEST_EIGENVALUE

    name: ClassVar[str] = "AlignedMTL"
    source: ClassVar[str] = (
        "D. Senushkin, N. Patakin, A. Kuznetsov and A. Konushin, Independent Component Alignment"
        " for Multi-Task Learning, CVPR 2023"
    )

    def __post_init__(self) -> None:
        if self.scale_mode not in get_args(ScaleMode):
            raise ValueError(
                f"`scale_mode` of `AlignedMTL` must be one of {list(get_args(ScaleMode))}; got"
                f" {self.scale_mode!r}. The paper's is 'min'."
            )
        check_number(
            self.name, "rtol", self.rtol, "in [0, 1)", use="1e-8 of the largest eigenvalue"
        )
        preference = checked_preference(self.preference, "AlignedMTL")
        object.__setattr__(self, "preference", preference)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.preference is None:
            promises |= {Guarantee.PERMUTATION_EQUIVARIANT, Guarantee.IDEMPOTENT}
        return frozenset(promises)

    @property
    def needs(self) -> frozenset[str]:
        return preference_needs(self.preference)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        preference = None
        if self.preference is not None:
            preference = preference_vector(self.preference, statistics, "AlignedMTL")
        weights = aligned_mtl_weights(
            gramian, preference, active=active, scale_mode=self.scale_mode, rtol=self.rtol
        )
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)
