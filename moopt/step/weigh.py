"""weigh: from the Gramian of a step to weights whose direction has been checked."""

import dataclasses
import math
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from moopt.kernels.tolerances import DESCENT_TOL, INNER_ROUNDING, PROPORTIONATE, RESOLVED
from moopt.records.result import Array, Solved, State
from moopt.records.status import SolverStatus
from moopt.scalarizations import Scalarization
from moopt.weightings import Sum, Weighting
from moopt.weightings.cleared import Mask, Step, weigh_and_tell
from moopt.weightings.problem import EPS, Problem


class Weighed(NamedTuple):
    """Weights `[m + k]`, the method's next state, and what `StepRecord` says about them."""

    weights: Array
    active: Mask
    status: SolverStatus
    state: State = MappingProxyType({})
    stationarity: float = math.nan
    gap: float = math.nan
    descent: bool = False
    fell_back: bool = False
    slopes: Array | None = None
    weighted: bool = True
    rises: Mask | None = None


def weigh(
    method: Weighting,
    given: Step,
    state: State,
    *,
    inactive_tol: float,
    eps: float = EPS,
    finite_losses: bool = True,
) -> Weighed:
    """Weigh the objectives, and check that the direction is what the method promises.

    All trouble is dealt with here:

    1. Objectives at their noise floor are inactive: weight 0. See `above_noise_floor`.
    2. The method weighs the others (`moopt.weightings.cleared`). `Sum` and the scalarizations are
       plain training on one number: they see every objective, whatever the record names.
    3. The direction `d = sum_i w_i g_i` is checked: `(G w)_i >= 0` for every active i, up to
       rounding, and `||d||` beyond what rounding could make of it (`RESOLVED`).
    4. A method that promises common descent and fails either is replaced, for this step, by
       l2-normalised MGDA at the scale of the mean gradient norm. Where that fails too the
       gradients cancel: weights 0 and status DEGENERATE, so that an adaptive optimizer never blows
       noise up.
    5. A loss or a gradient that is not finite: uniform weights and status NON_FINITE, so that the
       overflow reaches `.grad`; the state stays.

    Args:
        method: the weighting.
        given: the step, with every objective active.
        state: the method's, aligned with the objectives of `given`.
        inactive_tol: relative noise floor, >= 0; 0 disables the rule.
        eps: unit of rounding of the combination, relative to `sum_i |w_i| ||g_i||`.
        finite_losses: False where a loss that was given is not finite.
    """
    gramian = given.gramian
    assert gramian is not None
    m = len(given.active)
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
        active = above_noise_floor(norms[:m], given.losses, inactive_tol)
        plain = isinstance(method, Sum | Scalarization)
        marked = given
        if not plain and active.tobytes() != given.active.tobytes():
            marked = dataclasses.replace(given, active=active)
        solved, problem = weigh_and_tell(method, marked, state)
        total = np.add.reduce(gramian, axis=None)
        finite = total - total == 0.0 or bool(np.isfinite(gramian).all())
        if not (finite and finite_losses):
            weights, next_state = solved.weights, method.unweighed(state)
            if method.reads_gradients:
                weights = np.zeros(len(weights))
                weights[:m] = 1.0 / m
            return Weighed(weights, given.active, SolverStatus.NON_FINITE, next_state)
        hull, stationarity = unit_hull(gramian, norms, active, problem)
        weights, status = solved.weights, solved.status
        descent, resolved, rises = certified(gramian, norms, weights, active, eps)
        fell_back = False
        if not (descent and resolved) and method.claims_common_descent:
            # l2-normalised MGDA at the scale of the mean gradient norm.
            lengths, others = norms[:m][active], np.zeros(len(weights))
            units = hull.weights / np.where(lengths > 0.0, lengths, 1.0)
            others[:m][active] = units * lengths.mean()
            descent, resolved, rises = certified(gramian, norms, others, active, eps)
            fell_back, weights = resolved, others
            if not resolved:
                weights, status = np.zeros(len(weights)), SolverStatus.DEGENERATE
    return Weighed(
        weights=weights,
        active=active,
        status=SolverStatus(int((hull.status or 0) if status is None else status)),
        state=solved.state or {},
        stationarity=stationarity,
        gap=solved.gap,
        descent=descent and resolved,
        fell_back=fell_back,
        rises=rises,
    )


