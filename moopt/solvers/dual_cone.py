"""dual_cone_point: the projection of a combination of gradients onto their dual cone."""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.active_set import cone_active_set
from moopt.solvers.door import check_gramian, check_limits, each_gramian, rounding_of
from moopt.solvers.equilibrated import hidden_gap
from moopt.solvers.exchanged_faces import exchanged_faces
from moopt.solvers.shown_noise import shown_noise
from moopt.solvers.tolerances import CERTIFIED, EPS, HIDDEN, RESOLUTION, ROUNDING

LARGE = 1e3
"""Terms of a direction, relative to those of the combination, that are too long where it has no
certificate: gradients that are dependent but for noise make them."""

RIDGES = (2.0, 32.0, 512.0)
"""Ridges that make such gradients independent, in units of the noise: the first is enough but for
rare accidents of rounding."""


class _Judged(NamedTuple):
    """The certificate of weights.

    Attributes:
        status: what it deserves.
        gap: the residual relative to ||d||.
        sound: whether no method could do better in float64.
        size: the length of the terms of d.
        ratio: size / ||d||.
    """

    status: SolverStatus
    gap: float
    sound: bool
    size: float
    ratio: float


def dual_cone(
    cosines: Array,
    norms: Array,
    preference: Array,
    *,
    separate: bool = False,
    tol: float = 1e-10,
    max_iter: int | None = None,
    noise: float = EPS,
) -> Solved:
    """`dual_cone_point` of one clean problem, split into cosines and norms; nothing is checked.

    Args:
        cosines: float64 `[m, m]`, symmetric with unit diagonal.
        norms: float64 `[m]`, > 0.
        preference: float64 `[m]`, the combination u.
        separate: False projects `sum_i u_i g_i`; True returns `sum_i u_i` times the projection of
            g_i. The gap of the sum is `sum_i u_i residual_i / ||d||` with the residual of each;
            since projections of gradients never conflict, ||d|| is at least as long as each.
        tol, max_iter: as for `dual_cone_point`.
        noise: relative rounding of a cosine. Gradients that are dependent but for noise allow
            weights as large as its inverse; a ridge of its size then keeps them bounded.
    """
    m = len(norms)
    limit = 10 * m + 20 if max_iter is None else max_iter
    stopped = None if max_iter is None else SolverStatus.MAX_ITER
    # Extreme norm ratios may overflow on the way; the certificate is the judge.
    with np.errstate(all="ignore"):
        lengths = preference * norms
        scale = float(np.maximum.reduce(np.abs(lengths))) or 1.0
        relative = lengths / scale

        def solved(matrix: Array) -> tuple[Array, float, int]:
            shift, residual, more = _combined(matrix, relative, separate, limit)
            return preference + shift * (scale / norms), residual, more

        def judged(weights: Array, residual: float, ridge: float, noise: float) -> _Judged:
            v = weights * norms / scale
            shift = np.zeros(m) if separate else v - relative
            return _judged(cosines, v, shift, residual, ridge, tol, noise)

        weights, residual, num_iter = solved(cosines)
        best = judged(weights, residual, 0.0, noise)
        if HIDDEN * best.ratio > 1.0:
            noise = shown_noise(cosines, noise)
            best = judged(weights, residual, 0.0, noise)
        hidden = best.status is not SolverStatus.DEGENERATE and noise * best.ratio > HIDDEN
        if not hidden and (best.sound or best.status is stopped):
            return Solved(weights, best.status, best.gap, num_iter)
        noise = shown_noise(cosines, noise)
        best = best._replace(gap=best.gap + noise * best.ratio)
        for factor in RIDGES:
            matrix = cosines.copy()
            matrix.flat[:: m + 1] += factor * noise
            other, residual, more = solved(matrix)
            num_iter += more
            found = judged(other, residual, factor * noise, noise)
            if found.gap < best.gap or not found.size >= 0.1 * best.size:
                weights, best = other, found
            if best.size <= LARGE * m or best.sound:
                break
    return Solved(weights, best.status, best.gap, num_iter)


def _judged(
    cosines: Array,
    v: Array,
    shift: Array,
    residual: float,
    ridge: float,
    tol: float,
    noise: float,
) -> _Judged:
    """The certificate of v, the weights of unit gradients; a shift of 0 tests descent alone."""
    y = cosines @ v
    size, square = float(np.add.reduce(np.abs(v))), float(v @ y)
    length = math.sqrt(square) if square > 0.0 else 0.0
    ratio = size / length if length else math.inf
    residual = max(residual, float(np.maximum.reduce(np.abs(np.minimum(shift, y)))))
    residual += ridge * size
    if square <= max(RESOLUTION, noise) * size * size:
        gap = hidden_gap(residual, square, size, noise)
        return _Judged(SolverStatus.DEGENERATE, gap, size <= LARGE * len(v), size, ratio)
    gap, rounding = residual / length, residual <= ROUNDING * size
    status = SolverStatus.CONVERGED if gap <= tol or rounding else SolverStatus.MAX_ITER
    return _Judged(status, gap, gap <= CERTIFIED or rounding, size, ratio)


def _combined(
    cosines: Array, relative: Array, separate: bool, limit: int
) -> tuple[Array, float, int]:
    """The shift `[m]` of the combination, its residual and iterations."""
    if separate:
        # The combination of unit gradient i is row i of the unit matrix: its products are C_i.
        shifts, residuals, num_iter = _projected(cosines, None, cosines, limit)
        return relative @ shifts, float(np.abs(relative) @ residuals), num_iter
    need = (cosines @ relative)[None]
    shifts, _, num_iter = _projected(cosines, relative[None], need, limit)
    return shifts[0], 0.0, num_iter


