"""PMTL: MGDA within one sector of the objective space, chosen by preference vectors."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from moopt.settings.fields import integer, number
from moopt.solvers.gramian_hull import gramian_hull
from moopt.weightings.base import Guarantee, Problem, Solved, State, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class PMTL(Weighting):
    """Keep MGDA to the sector of one preference vector among several.

    Use it to cover a Pareto front by several runs, one per vector. The preference vectors u_1, ...,
    u_K divide the positive orthant of the losses into sectors: sector k holds the losses with
    `u_j . l <= u_k . l` for every j. A step is the minimum-norm point of the gradients and of the
    gradients `J'(u_j - u_k)` of the constraints that are violated: it lowers every objective and
    leads back to the sector. One run per k covers the Pareto front.

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
        cancel: no direction serves all of them.

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
    NeurIPS 2019, https://arxiv.org/abs/1912.12854; dividing losses and preferences by their lengths
    follows the authors' code. That code first runs a phase that lowers the violated constraints
    alone, to start inside the sector; here violated constraints join every step.
    """

    preferences: Sequence[Sequence[float]]
    index: int = 0
    eps: float = number(0.0, "finite and >= 0")
    tol: float = number(1e-10, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    example: ClassVar[Mapping[str, Any]] = {
        "preferences": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    }

    def __post_init__(self) -> None:
        super().__post_init__()
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

    # A constraint's gradient can cancel a long gradient but for rounding: at norm ratios from
    # 1e4 on the Gramian does not tell what is left, so descent cannot be promised.
    guarantees = frozenset({Guarantee.ZERO_AT_STATIONARITY, Guarantee.POSITIVELY_HOMOGENEOUS})

    needs = frozenset({"losses"})

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The minimum-norm point of the gradients and of the violated constraints' gradients.

        With unit vectors u_j along the preferences, constraint j is `(u_j - u_k) . losses <= 0`,
        and its gradient is `J'(u_j - u_k)`. With A the unit matrix over the rows `u_j - u_k`, the
        problem is `min ||sum_r a_r (A J)_r||^2` over the simplex; the weights are A'a.
        """
        vectors = np.array(self.preferences)
        if vectors.shape[1] != problem.num_objectives:
            raise ValueError(
                f"`preferences` of `PMTL` must have one entry per objective; got vectors of"
                f" {vectors.shape[1]} for {problem.num_objectives} objectives. Pass"
                f" {problem.num_objectives} numbers each."
            )
        assert problem.losses is not None
        vectors = vectors[:, problem.positions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        units = vectors / np.where(lengths > 0.0, lengths, 1.0)
        own = units[self.index]
        rows = np.delete(units, self.index, axis=0) - own
        slack = self.eps * float(np.linalg.norm(problem.losses))
        violated = (rows @ problem.losses > -slack) & rows.any(1) & own.any()
        rows = np.vstack([np.eye(problem.m), rows[violated]])
        solved = gramian_hull(rows @ problem.gramian @ rows.T, tol=self.tol, max_iter=self.max_iter)
        return solved._replace(weights=solved.weights @ rows)
