"""EPO: linear programs that lead to the point of the Pareto front on a preference ray."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moopt.records.status import SolverStatus
from moopt.settings.fields import integer, number, per_objective
from moopt.settings.preference import Preference, checked_preference, entries
from moopt.solvers.linear_program import best_vertex
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, Weighting
from moopt.weightings.problem import LOSS_FLOOR

BALANCED = 1e-10
"""Relative losses equal to this much are equal: the adjustments would be rounding."""


class Adjustments(NamedTuple):
    """How far the losses are from the ray.

    Attributes:
        values: float64 `[m]`, a.
        non_uniformity: mu.
        worst: bool `[m]`, where r_i loss_i is the largest.
        equal: whether the relative losses are equal up to rounding.
    """

    values: Array
    non_uniformity: float
    worst: NDArray[np.bool_]
    equal: bool


def epo_adjustments(losses: Array, preference: Array) -> Adjustments:
    """`a_i = r_i (log(m p_i) - mu)` with `p = r o losses / sum` and `mu = sum_i p_i log(m p_i)`.

    Args:
        losses: float64 `[m]`, >= 0; one below 1e-12 of the largest relative one counts as that
            much.
        preference: float64 `[m]`, r > 0, divided by its sum.
    """
    r = preference / preference.sum()
    relative = r * (losses / (losses.max() or 1.0))
    largest = relative.max()
    # Without any loss all are alike.
    relative = np.maximum(relative, LOSS_FLOOR * largest) if largest > 0.0 else relative + 1.0
    share = relative / relative.sum()
    logs = np.log(share * len(share))
    mu = float(share @ logs)
    worst = relative == relative.max()
    return Adjustments(r * (logs - mu), mu, worst, bool(np.abs(logs).max() <= BALANCED))


def _positive(preference: Preference | None, owner: str, name: str) -> Preference | None:
    frozen = checked_preference(preference, owner, name)
    if frozen is not None and min(entries(frozen)) <= 0.0:
        raise ValueError(
            f"`{name}` of `{owner}` must be positive; got {preference!r}. Leave an objective that"
            " does not count out of the losses."
        )
    return frozen


@dataclasses.dataclass(frozen=True, kw_only=True)
class EPO(Weighting):
    """Go to the Pareto point where the r_i loss_i are equal: exact Pareto optimal search.

    Use it for a given trade-off between losses that are not negative.

    With the shares `p_i = r_i loss_i / sum_j r_j loss_j`, the non-uniformity
    `mu = sum_i p_i log(m p_i)` and the adjustments `a_i = r_i (log(m p_i) - mu)`, which are the
    derivatives of mu up to a factor, w solves a linear program over the simplex:

    - balance, where `mu > eps`: `max a'G w`, which lowers mu fastest, subject to `(G w)_j >= 0`
      for the largest r_j loss_j, and `(G w)_j >= (G a)_j` where `(G a)_j <= 0`: the losses that
      are raised for the sake of balance rise no more than along `J'a`. Where no `(G a)_j` is
      positive, `G w >= 0`.
    - descend, where `mu <= eps`: `max 1'G w` subject to `G w >= 0`, a common descent direction,
      and to `a'G w >= min(0, max_j (G a)_j)`, which keeps mu from rising.

    Args:
        preference: r, finite numbers > 0, only whose proportions matter; a larger one asks for a
            smaller loss. A sequence in the order of the objectives, or a mapping from name to
            number; None means all equal.
        eps: the non-uniformity at which a step descends, >= 0; default 1e-4, which is losses
            within 1 to 2 % of the ray.
        relaxed: descend without the second constraint; default False.
        tol: relative tolerance of `moopt.solvers.linear_program`, > 0; default 1e-9.
        max_iter: limit on its pivots, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range; at the call, if the losses are missing or the
            preference does not fit the objectives.

    Numerics: solved for x_i = w_i ||g_i|| on cosines, so that norms differ freely. Balancing
        programs and relaxed ones always have a solution; where one has several (balanced losses
        with orthogonal gradients, for one), rounding may choose; where the restricted one has none
        the status is INFEASIBLE and the step is the relaxed one. Losses must be >= 0: shift them. A
        negative one gives uniform weights and status OUT_OF_DOMAIN. The step neither vanishes nor
        shrinks as the losses balance: decay the learning rate for a precise end.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import EPO
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G, losses=torch.tensor([2.0, 1.0]))
        >>> EPO(preference=[1.0, 3.0])(statistics).weights.tolist()
        [0.0, 1.0]

    Source: D. Mahapatra and V. Rajan, "Multi-Task Learning with User Preferences: Gradient Descent
    with Controlled Ascent in Pareto Optimization", ICML 2020,
    https://proceedings.mlr.press/v119/mahapatra20a.html; the programs are those of the authors'
    code. We differ: r is divided by its sum, on which the bound `(G a)_j` depends; losses below
    1e-12 of the largest count as that much, where their code takes log(0); where the r_i loss_i are
    equal up to rounding the last constraint is left out, as it would be noise; their code takes
    equal weights where its solver fails; and their experiments multiply w by m, or the step by 10
    max(mu, 0.1), which is left to the learning rate.
    """

    preference: Preference | None = per_objective(_positive)
    eps: float = number(1e-4, "finite and >= 0")
    relaxed: bool = False
    tol: float = number(1e-9, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    sees_zero_gradients: ClassVar[bool] = True

    # Where a program has several solutions the order of the objectives picks one.
    guarantees = frozenset(
        {Guarantee.SIMPLEX, Guarantee.IDEMPOTENT, Guarantee.POSITIVELY_HOMOGENEOUS}
    )

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"losses"}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The best vertex of the step's program; of the relaxed descent where that is empty."""
        losses = problem.losses
        assert losses is not None
        if losses.min() < 0.0:
            uniform = np.full(problem.m, 1.0 / problem.m)
            return Solved(uniform, SolverStatus.OUT_OF_DOMAIN)
        # Of x_i = w_i ||g_i||, in units of the shortest gradient.
        far = epo_adjustments(losses, problem.vector(self.preference, self.name))
        live = problem.norms > 0.0
        shortest = problem.norms[live].min() if live.any() else 1.0
        lengths = np.where(live, problem.norms / shortest, 1.0)
        # g_j . sum_i a_i g_i in units of ||g_j||: how fast a balancing step lowers loss j.
        pull = np.where(live, problem.cosines @ np.where(live, lengths * far.values, 0.0), 0.0)
        descent = np.where(live, problem.cosines @ np.where(live, lengths, 0.0), 0.0)
        balance = far.non_uniformity > self.eps

        served = live & (pull > 0.0)
        limit = np.where(served, -math.inf, pull)
        limit = np.where(far.worst | (not served.any()), 0.0, limit)
        floor = np.where(live, 0.0, -math.inf)
        dropped = balance or far.equal or self.relaxed
        keep = -math.inf if dropped else min(float((lengths * pull).max()), 0.0)
        matrix, budget = np.vstack([problem.cosines, pull]), 1.0 / lengths

        def best(cost: Array, bound: Array, last: float) -> Solved:
            bounds = np.append(bound, last)
            return best_vertex(
                cost, matrix, bounds, budget=budget, tol=self.tol, max_iter=self.max_iter
            )

        bound = np.where(live & balance, limit, floor)
        solved = best(pull if balance else descent, bound, keep)
        weights = solved.weights
        if solved.status == SolverStatus.INFEASIBLE:
            weights = best(descent, floor, -math.inf).weights
        return solved._replace(weights=weights * budget)
