"""NTK: weights against the size of each loss's tangent kernel."""

import dataclasses

import numpy as np

from moopt.weightings.base import Array, Guarantee, Problem, State, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class NTK(Weighting):
    """Balance the rates at which the losses fall, through the size of their tangent kernels.

    Use it for losses that are means of squares, as in physics-informed networks. For a loss that is
    a mean of squares, `r = sqrt(loss)` is its residual, and `s_i^2 = ||grad r_i||^2` the diagonal
    of the neural tangent kernel of the residuals: the rate at which gradient descent on `r_i^2`
    alone would lower it. Since `s_i = ||g_i|| / (2 sqrt(loss_i))`, norms and losses are enough.
    With `w_i = sum_j s_j / s_i` the direction is `2 (sum_j s_j) sum_i sqrt(loss_i) u_i` in terms of
    unit gradients u_i: a sum in which a loss counts with its square root, whatever the size of its
    gradient.

    Raises:
        ValueError: at the call, if the losses are missing.

    Numerics: losses are taken by absolute value; one below 1e-12 of the largest counts as that
    much. Common descent is not promised.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G, losses=torch.tensor([1.0, 4.0]))
        >>> moopt.weightings.NTK()(statistics).weights.tolist()
        [2.0, 2.0]

    Source: S. Wang, X. Yu and P. Perdikaris, "When and Why PINNs Fail to Train: A Neural Tangent
    Kernel Perspective", 2020, https://arxiv.org/abs/2007.14527, whose weights are quotients of
    traces, `tr(K) / tr(K_ii)`, over all residuals of an objective. Those are not available from
    mean losses: we take one residual per loss, and the norms s_i themselves.
    """

    guarantees = frozenset({Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT})

    needs = frozenset({"losses"})

    def weigh(self, problem: Problem, state: State) -> Array:
        """`sum_j s_j / s_i`, in units of the largest s."""
        kernels = problem.norms / np.sqrt(problem.loss_sizes)
        kernels /= kernels.max()
        weights: Array = kernels.sum() / kernels
        return weights
