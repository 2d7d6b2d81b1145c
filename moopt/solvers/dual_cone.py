"""dual_cone_point: the projection of a combination of gradients onto their dual cone."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moopt.kernels.fused import fused_form
from moopt.kernels.tolerances import CERTIFIED, EPS, RESIDUAL_ROUNDING, RESOLUTION
from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.active_set import cone_active_set
from moopt.solvers.door import check_gramian, check_limits, each_gramian, rounding_of
from moopt.solvers.exchanged_faces import exchanged_faces
from moopt.solvers.noise import HIDDEN, hidden_gap, shown_noise

LARGE = 1e3
"""Terms of a direction, relative to those of the combination, that are too long where it has no
certificate: gradients that are dependent but for noise make them."""

LARGEST_FUSED = 32
"""Rows of a problem that fit into the registers of one program of a GPU."""

RIDGES = (2.0, 32.0, 512.0)
"""Ridges that make such gradients independent, in units of the noise: the first is enough but for
rare accidents of rounding."""


class _Tried(NamedTuple):
    """Weights, and how good they are.

    Attributes:
        solved: the weights, with the status and the gap that they deserve.
        sound: whether no method could do better in float64.
        size: the length of the terms of d.
        ratio: size / ||d||.
        noise: the rounding of a cosine, as large as the cosines show where it may hide d.
    """

    solved: Solved
    sound: bool
    size: float
    ratio: float
    noise: float


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
    lengths = preference * norms
    scale = float(np.maximum.reduce(np.abs(lengths))) or 1.0
    start = lengths / scale

    def tried(ridge: float, noise: float) -> _Tried:
        matrix = cosines + ridge * np.eye(m) if ridge else cosines
        shift, residual, num_iter = _projected(matrix, start, separate, limit)
        weights = preference + shift * (scale / norms)
        v = weights * norms / scale
        y = cosines @ v
        size, square = float(np.add.reduce(np.abs(v))), float(v @ y)
        if square < (HIDDEN * size) ** 2:
            noise = shown_noise(cosines, noise)
        # Of a sum of projections the residuals are known; it has to descend.
        wrong = np.minimum(0.0 if separate else v - start, y)
        residual = max(residual, float(np.maximum.reduce(np.abs(wrong)))) + ridge * size
        length = math.sqrt(square) if square > 0.0 else 0.0
        ratio = size / length if length else math.inf
        if not square > max(RESOLUTION, noise) * size * size:  # nor is NaN a length
            gap = hidden_gap(residual, square, size, noise)
            solved = Solved(weights, SolverStatus.DEGENERATE, gap, num_iter)
            return _Tried(solved, size <= LARGE * m, size, ratio, noise)
        gap, rounding = residual / length, residual <= RESIDUAL_ROUNDING * size
        status = SolverStatus.CONVERGED if gap <= tol or rounding else SolverStatus.MAX_ITER
        solved = Solved(weights, status, gap, num_iter)
        return _Tried(solved, gap <= CERTIFIED or rounding, size, ratio, noise)

    best = tried(0.0, noise)
    status, pivots = best.solved.status, best.solved.num_iter
    stopped = max_iter is not None and status is SolverStatus.MAX_ITER
    clear = status is SolverStatus.DEGENERATE or best.noise * best.ratio <= HIDDEN
    if clear and (best.sound or stopped):
        return best.solved
    noise = shown_noise(cosines, best.noise)
    gap = best.solved.gap + noise * best.ratio
    best = best._replace(solved=best.solved._replace(gap=gap))
    for factor in RIDGES:
        found = tried(factor * noise, noise)
        pivots += found.solved.num_iter
        if found.solved.gap < best.solved.gap or not found.size >= 0.1 * best.size:
            best = found
        if best.size <= LARGE * m or best.sound:
            break
    return best.solved._replace(num_iter=pivots)


def _projected(
    cosines: Array, start: Array, separate: bool, limit: int
) -> tuple[Array, float, int]:
    """The shift `[m]` of the combination, the residual of its parts, and all iterations."""
    # The combination of unit gradient i is row i of the unit matrix: its products are C_i.
    need = cosines if separate else (cosines @ start)[None]
    if float(np.minimum.reduce(need, axis=None)) >= 0.0:
        return np.zeros(len(start)), 0.0, 0
    shifts, num_iter = exchanged_faces(cosines, need)
    y = need + shifts @ cosines
    residuals = np.maximum.reduce(np.abs(np.minimum(shifts, y)), axis=1)
    if not float(np.maximum.reduce(residuals)) <= RESIDUAL_ROUNDING:
        starts = np.eye(len(start)) if separate else start[None]
        v = shifts + starts
        size = np.add.reduce(np.abs(v), axis=1)
        square = np.maximum(np.add.reduce(v * y, axis=1), RESOLUTION * size * size)
        for p in (~(residuals <= CERTIFIED * np.sqrt(square))).nonzero()[0].tolist():
            one, more = cone_active_set(cosines, starts[p], limit)
            num_iter += more
            rest = float(np.abs(np.minimum(one, need[p] + one @ cosines)).max())
            if not rest >= residuals[p]:
                shifts[p], residuals[p] = one, rest
    if separate:
        return start @ shifts, float(np.abs(start) @ residuals), num_iter
    return shifts[0], 0.0, num_iter


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
        of the weights returned. Solved on the host, and a Gramian on a device is read once; but a
        float64 one of up to 32 rows on a CUDA device is one launch there, reads nothing, and has no
        ridge: the gap tells. The result carries no autograd graph.

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

    fits = gramian.dtype == torch.float64 and m <= LARGEST_FUSED
    if fits and fused_form("dual_cone", gramian.device, width=m).name == "triton":
        from moopt.kernels.dual_cone.triton import dual_cone_triton

        on = torch.ones_like(gramian[..., 0], dtype=torch.bool) if active is None else active
        return SolverResult(
            *dual_cone_triton(gramian, preference, on, separate=False, tol=tol, max_iter=max_iter)
        )
    noise = rounding_of(gramian)
    solve = functools.partial(dual_cone, tol=tol, max_iter=max_iter, noise=noise)
    return each_gramian(solve, gramian, preference, active=active, zero_rows="keep")
