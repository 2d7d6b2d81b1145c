"""UPGrad: the preferred combination of the gradients, each projected onto the dual cone."""

import dataclasses

from moopt.records.device_point import DevicePoint
from moopt.weightings.base import Problem, Solved, State
from moopt.weightings.cone_projection import ConeProjection


@dataclasses.dataclass(frozen=True, kw_only=True)
class UPGrad(ConeProjection):
    """Project each gradient onto the dual cone of all gradients, then combine.

    Use it where you want the mean wherever nothing conflicts, and common descent where it does.

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
        guarantee holds at every scale and norm ratio, without a ridge. The gap is
        `sum_i u_i r_i / ||d||` with the residual r_i of each projection: 1e-10 proves
        `g_i . d >= -1e-10 ||g_i|| ||d||`. Where float64 cannot tell d from zero the status is
        DEGENERATE: the point is Pareto stationary. At other Pareto stationary points d need not be
        zero, and leaves the objectives that cancel alone; but where some of many float32 gradients
        cancel exactly, their rounding can close the dual cone, and d is zero there. (A ridge, as a
        peer adds, would keep a direction, which raises some of them by the ridge.)

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import UPGrad
        >>> G = torch.tensor([[1.0, -2.0], [-2.0, 8.0]], dtype=torch.float64)
        >>> UPGrad()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [1.5, 0.625]

    Source: P. Quinton and V. Rey, "Jacobian Descent For Multi-Objective Optimization", 2024,
    https://arxiv.org/abs/2406.16232. We differ from their code: no normalisation by the trace and
    no ridge, which replace the method by the mean for small gradients and bend the direction of
    the smaller ones until it raises their objectives.
    """

    @property
    def device_point(self) -> DevicePoint | None:
        exact = self.max_iter is None and type(self).weigh is UPGrad.weigh
        return DevicePoint.CONE_OF_EACH if exact else None

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The solver's weights, of the preference entry by entry."""
        return self.projected(problem, separate=True)
