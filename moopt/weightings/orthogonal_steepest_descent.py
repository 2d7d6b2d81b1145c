"""OrthogonalSteepestDescent: the forget gradient off the span of the retain gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.settings.roles import membership
from moopt.solvers.off_span import off_span
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL
from moopt.weightings.base import Guarantee, WeightingOutput
from moopt.weightings.forget_retain import ForgetRetain
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.role_sums import CANCELLED

RESIDUAL_TOL = 1e-10
"""max_j |a_j . d| / (||a_j|| ||d||), beyond rounding, up to which d counts as orthogonal."""

ROUNDING = 64 * torch.finfo(torch.float64).eps
"""Rounding of g_j . d, relative to ||g_j|| sum_i |w_i| ||g_i||."""


def orthogonal_steepest_descent_weights(
    gramian: Tensor,
    *,
    forget: Sequence[int],
    retain: Sequence[int],
    drift: int | None = None,
    active: Tensor | None = None,
    rtol: float = DEFAULT_RTOL,
) -> SolverResult:
    """Return the weights of g_f projected off every retain gradient, at the length of g_f.

    With A the active retain gradients and g_f the sum of the active forget ones,
    `d = s (g_f - A'(A A')^+ A g_f)`, s such that `||d|| = ||g_f||`: the direction of steepest
    forgetting among those that change no retain loss to first order. A drift row is one more row
    of A. Without a forget gradient (or with a zero one), d is the sum of the retain gradients,
    projected off the drift row alone, at its own length.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients, and of the drift.
        forget: the positions of the forget objectives.
        retain: the positions of the retain objectives.
        drift: the position of the row that holds `theta - theta_0`; None for none.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active. Zero rows count as inactive.
        rtol: relative cut-off of the pseudo-inverse, on the eigenvalues of the cosines.

    Returns:
        The weights; the gap is `max_j |a_j . d| / (||a_j|| ||d||)` over the rows of A.
        Status: CONVERGED; RANK_DEFICIENT where the gap is beyond 1e-10 and rounding; INFEASIBLE,
        weights zero, where nothing is left of the projected vector; DEGENERATE, weights zero,
        where there is nothing to project; NON_FINITE, weights uniform over the active objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.orthogonal_steepest_descent import (
        ...     orthogonal_steepest_descent_weights,
        ... )
        >>> G = torch.tensor([[25.0, 3.0], [3.0, 1.0]], dtype=torch.float64)
        >>> orthogonal_steepest_descent_weights(G, forget=[0], retain=[1]).weights.tolist()
        [1.25, -3.75]
    """
    gramian = gramian.detach()
    m = gramian.shape[-1]
    diagonal = gramian.diagonal(dim1=-2, dim2=-1)
    on = torch.ones_like(diagonal, dtype=torch.bool)
    if active is not None:
        on = on & active.to(gramian.device)
    finite = (torch.isfinite(gramian) | ~_pairs(on)).all(-1).all(-1)
    live = on & (diagonal > 0) & finite[..., None]
    norms = torch.where(live, diagonal, 1.0).sqrt()
    # Dividing twice keeps the product of two small norms from underflowing.
    cosines = torch.where(_pairs(live), gramian, 0.0) / norms[..., :, None] / norms[..., None, :]
    is_drift = membership([] if drift is None else [drift], m, gramian.device)
    forgotten = live & membership(forget, m, gramian.device)
    retained = live & membership(retain, m, gramian.device)

    # Coefficients of the unit gradients, in units of the longest gradient of the sum.
    start, largest, has_forget = _sum_of(forgotten, norms, cosines)
    other, longest, has_retain = _sum_of(retained, norms, cosines)
    start = torch.where(has_forget, start, other)
    largest = torch.where(has_forget, largest, longest)
    walls = (live & is_drift) | (retained & has_forget)
    unit = off_span(cosines, start, walls, rtol=rtol)
    slopes = _apply(cosines, unit)
    squared = (unit * slopes).sum(-1, keepdim=True)
    total = unit.abs().sum(-1, keepdim=True)
    moving = (has_forget | has_retain) & (squared > CANCELLED * total.square())
    length = torch.where(moving, squared, 1.0).sqrt()
    square = (start * _apply(cosines, start)).sum(-1, keepdim=True).clamp_min(0.0)
    factor = torch.where(has_forget, largest * square.sqrt() / length, largest)
    weights = torch.where(moving & live, factor * unit / norms, 0.0)
    objectives = on & ~is_drift
    weights = torch.where(finite[..., None], weights, mean_weights(gramian, active=objectives))

    gap = torch.where(walls, slopes.abs(), 0.0).amax(-1) / length[..., 0]
    solved = gap <= RESIDUAL_TOL + ROUNDING * (total / length)[..., 0]
    code = torch.where(solved, int(SolverStatus.CONVERGED), int(SolverStatus.RANK_DEFICIENT))
    code = code.masked_fill(~moving[..., 0], int(SolverStatus.INFEASIBLE))
    code = code.masked_fill(~(has_forget | has_retain)[..., 0], int(SolverStatus.DEGENERATE))
    code = code.masked_fill(~finite, int(SolverStatus.NON_FINITE))
    gap = gap.masked_fill(~moving[..., 0], 0.0).masked_fill(~finite, float("nan"))
    return SolverResult(weights, code, gap, torch.zeros_like(code))


def _sum_of(rows: Tensor, norms: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(coefficients of the unit gradients of a sum, over its longest term; that; is it not 0)."""
    lengths = torch.where(rows, norms, 0.0)
    largest = lengths.amax(-1, keepdim=True)
    relative = lengths / torch.where(largest > 0, largest, 1.0)
    square = (relative * _apply(cosines, relative)).sum(-1, keepdim=True)
    return relative, largest, square > CANCELLED * relative.sum(-1, keepdim=True).square()


