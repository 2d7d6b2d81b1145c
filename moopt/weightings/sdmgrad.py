"""SDMGrad: the minimum-norm point regularised towards a preferred direction."""

import dataclasses
from typing import ClassVar

from moopt.settings.fields import integer, number, per_objective
from moopt.settings.preference import Preference
from moopt.solvers.gramian_hull import gramian_hull
from moopt.weightings.base import Guarantee, Problem, Solved, State, Weighting


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

    regularization: float = number(0.3, "finite and >= 0")
    preference: Preference | None = per_objective()
    tol: float = number(1e-10, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    sees_zero_gradients: ClassVar[bool] = True

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.SIMPLEX, Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.IDEMPOTENT}
        if self.preference is None:
            promises.add(Guarantee.PERMUTATION_EQUIVARIANT)
        return frozenset(promises)

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The minimum-norm point of the rows `g_i + lambda g0`, and g0, as a mean."""
        strength, u = self.regularization, problem.shares(self.preference, self.name)
        products = problem.gramian @ u
        cross = products[:, None] + products
        shifted = problem.gramian + strength * cross + strength**2 * float(u @ products)
        solved = gramian_hull(shifted, tol=self.tol, max_iter=self.max_iter)
        return solved._replace(weights=(solved.weights + strength * u) / (1.0 + strength))
