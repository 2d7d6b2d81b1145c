"""NashMTL: the Nash bargaining solution between the objectives."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number, check_solver_settings
from moopt.solvers import SolverResult, fixed_point
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows


def nash_mtl_weights(
    gramian: Tensor,
    *,
    active: Tensor | None = None,
    max_norm: float | None = None,
    tol: float = 1e-6,
    max_iter: int | None = None,
) -> SolverResult:
    """Return the positive solution of `(G w)_i w_i = 1`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        max_norm: the largest ||d||, > 0; the solution has ||d|| = sqrt(number of active
            objectives). None keeps that.
        tol: of `fixed_point`, in (0, 1).
        max_iter: of `fixed_point`.

    Returns:
        The weights, with status, gap and num_iter of `moopt.solvers.fixed_point`. On non-finite
        input the weights are uniform over the active objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.nash_mtl import nash_mtl_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> [round(w, 12) for w in nash_mtl_weights(G).weights.tolist()]
        [1.0, 0.5]
    """
    result = fixed_point(gramian, alpha=1.0, active=active, tol=tol, max_iter=max_iter)
    if max_norm is None:
        return result
    m = gramian.shape[-1]
    count = torch.full_like(result.weights[..., 0], m) if active is None else active.sum(-1)
    factor = (max_norm / count.clamp_min(1).sqrt()).clamp_max(1.0).to(torch.float64)
    # The uniform weights of a non-finite step, whose gap is NaN, stay as they are.
    factor = torch.where(result.gap.isnan(), 1.0, factor)
    return result._replace(weights=result.weights * factor[..., None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class NashMTL(Weighting):
    """The Nash bargaining solution: `(G w)_i w_i = 1` for every active objective.

    The objectives bargain over the direction, each with utility `g_i . d`: d maximises
    `sum_i log(g_i . d)` over a ball. The solution is `d = J'w` with `(G w) o w = 1`, w > 0: the
    weighted improvements of all objectives are equal, `g_i . d = 1 / w_i > 0`. Rescaling a loss
    does not change the direction, and ||d||^2 = m whatever the gradients are: choose the learning
    rate, or `max_norm`, accordingly.

    Args:
        max_norm: the largest ||d||, finite, > 0: d is scaled down to it. None (default) keeps
            the solution's own length, sqrt(m); the authors' code uses 1.
        tol: the relative residual of the equations that counts as solved, in (0, 1); default 1e-6.
        max_iter: limit on Newton steps, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range.

    Numerics: Newton's method on unit gradients: scale-free. At a Pareto stationary point no
        solution exists: status DEGENERATE, and the weights combine the gradients to zero. An
        active zero row is such a point. NaN or infinity among the active rows gives uniform
        weights and status NON_FINITE. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import NashMTL
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> weights = NashMTL()(moopt.StepStatistics(gramian=G)).weights
        >>> [round(w, 12) for w in weights.tolist()]
        [1.0, 0.5]

    Source: A. Navon, A. Shamsian, I. Achituve, H. Maron, K. Kawaguchi, G. Chechik and E. Fetaya,
    "Multi-Task Learning as a Bargaining Game", ICML 2022. We differ from their code: it runs up
    to 20 convex programs, each a linearisation at the last, stops at a residual of 1e-3 on the
    Gramian divided by its norm, and clips ||d|| to 1; it can also keep the weights of an earlier
    step (`update_weights_every`), which this method, being fast, does not offer.
    """

    max_norm: float | None = None
    tol: float = 1e-6
    max_iter: int | None = None

    name: ClassVar[str] = "NashMTL"
    source: ClassVar[str] = "A. Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022"

    def __post_init__(self) -> None:
        if self.max_norm is not None:
            check_number(self.name, "max_norm", self.max_norm, "finite and > 0", use="None or 1.0")
        check_solver_settings(self.name, self.tol, self.max_iter, type(self).tol)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset(
            {
                Guarantee.NON_CONFLICTING,
                Guarantee.SCALE_EQUIVARIANT,
                Guarantee.PERMUTATION_EQUIVARIANT,
                Guarantee.ZERO_AT_STATIONARITY,
            }
        )

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        result = nash_mtl_weights(
            gramian, active=active, max_norm=self.max_norm, tol=self.tol, max_iter=self.max_iter
        )
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)
