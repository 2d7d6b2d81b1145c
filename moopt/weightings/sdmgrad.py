"""SDMGrad: the minimum-norm point regularised towards a preferred direction."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number, check_solver_settings
from moopt.solvers import SolverResult, min_norm_point
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.old_preference import (
    Preference,
    checked_preference,
    preference_needs,
    preference_shares,
    preference_vector,
)


def sdmgrad_weights(
    gramian: Tensor,
    preference: Tensor | None = None,
    *,
    active: Tensor | None = None,
    regularization: float = 0.3,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """Return the weights of `(J'w + lambda g0) / (1 + lambda)` with w the regularised minimiser.

    `w = argmin ||J'w + lambda g0||^2` over the simplex, `g0 = J'u`. Since w sums to one this is
    the minimum-norm point of the rows `g_i + lambda g0`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        preference: float64 `[m]` or `[..., m]`, u >= 0, divided by its sum over the active
            objectives; None means equal.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        regularization: lambda, finite, >= 0.
        tol: of `min_norm_point`, relative, > 0.
        max_iter: of `min_norm_point`.

    Returns:
        The weights `(w + lambda u) / (1 + lambda)`, on the simplex; status, gap and num_iter are
        those of the minimum-norm problem. On non-finite input the weights are uniform over the
        active objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.sdmgrad import sdmgrad_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
        >>> sdmgrad_weights(G, regularization=1.0).weights.tolist()
        [0.75, 0.25]
    """
    on = torch.ones(gramian.shape[:-1], dtype=torch.bool, device=gramian.device)
    if active is not None:
        on = on & active.to(gramian.device)
    uniform = mean_weights(gramian, active=on)
    u = preference_shares(preference, gramian, on)
    pairs = on[..., :, None] & on[..., None, :]
    clean = torch.where(pairs, gramian.detach(), 0.0)
    products = (clean @ u[..., None])[..., 0]
    cross = products[..., :, None] + products[..., None, :]
    square = (u * products).sum(-1)[..., None, None]
    shifted = clean + regularization * cross + regularization**2 * square
    result = min_norm_point(shifted, active=on, tol=tol, max_iter=max_iter)
    weights = (result.weights + regularization * u) / (1.0 + regularization)
    weights = torch.where(result.gap.isnan()[..., None], uniform, weights)
    return result._replace(weights=weights * on)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SDMGrad(Weighting):
    """MGDA regularised towards a preferred direction, on one batch.

    `d = (J'w + lambda g0) / (1 + lambda)` with `w = argmin ||J'w + lambda g0||^2` over the
    simplex and `g0 = J'u`. lambda = 0 is MGDA; the larger lambda, the nearer d is to g0: between
    avoiding conflict and following the preference.

    Args:
        regularization: lambda, finite, >= 0; default 0.3 (the experiments of the authors' code).
        preference: u, finite numbers >= 0, not all zero, divided by their sum: a sequence in the
            order of the objectives, or a mapping from name to number. None (default) means the
            mean gradient.
        tol: relative tolerance of the solver, > 0; default 1e-10.
        max_iter: limit on the pivots of the solver, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range; at the call, if the preference does not fit the
            objectives.

    Numerics: exact, by `moopt.solvers.min_norm_point` on the rows `g_i + lambda g0`, to which
        status and gap refer; DEGENERATE means d = 0. NaN or infinity among the active rows gives
        uniform weights and status NON_FINITE. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import SDMGrad
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
        >>> SDMGrad(regularization=1.0)(moopt.StepStatistics(gramian=G)).weights.tolist()
        [0.75, 0.25]

    Source: P. Xiao, H. Ban and K. Ji, "Direction-oriented Multi-objective Learning: Simple and
    Provable Stochastic Algorithms", NeurIPS 2023. The paper takes a few projected gradient steps
    for w, with three independent batches for an unbiased estimate, as `SDMGradStochastic` does;
    this is its deterministic problem on one batch, solved exactly.
    """

    regularization: float = 0.3
    preference: Preference | None = None
    tol: float = 1e-10
    max_iter: int | None = None

    name: ClassVar[str] = "SDMGrad"
    source: ClassVar[str] = (
        "P. Xiao, H. Ban and K. Ji, Direction-oriented Multi-objective Learning: Simple and"
        " Provable Stochastic Algorithms, NeurIPS 2023"
    )

    def __post_init__(self) -> None:
        check_number(
            self.name,
            "regularization",
            self.regularization,
            "finite and >= 0",
            use="0.3, or MGDA for 0",
        )
        object.__setattr__(self, "preference", checked_preference(self.preference, self.name))
        check_solver_settings(self.name, self.tol, self.max_iter, type(self).tol)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.SIMPLEX, Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.IDEMPOTENT}
        if self.preference is None:
            promises.add(Guarantee.PERMUTATION_EQUIVARIANT)
        return frozenset(promises)

    @property
    def needs(self) -> frozenset[str]:
        return preference_needs(self.preference)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        preference = preference_vector(self.preference, statistics, self.name)
        result = sdmgrad_weights(
            gramian,
            preference,
            active=active,
            regularization=self.regularization,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)
