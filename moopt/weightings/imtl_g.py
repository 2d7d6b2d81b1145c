"""IMTLG: the direction with equal projections on all unit gradients."""

import dataclasses

import numpy as np

from moopt.settings.fields import number
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL
from moopt.weightings.base import Guarantee, Problem, Solved, State, Weighting
from moopt.weightings.dual_basis import equal_slopes

SMALLEST_SUM = 1e-3
"""Least |sum(w)| relative to sum(|w|) that is scaled to one: below it d would be a thousand times
as long as its terms, without bound as the sum passes through zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMTLG(Weighting):
    """Give d the same projection on every unit gradient, with sum(w) = 1: impartial gradients.

    Use it where the gradients are linearly independent and no task should be favoured.

    `u_1 . d = u_2 . d = ... = u_m . d` for the unit gradients `u_i`, so that no objective is
    favoured for the size or the direction of its gradient. For linearly independent gradients
    this fixes the ray (that of `DualSpaceMGDA(variant="dual_basis")`); the sum of the weights
    fixes the length: with the norms n_i, the cosines C and `a = C^+ 1`,
    `w_i = (a_i / n_i) / |sum_j a_j / n_j|`.

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

    Numerics: status and gap are those of `DualSpaceMGDA`. Weights may be negative. For linearly
    dependent gradients the projections are equal in the least-squares sense, status
    RANK_DEFICIENT. At a Pareto stationary point d is in general not zero.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
        >>> weights = moopt.weightings.IMTLG()(moopt.StepStatistics(gramian=G)).weights
        >>> [round(w, 12) for w in weights.tolist()]
        [0.75, 0.25]

    Source: L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao and W. Zhang, "Towards
    Impartial Multi-task Learning", ICLR 2021, https://openreview.net/forum?id=IMPnRXEWpvr, the
    gradient balance (IMTL-G). We differ in the guards of the sign and of the length, and in solving
    through the pseudo-inverse of the cosines, which extends the method to dependent gradients; a
    peer takes the pseudo-inverse of the Gramian, which agrees for independent ones.
    """

    rtol: float = number(DEFAULT_RTOL, "in [0, 1)")

    guarantees = frozenset(
        {
            Guarantee.NON_CONFLICTING_IF_INDEPENDENT,
            Guarantee.PERMUTATION_EQUIVARIANT,
            Guarantee.SCALE_EQUIVARIANT,
            Guarantee.POSITIVELY_HOMOGENEOUS,
            Guarantee.IDEMPOTENT,
        }
    )

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`C^+ 1` over the norms, divided by the size of its sum."""
        solved = equal_slopes(problem, self.rtol)
        weights = solved.weights / problem.norms
        # The absolute value is the guard of the sign: the paper's sum turns d around when negative.
        total = max(abs(weights.sum()), SMALLEST_SUM * np.abs(weights).sum())
        return solved._replace(weights=weights / (total or 1.0))
