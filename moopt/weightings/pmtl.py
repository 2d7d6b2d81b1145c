"""PMTL: MGDA within one sector of the objective space, chosen by preference vectors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number, check_solver_settings
from moopt.solvers import SolverResult, min_norm_point
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.unit_rows import all_finite, pairs


def pmtl_weights(
    gramian: Tensor,
    losses: Tensor,
    preferences: Tensor,
    *,
    index: int = 0,
    active: Tensor | None = None,
    eps: float = 0.0,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """Return the weights of the minimum-norm point of the gradients and the violated constraints.

    With unit vectors u_j along the preferences, constraint j is `(u_j - u_k) . losses <= 0`, and
    its gradient is `J'(u_j - u_k)`. With A the unit matrix over the rows `u_j - u_k`, the problem
    is `min ||sum_r a_r (A J)_r||^2` over the simplex of the active objectives and of the violated
    constraints; the weights are A'a.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        losses: `[m]` or `[..., m]`, finite.
        preferences: float64 `[K, m]`, >= 0; their lengths, over the active objectives, do not
            matter.
        index: k, the preference of this run.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        eps: constraints with `(u_j - u_k) . losses > -eps ||losses||` count, >= 0; 0 means those
            that are violated.
        tol: of `min_norm_point`, relative, > 0.
        max_iter: of `min_norm_point`.

    Returns:
        The weights, of any sign; status, gap and num_iter are those of the minimum-norm problem.
        On non-finite gradients or losses the weights are uniform over the active objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.pmtl import pmtl_weights
        >>> G, u = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
        >>> pmtl_weights(G, torch.tensor([2.0, 1.0]), u).weights.tolist()
        [0.5, 0.5]
    """
    gramian = gramian.detach()
    on = torch.ones(gramian.shape[:-1], dtype=torch.bool, device=gramian.device)
    if active is not None:
        on = on & active.to(gramian.device)
    losses = losses.detach().to(device=gramian.device, dtype=torch.float64)
    losses = torch.where(on, losses.expand(on.shape), 0.0)
    finite = all_finite(gramian, on) & torch.isfinite(losses).all(-1)
    clean = torch.where(pairs(on) & finite[..., None, None], gramian, 0.0)
    losses = torch.where(finite[..., None], losses, 0.0)

    vectors = torch.where(on[..., None, :], preferences, 0.0)
    lengths = vectors.square().sum(-1, keepdim=True).sqrt()
    units = vectors / torch.where(lengths > 0.0, lengths, 1.0)
    own = units[..., index : index + 1, :]
    # By slices: an index list would be copied from the host, which synchronises a device.
    others = torch.cat([units[..., :index, :], units[..., index + 1 :, :]], -2)
    rows = others - own
    values = (rows @ losses[..., None])[..., 0]
    slack = eps * losses.square().sum(-1, keepdim=True).sqrt()
    violated = (values > -slack) & (rows != 0.0).any(-1) & (own != 0.0).any(-1)
    eye = torch.eye(gramian.shape[-1], dtype=torch.float64, device=gramian.device)
    rows = torch.cat([eye.expand(*rows.shape[:-2], *eye.shape), rows], -2)
    result = min_norm_point(
        rows @ clean @ rows.mT,
        active=torch.cat([on, violated], -1),
        tol=tol,
        max_iter=max_iter,
    )
    weights = (result.weights[..., None, :] @ rows)[..., 0, :]
    weights = torch.where(finite[..., None], weights, mean_weights(gramian, active=on))
    status = torch.where(finite, result.status, int(SolverStatus.NON_FINITE))
    gap = torch.where(finite, result.gap, math.nan)
    return result._replace(weights=torch.where(on, weights, 0.0), status=status, gap=gap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PMTL(Weighting):
    """MGDA restricted to the sector of one preference vector among several.

    The preference vectors u_1, ..., u_K divide the positive orthant of the losses into sectors:
    sector k holds the losses with `u_j . l <= u_k . l` for every j. A step is the minimum-norm
    point of the gradients and of the gradients `J'(u_j - u_k)` of the constraints that are
    violated: it lowers every objective and leads back to the sector. One run per k covers the
    Pareto front.

    Args:
        preferences: K >= 1 vectors of m finite numbers >= 0, none all zero; each is divided by
            its length over the active objectives.
        index: k, which of them this run follows, 0 <= k < K; default 0.
        eps: relative slack within which a constraint that still holds counts as active, >= 0;
            default 0, as in the authors' code: only violated ones.
        tol: relative tolerance of the solver, > 0; default 1e-10.
        max_iter: limit on the pivots of the solver, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range; at the call, if the losses are missing or the
            vectors do not fit the objectives.

    Numerics: exact, by `moopt.solvers.min_norm_point` on up to m + K - 1 rows, to whose problem
        status and gap refer. A common descent direction wherever the status is CONVERGED; a
        constraint's gradient that nearly cancels a gradient 1e4 times longer than another is
        beyond what a float64 Gramian tells, and the status says so. Weights may be negative and
        do not sum to one. DEGENERATE means that the gradients and the violated constraints
        cancel: no direction serves all of them. NaN or infinity among the active rows or losses
        gives uniform weights and status NON_FINITE. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import PMTL
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.eye(2, dtype=torch.float64), losses=torch.tensor([2.0, 1.0])
        ... )
        >>> weighting = PMTL(preferences=[[1.0, 0.0], [0.0, 1.0]], index=1)
        >>> [round(w, 12) for w in weighting(statistics).weights.tolist()]
        [0.4, 0.2]

    Source: X. Lin, H.-L. Zhen, Z. Li, Q.-F. Zhang and S. Kwong, "Pareto Multi-Task Learning",
    NeurIPS 2019, equation 9; the divisions by lengths are of the authors' code (from memory). We
    differ: the paper first runs a phase that lowers the violated constraints alone, to start
    inside the sector; here violated constraints join every step.
    """

    preferences: Sequence[Sequence[float]]
    index: int = 0
    eps: float = 0.0
    tol: float = 1e-10
    max_iter: int | None = None

    name: ClassVar[str] = "PMTL"
    source: ClassVar[str] = (
        "X. Lin, H.-L. Zhen, Z. Li, Q.-F. Zhang and S. Kwong, Pareto Multi-Task Learning, NeurIPS"
        " 2019"
    )

    def __post_init__(self) -> None:
        vectors = tuple(tuple(float(value) for value in vector) for vector in self.preferences)
        lengths = {len(vector) for vector in vectors}
        if len(lengths) != 1 or not all(
            any(vector) and all(0.0 <= value < math.inf for value in vector) for vector in vectors
        ):
            raise ValueError(
                "`preferences` of `PMTL` must be vectors of one length, of finite numbers >= 0,"
                f" none all zero; got {self.preferences!r}. Pass e.g. [[1.0, 0.0], [0.0, 1.0]]."
            )
        object.__setattr__(self, "preferences", vectors)
        if not isinstance(self.index, int) or not 0 <= self.index < len(vectors):
            raise ValueError(
                f"`index` of `PMTL` must be an int in [0, {len(vectors)}); got {self.index!r}. It"
                " picks one of `preferences`."
            )
        check_number(
            self.name, "eps", self.eps, "finite and >= 0", use="0, or a share of the losses' length"
        )
        check_solver_settings(self.name, self.tol, self.max_iter, type(self).tol)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        # A constraint's gradient can cancel a long gradient but for rounding: at norm ratios from
        # 1e4 on the Gramian does not tell what is left, so descent cannot be promised.
        return frozenset({Guarantee.ZERO_AT_STATIONARITY, Guarantee.POSITIVELY_HOMOGENEOUS})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"})

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        if statistics.losses is None:
            raise ValueError(
                "`PMTL` needs the losses; got none. Pass them in `StepStatistics.losses`."
            )
        result = pmtl_weights(
            gramian,
            statistics.losses,
            self._vectors(gramian),
            index=self.index,
            active=active,
            eps=self.eps,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)

    def _vectors(self, gramian: Tensor) -> Tensor:
        """The preferences as a float64 `[K, m]` tensor beside the Gramian."""
        m = gramian.shape[-1]
        if len(self.preferences[0]) != m:
            raise ValueError(
                f"`preferences` of `PMTL` must have one entry per objective; got vectors of"
                f" {len(self.preferences[0])} for {m} objectives. Pass {m} numbers each."
            )
        # Filling one scalar at a time needs no copy from the host, which would synchronise.
        return torch.stack(
            [torch.stack([gramian.new_full((), v) for v in vector]) for vector in self.preferences]
        )
