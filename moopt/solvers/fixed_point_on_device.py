"""fixed_point_on_device: damped Newton for G a = a^(-1/alpha) without a branch on values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.min_norm import min_norm_point

NASH_TRIPS = 20
"""Newton steps for alpha = 1, all executed: three more than any family of tests/cases needed."""

FAIR_TRIPS = 32
"""Newton steps for other alpha, all executed: seven more than alpha = 2 needed."""

HALVINGS = 10
"""Fractions 1, 1/2, 1/4, ... of the Newton step that are tried where it is long."""

SHORT = 0.25
"""Largest relative change of a weight for which the full Newton step converges quadratically."""

STAY_POSITIVE = 0.95
"""Share of the way to the first weight of zero that a step may go."""


def fixed_point_on_device(
    gramian: Tensor, active: Tensor | None, alpha: float, tol: float, max_iter: int | None
) -> SolverResult:
    """`moopt.solvers.fixed_point.fixed_point` of float64 tensors; no value is read."""
    power = 1.0 / alpha
    on = torch.ones(gramian.shape[:-1], dtype=torch.bool, device=gramian.device)
    if active is not None:
        on = on & active.to(gramian.device)
    pairs = on[..., :, None] & on[..., None, :]
    finite = (torch.isfinite(gramian) | ~pairs).all(-1).all(-1)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    zero = on & (norms == 0.0) & finite[..., None]
    live = on & ~zero & finite[..., None]
    norms = torch.where(live, norms, 1.0)
    eye = torch.eye(gramian.shape[-1], dtype=torch.bool, device=gramian.device)
    pairs = live[..., :, None] & live[..., None, :]
    cosines = torch.where(pairs, 0.5 * gramian + 0.5 * gramian.mT, 0.0)
    cosines = (cosines / norms[..., :, None] / norms[..., None, :]).clamp(-1.0, 1.0)
    cosines = torch.where(eye, 1.0, cosines)
    simplex = min_norm_point(cosines, active=live)
    stationary = simplex.status == int(SolverStatus.DEGENERATE)

    # Rows that are not live become orthogonal unit rows: they influence nothing.
    longest = torch.where(live, norms, 0.0).amax(-1, keepdim=True)
    longest = torch.where(longest > 0.0, longest, 1.0)
    unit = longest ** ((power - 1.0) / (power + 1.0)) / norms
    r = torch.where(live, norms / longest, 1.0) ** (power - 1.0)
    b = _started(cosines, r, power)
    best, gap = b, _residual(cosines, r, power, b)
    trips = max_iter
    if trips is None:
        trips = NASH_TRIPS if alpha == 1.0 else FAIR_TRIPS
    for _ in range(trips):
        b = b * (1.0 + _newton_step(cosines, r, power, b))
        residual = _residual(cosines, r, power, b)
        better = residual < gap
        best = torch.where(better[..., None], b, best)
        gap = torch.where(better, residual, gap)

    weights = torch.where(stationary[..., None], simplex.weights, best) * unit * live
    any_zero = zero.any(-1)
    shared = zero / zero.sum(-1, keepdim=True).clamp_min(1).to(weights.dtype)
    weights = torch.where(any_zero[..., None], shared, weights)
    uniform = on / on.sum(-1, keepdim=True).clamp_min(1).to(weights.dtype)
    weights = torch.where(finite[..., None], weights, uniform)
    degenerate = stationary | any_zero | ~live.any(-1)
    gap = torch.where(degenerate, 0.0, gap)
    gap = torch.where(finite, gap, math.nan)
    status = torch.where(gap <= tol, int(SolverStatus.CONVERGED), int(SolverStatus.MAX_ITER))
    status = torch.where(degenerate, int(SolverStatus.DEGENERATE), status)
    status = torch.where(finite, status, int(SolverStatus.NON_FINITE))
    num_iter = torch.where(degenerate | ~finite, 0, trips)
    return SolverResult(weights, status, gap, num_iter)


def _started(cosines: Tensor, r: Tensor, power: float) -> Tensor:
    """The solution for orthogonal gradients, at its best length for these."""
    b = r ** (1.0 / (1.0 + power))
    size = torch.maximum((b * _apply(cosines, b)).sum(-1), 1e-12 * b.square().sum(-1))
    return b * ((r * b ** (1.0 - power)).sum(-1) / size)[..., None] ** (1.0 / (1.0 + power))


def _residual(cosines: Tensor, r: Tensor, power: float, b: Tensor) -> Tensor:
    """max_i |(C b)_i b_i^power / r_i - 1|, infinite where it is not a number."""
    worst = (_apply(cosines, b) / (r * b**-power) - 1.0).abs().amax(-1)
    return torch.where(worst.isnan(), math.inf, worst)


def _newton_step(cosines: Tensor, r: Tensor, power: float, b: Tensor) -> Tensor:
    """The relative change of b: `moopt.solvers.fixed_point_on_host.newton_step` on tensors."""
    products, wanted = _apply(cosines, b), r * b**-power
    scale = (b * wanted).sqrt()
    ratio = b / scale
    hessian = cosines * ratio[..., :, None] * ratio[..., None, :]
    hessian = hessian + power * torch.eye(b.shape[-1], dtype=b.dtype, device=b.device)
    # Unlike `cholesky`, it leaves its error code on the device.
    factor = torch.linalg.cholesky_ex(hessian)[0]
    right = ((wanted - products) * ratio)[..., None]
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    change = torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0] / scale
    lowest = change.amin(-1, keepdim=True)
    longest = torch.where(lowest < -STAY_POSITIVE, STAY_POSITIVE / -lowest.clamp_max(-0.5), 1.0)
    steps = longest * 0.5 ** torch.arange(HALVINGS, dtype=b.dtype, device=b.device)
    move = b * change
    grown = 1.0 + steps[..., None] * change[..., None, :]
    weighted = r * b ** (1.0 - power)
    if power == 1.0:
        gain = (grown.log() * weighted[..., None, :]).sum(-1)
    else:
        gain = (grown ** (1.0 - power) * weighted[..., None, :]).sum(-1) / (1.0 - power)
    linear = (move * products).sum(-1, keepdim=True)
    bend = (move * _apply(cosines, move)).sum(-1, keepdim=True)
    potential = steps * linear + 0.5 * steps.square() * bend - gain
    potential = torch.where(potential.isnan(), math.inf, potential)
    chosen = steps.take_along_dim(potential.argmin(-1, keepdim=True), -1)
    short = change.abs().amax(-1, keepdim=True) <= SHORT
    return change * torch.where(short, 1.0, chosen)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
