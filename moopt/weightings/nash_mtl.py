"""NashMTL: the Nash bargaining solution between the objectives."""

import dataclasses
import math

from moopt.settings.fields import integer, number
from moopt.solvers.fixed_point import fair_point
from moopt.weightings.base import Guarantee, Problem, Solved, State, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class NashMTL(Weighting):
    """Take the Nash bargaining solution: `(G w)_i w_i = 1` for every active objective.

    Use it in multi-task learning where every task should get its fair share, whatever its scale.

    The objectives bargain over the direction, each with utility `g_i . d`: d maximises
    `sum_i log(g_i . d)` over a ball. The solution is `d = J'w` with `(G w) o w = 1`, w > 0: the
    weighted improvements of all objectives are equal, `g_i . d = 1 / w_i > 0`. Rescaling a loss
    does not change the direction, and ||d||^2 = m wherever a solution exists: choose the learning
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
        active zero row is such a point. Nearly at one the equations may end unsolved, with status
        MAX_ITER; ||d|| stays about sqrt(m).

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import NashMTL
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> weights = NashMTL()(moopt.StepStatistics(gramian=G)).weights
        >>> [round(w, 12) for w in weights.tolist()]
        [1.0, 0.5]

    Source: A. Navon, A. Shamsian, I. Achituve, H. Maron, K. Kawaguchi, G. Chechik and E. Fetaya,
    "Multi-Task Learning as a Bargaining Game", ICML 2022, https://arxiv.org/abs/2202.01017. We
    differ from their code: it runs up to 20 convex programs, each a linearisation at the last,
    stops at a residual of 1e-3 on the Gramian divided by its norm, and clips ||d|| to 1; it can
    also keep the weights of an earlier step (`update_weights_every`), which this method, being
    fast, does not offer.
    """

    max_norm: float | None = number(None, "finite and > 0", use="None or 1.0")
    tol: float = number(1e-6, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    guarantees = frozenset(
        {
            Guarantee.NON_CONFLICTING,
            Guarantee.SCALE_EQUIVARIANT,
            Guarantee.PERMUTATION_EQUIVARIANT,
            Guarantee.ZERO_AT_STATIONARITY,
        }
    )

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The positive solution of `(G w)_i w_i = 1`, of length sqrt(m) or `max_norm`."""
        solved = fair_point(
            problem.cosines,
            problem.norms,
            1.0,
            tol=self.tol,
            max_iter=self.max_iter,
            noise=problem.noise,
        )
        if self.max_norm is None:
            return solved
        factor = min(1.0, self.max_norm / math.sqrt(problem.num_active))
        return solved._replace(weights=solved.weights * factor)
