"""FairGrad: the alpha-fair allocation of improvements among the objectives."""

import dataclasses

from moopt.settings.fields import integer, number
from moopt.solvers.fixed_point import fair_point
from moopt.weightings.base import Guarantee, Problem, Solved, State, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class FairGrad(Weighting):
    """Allocate the improvements `u_i = g_i . d` fairly: `(G w)_i = w_i^(-1/alpha)`.

    Use it in multi-task learning where every task should improve, and `alpha` says how much the one
    that improves least counts.

    d maximises the alpha-fair utility `sum_i u_i^(1 - alpha) / (1 - alpha)` over a ball, and
    `d = J'w` with `w_i = u_i^(-alpha) > 0`: every objective improves, and one that improves less
    weighs more. alpha = 1 is `NashMTL`; the larger alpha, the more the smallest improvement
    counts (alpha -> infinity: max-min, the direction of MGDA); alpha -> 0 is the sum.

    Args:
        alpha: fairness, finite, > 0; default 2.
        tol: the relative residual of the equations that counts as solved, in (0, 1); default 1e-6.
        max_iter: limit on Newton steps, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range.

    Numerics: Newton's method on unit gradients; for alpha from 1 to 2 certified at norm ratios to
        1e8, see `moopt.solvers.fixed_point` for others. At a Pareto stationary point no solution
        exists: status DEGENERATE, and the weights combine the gradients to zero. Nearly at one the
        equations may end unsolved, with status MAX_ITER; the direction is then no longer than that
        of orthogonal gradients of the same norms. A solution has
        `||d||^2 = sum_i w_i^(1 - 1/alpha)`, which grows without bound on the way there for
        alpha > 1.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import FairGrad
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
        >>> weights = FairGrad(alpha=2.0)(moopt.StepStatistics(gramian=G)).weights
        >>> [round(w, 12) for w in weights.tolist()]
        [1.0, 0.25]

    Source: H. Ban and K. Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024,
    https://arxiv.org/abs/2402.15638. We differ from their code: it minimises the squared residual
    with bounds, from uniform weights, and takes what it gets; here the solution is certified.
    """

    alpha: float = number(2.0, "finite and > 0", use="1, or moopt.Sum() for 0")
    tol: float = number(1e-6, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.PERMUTATION_EQUIVARIANT, Guarantee.ZERO_AT_STATIONARITY}
        if 1.0 <= self.alpha <= 2.0:
            # Elsewhere rounding can leave an extreme norm ratio uncertified; the status tells.
            promises.add(Guarantee.NON_CONFLICTING)
        if self.alpha == 1.0:
            promises.add(Guarantee.SCALE_EQUIVARIANT)
        return frozenset(promises)

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The positive solution of `(G w)_i = w_i^(-1/alpha)`."""
        return fair_point(
            problem.cosines,
            problem.norms,
            self.alpha,
            tol=self.tol,
            max_iter=self.max_iter,
            noise=problem.noise,
        )
