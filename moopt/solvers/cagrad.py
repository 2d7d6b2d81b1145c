"""cagrad_point: the best worst improvement in a ball around the mean gradient."""

import functools
import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from moopt.kernels.tolerances import CERTIFIED, EPS, RESOLUTION
from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.door import check_gramian, check_limits, each_gramian, rounding_of, spread
from moopt.solvers.dual_cone import dual_cone
from moopt.solvers.gramian_hull import gramian_hull
from moopt.solvers.noise import HIDDEN, hidden_gap, shown_noise

ROOT_TRIPS = 60
"""Limit of the root finder, which stops early; at most 16 were needed."""

STEP_DOWN = 1e-4
"""Factor by which the upper bound of the root is tried where there is no lower one."""

FACE_TRIPS = 20
"""Faces that are tried before the root finder takes over; most problems need fewer."""

SETTLED = 1e-3 * CERTIFIED
"""A gap at which the search stops early: rounding is next."""


class _Judged(NamedTuple):
    """What the weights w lead to.

    Attributes:
        square: ||g_w||^2.
        weights: of the direction.
        gap: of the direction.
        violation: by how much each row misses the optimum.
        hidden: ||g_w||^2 relative to the square of its terms.
    """

    square: float
    weights: Array
    gap: float
    violation: Array
    hidden: float


class _Ball(NamedTuple):
    """The ball around the mean gradient g0; lengths are in units of the longest gradient.

    Attributes:
        cosines, norms: of the gradients.
        gramian: their inner products.
        slope: `g_i . g0`.
        square: ||g0||^2.
        c: the radius relative to ||g0||.
    """

    cosines: Array
    norms: Array
    gramian: Array
    slope: Array
    square: float
    c: float

    def judged(self, w: Array) -> _Judged:
        """The direction of w, and how far it is from the optimum."""
        m, gramian, radius = len(w), self.gramian, self.c * math.sqrt(self.square)
        q = max(float(w @ (gramian @ w)), 0.0)
        if q == 0.0:
            return _Judged(0.0, np.full(m, 1.0 / m), math.inf, np.zeros(m), 0.0)
        length = math.sqrt(q)
        weights = 1.0 / m + (radius / length) * w
        reached = gramian @ weights
        size = math.sqrt(max(float(weights @ reached), 0.0)) or 1.0
        violation = float(w @ self.slope) + radius * length - reached
        violation /= np.where(self.norms > 0.0, self.norms, 1.0)
        gap = max(float(np.maximum.reduce(violation)), 0.0) / size
        return _Judged(q, weights, gap, violation, q / float(w @ self.norms) ** 2)