def _projected(
    cosines: Array, starts: Array | None, need: Array, limit: int
) -> tuple[Array, Array, int]:
    """The shifts `[k, m]` that solve k problems, their residuals `[k]`, all iterations.

    `starts` None is the unit matrix; `need` `[k, m]` is `starts C`.
    """
    lowest = float(np.minimum.reduce(need, axis=None))
    if lowest >= 0.0:
        return np.zeros(need.shape), np.zeros(len(need)), 0
    shifts, num_iter = exchanged_faces(cosines, need)
    y = need + shifts @ cosines
    residuals = np.maximum.reduce(np.abs(np.minimum(shifts, y)), axis=1)
    if float(np.maximum.reduce(residuals)) <= ROUNDING:
        return shifts, residuals, num_iter
    v = shifts + (np.eye(len(cosines)) if starts is None else starts)
    size = np.add.reduce(np.abs(v), axis=1)
    square = np.maximum(np.add.reduce(v * y, axis=1), RESOLUTION * size * size)
    for p in (~(residuals <= CERTIFIED * np.sqrt(square))).nonzero()[0].tolist():
        start = np.eye(1, len(cosines), p)[0] if starts is None else starts[p]
        one, more = cone_active_set(cosines, start, limit)
        num_iter += more
        rest = float(np.abs(np.minimum(one, need[p] + one @ cosines)).max())
        if not rest >= residuals[p]:
            shifts[p], residuals[p] = one, rest
    return shifts, residuals, num_iter


def dual_cone_point(
    gramian: Tensor,
    preference: Tensor,
    *,
    active: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """The weights of the point of the dual cone that is nearest to `sum_i u_i g_i`.

    Solves `min_v v^T G v` subject to `v_i >= u_i` for every i, with G = J J^T. The point
    d = J^T v is the projection of J^T u onto the cone `{d : g_i . d >= 0 for every i}`: the
    nearest direction that raises no objective.

    Args:
        gramian: real floating `[..., m, m]`, symmetric positive semi-definite up to rounding; any
            scale from 1e-30 to 1e30 of the gradients and norm ratios to 1e8.
        preference: real floating `[m]` or `[..., m]`, the combination u to project.
        active: bool `[..., m]`; other rows get weight exactly 0 and have no influence, not even
            when they hold NaN. None means all; no active row gives weights 0.
        tol: positive, dimensionless; the `gap` up to which the status is CONVERGED. The solver
            goes as far as float64 lets it, whatever `tol` is. Default 1e-10.
        max_iter: limit on the pivots of one projection; default `10 m + 20`.

    Returns:
        `SolverResult`: weights v float64 `[..., m]`, v >= u; status int64 `[...]`; gap float64
        `[...]`; num_iter int64 `[...]`.
        With unit gradients g^_i = g_i / ||g_i|| and shifts s_i = ||g_i|| (v_i - u_i), gap is the
        residual of the optimality conditions `max_i |min(s_i, g^_i . d)| / ||d||`: a gap of
        1e-10 proves `g_i . d >= -1e-10 ||g_i|| ||d||` for every i.
        status is DEGENERATE where the rounding of the Gramian hides whether d is zero:
        `||d|| <= 6e-8 sum_i |v_i| ||g_i||`, with gap 0, in float64; 3e-4 in float32, and the gap
        then counts what is hidden. NON_FINITE, with uniform weights and gap NaN, where an active
        entry is NaN or infinite; MAX_ITER where the gap exceeds `tol` and what rounding makes of
        the terms of d; else CONVERGED.

    Raises:
        ValueError: if a shape or a setting is wrong.

    Numerics: float64, from cosines and ratios of norms alone, by block pivoting, and by a finite
        active-set method where that does not certify. d is unique; for linearly dependent
        gradients v is not. Where gradients are dependent but for the rounding of the Gramian,
        which then decides v, a ridge of the size of that rounding keeps v small; the gap is that
        of the weights returned. The result carries no autograd graph.

    Example:
        >>> import torch
        >>> from moopt.solvers import dual_cone_point
        >>> G = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
        >>> dual_cone_point(G, torch.tensor([1.0, 0.0])).weights.tolist()
        [1.0, 0.25]

    Source: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS
    2017, https://arxiv.org/abs/1706.08840, for the problem; P. Quinton and V. Rey, "Jacobian
    Descent For Multi-Objective Optimization", 2024, https://arxiv.org/abs/2406.16232, Proposition
    1, for this form. We solve it on unit gradients, so that no absolute tolerance is needed, and
    certify each row.
    """
    check_gramian(gramian, "dual_cone_point")
    m = gramian.shape[-1]
    if preference.shape[-1:] != (m,):
        raise ValueError(
            f"`preference` of `dual_cone_point` must have shape [..., {m}], one entry for each row"
            f" of the Gramian; got {list(preference.shape)}. Pass torch.ones(m) / m for the mean."
        )
    check_limits(tol, max_iter, "dual_cone_point", "1e-10")

    def solve(cosines: Array, norms: Array, u: Array) -> Solved:
        noise = rounding_of(gramian)
        return dual_cone(cosines, norms, u, tol=tol, max_iter=max_iter, noise=noise)

    return each_gramian(solve, gramian, preference, active=active, zero_rows="keep")
