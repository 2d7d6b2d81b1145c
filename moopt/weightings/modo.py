"""MoDo: minimum-norm weights followed by gradient steps, unbiased by independent batches."""

import dataclasses

from moopt.settings.fields import number
from moopt.weightings.base import Array, Problem
from moopt.weightings.double_sampling import DoubleSampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoDo(DoubleSampling):
    """Estimate the min-norm weights over the steps: multi-objective descent, double sampling.

    Use it where batches are so noisy that weights solved on one of them mislead, and three batches
    per step are affordable.

    `w <- P(w - gamma (J1 J2' w + rho w))`, P the projection onto the simplex, then `d = J'w`: one
    projected gradient step per training step on `||J'w||^2 / 2 + rho ||w||^2 / 2`, the regularised
    problem of MGDA, for the *expected* gradients. J1, J2 and J belong to three independent
    batches, which makes the estimate unbiased: solved on one batch, minimum-norm weights depend on
    its noise, and so does the mean of their direction.

    Give the two further batches as `optimizer.backward(losses, samples=(losses_1, losses_2))`, or
    record `with optimizer.auxiliary(sample_name("forget", 1))` and so on one by one.

    Args:
        step_size: gamma > 0, of the weights, per squared unit of the gradients; default 1e-3.
        regularization: rho >= 0, of the weights towards the uniform ones; default 0.1.

    Raises:
        ValueError: a setting is out of range; at the call, if names or samples are missing.

    Numerics: three backward passes per objective. An objective that is inactive or absent in a
        step keeps its entry of the state. Common descent is not promised: the weights lag. The
        step has a unit: for gradients of norm s, a `step_size` of about `1e-3 / s^2`.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import MoDo
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
        >>> losses_on = lambda batch: {"a": batch * w[0] ** 2, "b": batch * w[1] ** 2}
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), MoDo(step_size=0.01))
        >>> record = optimizer.backward(losses_on(1.0), samples=(losses_on(0.5), losses_on(2.0)))
        >>> [round(weight, 3) for weight in record.weights.tolist()]
        [0.58, 0.42]

    Source: L. Chen, H. D. Fernando, Y. Ying and T. Chen, "Three-Way Trade-Off in Multi-Objective
    Learning: Optimization, Generalization and Conflict-Avoidance", NeurIPS 2023,
    https://arxiv.org/abs/2305.20057, Algorithm 1. The regularisation is that of the authors' code;
    the paper has rho = 0. What happens to an objective that was absent or inactive is ours: it
    joins with its last weight, and the weights of the step are projected again.
    """

    regularization: float = number(0.1, "finite and >= 0")

    def _slope(self, products: Array, weights: Array, problem: Problem) -> Array:
        """`K w + rho w`, an unbiased estimate of the gradient of the regularised problem."""
        return products @ weights + self.regularization * weights
