"""EPO: linear programs that lead to the point of the Pareto front on a preference ray."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number, check_solver_settings
from moopt.solvers import SolverResult, linear_program
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.old_preference import (
    Preference,
    checked_preference,
    preference_needs,
    preference_vector,
)
from moopt.weightings.problem import LOSS_FLOOR
from moopt.weightings.unit_rows import UnitRows, unit_rows

BALANCED = 1e-10
"""Relative losses equal to this much are equal: the adjustments would be rounding."""


class Adjustments(NamedTuple):
    """How far the losses are from the ray.

    Attributes:
        values: float64 `[..., m]`, a.
        non_uniformity: float64 `[...]`, mu.
        worst: bool `[..., m]`, where r_i loss_i is the largest.
        equal: bool `[...]`, whether the relative losses are equal up to rounding.
    """

    values: Tensor
    non_uniformity: Tensor
    worst: Tensor
    equal: Tensor


def epo_adjustments(losses: Tensor, preference: Tensor, on: Tensor) -> Adjustments:
    """`a_i = r_i (log(m p_i) - mu)` with `p = r o losses / sum` and `mu = sum_i p_i log(m p_i)`.

    Args:
        losses, preference: float64 `[..., m]`, finite; a loss below 1e-12 of the largest relative
            one counts as that much.
        on: bool `[..., m]`, the objectives that count.
    """
    r = torch.where(on, preference, 0.0)
    r = r / _or_one(r.sum(-1, keepdim=True))
    sizes = torch.where(on, losses, 0.0)
    relative = r * (sizes / _or_one(sizes.amax(-1, keepdim=True)))
    largest = relative.amax(-1, keepdim=True)
    # Without any loss all are alike.
    relative = torch.where(largest > 0, torch.maximum(relative, LOSS_FLOOR * largest), 1.0)
    relative = torch.where(on, relative, 0.0)
    share = relative / _or_one(relative.sum(-1, keepdim=True))
    count = on.sum(-1, keepdim=True)
    logs = torch.where(on, torch.where(on, share * count, 1.0).log(), 0.0)
    mu = (share * logs).sum(-1)
    worst = on & (relative == relative.amax(-1, keepdim=True))
    return Adjustments(r * (logs - mu[..., None]), mu, worst, logs.abs().amax(-1) <= BALANCED)


def epo_weights(
    gramian: Tensor,
    losses: Tensor,
    preference: Tensor,
    *,
    active: Tensor | None = None,
    eps: float = 1e-4,
    relaxed: bool = False,
    tol: float = 1e-9,
    max_iter: int | None = None,
) -> SolverResult:
    """Return the weights of one step of EPO Search: a balancing or a descending one.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        losses: `[m]` or `[..., m]`, finite, >= 0.
        preference: float64 `[m]` or `[..., m]`, r > 0; only its proportions matter.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        eps: descend where the non-uniformity is at most this, >= 0.
        relaxed: descend without the constraint on the non-uniformity.
        tol: of `linear_program`, relative, > 0.
        max_iter: of `linear_program`.

    Returns:
        The weights, on the simplex, with status, gap and num_iter of `linear_program`. INFEASIBLE
        where no descending step keeps the non-uniformity: the weights are the relaxed ones.
        OUT_OF_DOMAIN, with uniform weights, where an active loss is negative; NON_FINITE likewise.

    Example:
        >>> import torch
        >>> from moopt.weightings.epo import epo_weights
        >>> G, r = torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 1.0])
        >>> epo_weights(G, torch.tensor([2.0, 1.0]), r).weights.tolist()
        [1.0, 0.0]
    """
    rows = unit_rows(gramian.detach(), active)
    given = losses.detach().to(device=gramian.device, dtype=torch.float64)
    given = torch.where(rows.on, given.expand(rows.on.shape), 0.0)
    finite = rows.finite & torch.isfinite(given).all(-1)
    inside = finite & (given >= 0.0).all(-1)
    preference = preference.detach().to(device=gramian.device, dtype=torch.float64)
    safe = torch.where(inside[..., None], given, 0.0)
    program = _programs(rows, epo_adjustments(safe, preference, rows.on), eps, relaxed)
    result = _solved(program, rows, tol, max_iter)
    uniform = mean_weights(gramian, active=rows.on)
    weights = torch.where(inside[..., None], result.weights * program.budget, uniform)
    status = torch.where(inside, result.status, int(SolverStatus.OUT_OF_DOMAIN))
    status = torch.where(finite, status, int(SolverStatus.NON_FINITE))
    gap = torch.where(inside, result.gap, math.nan)
    return SolverResult(torch.where(rows.on, weights, 0.0), status, gap, result.num_iter)


class _Programs(NamedTuple):
    """The programs of one step in x_i = w_i ||g_i||, in units of the shortest gradient.

    Attributes:
        cost, bound: `[2, ..., m]` and `[2, ..., m + 1]`, of the step and of a relaxed descent.
        matrix: `[..., m + 1, m]`.
        budget: `[..., m]`.
        blocked: whether the step's program may be infeasible.
    """

    cost: Tensor
    matrix: Tensor
    bound: Tensor
    budget: Tensor
    blocked: bool


def _solved(program: _Programs, rows: UnitRows, tol: float, max_iter: int | None) -> SolverResult:
    """The step's program, with the weights of the relaxed descent where it is infeasible."""
    cost, matrix, bound, budget, blocked = program
    settings: dict[str, Any] = {"budget": budget, "tol": tol, "max_iter": max_iter}
    if runs_on_host(matrix) or not blocked:
        result = linear_program(cost[0], matrix, bound[0], active=rows.on, **settings)
        if not blocked or not (result.status == int(SolverStatus.INFEASIBLE)).any():
            return result
    # At once: two programs cost a device as many launches as one.
    both = linear_program(cost, matrix, bound, active=rows.on, **settings)
    infeasible = both.status[0] == int(SolverStatus.INFEASIBLE)
    weights = torch.where(infeasible[..., None], both.weights[1], both.weights[0])
    return SolverResult(weights, *(value[0] for value in both[1:]))


