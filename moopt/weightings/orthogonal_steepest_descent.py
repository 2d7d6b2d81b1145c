"""OrthogonalSteepestDescent: the forget gradient off the span of the retain gradients."""

import dataclasses
import math

import numpy as np

from moopt.records.status import SolverStatus
from moopt.settings.fields import number
from moopt.solvers.equilibrated import cosines_of
from moopt.solvers.off_span import off_span
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State
from moopt.weightings.forget_retain import ForgetRetain
from moopt.weightings.problem import EPS
from moopt.weightings.role_sums import cancelled_below, sum_norm

ORTHOGONAL_TOL = 1e-10
"""max_j |a_j . d| / (||a_j|| ||d||), beyond rounding, up to which d counts as orthogonal."""

SLOPE_ROUNDING = 64 * EPS
"""Rounding of a_j . d, relative to ||a_j|| sum_i |w_i| ||g_i||; that of the Gramian may be more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrthogonalSteepestDescent(ForgetRetain):
    """Forget along the steepest direction that leaves every retain loss alone: FedOSD.

    Use it with several retain losses, each of which should stay where it is.

    Stage one, unlearning: `d = g_f - A'(A A')^+ A g_f` with A the retain gradients, rescaled to
    `||g_f||`: `g_j . d = 0` for every retain objective. Stage two, recovery: a step without forget
    objectives is the sum of the retain gradients. With `drift`, both are also orthogonal to the
    drift `delta = theta - theta_0` away from the original model: every gradient loses its
    component `(g . delta) / ||delta||^2 delta`, so that no step moves back towards it.

    Signs: moopt minimises every loss, so g_f is the gradient of the *minimised* forget loss, such
    as the unlearning cross-entropy of the same authors, and -d is the step.

    Args:
        forget: the name of the forget objective, or several names: their gradients are added up.
        retain: the name of the retain objective, or several names: each is a constraint.
        drift: the name of the auxiliary row that holds `theta - theta_0`; None (default) for
            stage one alone. The row takes part in the direction with a weight of its own.
        rtol: relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12. It acts on the
            eigenvalues of the cosines, never of the Gramian: a small gradient is not cut off.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two, or `rtol` is out of range; at the
            call, if an objective of the step has no role, or no auxiliary row is the drift.

    Numerics: the gap is `max_j |a_j . d| / (||a_j|| ||d||)` over the rows a_j of A, drift included.
    Status CONVERGED where it is below 1e-10 and what rounding of the Gramian makes of it, else
    RANK_DEFICIENT. Where g_f lies in the span of the retain gradients there is no such direction:
    weights 0, status INFEASIBLE. Without a forget gradient (or where they cancel) the step is
    recovery. Where nothing is left to sum, weights are 0 and the status is DEGENERATE.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import OrthogonalSteepestDescent
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.tensor([[25.0, 3.0], [3.0, 1.0]], dtype=torch.float64),
        ...     names=("forget", "retain"),
        ... )
        >>> weighting = OrthogonalSteepestDescent(forget="forget", retain="retain")
        >>> weighting(statistics).weights.tolist()
        [1.25, -3.75]

    Source: Z. Pan, Z. Wang, C. Li, K. Zheng, B. Wang, X. Tang and J. Zhao, "Federated Unlearning
    with Gradient Descent and Conflict Mitigation" (FedOSD), AAAI 2025,
    https://arxiv.org/abs/2412.20200. There the rows are clients' updates; here they are objectives'
    gradients. The paper projects in its recovery stage; being orthogonal to the drift in stage one
    too, where `drift` is given, is ours, as is summing several forget objectives.
    """

    drift: str | None = None
    rtol: float = number(DEFAULT_RTOL, "in [0, 1)")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.is_pair:
            promises.add(Guarantee.SCALE_EQUIVARIANT)
            if self.drift is None:
                promises.add(Guarantee.NON_CONFLICTING_IF_INDEPENDENT)
        return frozenset(promises)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | frozenset(() if self.drift is None else {"auxiliary"})

    @property
    def combines_auxiliary(self) -> bool:
        return self.drift is not None

    def reads_auxiliary(self, name: str) -> bool:
        """The drift alone."""
        return name == self.drift

    def weigh(self, problem: Problem, state: State) -> Solved:
        """Project the coefficients of the unit gradients, in units of the longest one summed."""
        m, noise = problem.m, problem.noise
        rows, cosines, norms = list(range(m)), problem.cosines, problem.norms
        if self.drift is not None:
            rows, cosines, norms = self._with_drift(problem)
        forget, retain = self.members(problem)
        walls = np.zeros(len(norms), dtype=bool)
        walls[m:] = True
        length, summed = sum_norm(problem, forget), forget
        forgets = length > 0.0
        if forgets:
            walls[retain] = True
        else:
            length, summed = sum_norm(problem, retain), retain
        if length == 0.0:
            return Solved(np.zeros(m), SolverStatus.DEGENERATE, 0.0)
        largest = norms[summed].max()
        start = np.zeros(len(norms))
        start[summed] = norms[summed] / largest
        unit = off_span(cosines, start, walls, rtol=self.rtol, noise=noise)
        slopes = cosines @ unit
        squared, total = float(unit @ slopes), float(np.abs(unit).sum())
        if squared <= cancelled_below(problem) * total**2:
            return Solved(np.zeros(m), SolverStatus.INFEASIBLE, 0.0)
        left = math.sqrt(squared)
        weights = np.zeros(m + len(problem.auxiliary))
        weights[rows] = (length / left if forgets else largest) * unit / norms
        gap = float(np.abs(slopes[walls]).max(initial=0.0)) / left
        solved = gap <= ORTHOGONAL_TOL + max(SLOPE_ROUNDING, noise) * total / left
        status = SolverStatus.CONVERGED if solved else SolverStatus.RANK_DEFICIENT
        return Solved(weights, status, gap)

    def _with_drift(self, problem: Problem) -> tuple[list[int], Array, Array]:
        """The gradients and the drift, which comes last: rows of `wide`, cosines and norms."""
        if self.drift not in problem.auxiliary:
            raise ValueError(
                f"`drift` of `OrthogonalSteepestDescent` must name an auxiliary row of the step;"
                f" got {self.drift!r}, and the rows {list(problem.auxiliary)}. Add the row"
                " theta - theta_0, or use drift=None."
            )
        assert problem.wide is not None
        rows = [*range(problem.m), problem.m + problem.auxiliary.index(self.drift)]
        gramian = problem.wide[np.ix_(rows, rows)]
        norms = np.sqrt(gramian.diagonal())
        cosines = cosines_of(gramian, norms)
        norms[-1] = norms[-1] or 1.0  # a zero drift is orthogonal to everything
        return rows, cosines, norms
