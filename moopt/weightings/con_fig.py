"""ConFIG: the conflict-free direction with the length of the gradients' projections."""

import dataclasses

from moopt.settings.fields import number
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL
from moopt.weightings.base import Guarantee, Problem, Solved, State, Weighting
from moopt.weightings.dual_basis import equal_slopes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConFIG(Weighting):
    """Take the direction with equal cosine to every gradient, as long as their projections on it.

    Use it where the gradients are linearly independent and every loss should make the same relative
    progress, as the losses of a physics-informed network.

    With the unit gradients u_i stacked as U, `u = U^+ 1 / ||U^+ 1||` has equal and positive
    `u_i . u` for linearly independent gradients, and `d = (sum_i g_i . u) u`: every objective
    falls to first order, all at the same rate relative to their gradients. The direction is that
    of `DualSpaceMGDA(variant="dual_basis")`; only the length differs. In weights, with the norms
    n_i and the cosines C: `v_i = (C^+ 1)_i / n_i` and `w = v (sum_i g_i . J'v) / ||J'v||^2`.

    Args:
        rtol: relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12. It acts on the
            eigenvalues of the cosines, never of the Gramian: a small gradient is not cut off.

    Raises:
        ValueError: if `rtol` is out of range.

    Numerics: status and gap are those of `DualSpaceMGDA`. Weights may be negative. For linearly
    dependent gradients u is the least-squares solution, status RANK_DEFICIENT; the sum
    `sum_i g_i . u` may then be negative, and d lowers the summed loss, as in the paper's formula.
    At a Pareto stationary point d is in general not zero.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> weights = moopt.weightings.ConFIG()(moopt.StepStatistics(gramian=G)).weights
        >>> [round(w, 12) for w in weights.tolist()]
        [1.5, 0.75]

    Source: Q. Liu, M. Chu and N. Thuerey, "ConFIG: Towards Conflict-free Training of Physics
    Informed Neural Networks", ICLR 2025, https://arxiv.org/abs/2408.11104, equation 2. We differ
    in computing with the m x m cosines in place of the m x n unit gradients.
    """

    rtol: float = number(DEFAULT_RTOL, "in [0, 1)")

    guarantees = frozenset(
        {
            Guarantee.NON_CONFLICTING_IF_INDEPENDENT,
            Guarantee.PERMUTATION_EQUIVARIANT,
            Guarantee.POSITIVELY_HOMOGENEOUS,
        }
    )

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`C^+ 1` over the norms, as long as the projections of the gradients on its direction."""
        solved = equal_slopes(problem, self.rtol)
        v = solved.weights
        slopes = problem.cosines @ v
        projections, square = problem.norms @ slopes, v @ slopes
        return solved._replace(weights=v / problem.norms * (projections / (square or 1.0)))
