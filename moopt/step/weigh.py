"""certified_weights: from the Gramian to weights whose direction has been checked."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import Scalarization
from moopt.solvers import stationarity
from moopt.weightings import Sum, Weighting
from moopt.weightings.objective_rows import with_auxiliary_rows

DEFAULT_INACTIVE_TOL = 1e-5
"""A gradient this small beside the largest is noise: float32 rounding leaves about 4e-6."""

DESCENT_TOL = 1e-9
"""(G w)_i >= -DESCENT_TOL ||g_i|| ||d|| counts as descent: ten times the solvers' tolerance."""

ROUNDING = 64 * torch.finfo(torch.float64).eps
"""Slack for the rounding of (G w)_i itself, relative to ||g_i|| sum_j |w_j| ||g_j||."""


RESOLVED = 1e-3
"""A direction is resolved when rounding turns it by less than this angle."""


class CertifiedWeights(NamedTuple):
    """Weights, the next state, and what `StepRecord` says about them."""

    weights: Tensor
    state: dict[str, Tensor]
    active: Tensor
    stationarity: Tensor
    status: Tensor
    gap: Tensor
    descent: Tensor
    fell_back: Tensor


def certified_weights(
    statistics: StepStatistics,
    weighting: Weighting,
    state: dict[str, Tensor] | None = None,
    *,
    inactive_tol: float,
    eps: float = torch.finfo(torch.float64).eps,
) -> CertifiedWeights:
    """Weigh the objectives, and check that the direction is what the method promises.

    1. Objectives with `||g_i|| <= inactive_tol * max_j ||g_j||` are inactive: weight 0.
    2. The weighting sees the active ones.
    3. The direction `d = sum_i w_i g_i` is checked: `(G w)_i >= 0` for every active i, up to
       rounding. A weighting that guarantees this and fails is replaced, for this step, by
       l2-normalised MGDA at the scale of the mean gradient norm.
    4. A direction that rounding alone could turn by more than `RESOLVED` is no direction: the
       gradients cancel. Then `descent` is False, and a weighting that guarantees common descent
       gets weights 0 and status DEGENERATE, so that an adaptive optimizer never blows noise up.

    `Sum` and the scalarizations are plain training on one number: they see every objective as
    active, whatever the record names.
    Everything is branch-free: nothing synchronises the device.

    Args:
        statistics: of one step, Gramian float64 `[m + k, m + k]` with k auxiliary rows.
        weighting: the method.
        state: its state, aligned with the objectives of `statistics`.
        inactive_tol: relative noise floor, >= 0; 0 disables the rule.
        eps: unit of rounding of the combination, relative to `sum_i |w_i| ||g_i||`.
    """
    gramian, m = statistics.gramian, statistics.num_objectives
    finite = torch.isfinite(gramian).all()
    norms = gramian.diagonal().clamp_min(0.0).sqrt()[:m]
    active = above_noise_floor(norms, inactive_tol)
    seen = None if isinstance(weighting, Sum | Scalarization) else active
    statistics = dataclasses.replace(statistics, active=seen)
    if state is None:
        state = weighting.initial_state(statistics.num_objectives, gramian.device)
    output = weighting(statistics, state)
    weights = output.weights

    distance, unit = stationarity(gramian[:m, :m], active=active)
    descent = is_common_descent(gramian, weights, active)
    fell_back = torch.zeros_like(descent)
    if weighting.claims_common_descent:
        fell_back = finite & ~descent
        mean_norm = (norms * active).sum() / active.sum().clamp_min(1)
        fallback = unit.weights / norms.where(norms > 0, 1.0) * mean_norm
        fallback = with_auxiliary_rows(fallback, statistics)
        weights = torch.where(fell_back, fallback, weights)
        descent = torch.where(fell_back, is_common_descent(gramian, weights, active), descent)

    result = output.result
    status = unit.status if result is None else result.status
    resolved = is_resolved(gramian, weights, eps) | ~finite
    descent = descent & resolved
    if weighting.claims_common_descent:
        fell_back = fell_back & resolved
        weights = weights.where(resolved, 0.0)
        status = status.where(resolved, int(SolverStatus.DEGENERATE))
    return CertifiedWeights(
        weights=weights,
        state={key: torch.where(finite, output.state[key], state[key]) for key in state},
        active=active,
        stationarity=distance,
        status=status,
        gap=torch.full_like(distance, float("nan")) if result is None else result.gap,
        descent=descent,
        fell_back=fell_back,
    )


def above_noise_floor(norms: Tensor, inactive_tol: float) -> Tensor:
    """bool `[m]`: the objectives whose gradient is above the noise floor.

    With all gradients zero, or with a single objective, every objective is active. A non-finite
    norm counts as active, so that overflow is seen rather than masked.
    """
    if norms.shape[-1] == 1 or inactive_tol == 0:
        return torch.ones_like(norms, dtype=torch.bool)
    largest = norms.amax(-1, keepdim=True)
    return ~((norms <= inactive_tol * largest) & (largest > 0) & torch.isfinite(largest))


def is_common_descent(gramian: Tensor, weights: Tensor, active: Tensor) -> Tensor:
    """bool scalar: `(G w)_i >= 0` for every active i, relative to `||g_i|| ||d||`.

    False where the Gramian or the weights are not finite. Rows beyond those of `active` are
    auxiliary: they take part in d, and nothing protects them.
    """
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    inner = gramian @ weights
    length = (weights * inner).sum().clamp_min(0.0).sqrt()
    rounding = ROUNDING * (weights.abs() * norms).sum()
    lowers = (inner >= -norms * (DESCENT_TOL * length + rounding))[: active.shape[-1]]
    return (lowers | ~active).all() & torch.isfinite(inner).all()


def is_resolved(gramian: Tensor, weights: Tensor, eps: float) -> Tensor:
    """bool scalar: whether `||d||` exceeds the rounding of `d` itself by `1 / RESOLVED`.

    Args:
        gramian: float64 `[m, m]`.
        weights: float64 `[m]`.
        eps: unit of rounding of the combination, relative to `sum_i |w_i| ||g_i||`.
    """
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    length = (weights * (gramian @ weights)).sum().clamp_min(0.0).sqrt()
    return length * RESOLVED > eps * (weights.abs() * norms).sum()