def cagrad(
    cosines: Array,
    norms: Array,
    c: float,
    *,
    tol: float = 1e-10,
    max_iter: int | None = None,
    noise: float = EPS,
) -> Solved:
    """`cagrad_point` of one clean problem, split into cosines and norms; nothing is checked.

    Args:
        cosines: float64 `[m, m]`, symmetric with unit diagonal.
        norms: float64 `[m]`, >= 0.
        c, tol, max_iter: as for `cagrad_point`.
        noise: relative rounding of a cosine.
    """
    share = np.full(len(norms), 1.0 / len(norms))
    longest = float(np.maximum.reduce(norms))
    if not longest > 0.0:
        return Solved(share, SolverStatus.DEGENERATE, 0.0)
    if c == 0.0:
        return Solved(share, SolverStatus.CONVERGED, 0.0)
    norms = norms / longest
    gramian = cosines * norms * norms[:, None]
    slope = gramian @ share

    def vanished(weights: Array, violation: Array, num_iter: int = 0) -> Solved | None:
        """The answer where rounding hides whether d is zero."""
        square, terms = float(weights @ (gramian @ weights)), float(weights @ norms)
        if square > max(RESOLUTION, noise) * terms * terms:
            return None
        gap = hidden_gap(max(0.0, float(violation.max())), square, terms, noise)
        return Solved(weights, SolverStatus.DEGENERATE, gap, num_iter)

    def ended(one: _Judged, num_iter: int) -> Solved:
        status = SolverStatus.CONVERGED if one.gap <= tol else SolverStatus.MAX_ITER
        zero = vanished(one.weights, one.violation, num_iter)
        return zero or Solved(one.weights, status, one.gap, num_iter)

    mean = vanished(share, -slope / np.where(norms > 0.0, norms, 1.0))
    if mean:
        return mean
    ball = _Ball(cosines, norms, gramian, slope, float(share @ slope), c)
    best, trips = _exchanged(ball)
    settled = best is not None and best.gap <= SETTLED
    if best and settled and best.hidden > HIDDEN * HIDDEN:
        return ended(best, trips)
    first = ball.judged(gramian_hull(gramian).weights)
    if first.hidden <= HIDDEN * HIDDEN:
        noise = shown_noise(cosines, noise)
    stationary = first.hidden <= max(RESOLUTION, noise)
    if stationary:
        # The point of the dual cone that is nearest to g0, if it lies in the ball.
        live = norms > 0.0
        rows, lengths, mean_weights = cosines[np.ix_(live, live)], norms[live], share[live]
        nearest = dual_cone(rows, lengths, mean_weights, tol=tol, noise=noise)
        nearest = spread(nearest, live, share)
        shift = nearest.weights - share
        allowed = (1.0 + CERTIFIED) * c * c * ball.square
        allowed += noise * float(np.abs(shift) @ norms) ** 2
        if float(shift @ (gramian @ shift)) <= allowed:
            return nearest._replace(status=SolverStatus.DEGENERATE, num_iter=1)
    elif best and settled:
        return ended(best, trips)
    return ended(*_root(ball, first, stationary, max_iter))


def _root(
    ball: _Ball, first: _Judged, stationary: bool, max_iter: int | None
) -> tuple[_Judged, int]:
    """The best point and trips of a bracketed secant method for `q(T) = T`.

    q(T) = ||g_w||^2 for t^2 = T does not decrease, and q(T) / T does not increase: below the root
    q(T) is a better lower bound than T, above it a better upper one.
    """
    cross = ball.slope[:, None] + ball.slope
    best, num_iter = first, 1
    low, high, last = 0.0 if stationary else first.square, 1.0, 0.0
    last_q, point = low, low or STEP_DOWN
    limit = ROOT_TRIPS if max_iter is None else max_iter
    radius = ball.c * math.sqrt(ball.square)
    while num_iter <= limit and not best.gap <= SETTLED and low < high:
        step = math.sqrt(point) / radius
        shifted = ball.gramian + step * cross + step * step * ball.square
        one = ball.judged(gramian_hull(shifted).weights)
        num_iter += 1
        if not one.gap >= best.gap:
            best = one
        q = one.square
        if q >= point:
            low = max(low, q)
        if q <= point:
            high = min(high, q)
        steep = (q - last_q) / (point - last) if point != last else 0.0
        last, last_q = point, q
        point = (q - steep * point) / (1.0 - steep) if steep < 1.0 else 0.0
        if low == 0.0:
            point = STEP_DOWN * high
        elif not low <= point <= high:
            point = math.sqrt(low * high)
    return best, num_iter


