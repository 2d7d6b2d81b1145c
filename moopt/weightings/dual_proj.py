"""DualProj: the projection of a preferred combination of the gradients onto the dual cone."""

import dataclasses

from moopt.records.device_point import DevicePoint
from moopt.weightings.base import Problem, Solved, State
from moopt.weightings.cone_projection import ConeProjection


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualProj(ConeProjection):
    """Project the preferred combination of the gradients onto their dual cone.

    Use it where you have weights and want their direction bent as little as possible.

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
        objectives that cancel alone.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import DualProj
        >>> G = torch.tensor([[1.0, -2.0], [-2.0, 8.0]], dtype=torch.float64)
        >>> DualProj()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [1.0, 0.5]

    Source: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS
    2017, https://arxiv.org/abs/1706.08840, where u picks the gradient of the present task; the name
    and the general u are those of `UPGrad`'s paper. We differ from its code: no normalisation by
    the trace and no ridge, which replace the method by the mean for small gradients and bend the
    direction of the smaller ones.
    """

    @property
    def device_point(self) -> DevicePoint | None:
        exact = self.max_iter is None and type(self).weigh is DualProj.weigh
        return DevicePoint.CONE_OF_SUM if exact else None

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The solver's weights, of the preference as a whole."""
        return self.projected(problem, separate=False)
