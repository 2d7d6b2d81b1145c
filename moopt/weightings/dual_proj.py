"""DualProj: the projection of a preferred combination of the gradients onto the dual cone."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_solver_settings
from moopt.solvers import SolverResult, dual_cone_point
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.old_preference import (
    Preference,
    checked_preference,
    preference_needs,
    preference_vector,
)


def dual_proj_weights(
    gramian: Tensor,
    preference: Tensor | None = None,
    *,
    active: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """Return `argmin_{v >= u} v' G v`: the weights of J'u projected onto the dual cone.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        preference: float64 `[m]` or `[..., m]`, u; None means 1 / (number of active objectives).
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        tol: of `dual_cone_point`, relative, > 0.
        max_iter: of `dual_cone_point`.

    Returns:
        The weights v, with status, gap and num_iter of `moopt.solvers.dual_cone_point`.

    Example:
        >>> import torch
        >>> from moopt.weightings.dual_proj import dual_proj_weights
        >>> G = torch.tensor([[1.0, -2.0], [-2.0, 8.0]], dtype=torch.float64)
        >>> dual_proj_weights(G).weights.tolist()
        [1.0, 0.5]
    """
    if preference is None:
        preference = mean_weights(gramian, active=active)
    return dual_cone_point(gramian, preference, active=active, tol=tol, max_iter=max_iter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualProj(Weighting):
    """Project the preferred combination of the gradients onto their dual cone.

    `w = argmin v' G v` subject to `v_i >= u_i`. The direction d = J'w is the nearest to J'u that
    raises no objective: `g_i . d >= 0` for every active i, and d = J'u where that already holds.

    Args:
        preference: u, finite numbers >= 0, not all zero: a sequence in the order of the
            objectives, or a mapping from name to number. None (default) means the mean gradient,
            1 / (number of active objectives).
        tol: relative tolerance of the solver, > 0; default 1e-10.
        max_iter: limit on the pivots of the solver, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range; at the call, if the preference does not fit the
            objectives.

    Numerics: solved on unit gradients, so that the guarantee holds at every scale and norm ratio,
        without a ridge. Where float64 cannot tell d from zero the status is DEGENERATE: the point
        is Pareto stationary; a little above that, where d is 1e-6 of its terms, rounding may leave
        MAX_ITER. At other Pareto stationary points d need not be zero, and leaves the
        objectives that cancel alone. NaN or infinity among the active rows gives uniform weights
        and status NON_FINITE. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import DualProj
        >>> G = torch.tensor([[1.0, -2.0], [-2.0, 8.0]], dtype=torch.float64)
        >>> DualProj()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [1.0, 0.5]

    Source: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory for Continual Learning",
    NeurIPS 2017, equation 11 (from memory), where u picks the gradient of the present task; the
    name and the general u are those of P. Quinton and V. Rey, "Jacobian Descent For
    Multi-Objective Optimization", arXiv 2406.16232, 2024. We differ from their code: no
    normalisation by the trace and no ridge, which replace the method by the mean for small
    gradients and bend the direction of the smaller ones.
    """

    preference: Preference | None = None
    tol: float = 1e-10
    max_iter: int | None = None

    name: ClassVar[str] = "DualProj"
    source: ClassVar[str] = (
        "D. Lopez-Paz and M. Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "preference", checked_preference(self.preference, self.name))
        check_solver_settings(self.name, self.tol, self.max_iter, type(self).tol)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return dual_cone_guarantees(self.preference)

    @property
    def needs(self) -> frozenset[str]:
        return preference_needs(self.preference)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        preference = preference_vector(self.preference, statistics, self.name)
        result = dual_proj_weights(
            gramian, preference, active=active, tol=self.tol, max_iter=self.max_iter
        )
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)


def dual_cone_guarantees(preference: Preference | None) -> frozenset[Guarantee]:
    """What projections onto the dual cone promise."""
    promises = {Guarantee.NON_CONFLICTING, Guarantee.POSITIVELY_HOMOGENEOUS}
    if preference is None:
        promises |= {Guarantee.PERMUTATION_EQUIVARIANT, Guarantee.IDEMPOTENT}
    return frozenset(promises)