def _pairs(flags: Tensor) -> Tensor:
    """bool `[..., m, m]`: both are set."""
    return flags[..., :, None] & flags[..., None, :]


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, batched."""
    return (matrix @ vector[..., None])[..., 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrthogonalSteepestDescent(ForgetRetain):
    """FedOSD: forget along the steepest direction that leaves every retain loss alone.

    Stage one, unlearning: `d = g_f - A'(A A')^+ A g_f` with A the retain gradients, rescaled to
    `||g_f||`: `g_j . d = 0` for every retain objective. Stage two, recovery: a step without forget
    objectives is the sum of the retain gradients. With `drift`, both are also orthogonal to the
    drift `delta = theta - theta_0` away from the original model: every gradient loses its
    component `(g . delta) / ||delta||^2 delta`, so that no step moves back towards it.

    Signs: moopt minimises every loss, so g_f is the gradient of the *minimised* forget loss, such
    as the unlearning cross-entropy of the same authors, and -d is the step.

    Args:
        forget: the name of the forget objective, or several names: their gradients are added up.
        retain: the name of the retain objective, or several names: each is a constraint.
        drift: the name of the auxiliary row that holds `theta - theta_0`; None (default) for
            stage one alone. The row takes part in the direction with a weight of its own.
        rtol: relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12. It acts on the
            eigenvalues of the cosines, never of the Gramian: a small gradient is not cut off.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two, or `rtol` is out of range; at the
            call, if the step has no names, an objective without a role, or no row for `drift`.

    Numerics: see `orthogonal_steepest_descent_weights` for status and gap. Where g_f lies in the
    span of the retain gradients there is no such direction: weights 0, status INFEASIBLE. No
    synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import OrthogonalSteepestDescent
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.tensor([[25.0, 3.0], [3.0, 1.0]], dtype=torch.float64),
        ...     names=("forget", "retain"),
        ... )
        >>> weighting = OrthogonalSteepestDescent(forget="forget", retain="retain")
        >>> weighting(statistics).weights.tolist()
        [1.25, -3.75]

    Source: Z. Pan, Z. Wang, C. Li, K. Zheng, B. Wang, X. Tang and J. Zhao, "Federated Unlearning
    with Gradient Descent and Conflict Mitigation" (FedOSD), AAAI 2025 (arXiv 2412.20200). There
    the rows are clients' updates; here they are objectives' gradients. The paper projects in its
    recovery stage; being orthogonal to the drift in stage one too, where `drift` is given, is
    ours, as is summing several forget objectives.
    """

    drift: str | None = None
    rtol: float = DEFAULT_RTOL

    name: ClassVar[str] = "OrthogonalSteepestDescent"
    source: ClassVar[str] = (
        "Z. Pan, Z. Wang, C. Li, K. Zheng, B. Wang, X. Tang and J. Zhao, Federated Unlearning with"
        " Gradient Descent and Conflict Mitigation, AAAI 2025"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(
            self.name, "rtol", self.rtol, "in [0, 1)", use="1e-12 of the largest eigenvalue"
        )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.is_pair:
            promises.add(Guarantee.SCALE_EQUIVARIANT)
            if self.drift is None:
                promises.add(Guarantee.NON_CONFLICTING_IF_INDEPENDENT)
        return frozenset(promises)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | frozenset(() if self.drift is None else {"auxiliary"})

    @property
    def combines_auxiliary(self) -> bool:
        return self.drift is not None

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        forget, retain = self.positions(statistics)
        row = None
        if self.drift is not None:
            row = self._drift_row(statistics)
            gramian, active = _with_row(statistics, row, active)
        result = orthogonal_steepest_descent_weights(
            gramian, forget=forget, retain=retain, drift=row, active=active, rtol=self.rtol
        )
        if row is None:
            weights = with_auxiliary_rows(result.weights, statistics)
            return WeightingOutput(weights, {}, result)
        return WeightingOutput(result.weights, {}, result)

    def _drift_row(self, statistics: StepStatistics) -> int:
        if self.drift not in statistics.auxiliary:
            raise ValueError(
                f"`drift` of `OrthogonalSteepestDescent` must name an auxiliary row of the step;"
                f" got {self.drift!r}, and the rows {list(statistics.auxiliary)}. Add the row"
                " theta - theta_0, or use drift=None."
            )
        return statistics.num_objectives + statistics.auxiliary.index(self.drift)


def _with_row(statistics: StepStatistics, row: int, active: Tensor | None) -> tuple[Tensor, Tensor]:
    """The whole Gramian, and a mask of the active objectives and of one auxiliary row."""
    gramian = statistics.gramian.to(torch.float64)
    m, width = statistics.num_objectives, gramian.shape[-1]
    kept = membership([*range(m), row], width, gramian.device).expand(gramian.shape[:-1])
    if active is None:
        return gramian, kept
    wide = torch.nn.functional.pad(active.to(gramian.device), (0, width - m), value=True)
    return gramian, kept & wide
