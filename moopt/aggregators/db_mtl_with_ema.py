"""DBMTLWithEMA: DB-MTL as published, on moving averages of the logarithms' gradients."""

import dataclasses
from typing import ClassVar

from moopt.aggregators.tracking import TrackingAggregator, decayed
from moopt.settings.fields import number
from moopt.weightings.base import Array, Guarantee, Problem, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class DBMTLWithEMA(TrackingAggregator):
    """Add up averaged gradients of the log-losses, scaled to the largest norm: dual balancing.

    Use it for losses of different scales whose gradients are noisy. In step k = 1, 2, ... with
    `beta_k = beta / k^beta_decay`

    - `h_i <- beta_k h_i + (1 - beta_k) g_i / loss_i`, from `h_i = 0`;
    - `d = max_j ||h_j|| sum_i h_i / ||h_i||`.

    `moopt.weightings.DBMTL` is the same without the average (`beta = 0`) and without its memory.

    Args:
        beta: in [0, 1), the share of the past; default 0.9.
        beta_decay: finite, >= 0; default 0, a constant share.

    Raises:
        ValueError: a setting is out of range; at the step, if the losses are missing.

    Numerics: see `TrackingAggregator` for memory. Losses are taken by absolute value; one below
        1e-12 of the largest counts as that much. Objectives whose average is zero get weight 0.

    Example:
        >>> import torch, moopt
        >>> from moopt.aggregators import DBMTLWithEMA
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> sgd = torch.optim.SGD([w], lr=0.1)
        >>> optimizer = moopt.CommonDescent(sgd, DBMTLWithEMA(beta=0.0))
        >>> record = optimizer.backward({"a": w[0] ** 2, "b": w[1] ** 2})
        >>> w.grad.tolist()
        [2.0, 2.0]

    Source: B. Lin, W. Jiang, F. Ye, Y. Zhang, P. Chen, Y.-C. Chen, S. Liu and J. T. Kwok,
    "Dual-Balancing for Multi-Task Learning", 2023, https://arxiv.org/abs/2308.12029. We differ in
    the floor of the losses, where the authors' code (LibMTL) adds 1e-8 to each. The defaults are
    those of that code.
    """

    beta: float = number(0.9, "in [0, 1)")
    beta_decay: float = number(0.0, "finite and >= 0")

    guarantees = frozenset({Guarantee.SCALE_EQUIVARIANT, Guarantee.PERMUTATION_EQUIVARIANT})
    needs = frozenset({"losses"})
    row_name: ClassVar[str] = "log_average"

    def factors(self, problem: Problem) -> Array:
        """`1 / loss_i`."""
        return 1.0 / problem.loss_sizes

    def share(self, problem: Problem, state: State) -> float:
        """`1 - beta_k`."""
        return 1.0 - decayed(self.beta, self.beta_decay, problem)

    def weigh(self, problem: Problem, state: State) -> Array:
        """`max_j ||h_j|| / ||h_i||`."""
        return problem.norms.max() / problem.norms
