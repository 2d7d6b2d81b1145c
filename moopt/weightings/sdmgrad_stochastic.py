"""SDMGradStochastic: SDMGrad's weights by gradient steps, unbiased by independent batches."""

import dataclasses

from moopt.settings.fields import number, per_objective
from moopt.settings.preference import Preference
from moopt.weightings.base import Array, Problem
from moopt.weightings.double_sampling import DoubleSampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class SDMGradStochastic(DoubleSampling):
    """Move SDMGrad's weights by one projected step per training step, with double sampling.

    Use it as `MoDo`, where there is a preferred direction.

    `w <- P(w - gamma J1 J2' (w + lambda u))`, P the projection onto the simplex, then
    `d = J'(w + lambda u) / (1 + lambda)`. J1, J2 and J belong to three independent batches, so
    that w follows the problem of `SDMGrad` for the *expected* gradients, where an exact solution
    on one batch depends on its noise. lambda = 0 is `MoDo` without its regularisation.

    Give the two further batches as `optimizer.backward(losses, samples=(losses_1, losses_2))`.

    Args:
        step_size: gamma > 0, of the weights, per squared unit of the gradients; default 1e-3, as
            in `MoDo`.
        regularization: lambda, finite, >= 0; default 0.3, as in `SDMGrad`.
        preference: u, finite numbers >= 0, not all zero, divided by their sum: a sequence in the
            order of the objectives, or a mapping from name to number. None (default) means the
            mean gradient.

    Raises:
        ValueError: a setting is out of range; at the call, if names or samples are missing, or the
            preference does not fit the objectives.

    Numerics: three backward passes per objective. An objective that is inactive or absent in a
        step keeps its entry of the state. Common descent is not promised: the weights lag. The
        step has a unit: for gradients of norm s, a `step_size` of about `1e-3 / s^2`.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import SDMGradStochastic
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
        >>> losses_on = lambda batch: {"a": batch * w[0] ** 2, "b": batch * w[1] ** 2}
        >>> method = SDMGradStochastic(step_size=0.01, regularization=1.0)
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), method)
        >>> record = optimizer.backward(losses_on(1.0), samples=(losses_on(0.5), losses_on(2.0)))
        >>> [round(weight, 3) for weight in record.weights.tolist()]
        [0.58, 0.42]

    Source: P. Xiao, H. Ban and K. Ji, "Direction-oriented Multi-objective Learning: Simple and
    Provable Stochastic Algorithms", NeurIPS 2023, https://arxiv.org/abs/2305.18409, with one step
    of w per step of the model. The authors' code takes 20 steps of SGD with momentum on one batch's
    Gramian, in units of its mean gradient norm, which is not this algorithm. What happens to an
    objective that was absent or inactive is ours: it joins with its last weight, and the weights
    are projected again.
    """

    regularization: float = number(0.3, "finite and >= 0")
    preference: Preference | None = per_objective()

    def _slope(self, products: Array, weights: Array, problem: Problem) -> Array:
        """`K (w + lambda u)`."""
        u = problem.shares(self.preference, self.name)
        return products @ (weights + self.regularization * u)

    def _direction(self, weights: Array, problem: Problem) -> Array:
        u = problem.shares(self.preference, self.name)
        return (weights + self.regularization * u) / (1.0 + self.regularization)
