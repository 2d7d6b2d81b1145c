"""cagrad_point: the best worst improvement in a ball around the mean gradient."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.door import check_gramian, check_limits, each_gramian, rounding_of
from moopt.solvers.dual_cone import dual_cone
from moopt.solvers.equilibrated import hidden_gap
from moopt.solvers.gramian_hull import gramian_hull
from moopt.solvers.shown_noise import shown_noise
from moopt.solvers.tolerances import CERTIFIED, EPS, HIDDEN, RESOLUTION

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
    m = len(norms)
    share = np.full(m, 1.0 / m)
    longest = float(np.maximum.reduce(norms))
    if not longest > 0.0:
        return Solved(share, SolverStatus.DEGENERATE, 0.0)
    if c == 0.0:
        return Solved(share, SolverStatus.CONVERGED, 0.0)
    # Extreme norm ratios may overflow on the way; the certificate is the judge.
    with np.errstate(all="ignore"):
        return _solved(cosines, norms / longest, share, c, tol, max_iter, noise)


def _solved(
    cosines: Array,
    norms: Array,
    share: Array,
    c: float,
    tol: float,
    max_iter: int | None,
    noise: float,
) -> Solved:
    gramian = cosines * norms * norms[:, None]
    lengths = np.where(norms > 0.0, norms, 1.0)
    slope = gramian @ share
    square, terms = float(share @ slope), float(share @ norms)
    if square <= max(RESOLUTION, noise) * terms * terms:
        gap = hidden_gap(max(0.0, -float((slope / lengths).min())), square, terms, noise)
        return Solved(share, SolverStatus.DEGENERATE, gap)
    radius = c * math.sqrt(square)

    def judged(w: Array) -> _Judged:
        q = max(float(w @ (gramian @ w)), 0.0)
        if q == 0.0:
            return _Judged(0.0, share, math.inf, np.zeros(len(w)), 0.0)
        length = math.sqrt(q)
        weights = share + (radius / length) * w
        reached = gramian @ weights
        size = math.sqrt(max(float(weights @ reached), 0.0)) or 1.0
        violation = (float(w @ slope) + radius * length - reached) / lengths
        gap = max(float(np.maximum.reduce(violation)), 0.0) / size
        return _Judged(q, weights, gap, violation, q / float(w @ norms) ** 2)

    def ended(weights: Array, gap: float, num_iter: int) -> Solved:
        square, terms = float(weights @ (gramian @ weights)), float(weights @ norms)
        if square <= max(RESOLUTION, noise) * terms * terms:
            gap = hidden_gap(gap * math.sqrt(max(square, 0.0)), square, terms, noise)
            return Solved(weights, SolverStatus.DEGENERATE, gap, num_iter)
        status = SolverStatus.CONVERGED if gap <= tol else SolverStatus.MAX_ITER
        return Solved(weights, status, gap, num_iter)

    best, trips = _exchanged(cosines, slope / math.sqrt(square), norms, c, judged)
    if best is not None and best.gap <= SETTLED and best.hidden > HIDDEN * HIDDEN:
        return ended(best.weights, best.gap, trips)
    first = judged(gramian_hull(gramian).weights)
    if first.hidden <= HIDDEN * HIDDEN:
        noise = shown_noise(cosines, noise)
    stationary = first.hidden <= max(RESOLUTION, noise)
    if stationary:
        nearest = _nearest(cosines, norms, share, tol, noise)
        shift = nearest.weights - share
        allowed = (1.0 + CERTIFIED) * radius * radius + noise * float(np.abs(shift) @ norms) ** 2
        if float(shift @ (gramian @ shift)) <= allowed:
            return nearest._replace(status=SolverStatus.DEGENERATE, num_iter=1)
    elif best is not None and best.gap <= SETTLED:
        return ended(best.weights, best.gap, trips)
    return ended(*_root(gramian, slope, square, radius, judged, first, stationary, max_iter))


def _nearest(cosines: Array, norms: Array, share: Array, tol: float, noise: float) -> Solved:
    """The point of the dual cone that is nearest to the mean gradient; norms may be 0."""
    live = norms > 0.0
    inner = dual_cone(cosines[np.ix_(live, live)], norms[live], share[live], tol=tol, noise=noise)
    weights = share.copy()
    weights[live] = inner.weights
    return inner._replace(weights=weights)


def _root(
    gramian: Array,
    slope: Array,
    square: float,
    radius: float,
    judged: Callable[[Array], _Judged],
    first: _Judged,
    stationary: bool,
    max_iter: int | None,
) -> tuple[Array, float, int]:
    """Weights, gap and trips of a bracketed secant method for `q(T) = T`.

    q(T) = ||g_w||^2 for t^2 = T does not decrease, and q(T) / T does not increase: below the root
    q(T) is a better lower bound than T, above it a better upper one.
    """
    cross = slope[:, None] + slope
    best, num_iter = first, 1
    low, high, last = 0.0 if stationary else first.square, 1.0, 0.0
    last_q, point = low, low or STEP_DOWN
    limit = ROOT_TRIPS if max_iter is None else max_iter
    while num_iter <= limit and not best.gap <= SETTLED and low < high:
        step = math.sqrt(point) / radius
        shifted = gramian + step * cross + step * step * square
        one = judged(gramian_hull(shifted).weights)
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
    return best.weights, best.gap, num_iter


def _exchanged(
    cosines: Array, products: Array, norms: Array, c: float, judged: Callable[[Array], _Judged]
) -> tuple[_Judged | None, int]:
    """The solution on one face after another, until no row is wrong, and the trip that found it.

    On the affine hull of a face `w = a + t e` for the right-hand side t, so that
    `t^2 = a'Ga + t^2 e'Ge` gives t. Fast, but not proven to end: its gap is the judge.

    Args:
        products: `[m]`, g_i . g0 / ||g0||.
    """
    if not norms[norms.argmin()] > 0.0:
        return None, 0
    r = norms[norms.argmin()] / norms
    right = np.stack([r, products / norms], 1)
    face = np.ones(len(norms), dtype=bool)
    best: _Judged | None = None
    found = 0
    for trip in range(1, FACE_TRIPS + 1):
        index = face.nonzero()[0]
        if not index.size:
            break
        block, rows = cosines[np.ix_(index, index)], right[index]
        inner = rows[:, 0]
        try:
            a, x = np.linalg.solve(block + inner[:, None] * inner, rows).T
        except np.linalg.LinAlgError:
            break
        a = a / float(inner @ a)
        e = float(inner @ x) * a - x
        bend = 1.0 - float(e @ (block @ e)) / (c * c)
        # Without a root on this face t grows until a weight reaches zero: e tells which.
        length = math.sqrt(max(float(a @ (block @ a)), 0.0) / bend) / c if bend > 0.0 else 0.0
        v = a + length * e if bend > 0.0 else e
        wrong = np.zeros_like(face)
        wrong[index] = v < 0.0
        if bend > 0.0:
            w = np.zeros_like(norms)
            w[index] = inner * np.maximum(v, 0.0)
            w /= np.add.reduce(w)
            one = judged(w)
            if best is None or not one.gap >= best.gap:
                best, found = one, trip
            if not wrong.any():
                if one.gap <= SETTLED:
                    break
                wrong = ~face & (one.violation > 0.0)
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

    def solve(cosines: Array, norms: Array) -> Solved:
        noise = rounding_of(gramian)
        return cagrad(cosines, norms, c, tol=tol, max_iter=max_iter, noise=noise)

    return each_gramian(solve, gramian, active=active, zero_rows="pass")
