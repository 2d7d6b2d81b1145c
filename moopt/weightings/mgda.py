"""MGDA: the minimum-norm point of the convex hull of the gradients."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_solver_settings
from moopt.solvers import SolverResult, min_norm_point
from moopt.solvers.min_norm import FRANK_WOLFE, SOLVERS
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows

Normalize = Literal["none", "l2", "loss", "loss+"]

LOSS_FLOOR = 1e-12
"""Smallest |loss| that normalises, relative to the largest: below it a loss has vanished."""


def mgda_weights(
    gramian: Tensor,
    *,
    active: Tensor | None = None,
    losses: Tensor | None = None,
    normalize: Normalize = "none",
    solver: str = "auto",
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """Return the weights of the minimum-norm point of the normalised gradients.

    With scales `s_i` it solves `u = argmin over the simplex of ||sum_i u_i g_i / s_i||^2` and
    returns `w_i = u_i / s_i`, so that `sum_i w_i g_i` is the minimum-norm point itself.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        losses: `[m]` or `[..., m]`, for `normalize="loss"` and `"loss+"`.
        normalize: "none": s_i = 1; "l2": s_i = ||g_i||; "loss": s_i = |loss_i|; "loss+": their
            product.
        solver: of `min_norm_point`.
        tol: of `min_norm_point`, relative, > 0.
        max_iter: of `min_norm_point`.

    Returns:
        The weights w; status, gap and num_iter are those of the normalised problem. On
        non-finite input the weights are uniform over the active objectives.

    Raises:
        ValueError: if the losses are needed and missing.

    Example:
        >>> import torch
        >>> from moopt.weightings.mgda import mgda_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> mgda_weights(G, normalize="l2").weights.tolist()
        [0.5, 0.25]
    """
    if normalize == "none":
        result = min_norm_point(gramian, solver=solver, tol=tol, max_iter=max_iter, active=active)
        return result if active is None else result._replace(weights=result.weights * active)
    scale = _row_scale(gramian, losses, active, normalize)
    # Dividing twice keeps the product of two small scales from underflowing.
    normalized = gramian / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    result = min_norm_point(normalized, solver=solver, tol=tol, max_iter=max_iter, active=active)
    # As an int: a trace takes the comparison of a tensor with an enum member for a plain False.
    non_finite = (result.status == int(SolverStatus.NON_FINITE)).unsqueeze(-1)
    weights = torch.where(non_finite, result.weights, result.weights / scale)
    # The solver takes an empty mask for "all", a weighting for "none".
    return result._replace(weights=weights if active is None else weights * active)


def _row_scale(
    gramian: Tensor, losses: Tensor | None, active: Tensor | None, normalize: Normalize
) -> Tensor:
    """float64 `[..., m]`: s_i, and 1 where the row is zero or inactive, so that it stays zero."""
    scale = gramian.new_ones(())
    if normalize in ("l2", "loss+"):
        scale = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    if normalize in ("loss", "loss+"):
        if losses is None:
            raise ValueError(
                f"MGDA(normalize={normalize!r}) needs the losses; got none. Pass them in"
                " `StepStatistics.losses`, or use normalize='l2'."
            )
        size = losses.to(device=gramian.device, dtype=torch.float64).abs()
        if active is not None:
            size = size.masked_fill(~active, 0.0)
        # An infinite scale would make its row vanish unseen; NaN reaches the solver's status.
        size = size.masked_fill(size.isinf(), float("nan"))
        size = torch.maximum(size, LOSS_FLOOR * size.amax(-1, keepdim=True))
        scale = scale * size
    unusable = scale == 0
    if active is not None:
        unusable = unusable | ~active
    return scale.masked_fill(unusable, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MGDA(Weighting):
    """Multiple-gradient descent: the smallest vector in the convex hull of the gradients.

    `w = argmin over the simplex of w' G w` (`normalize="none"`). The direction `d = sum_i w_i g_i`
    has `g_i . d >= ||d||^2` for every active objective, so -d lowers all of them to first order,
    and `d = 0` exactly where the point is Pareto stationary. Plain MGDA favours the *smallest*
    gradient; normalising first divides row i by s_i and returns `w_i = u_i / s_i`:

    - `"l2"`: `s_i = ||g_i||`. Independent of the scale of every loss; ||d|| <= 1, so the step
      length no longer shrinks with the gradients.
    - `"loss"`: `s_i = |loss_i|`. A loss below 1e-12 of the largest counts as that much.
    - `"loss+"`: `s_i = |loss_i| ||g_i||`.

    Args:
        normalize: "none", "l2", "loss" or "loss+"; default "none".
        solver: of `moopt.solvers.min_norm_point`; default "auto", which is exact. The
            Frank-Wolfe methods reproduce papers and promise no common descent.
        tol: relative tolerance of the solver, > 0; default 1e-10.
        max_iter: iteration limit of the solver, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range; at the call, if losses are needed and missing.

    Numerics: the status and the gap refer to the normalised problem. A zero row that is active
    stays zero: the point is stationary, d = 0. NaN or infinity among the active rows or losses
    gives uniform weights and status NON_FINITE. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G)
        >>> moopt.MGDA()(statistics).weights.tolist()
        [0.8, 0.2]
        >>> moopt.MGDA(normalize="l2")(statistics).weights.tolist()
        [0.5, 0.25]

    Source: J.-A. Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization", Comptes Rendus Mathématique 350, 2012; normalisations: O. Sener and V. Koltun,
    "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018. We differ: their code
    applies the weights of the normalised problem to the raw gradients, which is not a common
    descent direction in general; and it divides by the signed loss, which turns descent into
    ascent for a negative one, where we take the absolute value.
    """

    normalize: Normalize = "none"
    solver: str = "auto"
    tol: float = 1e-10
    max_iter: int | None = None

    name: ClassVar[str] = "MGDA"
    source: ClassVar[str] = (
        "J.-A. Désidéri, Multiple-gradient descent algorithm (MGDA) for multiobjective"
        " optimization, Comptes Rendus Mathématique 350, 2012; O. Sener and V. Koltun, Multi-Task"
        " Learning as Multi-Objective Optimization, NeurIPS 2018"
    )

    def __post_init__(self) -> None:
        if self.normalize not in get_args(Normalize):
            raise ValueError(
                f"`normalize` of `MGDA` must be one of {list(get_args(Normalize))}; got"
                f" {self.normalize!r}. Use 'l2' for independence of the losses' scales."
            )
        if self.solver not in SOLVERS:
            raise ValueError(
                f"`solver` of `MGDA` must be one of {list(SOLVERS)}; got {self.solver!r}. Use"
                " 'auto', which is exact."
            )
        check_solver_settings(self.name, self.tol, self.max_iter, type(self).tol)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = set()
        if self.normalize == "none":
            promises |= {Guarantee.SIMPLEX, Guarantee.IDEMPOTENT}
        if self.solver not in FRANK_WOLFE:
            # An approximate solver may stop before any of these holds; its gap tells.
            promises |= {
                Guarantee.NON_CONFLICTING,
                Guarantee.PERMUTATION_EQUIVARIANT,
                Guarantee.ZERO_AT_STATIONARITY,
            }
            if self.normalize == "none":
                promises.add(Guarantee.POSITIVELY_HOMOGENEOUS)
            if self.normalize in ("l2", "loss"):
                promises.add(Guarantee.SCALE_EQUIVARIANT)
        return frozenset(promises)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"}) if "loss" in self.normalize else frozenset()

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        result = mgda_weights(
            gramian,
            active=active,
            losses=statistics.losses,
            normalize=self.normalize,
            solver=self.solver,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        weights = with_auxiliary_rows(result.weights, statistics)
        return WeightingOutput(weights, {}, result)
