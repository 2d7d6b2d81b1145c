"""DBMTL: gradients of the logarithms of the losses, all as long as the longest."""

import dataclasses

from moopt.weightings.base import Array, Guarantee, Problem, State, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class DBMTL(Weighting):
    """Add up the gradients of the log-losses, all scaled to the largest norm: dual balancing.

    Use it for positive losses in different units.

    `grad log(loss_i) = g_i / loss_i` does not depend on the scale of a loss; each is then scaled
    to `a = max_j ||g_j|| / loss_j`, and they are added up: `d = a sum_i u_i` with the unit
    gradients u_i. The direction is the sum of the unit gradients, the length that of the most
    sensitive logarithm: it grows without bound as a loss goes to zero while its gradient does not.

    Raises:
        ValueError: at the call, if the losses are missing.

    Numerics: losses are taken by absolute value; one below 1e-12 of the largest counts as that
    much. Common descent is not promised.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G, losses=torch.tensor([0.25, 1.0]))
        >>> moopt.weightings.DBMTL()(statistics).weights.tolist()
        [4.0, 2.0]

    Source: B. Lin, W. Jiang, F. Ye, Y. Zhang, P. Chen, Y.-C. Chen, S. Liu and J. T. Kwok,
    "Dual-Balancing for Multi-Task Learning", 2023, https://arxiv.org/abs/2308.12029. We differ in
    leaving out the moving average of the gradients, which the Gramian of one step cannot express
    (`moopt.aggregators.DBMTLWithEMA` has it), and in the floor of the losses, where the authors'
    code (LibMTL) adds 1e-8 to each.
    """

    guarantees = frozenset({Guarantee.SCALE_EQUIVARIANT, Guarantee.PERMUTATION_EQUIVARIANT})

    needs = frozenset({"losses"})

    def weigh(self, problem: Problem, state: State) -> Array:
        """`max_j (||g_j|| / loss_j) / ||g_i||`."""
        norms = problem.norms
        weights: Array = (norms / problem.loss_sizes).max() / norms
        return weights