def _programs(rows: UnitRows, far: Adjustments, eps: float, relaxed: bool) -> _Programs:
    live, on = rows.live, rows.on
    shortest = torch.where(live, rows.norms, math.inf).amin(-1, keepdim=True)
    lengths = torch.where(live, rows.norms / shortest, 1.0)
    # g_j . sum_i a_i g_i in units of ||g_j||: how fast an undamped balancing step lowers loss j.
    pull = torch.where(on, _apply(rows.cosines, lengths * far.values), 0.0)
    descent = _apply(rows.cosines, torch.where(live, lengths, 0.0))
    balance = (far.non_uniformity > eps)[..., None]

    served = live & (pull > 0.0)
    limit = torch.where(served, -math.inf, pull)
    limit = torch.where(far.worst | ~served.any(-1, keepdim=True), 0.0, limit)
    floor = torch.where(live, 0.0, -math.inf)
    bound = torch.where(live & balance, limit, floor)
    cost = torch.where(balance, pull, descent)
    steepest = torch.where(on, lengths * pull, -math.inf).amax(-1, keepdim=True)
    dropped = balance | far.equal[..., None] | relaxed
    keep = torch.where(dropped, -math.inf, steepest.clamp_max(0.0))
    free = torch.full_like(keep, -math.inf)
    return _Programs(
        torch.stack([cost, descent]),
        torch.cat([rows.cosines, pull[..., None, :]], -2),
        torch.stack([torch.cat([bound, keep], -1), torch.cat([floor, free], -1)]),
        torch.where(on, 1.0 / lengths, 1.0),
        not relaxed,
    )


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, batched."""
    return (matrix @ vector[..., None])[..., 0]


def _or_one(value: Tensor) -> Tensor:
    """The value, or 1 where it is 0, so that it can divide."""
    return torch.where(value > 0, value, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EPO(Weighting):
    """Exact Pareto optimal search: to the Pareto point where the r_i loss_i are equal.

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
        shrinks as the losses balance: decay the learning rate for a precise end. NaN or infinity
        among the active rows or losses gives uniform weights and status NON_FINITE. No
        synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import EPO
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G, losses=torch.tensor([2.0, 1.0]))
        >>> EPO(preference=[1.0, 3.0])(statistics).weights.tolist()
        [0.0, 1.0]

    Source: D. Mahapatra and V. Rajan, "Multi-Task Learning with User Preferences: Gradient
    Descent with Controlled Ascent in Pareto Optimization", ICML 2020; the programs are those of
    the authors' code. We differ: r is divided by its sum, on which the bound `(G a)_j` depends;
    losses below 1e-12 of the largest count as that much, where their code takes log(0); where the
    r_i loss_i are equal up to rounding the last constraint is left out, as it would be noise;
    their code takes equal weights where its solver fails; and their experiments multiply w by m,
    or the step by 10 max(mu, 0.1), which is left to the learning rate.
    """

    preference: Preference | None = None
    eps: float = 1e-4
    relaxed: bool = False
    tol: float = 1e-9
    max_iter: int | None = None

    name: ClassVar[str] = "EPO"
    source: ClassVar[str] = (
        "D. Mahapatra and V. Rajan, Multi-Task Learning with User Preferences: Gradient Descent"
        " with Controlled Ascent in Pareto Optimization, ICML 2020"
    )

    def __post_init__(self) -> None:
        preference = checked_preference(self.preference, self.name)
        object.__setattr__(self, "preference", preference)
        values = preference.values() if isinstance(preference, Mapping) else preference or ()
        if not all(value > 0.0 for value in values):
            raise ValueError(
                f"`preference` of `EPO` must be positive; got {self.preference!r}. Leave an"
                " objective that does not count out of the losses."
            )
        check_number(self.name, "eps", self.eps, "finite and >= 0", use="1e-4")
        check_solver_settings(self.name, self.tol, self.max_iter, type(self).tol)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        # Where a program has several solutions the order of the objectives picks one.
        return frozenset(
            {Guarantee.SIMPLEX, Guarantee.IDEMPOTENT, Guarantee.POSITIVELY_HOMOGENEOUS}
        )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"}) | preference_needs(self.preference)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        if statistics.losses is None:
            raise ValueError(
                "`EPO` needs the losses; got none. Pass them in `StepStatistics.losses`."
            )
        result = epo_weights(
            gramian,
            statistics.losses,
            preference_vector(self.preference, statistics, self.name),
            active=active,
            eps=self.eps,
            relaxed=self.relaxed,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)
