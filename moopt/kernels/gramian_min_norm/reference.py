"""The numbers of a step from its Gramian, in plain PyTorch: no branch on values, no readback."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moopt.kernels.dual_cone import dual_cone_reference
from moopt.kernels.faces import scale_free
from moopt.kernels.gramian_min_norm.numbers import StepNumbers
from moopt.kernels.min_norm import min_norm_reference
from moopt.kernels.tolerances import DESCENT_TOL, INNER_ROUNDING, PROPORTIONATE, RESOLVED
from moopt.records.device_point import DevicePoint
from moopt.records.status import SolverStatus


class Checked(NamedTuple):
    """A direction beside its certificate.

    Attributes:
        sound: bool scalar, whether it raises no active objective and is more than rounding.
        rises: bool `[m]`, the active objectives that it raises.
    """

    sound: Tensor
    rises: Tensor


def weigh_reference(
    gramian: Tensor,
    losses: Tensor,
    kept: Tensor,
    *,
    point: DevicePoint,
    known: Sequence[bool] | None = None,
    preference: Tensor | None = None,
    inactive_tol: float = 0.0,
    eps: float = 0.0,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> Tensor:
    """Weigh the objectives of one step on the Gramian's device, and check the direction.

    The rules are those of `moopt.step.weigh`: objectives at their noise floor get weight 0; the
    direction is checked against every active objective; where it raises one, or is lost in
    rounding, l2-normalised MGDA at the mean gradient norm takes its place, and weights 0 where that
    fails too; what is not finite gives uniform weights.

    Args:
        gramian: float64 `[m, m]`, unscaled.
        losses: float64 `[m]`, NaN where none was given.
        kept: what `kept_numbers` made, of an earlier step; updated in place.
        point: which point is looked for.
        known: `[m]`, which losses were given; None means all.
        preference: float64 `[m]`, for the dual cone; None means equal shares.
        inactive_tol: relative noise floor, >= 0; 0 disables the rule.
        eps: unit of rounding of the combination, relative to `sum_i |w_i| ||g_i||`.
        tol: the gap up to which the status is CONVERGED.
        max_iter: limit on the pivots of each solve; None means as many as it takes.

    Returns:
        The packed `StepNumbers`.

    Numerics: as `min_norm_reference` and `dual_cone_reference`. The projection onto the dual cone
        has no ridge for gradients that are dependent but for rounding, which the host's has: where
        its weights are then too long, the check finds it.

    Example:
        >>> import torch
        >>> from moopt.kernels.gramian_min_norm import kept_numbers, unpacked, weigh_reference
        >>> from moopt.records.device_point import DevicePoint
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> kept = kept_numbers(2, G.device)
        >>> losses = torch.ones(2, dtype=torch.float64)
        >>> out = unpacked(weigh_reference(G, losses, kept, point=DevicePoint.HULL), 2)
        >>> [round(w, 6) for w in out.weights.tolist()], bool(out.descent)
        ([0.8, 0.2], True)
    """
    m = len(gramian)
    limits: dict[str, Any] = {
        "tol": tol,
        "max_iter": max_iter,
        "enumerate_faces": None if max_iter is None else False,
    }
    given = [loss for loss, on in zip(losses, known or [True] * m, strict=True) if on]
    finite = gramian.isfinite().all() & (torch.stack(given).isfinite().all() if given else True)
    everyone = torch.ones_like(losses, dtype=torch.bool)
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    active = torch.where(finite, _above_noise_floor(norms, losses, inactive_tol), everyone)
    cosines, lengths, live, _ = scale_free(gramian, active)
    zero = active & ~live & finite

    # Zero rows, which a unit row cannot be, share the weight of the hull: the point is stationary.
    units = torch.where(zero[:, None] | zero, 0.0, cosines)
    hull, hull_status, hull_gap, _ = min_norm_reference(units, active, **limits)
    degenerate = hull_status == int(SolverStatus.DEGENERATE)
    squared = (hull @ (units @ hull)).clamp_min(0.0)
    stationarity = torch.where(degenerate, 0.0, squared.sqrt())

    if point is DevicePoint.UNIT_HULL:
        weights, status, gap = hull / lengths, hull_status, hull_gap
    elif point is DevicePoint.HULL:
        weights, status, gap, _ = min_norm_reference(gramian, active, **limits)
    else:
        u = active.double() / active.sum() if preference is None else preference
        separate = point is DevicePoint.CONE_OF_EACH
        weights, status, gap, _ = dual_cone_reference(
            gramian, u.double(), active, separate=separate, **limits
        )
        shares = torch.where(live.any(), 0.0, zero.double() / zero.sum())
        weights = torch.where(live, weights, shares)
        gap = torch.where(live.any(), gap, 0.0)

    certified = _certified(gramian, norms, weights, active, eps)
    mean = torch.where(active, norms, 0.0).sum() / active.sum()
    others = hull / lengths * mean
    of_others = _certified(gramian, norms, others, active, eps)
    fell_back = ~certified.sound & of_others.sound
    nothing = ~certified.sound & ~of_others.sound
    weights = torch.where(certified.sound, weights, torch.where(fell_back, others, 0.0))
    rises = torch.where(certified.sound, certified.rises, of_others.rises)
    status = torch.where(nothing, int(SolverStatus.DEGENERATE), status)

    weights = torch.where(finite, weights, 1.0 / m)
    fell_back, nothing = fell_back & finite, nothing & finite
    kept[:m] = torch.where(active, 0.0, kept[:m] + 1.0)
    kept[m] += fell_back
    kept[m + 1] += 1.0
    return StepNumbers(
        weights=weights,
        losses=losses,
        active=active,
        rises=rises & finite,
        idle=kept[:m],
        gramian=gramian,
        status=torch.where(finite, status, int(SolverStatus.NON_FINITE)),
        gap=torch.where(finite, gap, math.nan),
        stationarity=torch.where(finite, stationarity, math.nan),
        descent=finite & (certified.sound | of_others.sound),
        fell_back=fell_back,
        fallbacks=kept[m],
        steps=kept[m + 1],
    ).packed()


def _above_noise_floor(norms: Tensor, losses: Tensor, inactive_tol: float) -> Tensor:
    """`moopt.step.weigh.above_noise_floor` on a device."""
    if len(norms) == 1 or inactive_tol == 0.0:
        return torch.ones_like(norms, dtype=torch.bool)
    largest, longest = norms.max(0, keepdim=True)
    sizes = losses.abs()
    proportion = (sizes / sizes.gather(0, longest)) / (norms / largest)
    small = (proportion > 1.0 / PROPORTIONATE) & (proportion < PROPORTIONATE)
    low = (norms <= inactive_tol * largest) & ~small
    return ~low | ~(largest > 0.0)


def _certified(
    gramian: Tensor, norms: Tensor, weights: Tensor, active: Tensor, eps: float
) -> Checked:
    """`moopt.step.weigh.certified` on a device."""
    inner = gramian @ weights
    length = (weights @ inner).clamp_min(0.0).sqrt()
    size = weights.abs() @ norms
    slack = norms * (DESCENT_TOL * length + max(INNER_ROUNDING, eps) * size)
    lowers = ((inner >= -slack) | ~active).all()
    return Checked(lowers & (length * RESOLVED > eps * size), (inner < -slack) & active)
