"""fixed_point: positive weights a with G a = a^(-1/alpha), certified."""

import functools
import math

import numpy as np
from torch import Tensor

from moopt.kernels.tolerances import EPS
from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.door import check_gramian, check_limits, each_gramian, rounding_of
from moopt.solvers.min_norm import min_norm
from moopt.solvers.noise import HIDDEN, shown_noise

NEWTON_STEPS = 100
"""Limit of Newton steps where the iteration can stop early; up to 25 were needed, alpha <= 2."""

STEPS = 0.5 ** np.arange(10.0)
"""Fractions of the Newton step that are tried where it is long."""

SHORT = 0.25
"""Largest relative change of a weight for which the full Newton step converges quadratically."""

STAY_POSITIVE = 0.95
"""Share of the way to the first weight of zero that a step may go."""

AT_ROUNDING = 1e-14
"""A relative residual at which the iteration stops early: rounding is next."""


def fair_point(
    cosines: Array,
    norms: Array,
    alpha: float,
    *,
    tol: float = 1e-6,
    max_iter: int | None = None,
    noise: float = EPS,
) -> Solved:
    """`fixed_point` of one clean problem, split into cosines and norms; nothing is checked.

    Args:
        cosines: float64 `[m, m]`, symmetric with unit diagonal.
        norms: float64 `[m]`, > 0.
        alpha, tol, max_iter: as for `fixed_point`.
        noise: relative rounding of a cosine.
    """
    power = 1.0 / alpha
    longest = float(norms[norms.argmax()])
    unit = longest ** ((power - 1.0) / (power + 1.0)) / norms
    hull = min_norm(cosines, np.ones(len(norms)), tol=tol)
    square = float(hull.weights @ (cosines @ hull.weights))
    if square <= HIDDEN * HIDDEN:
        noise = shown_noise(cosines, noise)
    if hull.status is SolverStatus.DEGENERATE or square <= noise:
        return Solved(hull.weights * unit, SolverStatus.DEGENERATE, 0.0)
    r = (norms / longest) ** (power - 1.0)
    b, num_iter = _newton(cosines, r, power, tol, NEWTON_STEPS if max_iter is None else max_iter)
    weights = b * unit
    gap = _residual(cosines, r, power, weights / unit)
    if not gap < 1.0 and max_iter is None:
        # Not even a descent direction is certified: the direction of the hull is one.
        weights = _at_best_length(cosines, r, power, hull.weights) * unit
        gap = _residual(cosines, r, power, weights / unit)
    if gap <= tol:
        return Solved(weights, SolverStatus.CONVERGED, gap, num_iter)
    # Nearly at a stationary point a solution grows without bound, and this is none.
    b = weights / unit
    length, bound = float(b @ (cosines @ b)), float(np.add.reduce(r ** (2.0 / (1.0 + power))))
    if length > bound:
        weights = weights * math.sqrt(bound / length)
        gap = _residual(cosines, r, power, weights / unit)
    return Solved(weights, SolverStatus.MAX_ITER, gap, num_iter)


def _newton(cosines: Array, r: Array, power: float, tol: float, max_iter: int) -> tuple[Array, int]:
    """The b of the smallest residual, and the number of steps."""
    b = started(cosines, r, power)
    best, gap, num_iter = b, math.inf, 0
    for num_iter in range(max_iter + 1):
        products = cosines @ b
        wanted = r * b**-power
        residual = float(np.maximum.reduce(np.abs(products / wanted - 1.0)))
        if residual < gap:
            best, gap = b, residual
        elif gap <= tol:
            break
        if gap <= AT_ROUNDING or num_iter == max_iter:
            break
        try:
            b = b * (1.0 + newton_step(cosines, r, power, b, products, wanted))
        except np.linalg.LinAlgError:  # b is so long that nothing is left of the cosines
            break
    return best, num_iter


def _residual(cosines: Array, r: Array, power: float, b: Array) -> float:
    """`max_i |(C b)_i b_i^power / r_i - 1|`."""
    return float(np.maximum.reduce(np.abs((cosines @ b) / (r * b**-power) - 1.0)))


def _at_best_length(cosines: Array, r: Array, power: float, b: Array) -> Array:
    """b >= 0 scaled to minimise the potential, where a finite factor does so."""
    live = b > 0.0
    size = max(float(b @ (cosines @ b)), 1e-12 * float(b @ b))
    total = float(np.add.reduce(r[live] * b[live] ** (1.0 - power)))
    length = (total / size) ** (1.0 / (1.0 + power))
    return b * length if 0.0 < length < math.inf else b


def started(cosines: Array, r: Array, power: float) -> Array:
    """The solution for orthogonal gradients, at its best length for these."""
    return _at_best_length(cosines, r, power, r ** (1.0 / (1.0 + power)))


