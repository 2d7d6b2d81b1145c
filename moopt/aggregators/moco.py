"""MoCo: minimum-norm weights of gradients averaged over the steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from moopt.aggregators.base import State
from moopt.aggregators.tracking import TrackingAggregator
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.solvers import simplex_projection
from moopt.weightings import Guarantee

WEIGHTS = "weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCo(TrackingAggregator):
    """Multi-objective gradient correction: MGDA's weights and direction, of averaged gradients.

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
        either `normalize`. No synchronisation.

    Example:
        >>> import torch, moopt
        >>> from moopt.aggregators import MoCo
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), MoCo(beta=1.0))
        >>> record = optimizer.backward({"a": w[0] ** 2, "b": w[1] ** 2})
        >>> [round(weight, 3) for weight in record.weights.tolist()]
        [0.8, 0.2]

    Source: H. Fernando, H. Shen, M. Liu, S. Chaudhury, K. Murugesan and T. Chen, "Mitigating
    Gradient Bias in Multi-objective Learning: A Provably Convergent Approach", ICLR 2023. Where
    the authors' code differs from the paper it is an option here: it normalises the gradients and
    takes the softmax. The defaults of the numbers are the code's, and so is the order of the three
    updates. The paper also projects y onto a ball, for its proof; that is left out.
    """

    beta: float = 0.5
    beta_decay: float = 0.5
    gamma: float = 0.1
    gamma_decay: float = 0.5
    regularization: float = 0.0
    normalize: Literal["none", "loss"] = "none"
    simplex: Literal["projection", "softmax"] = "projection"

    name: ClassVar[str] = "MoCo"
    source: ClassVar[str] = (
        "H. Fernando, H. Shen, M. Liu, S. Chaudhury, K. Murugesan and T. Chen, Mitigating Gradient"
        " Bias in Multi-objective Learning: A Provably Convergent Approach, ICLR 2023"
    )
    tracked: ClassVar[str] = "average"
    combines_tracked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.name, "beta", self.beta, "in (0, 1]", use="0.5")
        check_number(self.name, "gamma", self.gamma, "finite and > 0", use="0.1")
        for name in ("beta_decay", "gamma_decay", "regularization"):
            check_number(self.name, name, getattr(self, name), "finite and >= 0", use="0")
        if self.normalize not in ("none", "loss"):
            raise ValueError(
                f'`normalize` of `MoCo` must be "none" or "loss"; got {self.normalize!r}.'
            )
        if self.simplex not in ("projection", "softmax"):
            raise ValueError(
                f'`simplex` of `MoCo` must be "projection" or "softmax"; got {self.simplex!r}.'
            )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.SIMPLEX})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"} if self.normalize == "loss" else ())

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {WEIGHTS: 1}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """Uniform weights."""
        weight = 1.0 / num_objectives
        return {WEIGHTS: torch.full((num_objectives,), weight, dtype=torch.float64, device=device)}

    def factors(self, statistics: StepStatistics) -> Tensor:
        """`loss_i / ||g_i||` where they are normalised."""
        if self.normalize == "none" or statistics.losses is None:
            return super().factors(statistics)
        norms = statistics.gramian.diagonal().clamp_min(0.0).sqrt()
        return torch.where(norms > 0, statistics.losses / norms.where(norms > 0, 1.0), 1.0)

    def follow(
        self, tracked: Tensor, gradients: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, None]:
        """The moving average."""
        share = self.beta / _step(statistics) ** self.beta_decay
        return torch.lerp(tracked, gradients, share), None

    def weigh(
        self, summary: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, State]:
        """One step of the weights towards the minimum norm of the averages."""
        active = statistics.active
        assert active is not None
        gamma = self.gamma / _step(statistics) ** self.gamma_decay
        # The former weights of this step's objectives, should others have taken part before.
        w = simplex_projection(state[WEIGHTS], active=active)
        clean = torch.where(active[:, None] & active, summary, 0.0)
        moved = w - gamma * (clean @ w + self.regularization * w)
        if self.simplex == "projection":
            weights = simplex_projection(moved, active=active)
        else:
            # Not -inf: where no objective is active there is no softmax of nothing.
            least = torch.finfo(moved.dtype).min
            weights = torch.softmax(moved.masked_fill(~active, least), -1) * active
        return weights, {WEIGHTS: torch.where(active, weights, state[WEIGHTS])}


def _step(statistics: StepStatistics) -> int:
    """k = 1, 2, ..."""
    return 1 + (statistics.step or 0)
