"""SDMGrad: the minimum-norm point regularised towards a preferred direction."""

import dataclasses
from typing import ClassVar

from moopt.records.result import Solved, State
from moopt.settings.numbers import check_number, check_solver_settings
from moopt.settings.preference import Preference, checked_preference, names_needed
from moopt.solvers.gramian_hull import gramian_hull
from moopt.weightings.base import Guarantee, Weighting
from moopt.weightings.problem import Problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class SDMGrad(Weighting):
    """Regularise MGDA towards a preferred direction, on one batch.

    Use it between MGDA and a weighted mean: lambda sets how much conflict is accepted.

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
        status and gap refer; DEGENERATE means d = 0.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import SDMGrad
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
        >>> SDMGrad(regularization=1.0)(moopt.StepStatistics(gramian=G)).weights.tolist()
        [0.75, 0.25]

    Source: P. Xiao, H. Ban and K. Ji, "Direction-oriented Multi-objective Learning: Simple and
    Provable Stochastic Algorithms", NeurIPS 2023, https://arxiv.org/abs/2305.18409. The paper takes
    a few projected gradient steps for w, with three independent batches for an unbiased estimate,
    as `SDMGradStochastic` does; this is its deterministic problem on one batch, solved exactly.
    """

    regularization: float = 0.3
    preference: Preference | None = None
    tol: float = 1e-10
    max_iter: int | None = None

    name: ClassVar[str] = "SDMGrad"
    sees_zero_gradients: ClassVar[bool] = True
    year: ClassVar[int | None] = 2023
    source: ClassVar[str] = (
        "P. Xiao, H. Ban and K. Ji, Direction-oriented Multi-objective Learning, NeurIPS 2023"
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
        return names_needed(self.preference)

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The minimum-norm point of the rows `g_i + lambda g0`, and g0, as a mean."""
        strength, u = self.regularization, problem.shares(self.preference, self.name)
        products = problem.gramian @ u
        cross = products[:, None] + products
        shifted = problem.gramian + strength * cross + strength**2 * float(u @ products)
        solved = gramian_hull(shifted, tol=self.tol, max_iter=self.max_iter)
        return solved._replace(weights=(solved.weights + strength * u) / (1.0 + strength))
