"""ExcessMTL: more weight to the objectives that are far from their own optimum."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.aggregators.base import State
from moopt.aggregators.tracking import TrackingAggregator
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.weightings import Guarantee

LOGITS = "logits"
FIRST = "first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExcessMTL(TrackingAggregator):
    """Weights that grow with the estimated excess risk of each objective, by exponential steps.

    With `s_i = sum over the steps of g_i^2`, entry by entry, the excess risk is estimated as
    `e_i = sum_k g_i,k^2 / sqrt(s_i,k)`: a Taylor expansion with AdaGrad's diagonal in place of the
    Hessian. Then `w_i <- w_i exp(eta e_i / e_i(1)) / Z` with `e_i(1)` that of the objective's first
    step and Z such that the weights sum to one, and `d = sum_i w_i g_i`. Unlike the loss itself,
    the excess risk of noisy labels goes to zero: they do not take over the training.

    Args:
        step_size: eta, finite, > 0; default 0.01.

    Raises:
        ValueError: a setting is out of range.

    Numerics: see `TrackingAggregator` for memory. Entries whose gradients were all zero count
        nothing. The weights are kept as logarithms, so that none underflows for good. An objective
        that joins late starts at the mean logarithm, 0. No synchronisation.

    Example:
        >>> import torch, moopt
        >>> from moopt.aggregators import ExcessMTL
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), ExcessMTL())
        >>> record = optimizer.backward({"a": w[0] ** 2, "b": w[1] ** 2})
        >>> record.weights.tolist()
        [0.5, 0.5]

    Source: Y. He, S. Zhou, G. Zhang, H. Yun, Y. Xu, B. Zeng, T. Chilimbi and H. Zhao, "Robust
    Multi-Task Learning with Excess Risks", ICML 2024. The authors' code adds 1e-7 under the root,
    which this leaves out so that no scale of the gradients is special, does not divide the
    estimates of the first step (through a peer's adaptation of it), and lets the weights sum to m;
    in the paper they sum to one (from memory).
    """

    step_size: float = 0.01

    name: ClassVar[str] = "ExcessMTL"
    source: ClassVar[str] = (
        "Y. He, S. Zhou, G. Zhang, H. Yun, Y. Xu, B. Zeng, T. Chilimbi and H. Zhao, Robust"
        " Multi-Task Learning with Excess Risks, ICML 2024"
    )
    tracked: ClassVar[str] = "squares"
    combines_tracked: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number(self.name, "step_size", self.step_size, "finite and > 0", use="0.01")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset(
            {
                Guarantee.SIMPLEX,
                Guarantee.POSITIVELY_HOMOGENEOUS,
                Guarantee.PERMUTATION_EQUIVARIANT,
                Guarantee.IDEMPOTENT,
            }
        )

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {LOGITS: 1, FIRST: 1}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """Equal weights, and no first estimate yet (0)."""
        zeros = torch.zeros(num_objectives, dtype=torch.float64, device=device)
        return {LOGITS: zeros, FIRST: zeros.clone()}

    def follow(
        self, tracked: Tensor, gradients: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, Tensor]:
        """The sum of squares, and this parameter's share of the excess risks."""
        squares = gradients.square()
        total = tracked + squares
        terms = squares / torch.where(total > 0, total, 1.0).sqrt()
        return total, terms.reshape(len(terms), -1).sum(1, dtype=torch.float64)

    def weigh(
        self, summary: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, State]:
        """One exponential step of the weights."""
        active = statistics.active
        assert active is not None
        first = torch.where(state[FIRST] > 0, state[FIRST], summary)
        ratio = summary / torch.where(first > 0, first, 1.0)
        logits = torch.where(active, state[LOGITS] + self.step_size * ratio, state[LOGITS])
        # Only differences count: the mean of the active ones stays at zero.
        count = active.sum().clamp_min(1)
        mean = torch.where(active, logits, 0.0).sum() / count
        logits = torch.where(active, logits - mean, logits)
        least = torch.finfo(logits.dtype).min
        weights = torch.softmax(logits.masked_fill(~active, least), -1) * active
        return weights, {LOGITS: logits, FIRST: torch.where(active, first, state[FIRST])}