def above_noise_floor(norms: Array, losses: Array | None, inactive_tol: float) -> Mask:
    """bool `[m]`: the objectives whose gradient is above the noise floor.

    The floor is `inactive_tol` of the largest norm. Below it an objective stays active if its loss
    is small to match, `loss_i / loss_j` within a factor `PROPORTIONATE` of `||g_i|| / ||g_j||` with
    j the longest gradient: a small objective, in other units, is not noise. A divergence at its
    reference has a far smaller loss than that (its gradient is rounding, the loss is the square
    of it), and a loss at a minimum other than 0 a far larger one: both are noise.

    With all gradients zero, or with a single objective, every objective is active. A non-finite
    norm counts as active, so that overflow is seen rather than masked.

    Args:
        norms: float64 `[m]`.
        losses: float64 `[m]`, NaN where unknown; or None.
        inactive_tol: >= 0; 0 disables the rule.
    """
    everyone = np.ones(len(norms), dtype=bool)
    if len(norms) == 1 or inactive_tol == 0:
        return everyone
    longest = int(norms.argmax())
    largest = norms[longest]
    low = norms <= inactive_tol * largest
    if not (0.0 < largest < math.inf) or not low.any():
        return everyone
    if losses is not None:
        sizes = np.abs(losses)
        proportion = (sizes / sizes[longest]) / (norms / largest)
        low &= ~((proportion > 1.0 / PROPORTIONATE) & (proportion < PROPORTIONATE))
    return ~low


def certified(
    gramian: Array, norms: Array, weights: Array, active: Mask, eps: float
) -> tuple[bool, bool, Mask]:
    """Whether `d = sum_i w_i g_i` raises no active objective and is more than rounding; or which.

    Rows beyond those of `active` are auxiliary: they take part in d, and nothing protects them.

    Args:
        gramian: float64 `[m + k, m + k]`.
        norms: float64 `[m + k]`, of its rows.
        weights: float64 `[m + k]`.
        active: bool `[m]`.
        eps: unit of rounding of the combination, relative to `sum_i |w_i| ||g_i||`.

    Returns:
        `(G w)_i >= 0` for every active i, up to 1e-9 of `||g_i|| ||d||` and to what the rounding of
        d, `eps ||g_i|| sum_j |w_j| ||g_j||`, makes of it; and whether `||d||` exceeds its own
        rounding by `1 / RESOLVED`. And bool `[m]`, the active objectives that it raises.
    """
    inner = gramian @ weights
    length = math.sqrt(max(float(weights @ inner), 0.0))
    size = float(np.abs(weights) @ norms)
    m = len(active)
    slack = norms[:m] * (DESCENT_TOL * length + max(INNER_ROUNDING, eps) * size)
    lowers = bool(((inner[:m] >= -slack) | ~active).all())
    return lowers, length * RESOLVED > eps * size, (inner[:m] < -slack) & active


def unit_hull(
    gramian: Array, norms: Array, active: Mask, problem: Problem | None = None
) -> tuple[Solved, float]:
    """The minimum-norm point of the active unit gradients, and its norm: the stationarity."""
    index = active.nonzero()[0]
    zero = norms[index] <= 0.0
    if zero.any():
        return Solved(zero / zero.sum(), SolverStatus.DEGENERATE, 0.0), 0.0
    fits = problem is not None and np.array_equal(problem.positions, index)
    if problem is None or not fits or not problem.norms[0] > 0.0:  # NaN: it saw no gradients
        problem = Problem.of(gramian[np.ix_(index, index)])
    hull = problem.unit_hull
    if hull.status == SolverStatus.DEGENERATE:
        return hull, 0.0
    u = hull.weights
    return hull, math.sqrt(max(float(u @ problem.cosines @ u), 0.0))