def _exchanged(ball: _Ball) -> tuple[_Judged | None, int]:
    """The solution on one face after another, until no row is wrong, and the trip that found it.

    On the affine hull of a face `w = a + t e` for the right-hand side t, so that
    `t^2 = a'Ga + t^2 e'Ge` gives t. Fast, but not proven to end: its gap is the judge.
    """
    norms, shortest = ball.norms, ball.norms[ball.norms.argmin()]
    best: _Judged | None = None
    found = 0
    right = np.stack([shortest / norms, ball.slope / math.sqrt(ball.square) / norms], 1)
    face = np.full(len(norms), shortest > 0.0)
    for trip in range(1, FACE_TRIPS + 1):
        index = face.nonzero()[0]
        if not index.size:
            break
        block, rows = ball.cosines[np.ix_(index, index)], right[index]
        inner = rows[:, 0]
        try:
            a, x = np.linalg.solve(block + inner[:, None] * inner, rows).T
        except np.linalg.LinAlgError:
            break
        a = a / float(inner @ a)
        e = float(inner @ x) * a - x
        bend = 1.0 - float(e @ (block @ e)) / (ball.c * ball.c)
        wrong = np.zeros_like(face)
        if bend > 0.0:
            length = math.sqrt(max(float(a @ (block @ a)), 0.0) / bend) / ball.c
            v = a + length * e
            w = np.zeros_like(norms)
            w[index] = inner * np.maximum(v, 0.0)
            one = ball.judged(w / np.add.reduce(w))
            if best is None or not one.gap >= best.gap:
                best, found = one, trip
            wrong[index] = v < 0.0
            if not wrong.any():
                if one.gap <= SETTLED:
                    break
                wrong = ~face & (one.violation > 0.0)
        else:
            # Without a root on this face t grows until a weight reaches zero: e tells which.
            wrong[index] = e < 0.0
        if not wrong.any():
            break
        face = face ^ wrong
    return best, found


def cagrad_point(
    gramian: Tensor,
    *,
    c: float = 0.5,
    active: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """The weights of the direction that maximises the worst improvement near the mean gradient.

    Solves `max_d min_i g_i . d` subject to `||d - g0|| <= c ||g0||`, g0 the mean gradient. By
    duality `d = g0 + c ||g0|| g_w / ||g_w||` with g_w = J^T w and w the minimiser over the
    simplex of `F(w) = g0 . g_w + c ||g0|| ||g_w||`.

    With `||x|| = min_t (||x||^2 / t + t) / 2` the dual is one-dimensional: for a given t, w is
    the minimum-norm point of the rows `g_i + t / (c ||g0||) g0`, and the right t is `||g_w||`.
    On each face of the simplex ||g_w||^2 is affine in t^2, so secants find it in few trips.

    Args:
        gramian: real floating `[..., m, m]`, symmetric positive semi-definite up to rounding.
        c: the radius relative to ||g0||, finite, >= 0; 0 gives the mean. Default 0.5.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all.
        tol: positive, dimensionless; the `gap` up to which the status is CONVERGED.
        max_iter: limit on minimum-norm problems; default 60.

    Returns:
        `SolverResult` with the weights of d, float64 `[..., m]`, >= 1/m. gap is the duality gap
        of each row, `max_i (F(w) - g_i . d) / (||g_i|| ||d||)`, at least 0. status is CONVERGED,
        MAX_ITER (gap above `tol`), NON_FINITE (weights uniform, gap NaN), or DEGENERATE where the
        point is Pareto stationary and so g_w = 0 can be the optimum: then any d of the ball with
        `g_i . d >= 0` for every i is a solution, and the one nearest to g0 is returned, with the
        gap of `dual_cone_point`; also where g0 = 0, d = 0. Zero means zero for all that the
        rounding of the Gramian shows.

    Numerics: float64, positively homogeneous; equations of unlike norms are not equilibrated,
        because the problem itself depends on them.

    Example:
        >>> import torch
        >>> from moopt.solvers import cagrad_point
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> [round(w, 12) for w in cagrad_point(G, c=0.5).weights.tolist()]
        [0.75, 0.75]

    Source: B. Liu, X. Liu, X. Jin, P. Stone and Q. Liu, "Conflict-Averse Gradient Descent for
    Multi-task Learning", NeurIPS 2021, https://arxiv.org/abs/2110.14048. The reduction to
    minimum-norm points and the rule for g_w = 0, which the paper excludes, are ours.
    """
    check_gramian(gramian, "cagrad_point")
    if not 0.0 <= c < math.inf:
        raise ValueError(
            f"`c` of `cagrad_point` must be finite and >= 0; got {c}. It is the radius relative"
            " to the mean gradient: use 0.5."
        )
    check_limits(tol, max_iter, "cagrad_point", "1e-10")

    noise = rounding_of(gramian)
    solve = functools.partial(cagrad, c=c, tol=tol, max_iter=max_iter, noise=noise)
    return each_gramian(solve, gramian, active=active, zero_rows="pass")