def newton_step(
    cosines: Array, r: Array, power: float, b: Array, products: Array, wanted: Array
) -> Array:
    """The relative change of b: a Newton step, shortened to the lowest potential found.

    The potential is `1/2 b'Cb - sum_i r_i h(b_i)` with `h' = b^(-power)`: strictly convex. Scaled
    by the square roots of `b_i h'_i r_i`, its Hessian is at least `power` times the identity.
    """
    scale = np.sqrt(b * wanted)
    ratio = b / scale
    hessian = cosines * ratio * ratio[:, None]
    hessian.flat[:: len(b) + 1] += power
    change = np.linalg.solve(hessian, (wanted - products) * ratio) / scale
    if float(np.maximum.reduce(np.abs(change))) <= SHORT:
        return change
    lowest = float(np.minimum.reduce(change))
    steps = STEPS * min(1.0, STAY_POSITIVE / -lowest if lowest < 0.0 else 1.0)
    move = b * change
    growth = 1.0 + steps[:, None] * change
    if power == 1.0:
        gain = np.log(growth) @ r
    else:
        gain = growth ** (1.0 - power) @ (r * b ** (1.0 - power)) / (1.0 - power)
    potential = steps * float(move @ products)
    potential = potential + 0.5 * steps * steps * float(move @ (cosines @ move)) - gain
    return change * steps[int(potential.argmin())]


def fixed_point(
    gramian: Tensor,
    *,
    alpha: float = 1.0,
    active: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int | None = None,
) -> SolverResult:
    """The positive solution of `(G a)_i = a_i^(-1/alpha)`.

    It is the minimiser of the strictly convex `1/2 a'Ga - sum_i h(a_i)` with
    `h(a) = log a` for alpha = 1 (the Nash bargaining solution) and
    `h(a) = a^(1 - 1/alpha) / (1 - 1/alpha)` otherwise (alpha-fair). With d = J'a the equations
    say `g_i . d = a_i^(-1/alpha) > 0`: a common descent direction. A solution exists unless the
    point is Pareto stationary.

    Args:
        gramian: real floating `[..., m, m]`, symmetric positive semi-definite up to rounding; any
            scale from 1e-30 to 1e30 of the gradients.
        alpha: finite, > 0; default 1.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all.
        tol: the `gap` up to which the status is CONVERGED, in (0, 1); default 1e-6. The solver
            goes as far as float64 lets it, whatever `tol` is.
        max_iter: limit on Newton steps; default 100.

    Returns:
        `SolverResult`: weights a float64 `[..., m]`; gap is the relative residual
        `max_i |(G a)_i a_i^(1/alpha) - 1|`: a gap below 1 proves that every objective falls.
        status is CONVERGED; MAX_ITER where the gap exceeds `tol`; DEGENERATE where the point is
        Pareto stationary, for all that the rounding of the Gramian shows: no solution exists, a
        combines the gradients to zero, and the gap is 0; NON_FINITE, with uniform weights and gap
        NaN, where an active entry is NaN or infinite.

    Numerics: damped Newton steps on unit gradients. For alpha = 1 the solution on unit gradients
        does not depend on any norm. For other values norm ratios enter with the power 1/alpha - 1:
        certified to 1e8 for alpha from 1 to 2; for alpha < 1, beyond 1e4, rounding limits the gap
        to about 1e-5; for alpha >> 1 weights below the range of float64 can end in MAX_ITER.
        Where 100 steps leave a gap of 1 or more, the weights of the shortest point in the hull of
        the unit gradients are returned: a common descent direction. Without a solution (MAX_ITER)
        the direction is no longer than that of orthogonal gradients of these norms.

    Example:
        >>> import torch
        >>> from moopt.solvers import fixed_point
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> [round(a, 12) for a in fixed_point(G).weights.tolist()]
        [1.0, 0.5]

    Source: A. Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022,
    https://arxiv.org/abs/2202.01017, for alpha = 1; H. Ban and K. Ji, "Fair Resource Allocation in
    Multi-Task Learning", ICML 2024, https://arxiv.org/abs/2402.15638. The potential and the method
    are ours: the papers' codes solve a sequence of convex programs and a non-linear least-squares
    problem.
    """
    check_gramian(gramian, "fixed_point")
    if not 0.0 < alpha < math.inf:
        raise ValueError(
            f"`alpha` of `fixed_point` must be finite and > 0; got {alpha}. Use 1 for the Nash"
            " solution; alpha = 0 is the sum."
        )
    check_limits(tol, max_iter, "fixed_point", "1e-6", largest=1.0)

    noise = rounding_of(gramian)
    solve = functools.partial(fair_point, alpha=alpha, tol=tol, max_iter=max_iter, noise=noise)
    return each_gramian(solve, gramian, active=active)
