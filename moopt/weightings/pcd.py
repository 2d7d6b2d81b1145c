"""PCD: the primary gradient, bent just enough for every secondary objective to progress."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from moopt.records.status import SolverStatus
from moopt.settings.fields import checked_by, number
from moopt.settings.roles import refuse_overlap, refuse_without_role, role_names
from moopt.solvers.quota_point import quota_point
from moopt.weightings.base import Guarantee, Problem, Solved, State, StateEntry, Weighting
from moopt.weightings.role_sums import cancelled_below

MEAN_SQUARE = "mean_square"
NUM_STEPS = "num_steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCD(Weighting):
    """Follow one primary objective and give the others a share: priority-constrained descent.

    Use it where one objective is trained and the others are to be protected.

    With `h_i = g_i / sqrt(mean of ||g_i||^2)`, the mean an exponential moving average over the
    steps, `d = argmin ||d - h_1||^2` subject to `h_j . d >= tau ||h_j||^2` for every secondary j,
    rescaled to ||g_1||. It is `h_1 + sum_j v_j h_j` with `v_j >= 0`, and v_j = 0 where the
    constraint holds by itself. Averages near the present norms make tau a share of a unit gradient,
    whatever the scale of the losses. The *primary* loss may rise where a secondary gradient
    opposes it and tau > 0; with tau = 0, d conflicts with no objective, the primary included.

    Args:
        primary: the name of the primary objective.
        secondary: the name of a secondary objective, or several names: each is a constraint.
        tau: the share of progress, in [0, 1]; default 0.1 (our choice).
        beta: the momentum of the averages, in [0, 1); default 0.9 (our choice); 0 normalises by
            the present norms.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two, or a setting is out of range; at
            the call, if an objective of the step has no role.

    Numerics: the gap is the residual of the optimality conditions, relative to
    `||h_1|| + tau max ||h_j||`, as in `moopt.solvers.quota_point`. Where no d meets the
    constraints, d = g_1 and the status is INFEASIBLE; where d = 0 is the solution it is DEGENERATE.
    Without a primary gradient (or with a zero one) d is the sum of the secondary ones. A zero
    gradient neither starts an average nor pulls it down. Scale equivariance and homogeneity refer
    to a run whose losses are rescaled from the first step on.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import PCD
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64),
        ...     names=("task", "sparsity"),
        ... )
        >>> weighting = PCD(primary="task", secondary="sparsity", tau=0.75)
        >>> [round(w, 12) for w in weighting(statistics).weights.tolist()]
        [0.8, 0.3]

    Source: D. Varam and M. I. AlHajri, "Not All Objectives Are Born Equal: Priority-Constrained
    Descent for Hierarchical Multi-Objective Optimization", 2026, https://arxiv.org/abs/2606.29521.
    We differ: an objective's first step starts its average, and no constant is added to it, so that
    the scale of a loss never matters; any number of secondary objectives goes through one certified
    solver.
    """

    primary: str
    secondary: str | Sequence[str] = dataclasses.field(metadata=checked_by(role_names))
    tau: float = number(0.1, "in [0, 1]")
    beta: float = number(0.9, "in [0, 1)")

    example: ClassVar[Mapping[str, Any]] = {"primary": "forget", "secondary": ("retain", "third")}

    def __post_init__(self) -> None:
        if not isinstance(self.primary, str):
            raise TypeError(
                f"`primary` of `PCD` must be the name of one objective; got {self.primary!r}. Name"
                " the others in `secondary`."
            )
        super().__post_init__()
        refuse_overlap(self._roles, self.name)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        # A step without the primary objective sums the others as they are.
        if len(self.secondary) == 1:
            promises |= {Guarantee.SCALE_EQUIVARIANT, Guarantee.IDEMPOTENT}
            if self.tau == 0.0:
                promises.add(Guarantee.NON_CONFLICTING)
        return frozenset(promises)

    needs = frozenset({"names"})

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {MEAN_SQUARE: StateEntry(1), NUM_STEPS: StateEntry(1, 0, int)}

    @property
    def _roles(self) -> dict[str, tuple[str, ...]]:
        return {"primary": (self.primary,), "secondary": tuple(self.secondary)}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The rows h_i are `lengths` times the unit gradients, on which `quota_point` works."""
        refuse_without_role(problem.all_names, self._roles, self.name)
        primary, secondary = problem.members(self._roles)
        cosines, norms = problem.cosines, problem.norms
        squares = norms**2
        mixed = self.beta * state[MEAN_SQUARE] + (1.0 - self.beta) * squares
        average = np.where(state[NUM_STEPS] > 0, mixed, squares)
        next_state = {MEAN_SQUARE: average, NUM_STEPS: state[NUM_STEPS] + 1}

        weights = np.zeros(problem.m)
        if not len(primary):
            weights[secondary] = 1.0
            return Solved(weights, SolverStatus.CONVERGED, 0.0, state=next_state)
        lengths = norms / np.sqrt(average)
        start, walls = np.zeros(problem.m), np.zeros(problem.m, dtype=bool)
        start[primary], walls[secondary] = lengths[primary], True
        solved = quota_point(cosines, start, self.tau * lengths, walls, noise=problem.noise)
        solved = solved._replace(state=next_state)
        if solved.status != SolverStatus.CONVERGED:
            weights[primary] = 1.0
            return solved._replace(weights=weights)
        y = solved.weights
        squared = float(y @ cosines @ y)
        if squared <= cancelled_below(problem) * float(y.sum()) ** 2:
            return solved._replace(weights=weights, status=SolverStatus.DEGENERATE)
        return solved._replace(weights=norms[primary] / math.sqrt(squared) * y / norms)
