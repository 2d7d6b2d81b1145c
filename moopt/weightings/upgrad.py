"""UPGrad: the preferred combination of the gradients, each projected onto the dual cone."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_solver_settings
from moopt.solvers import SolverResult
from moopt.solvers.dual_cone import dual_cone_combination
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.dual_proj import dual_cone_guarantees
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.old_preference import (
    Preference,
    checked_preference,
    preference_needs,
    preference_vector,
)


def upgrad_weights(
    gramian: Tensor,
    preference: Tensor | None = None,
    *,
    active: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """Return `sum_i u_i argmin_{v >= e_i} v' G v`: each gradient projected, then combined.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        preference: float64 `[m]` or `[..., m]`, u >= 0; None means 1 / (number of active
            objectives).
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        tol: the gap up to which the status is CONVERGED, relative, > 0.
        max_iter: limit on the pivots of each projection, as in `dual_cone_point`.

    Returns:
        The weights w, >= u. gap is `sum_i u_i r_i / ||d||` with r_i the residual of the
        optimality conditions of projection i (see `moopt.solvers.dual_cone_point`): a gap of
        1e-10 proves `g_i . d >= -1e-10 ||g_i|| ||d||`. status as in `dual_cone_point`; num_iter
        counts the systems of all projections.

    Example:
        >>> import torch
        >>> from moopt.weightings.upgrad import upgrad_weights
        >>> G = torch.tensor([[1.0, -2.0], [-2.0, 8.0]], dtype=torch.float64)
        >>> upgrad_weights(G).weights.tolist()
        [1.5, 0.625]
    """
    if preference is None:
        preference = mean_weights(gramian, active=active)
    return dual_cone_combination(
        gramian, preference, active=active, separate=True, tol=tol, max_iter=max_iter
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class UPGrad(Weighting):
    """Project each gradient onto the dual cone of all gradients, then combine.

    `w = sum_i u_i argmin v' G v` subject to `v >= e_i`, e_i the i-th unit vector. Every projected
    gradient raises no objective, so neither does their combination: `g_i . d >= 0` for every
    active i. Unlike `DualProj`, no gradient is drowned by a longer one before the projection, and
    an objective that conflicts with none keeps its gradient whole.

    Args:
        preference: u, finite numbers >= 0, not all zero: a sequence in the order of the
            objectives, or a mapping from name to number. None (default) means
            1 / (number of active objectives).
        tol: relative tolerance of the solver, > 0; default 1e-10.
        max_iter: limit on the pivots of each projection, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range; at the call, if the preference does not fit the
            objectives.

    Numerics: solved on unit gradients, where the m problems do not depend on any norm: the
        guarantee holds at every scale and norm ratio, without a ridge. Where float64 cannot tell
        d from zero the status is DEGENERATE: the point is Pareto stationary. At other Pareto
        stationary points d need not be zero, and leaves the objectives that cancel alone. NaN or
        infinity among the active rows gives uniform weights and status NON_FINITE. No
        synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import UPGrad
        >>> G = torch.tensor([[1.0, -2.0], [-2.0, 8.0]], dtype=torch.float64)
        >>> UPGrad()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [1.5, 0.625]

    Source: P. Quinton and V. Rey, "Jacobian Descent For Multi-Objective Optimization",
    arXiv 2406.16232, 2024. We differ from their code: no normalisation by the trace and no ridge,
    which replace the method by the mean for small gradients and bend the direction of the smaller
    ones until it raises their objectives.
    """

    preference: Preference | None = None
    tol: float = 1e-10
    max_iter: int | None = None

    name: ClassVar[str] = "UPGrad"
    source: ClassVar[str] = (
        "P. Quinton and V. Rey, Jacobian Descent For Multi-Objective Optimization, arXiv"
        " 2406.16232, 2024"
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
        result = upgrad_weights(
            gramian, preference, active=active, tol=self.tol, max_iter=self.max_iter
        )
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)
