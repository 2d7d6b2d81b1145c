"""AlignedMTL: the principal components of the gradients, made equally long."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from moopt.kernels.tolerances import CANCELLED
from moopt.settings.fields import number, one_of, per_objective
from moopt.settings.preference import Preference
from moopt.solvers.principal_components import principal_components
from moopt.weightings.base import Array, Guarantee, Problem, State, Weighting

ScaleMode = Literal["min", "median", "rmse"]

SMALLEST_EIGENVALUE = 1e-8
"""Relative: rounding of the Gramian, 1e-16, then moves the smallest component by 1e-8 at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignedMTL(Weighting):
    """Align the principal components of the gradients, then average.

    Use it where a few directions dominate the mean gradient. The gradients `J = V diag(sigma) E'`
    are replaced by the matrix with the same singular vectors and all singular values equal,
    `scale V E'`, whose condition number is one: no direction in the span of the gradients dominates
    for its size. In weights: `w = scale V diag(1/sigma) V' p`. Only non-zero singular values count,
    so that dependent gradients do not stop the training.

    Args:
        scale_mode: "min" (default), the smallest non-zero singular value, the paper's; "median"
            (lower) or "rmse" (root mean square), of the authors' code.
        preference: p, one number >= 0 per objective, by position or by name, not renormalised
            when an objective is inactive; default `1 / (number of active objectives)`.
        rtol: relative cut-off in [0, 1), default 1e-8, of the eigenvalues of the *cosines*: the
            rank does not depend on the norms, and a small gradient is not cut off. Gradients
            that differ by less than 1e-4 of their length count as one, and so do those that the
            rounding of the Gramian cannot tell apart.

    Raises:
        ValueError: if a setting is out of range; at the call, if an objective has no preference.

    Numerics: sigma is accurate relative to itself, see `moopt.solvers.principal_components`. With
    "min" the step shrinks with the *smallest* component, and near a loss of rank it jumps: a
    discontinuity of the method. Common descent is not promised.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G)
        >>> moopt.weightings.AlignedMTL()(statistics).weights.tolist()
        [0.5, 0.25]
        >>> moopt.weightings.AlignedMTL(preference=[1.0, 0.0])(statistics).weights.tolist()
        [1.0, 0.0]

    Source: D. Senushkin, N. Patakin, A. Kuznetsov and A. Konushin, "Independent Component
    Alignment for Multi-Task Learning", CVPR 2023, https://arxiv.org/abs/2305.19000, Algorithm 1;
    the scale modes follow the authors' code (through a peer's adaptation of it). We differ in
    deciding the rank on the cosines, where the code drops eigenvalues of the Gramian below `m eps`
    of the largest, and with them every gradient at less than about 1e-8 of the others.
    """

    scale_mode: ScaleMode = one_of("min", get_args(ScaleMode))
    preference: Preference | None = per_objective()
    rtol: float = number(SMALLEST_EIGENVALUE, "in [0, 1)")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.preference is None:
            promises |= {Guarantee.PERMUTATION_EQUIVARIANT, Guarantee.IDEMPOTENT}
        return frozenset(promises)

    def weigh(self, problem: Problem, state: State) -> Array:
        """`scale V diag(1 / sigma) V' p`, of the gradients relative to the longest."""
        p = problem.vector(self.preference, self.name)
        relative = problem.norms / problem.norms.max()
        sigma, vectors = principal_components(
            problem.cosines, relative, rtol=self.rtol, noise=problem.noise
        )
        scale = {
            "min": sigma[-1],
            "median": sigma[len(sigma) // 2],  # the lower one: sigma falls
            "rmse": np.sqrt(np.mean(sigma * sigma)),
        }[self.scale_mode]
        shares = p @ vectors
        # A preference orthogonal to a component has no share of it, not a rounding of one.
        rounding = max(CANCELLED, problem.noise) * (np.abs(p) @ np.abs(vectors))
        shares[np.abs(shares) <= rounding] = 0.0
        weights: Array = vectors @ (scale / sigma * shares)
        return weights
