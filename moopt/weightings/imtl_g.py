"""IMTLG: the direction with equal projections on all unit gradients."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL, runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.dual_basis_on_host import dual_basis_on_host
from moopt.weightings.dual_space_mgda import dual_space_mgda_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows

SMALLEST_SUM = 1e-3
"""Least |sum(w)| relative to sum(|w|) that is scaled to one: below it d would be a thousand times
as long as its terms, without bound as the sum passes through zero."""


def imtl_g_weights(
    gramian: Tensor, *, active: Tensor | None = None, rtol: float = DEFAULT_RTOL
) -> SolverResult:
    """Return the weights with `u_i . d` the same positive number for all i, and |sum(w)| = 1.

    With norms n_i and cosines C: `a = C^+ 1`, `w_i = (a_i / n_i) / |sum_j a_j / n_j|`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active. Zero rows count as inactive.
        rtol: relative cut-off of the pseudo-inverse, on the eigenvalues of C.

    Returns:
        The weights, of any sign. Status and gap as in `dual_space_mgda_weights`: a gap below 1
        proves `g_i . d > 0`.

    Example:
        >>> import torch
        >>> from moopt.weightings.imtl_g import imtl_g_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
        >>> imtl_g_weights(G).weights.tolist()
        [0.75, 0.25]
    """
    gramian = gramian.detach()
    if gramian.dim() == 2 and runs_on_host(gramian):
        if active is not None and active.any() and not active.all():
            # Nearly parallel gradients leave few digits: a mask is to give those of dropping.
            on = active.nonzero().flatten()
            rest = imtl_g_weights(gramian[on][:, on], rtol=rtol)
            whole = torch.zeros_like(gramian[0], dtype=torch.float64).index_copy_(0, on, rest[0])
            return rest._replace(weights=whole)
        solved = dual_basis_on_host(gramian, active, rtol)
        if solved is not None:
            array, gap = solved
            array /= max(abs(array.sum()), SMALLEST_SUM * abs(array).sum())
            status = torch.zeros((), dtype=torch.int64)
            certificate = torch.full((), gap, dtype=torch.float64)
            return SolverResult(torch.from_numpy(array), status, certificate, status.clone())
    result = dual_space_mgda_weights(
        gramian, active=active, variant="dual_basis", length="keep", rtol=rtol
    )
    weights = result.weights
    # The absolute value is the guard of the sign: the paper's sum turns d around when negative.
    total = weights.sum(-1, keepdim=True).abs()
    total = torch.maximum(total, SMALLEST_SUM * weights.abs().sum(-1, keepdim=True))
    return result._replace(weights=weights / torch.where(total > 0, total, 1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMTLG(Weighting):
    """Impartial gradients: d has the same projection on every unit gradient, and sum(w) = 1.

    `u_1 . d = u_2 . d = ... = u_m . d` for the unit gradients `u_i`, so that no objective is
    favoured for the size or the direction of its gradient. For linearly independent gradients
    this fixes the ray (that of `DualSpaceMGDA(variant="dual_basis")`); the sum of the weights
    fixes the length.

    The condition sum(w) = 1 can also fix the *sign*: where the unnormalised weights, some of them
    negative, add up to less than zero, dividing by their sum turns d around and raises every
    objective (in 124 of 3000 random problems). We divide by the absolute value, so that d always
    descends; sum(w) is then -1. Where the sum nearly vanishes, d would grow without bound; the
    divisor is at least 0.001 `sum(|w|)`.

    Args:
        rtol: relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12. It acts on the
            eigenvalues of the cosines, never of the Gramian: a small gradient is not cut off.

    Raises:
        ValueError: if `rtol` is out of range.

    Numerics: see `dual_space_mgda_weights` for status and gap. Weights may be negative. For
    linearly dependent gradients the projections are equal in the least-squares sense, status
    RANK_DEFICIENT. At a Pareto stationary point d is in general not zero. Active zero rows count
    as inactive; NaN or infinity gives uniform weights. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
        >>> moopt.weightings.IMTLG()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [0.75, 0.25]

    Source: L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao and W. Zhang, "Towards
    Impartial Multi-task Learning", ICLR 2021, section 3.1 (from memory). We differ in the guards
    of the sign and of the length, and in solving through the pseudo-inverse of the cosines, which
    extends the method to dependent gradients; a peer takes the pseudo-inverse of the Gramian,
    which agrees for independent ones.
    """

    rtol: float = DEFAULT_RTOL

    name: ClassVar[str] = "IMTLG"
    source: ClassVar[str] = (
        "L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao and W. Zhang, Towards"
        " Impartial Multi-task Learning, ICLR 2021"
    )

    def __post_init__(self) -> None:
        check_number(
            self.name, "rtol", self.rtol, "in [0, 1)", use="1e-12 of the largest eigenvalue"
        )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset(
            {
                Guarantee.NON_CONFLICTING_IF_INDEPENDENT,
                Guarantee.PERMUTATION_EQUIVARIANT,
                Guarantee.SCALE_EQUIVARIANT,
                Guarantee.POSITIVELY_HOMOGENEOUS,
                Guarantee.IDEMPOTENT,
            }
        )

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        result = imtl_g_weights(gramian, active=active, rtol=self.rtol)
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)
