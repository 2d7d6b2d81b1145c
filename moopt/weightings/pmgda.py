"""PMGDA: descend along a preference ray, and first go back to it."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number, check_solver_settings
from moopt.solvers import SolverResult, linear_program, min_norm_point
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.old_preference import (
    Preference,
    checked_preference,
    preference_needs,
    preference_vector,
)
from moopt.weightings.unit_rows import UnitRows, pairs, unit_rows

EPS = torch.finfo(torch.float64).eps

RESOLUTION = 16 * EPS
"""A squared length below this, relative to its terms, is the rounding of the Gramian's entries."""

ON_THE_RAY = 64 * EPS
"""A distance to the ray below this, relative to the length of the losses, is rounding."""


def ray_distance(losses: Tensor, preference: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """How far losses are from the ray of multiples of a preference.

    With `u = preference / ||preference||`, the distance is `h = ||losses - (losses . u) u||`.

    Args:
        losses, preference: float64 `[..., m]`, finite.
        on: bool `[..., m]`, the objectives that count.

    Returns:
        `h / ||losses||`, the sine of the angle to the ray, `[...]`; and dh / dlosses `[..., m]`,
        of length 1, or 0 where h is 0 up to rounding and has no derivative.

    Example:
        >>> import torch
        >>> from moopt.weightings.pmgda import ray_distance
        >>> losses, on = torch.tensor([3.0, 4.0]), torch.tensor([True, True])
        >>> sine, slope = ray_distance(losses, torch.tensor([1.0, 0.0]), on)
        >>> round(sine.item(), 6), slope.tolist()
        (0.8, [0.0, 1.0])
    """
    values, along = (torch.where(on, v, 0.0) for v in (losses, preference))
    values = values / _or_one(values.abs().amax(-1, keepdim=True))
    along = along / _or_one(_length(along))
    away = values - (values * along).sum(-1, keepdim=True) * along
    distance, length = _length(away), _or_one(_length(values))
    sine = distance / length
    # Asked this way round, losses that are not finite keep their NaN.
    slope = torch.where(sine <= ON_THE_RAY, 0.0, away / _or_one(distance))
    return sine[..., 0], slope


def pmgda_weights(
    gramian: Tensor,
    slope: Tensor,
    correct: Tensor,
    *,
    active: Tensor | None = None,
    sigma: float = 0.95,
    tol: float = 1e-9,
    max_iter: int | None = None,
) -> SolverResult:
    """Return the weights of a predicting or a correcting step, for any constraint on the losses.

    With h the constraint, `g_h = J' slope` its gradient and u_i, u_h the unit gradients, the
    direction is, where `correct`, `d = sum_i v_i u_i + v_h u_h` on the simplex with the largest
    `min_i g_i . d` subject to `u_h . d >= sigma`; elsewhere the minimum-norm point of the
    gradients without their components along u_h, so that h stays as it is.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        slope: float64 `[..., m]`, the derivatives of h with respect to the losses, of any length;
            where g_h = 0 there is nothing to correct nor to keep: plain MGDA.
        correct: bool `[...]`.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        sigma: in (0, 1].
        tol: relative tolerance of the solvers, > 0.
        max_iter: limit on their pivots.

    Returns:
        The weights, of any sign; status, gap and num_iter are those of the problem solved. On
        non-finite input the weights are uniform over the active objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.pmgda import pmgda_weights
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> slope, off = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor(True)
        >>> [round(w, 12) for w in pmgda_weights(G, slope, off).weights.tolist()]
        [0.05, 0.95]
    """
    rows = unit_rows(gramian.detach(), active)
    slope = torch.where(rows.on, slope, 0.0)
    finite = rows.finite & torch.isfinite(slope).all(-1)
    ray = _ray(rows, torch.where(finite[..., None], slope, 0.0))
    correct = correct & ray.exists
    # Where values can be read, a problem that nobody asks for is not solved.
    mixed = not runs_on_host(gramian)
    parts = []
    if mixed or correct.any():
        parts.append(_corrected(rows, ray, sigma, tol, max_iter))
    if mixed or not correct.all():
        parts.append(_predicted(rows, ray, tol, max_iter))
    weights = torch.where(correct[..., None], parts[0].weights, parts[-1].weights)
    status, gap, num_iter = (
        torch.where(correct, a, b) for a, b in zip(parts[0][1:], parts[-1][1:], strict=True)
    )
    uniform = mean_weights(gramian, active=rows.on)
    weights = torch.where(finite[..., None], weights, uniform)
    status = torch.where(finite, status, int(SolverStatus.NON_FINITE))
    gap = torch.where(finite, gap, math.nan)
    return SolverResult(torch.where(rows.on, weights, 0.0), status, gap, num_iter)


class _Ray(NamedTuple):
    """The unit gradient u_h of the constraint.

    Attributes:
        combination: `[..., m]`, u_h = sum_i combination_i u_i.
        cosines: `[..., m]`, u_i . u_h; 0 where it does not exist.
        exists: bool `[...]`, whether it is more than rounding.
    """

    combination: Tensor
    cosines: Tensor
    exists: Tensor


def _ray(rows: UnitRows, slope: Tensor) -> _Ray:
    parts = torch.where(rows.live, slope * rows.norms, 0.0)
    parts = parts / _or_one(parts.abs().amax(-1, keepdim=True))
    along = _apply(rows.cosines, parts)
    square = (parts * along).sum(-1, keepdim=True)
    exists = square > RESOLUTION * parts.abs().sum(-1, keepdim=True).square()
    length = torch.where(exists, square, 1.0).sqrt()
    along = torch.where(exists, along / length, 0.0).clamp(-1.0, 1.0)
    return _Ray(torch.where(exists, parts / length, 0.0), along, exists[..., 0])


def _predicted(rows: UnitRows, ray: _Ray, tol: float, max_iter: int | None) -> SolverResult:
    """The minimum-norm point of the gradients without their components along u_h."""
    q = ray.cosines
    rest = rows.cosines - q[..., :, None] * q[..., None, :]
    # What is left of a gradient along u_h is rounding: it is stationary.
    kept = rest.diagonal(dim1=-2, dim2=-1) > RESOLUTION
    lengths = torch.where(rows.live, rows.norms, 0.0)
    rest = torch.where(pairs(kept), rest, 0.0) * lengths[..., :, None] * lengths[..., None, :]
    result = min_norm_point(rest, active=rows.on, tol=tol, max_iter=max_iter)
    plain = torch.where(rows.on, result.weights, 0.0)
    share = (plain * lengths * q).sum(-1, keepdim=True)
    return result._replace(weights=plain - share * ray.combination / rows.norms)


def _corrected(
    rows: UnitRows, ray: _Ray, sigma: float, tol: float, max_iter: int | None
) -> SolverResult:
    """The program over v, v_h and the two parts of min_i g_i . d, in units of the shortest."""
    live, q = rows.live, ray.cosines
    shortest = torch.where(live, rows.norms, math.inf).amin(-1, keepdim=True)
    level = torch.where(live, shortest / rows.norms, 0.0)[..., None]
    upper = torch.cat([rows.cosines, q[..., None], -level, level], -1)
    one = torch.ones_like(q[..., :1])
    nothing = torch.zeros_like(q)
    lower = torch.cat([q, one, 0.0 * one, 0.0 * one], -1)[..., None, :]
    result = linear_program(
        torch.cat([nothing, 0.0 * one, one, -one], -1),
        torch.cat([upper, lower], -2),
        torch.cat([torch.where(live, 0.0, -math.inf), sigma * one], -1),
        budget=torch.cat([nothing + 1.0, one, 0.0 * one, 0.0 * one], -1),
        active=torch.cat([live, torch.ones_like(live[..., :1]).expand(*live.shape[:-1], 3)], -1),
        tol=tol,
        max_iter=max_iter,
    )
    m = q.shape[-1]
    v, v_h = result.weights[..., :m], result.weights[..., m : m + 1]
    return result._replace(weights=(v + v_h * ray.combination) / rows.norms)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, batched."""
    return (matrix @ vector[..., None])[..., 0]


def _length(vector: Tensor) -> Tensor:
    return vector.square().sum(-1, keepdim=True).sqrt()


def _or_one(value: Tensor) -> Tensor:
    """The value, or 1 where it is 0, so that it can divide."""
    return torch.where(value > 0, value, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PMGDA(Weighting):
    """To the Pareto point on a preference ray: go back to the ray, or descend along it.

    The constraint is the distance of the losses to the ray of multiples of the preference,
    `h = ||l - (l . u) u||`, and u_i, u_h are the unit gradients of the losses and of h.

    - correct, where `h > h_tol ||l||`: `d = sum_i v_i u_i + v_h u_h` with v on the simplex,
      `max min_i g_i . d` subject to `u_h . d >= sigma`. It lowers h at nearly the steepest rate
      and, among such directions, does the most for the worst loss, which it may raise.
    - predict, where `h <= h_tol ||l||`: the minimum-norm point of the gradients without their
      components along u_h. It lowers every loss, and h stays to first order.

    Args:
        preference: the proportion of the losses aimed at (EPO's r is its inverse), finite numbers
            >= 0, not all zero; a sequence in the order of the objectives, or a mapping from name
            to number. None means equal losses.
        h_tol: the sine of the angle between losses and ray up to which a step predicts, > 0 and
            < 1; default 0.01.
        sigma: how steeply a correcting step lowers h, relative to the steepest unit step, in
            (0, 1]; default 0.95.
        tol: relative tolerance of the solvers, in (0, 1); default 1e-9.
        max_iter: limit on their pivots, >= 1; None leaves it to the solvers.

    Raises:
        ValueError: if a setting is out of range; at the call, if the losses are missing or the
            preference does not fit the objectives.

    Numerics: a correcting step has length sigma to 1 whatever the gradients' scale, a predicting
        one the gradients' own: with a learning rate that leaps over the band of h_tol the two
        alternate. The program of a correcting step always has a solution, v_h = 1. Where h has no
        gradient a step is plain MGDA. DEGENERATE in a predicting step: no direction along the ray
        lowers every loss. An active zero row is no part of a correcting step. NaN or infinity
        among the active rows or losses gives uniform weights and status NON_FINITE. No
        synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import PMGDA
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> on_the_ray = moopt.StepStatistics(gramian=G, losses=torch.tensor([1.0, 1.0]))
        >>> [round(w, 12) for w in PMGDA()(on_the_ray).weights.tolist()]
        [0.5, 0.5]

    Source: X. Zhang, X. Lin and Q. Zhang, "PMGDA: A Preference-based Multiple Gradient Descent
    Algorithm", arXiv 2402.09492, 2024; the correcting program, sigma and h_tol are those of the
    authors' LibMOON. We differ: h_tol is relative to the length of the losses. LibMOON predicts by
    plain MGDA; we follow the paper, which keeps h. It adds 1e-4 to every norm, and takes MGDA where
    its solver fails. Only the exact constraint is built in; `pmgda_weights` takes any.
    """

    preference: Preference | None = None
    h_tol: float = 0.01
    sigma: float = 0.95
    tol: float = 1e-9
    max_iter: int | None = None

    name: ClassVar[str] = "PMGDA"
    source: ClassVar[str] = (
        "X. Zhang, X. Lin and Q. Zhang, PMGDA: A Preference-based Multiple Gradient Descent"
        " Algorithm, arXiv 2402.09492, 2024"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "preference", checked_preference(self.preference, self.name))
        check_number(self.name, "h_tol", self.h_tol, "in (0, 1)", use="0.01, a sine")
        check_number(self.name, "sigma", self.sigma, "in (0, 1]", use="0.95")
        check_solver_settings(self.name, self.tol, self.max_iter, type(self).tol)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        # With equal preferences, equal gradients change no difference of losses: h has no gradient.
        return frozenset({Guarantee.IDEMPOTENT} if self.preference is None else ())

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"}) | preference_needs(self.preference)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        if statistics.losses is None:
            raise ValueError(
                "`PMGDA` needs the losses; got none. Pass them in `StepStatistics.losses`."
            )
        losses = statistics.losses.detach().to(device=gramian.device, dtype=torch.float64)
        on = torch.ones_like(gramian[..., 0], dtype=torch.bool)
        if active is not None:
            on = on & active.to(gramian.device)
        preference = preference_vector(self.preference, statistics, self.name)
        sine, slope = ray_distance(losses, preference, on)
        result = pmgda_weights(
            gramian,
            slope,
            sine > self.h_tol,
            active=active,
            sigma=self.sigma,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)
