"""MoCo: minimum-norm weights of gradients averaged over the steps."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import numpy as np

from moopt.aggregators.tracking import TrackingAggregator, decayed
from moopt.scalarizations.base import softmax
from moopt.settings.fields import number, one_of
from moopt.solvers.simplex import project_onto_simplex
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, StateEntry

WEIGHTS = "weights"
Normalize = Literal["none", "loss"]
Simplex = Literal["projection", "softmax"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCo(TrackingAggregator):
    """Take MGDA's weights and direction of averaged gradients: multi-objective gradient correction.

    Use it where the noise of a batch drowns the conflict between the gradients.

    In step k = 1, 2, ... with `beta_k = beta / k^beta_decay` and `gamma_k = gamma / k^gamma_decay`

    - `y_i <- y_i - beta_k (y_i - g_i)`, the average that replaces one batch's gradient;
    - `w <- P(w - gamma_k (Y Y' + rho I) w)`, P the projection onto the simplex;
    - `d = Y'w`.

    Weights solved on one batch carry the noise of that batch into the mean of the direction; the
    averages take it away as the steps go on, with one batch per step.

    Args:
        beta: in (0, 1], the share of the new gradient; default 0.5.
        beta_decay: finite, >= 0; default 0.5.
        gamma: finite, > 0, step size of the weights; default 0.1.
        gamma_decay: finite, >= 0; default 0.5.
        regularization: rho, finite, >= 0; default 0.
        normalize: "none" (default) as in the paper, or "loss": average `loss_i g_i / ||g_i||`, so
            that the weights do not depend on the scale of the gradients.
        simplex: "projection" (default) as in the paper, or "softmax" of the same argument.

    Raises:
        ValueError: a setting is out of range.

    Numerics: see `TrackingAggregator` for memory. Zero gradients are averaged as they are under
        either `normalize`.

    Example:
        >>> import torch, moopt
        >>> from moopt.aggregators import MoCo
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), MoCo(beta=1.0))
        >>> record = optimizer.backward({"a": w[0] ** 2, "b": w[1] ** 2})
        >>> [round(weight, 3) for weight in record.weights.tolist()]
        [0.8, 0.2]

    Source: Fernando, Shen, Liu, Chaudhury, Murugesan and Chen, "Mitigating Gradient Bias in
    Multi-objective Learning: A Provably Convergent Approach", ICLR 2023,
    https://arxiv.org/abs/2210.12624. Where the authors' code differs from the paper it is an option
    here: it normalises the gradients and takes the softmax. The defaults of the numbers are the
    code's, and so is the order of the three updates. The paper also projects y onto a ball, for its
    proof; that is left out.
    """

    beta: float = number(0.5, "in (0, 1]")
    beta_decay: float = number(0.5, "finite and >= 0")
    gamma: float = number(0.1, "finite and > 0")
    gamma_decay: float = number(0.5, "finite and >= 0")
    regularization: float = number(0.0, "finite and >= 0")
    normalize: Normalize = one_of("none", get_args(Normalize))
    simplex: Simplex = one_of("projection", get_args(Simplex))

    guarantees = frozenset({Guarantee.SIMPLEX})
    state_entries: ClassVar[Mapping[str, StateEntry]] = {WEIGHTS: StateEntry(1, lambda m: 1.0 / m)}
    row_name: ClassVar[str] = "average"
    sees_zero_gradients: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"} if self.normalize == "loss" else ())

    def factors(self, problem: Problem) -> Array:
        """`loss_i / ||g_i||` where they are normalised; 1 for a gradient that is zero."""
        if self.normalize == "none" or problem.losses is None:
            return super().factors(problem)
        return np.where(problem.norms > 0.0, problem.losses / problem.norms, 1.0)

    def share(self, problem: Problem, state: State) -> float:
        """`beta_k`."""
        return decayed(self.beta, self.beta_decay, problem)

    def weigh(self, problem: Problem, state: State) -> Solved:
        """One step of the weights towards the minimum norm of the averages."""
        gamma = decayed(self.gamma, self.gamma_decay, problem)
        # The last weights of this step's objectives, should others have taken part before.
        w = project_onto_simplex(state[WEIGHTS])
        moved = w - gamma * (problem.gramian @ w + self.regularization * w)
        weights = softmax(moved) if self.simplex == "softmax" else project_onto_simplex(moved)
        return Solved(weights, state={WEIGHTS: weights})
