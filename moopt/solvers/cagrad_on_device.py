"""cagrad_on_device: the one-dimensional dual of CAGrad without a branch on values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moopt.kernels.min_norm.reference import LARGEST_ENUMERATED
from moopt.kernels.min_norm.tolerances import CERTIFIED, DEPENDENT, RESOLUTION
from moopt.kernels.sweep import swept
from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.dual_cone import dual_cone_point
from moopt.solvers.min_norm import min_norm_point

STEP_DOWN = 1e-4
"""Factor by which the upper bound of the root is tried where there is no lower one."""

DEVICE_TRIPS = 16
"""Trips of the root finder on a device, all executed; most problems need 5."""


def cagrad_on_device(
    gramian: Tensor,
    active: Tensor | None,
    c: float,
    tol: float,
    max_iter: int | None,
    *,
    enumerate_faces: bool | None = None,
) -> SolverResult:
    """`moopt.solvers.cagrad.cagrad_point` of float64 tensors; no value is read."""
    m = gramian.shape[-1]
    on = torch.ones(gramian.shape[:-1], dtype=torch.bool, device=gramian.device)
    if active is not None:
        on = on & active.to(gramian.device)
    pairs = on[..., :, None] & on[..., None, :]
    finite = (torch.isfinite(gramian) | ~pairs).all(-1).all(-1)
    clean = torch.where(pairs & finite[..., None, None], gramian, 0.0)
    largest = clean.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    clean = clean / torch.where(largest > 0.0, largest, 1.0)
    share = on / on.sum(-1, keepdim=True).clamp_min(1).to(torch.float64)
    weights, gap = share, torch.zeros_like(largest[..., 0, 0])
    trivial = torch.zeros_like(finite)
    num_iter = torch.zeros_like(trivial, dtype=torch.int64)
    if c > 0.0:
        problem = _Problem(clean, on, share, c)
        first = min_norm_point(clean, active=on).weights
        size = (first * problem.norms).sum(-1)
        stationary = _quadratic(clean, first) <= RESOLUTION * size.square()
        if enumerate_faces if enumerate_faces is not None else m <= LARGEST_ENUMERATED:
            inner, gap = _best_face(problem, c)
            num_iter = torch.full_like(num_iter, 2**m - 1)
        else:
            trips = DEVICE_TRIPS if max_iter is None else max_iter
            inner, gap = _root(problem, first, stationary, trips)
            num_iter = torch.full_like(num_iter, trips + 1)
        nearest = dual_cone_point(clean, share, active=on)
        distance = _quadratic(clean, nearest.weights - share)
        inside = stationary & (distance <= (1.0 + CERTIFIED) * problem.radius.square())
        weights = share + problem.radius[..., None] * inner
        weights = torch.where(inside[..., None], nearest.weights, weights)
        weights = torch.where(problem.flat[..., None], share, weights)
        gap = torch.where(inside, nearest.gap, gap)
        gap = torch.where(problem.flat, 0.0, gap)
        trivial = problem.flat | inside
    else:
        trivial = largest[..., 0, 0] <= 0.0
    weights = torch.where(finite[..., None], weights, share)
    gap = torch.where(finite, gap, math.nan)
    status = torch.where(gap <= tol, int(SolverStatus.CONVERGED), int(SolverStatus.MAX_ITER))
    status = torch.where(trivial, int(SolverStatus.DEGENERATE), status)
    status = torch.where(finite, status, int(SolverStatus.NON_FINITE))
    return SolverResult(weights, status, gap, num_iter)


class _Problem:
    """One batch of problems, with the largest row of unit length."""

    def __init__(self, gramian: Tensor, on: Tensor, share: Tensor, c: float) -> None:
        self.gramian, self.on, self.share = gramian, on, share
        self.slope = _apply(gramian, share)
        norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
        square = (share * self.slope).sum(-1)
        terms = (share * norms).sum(-1)
        self.flat = square <= RESOLUTION * terms.square()
        self.square = torch.where(self.flat, 0.0, square)
        self.radius = c * self.square.sqrt()
        self.lengths = torch.where(norms > 0.0, norms, 1.0)
        self.norms = norms

    def weights(self, square: Tensor) -> Tensor:
        """w for `||g_w||^2 = square`: the minimum-norm point of the shifted rows."""
        step = (square.sqrt() / torch.where(self.radius > 0.0, self.radius, 1.0))[..., None, None]
        cross = self.slope[..., :, None] + self.slope[..., None, :]
        shifted = self.gramian + step * cross + step.square() * self.square[..., None, None]
        return min_norm_point(shifted, active=self.on).weights

    def judged(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """||g_w||^2, w / ||g_w|| and the gap of its direction, for k candidates `[..., k, m]`."""
        slope, share, radius = self.slope[..., None, :], self.share[..., None, :], self.radius
        radius = radius[..., None, None]
        products = w @ self.gramian
        square = (w * products).sum(-1).clamp_min(0.0)
        length = torch.where(square > 0.0, square, 1.0).sqrt()[..., None]
        value = (w * slope).sum(-1, keepdim=True) + radius * length
        inner = w / length
        violation = value - slope - radius * products / length
        d = share + radius * inner
        size = (d * (d @ self.gramian)).sum(-1).clamp_min(0.0).sqrt()[..., None]
        gap = violation / self.lengths[..., None, :] / torch.where(size > 0.0, size, 1.0)
        gap = torch.where(self.on[..., None, :], gap, 0.0).amax(-1).clamp_min(0.0)
        return square, inner, torch.where(square > 0.0, gap, math.inf)


def _best_face(problem: _Problem, c: float) -> tuple[Tensor, Tensor]:
    """w / ||g_w|| and gap of the best face; on each, t is the root of a quadratic.

    On the affine hull of a face `w = a + t e`, so `t^2 = a'Ga + t^2 e'Ge` gives t.
    """
    gramian, lengths = problem.gramian, problem.lengths
    m = gramian.shape[-1]
    usable = problem.on & (problem.norms > 0.0)
    shortest = torch.where(usable, lengths, math.inf).amin(-1, keepdim=True)
    r = torch.where(usable, shortest / lengths, 0.0)
    mean = torch.where(problem.square > 0.0, problem.square, 1.0).sqrt()[..., None]
    p = problem.slope / lengths / mean
    eye = torch.eye(m, dtype=gramian.dtype, device=gramian.device)
    half = 0.5 * gramian + 0.5 * gramian.mT
    cosines = (half / lengths[..., :, None] / lengths[..., None, :]).clamp(-1.0, 1.0)
    cosines = torch.where(eye > 0.0, 1.0, cosines)
    codes = torch.arange(1, 2**m, device=gramian.device)
    faces = (codes[:, None] >> torch.arange(m, device=gramian.device)) & 1 == 1
    a = (cosines + r[..., :, None] * r[..., None, :])[..., None, :, :]
    table = torch.where(faces[:, :, None] & faces[:, None, :], a, eye)
    regular = torch.ones_like(table[..., 0, 0], dtype=torch.bool)
    for k in range(m):
        diagonal = table[..., k, k]
        regular = regular & (diagonal > DEPENDENT)
        hot = torch.arange(m, device=gramian.device) == k
        table = swept(table, table[..., k, :], diagonal, hot, torch.ones_like(diagonal))
    r, p = torch.where(faces, r[..., None, :], 0.0), torch.where(faces, p[..., None, :], 0.0)
    first, second = -_apply(table, r), -_apply(table, p)
    total = (r * first).sum(-1, keepdim=True)
    start = first / torch.where(total > 0.0, total, 1.0)
    e = (r * second).sum(-1, keepdim=True) * start - second
    bend = 1.0 - (e * (e @ cosines)).sum(-1) / (c * c)
    square = (start * (start @ cosines)).sum(-1).clamp_min(0.0)
    length = (square / torch.where(bend > 0.0, bend, 1.0)).sqrt() / c
    v = start + length[..., None] * e
    feasible = regular & (bend > 0.0) & (v >= 0.0).all(-1) & (total[..., 0] > 0.0)
    w = r * torch.where(feasible[..., None], v, faces.to(v.dtype))
    total = w.sum(-1, keepdim=True)
    _, inner, gap = problem.judged(w / torch.where(total > 0.0, total, 1.0))
    gap = torch.where(feasible & ~gap.isnan(), gap, math.inf)
    gap, best = gap.min(-1)
    return inner.take_along_dim(best[..., None, None], -2)[..., 0, :], gap


def _root(
    problem: _Problem, first: Tensor, stationary: Tensor, trips: int
) -> tuple[Tensor, Tensor]:
    """w / ||g_w|| and gap of the best point of a bracketed secant method for `q(T) = T`.

    q(T) = ||g_w||^2 for t^2 = T does not decrease, and q(T) / T does not increase: below the root
    q(T) is a better lower bound than T, above it a better upper one.
    """
    judged = problem.judged(first[..., None, :])
    q, inner, gap = judged[0][..., 0], judged[1][..., 0, :], judged[2][..., 0]
    q = torch.where(stationary, 0.0, q)
    low, high = q, torch.ones_like(q)
    last, last_q = torch.zeros_like(q), q
    point = torch.where(stationary, STEP_DOWN, low)
    for _ in range(trips):
        judged = problem.judged(problem.weights(point)[..., None, :])
        q, candidate, its_gap = judged[0][..., 0], judged[1][..., 0, :], judged[2][..., 0]
        better = ~(its_gap >= gap)
        inner = torch.where(better[..., None], candidate, inner)
        gap = torch.where(better, its_gap, gap)
        low = torch.where(q >= point, torch.maximum(low, q), low)
        high = torch.where(q <= point, torch.minimum(high, q), high)
        run = point - last
        steep = torch.where(run == 0.0, 0.0, (q - last_q) / torch.where(run == 0.0, 1.0, run))
        secant = (q - steep * point) / torch.where(steep < 1.0, 1.0 - steep, 1.0)
        within = (steep < 1.0) & (secant >= low) & (secant <= high)
        last, last_q = point, q
        point = torch.where(within, secant, (low * high).sqrt())
        point = torch.where(low > 0.0, point, STEP_DOWN * high)
    return inner, gap


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _quadratic(matrix: Tensor, vector: Tensor) -> Tensor:
    return (vector * _apply(matrix, vector)).sum(-1)
