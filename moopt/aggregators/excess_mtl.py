"""ExcessMTL: more weight to the objectives that are far from their own optimum."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moopt.aggregators.tracking import TrackingAggregator
from moopt.scalarizations.base import softmax
from moopt.settings.fields import number
from moopt.weightings.base import Guarantee, Problem, Solved, State, StateEntry

LOGITS = "logits"
FIRST = "first"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExcessMTL(TrackingAggregator):
    """Give more weight to objectives with a large estimated excess risk, by exponential steps.

    Use it where the labels of some objectives are noisy.

    With `s_i = sum over the steps of g_i^2`, entry by entry, the excess risk is estimated as
    `e_i = sum_k g_i,k^2 / sqrt(s_i,k)`: a Taylor expansion with AdaGrad's diagonal in place of the
    Hessian. Then `w_i <- w_i exp(eta e_i / e_i(1)) / Z` with `e_i(1)` that of the objective's first
    step and Z such that the weights sum to one, and `d = sum_i w_i g_i`. Unlike the loss itself,
    the excess risk of noisy labels goes to zero: they do not take over the training.

    Args:
        step_size: eta, finite, > 0; default 0.01.

    Raises:
        ValueError: a setting is out of range.

    Numerics: see `TrackingAggregator` for memory. Entries whose gradients were all zero do
        not count. The weights are kept as logarithms, so that none underflows for good. An
        objective that joins late starts at the mean logarithm, 0.

    Example:
        >>> import torch, moopt
        >>> from moopt.aggregators import ExcessMTL
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), ExcessMTL())
        >>> record = optimizer.backward({"a": w[0] ** 2, "b": w[1] ** 2})
        >>> record.weights.tolist()
        [0.5, 0.5]

    Source: He, Zhou, Zhang, Yun, Xu, Zeng, Chilimbi and Zhao, "Robust Multi-Task Learning with
    Excess Risks", ICML 2024, https://arxiv.org/abs/2402.02009. LibMTL's adaptation of the authors'
    code differs in three ways: it adds 1e-7 under the root, which would make one scale of the
    gradients special; it does not move the weights in the first step; and its weights sum to m.
    """

    step_size: float = number(0.01, "finite and > 0")

    guarantees = frozenset(
        {
            Guarantee.SIMPLEX,
            Guarantee.POSITIVELY_HOMOGENEOUS,
            Guarantee.PERMUTATION_EQUIVARIANT,
            Guarantee.IDEMPOTENT,
        }
    )
    state_entries: ClassVar[Mapping[str, StateEntry]] = {
        LOGITS: StateEntry(1),
        FIRST: StateEntry(1),
    }
    row_name: ClassVar[str] = "squares"
    combines_gradients: ClassVar[bool] = True
    sees_zero_gradients: ClassVar[bool] = True

    def follow(self, rows: Tensor, gradients: Tensor, problem: Problem, state: State) -> Tensor:
        """The sums of squares."""
        return rows + gradients.square()

    def compared(self, rows: Tensor, gradients: Tensor) -> Tensor:
        """The gradients in AdaGrad's metric, `g_i,k / s_i,k^(1/4)`: their squared norms are e_i."""
        return gradients / torch.where(rows > 0, rows, 1.0).sqrt().sqrt()

    def weigh(self, problem: Problem, state: State) -> Solved:
        """One exponential step of the weights."""
        excess = np.square(problem.norms)
        first = np.where(state[FIRST] > 0.0, state[FIRST], excess)
        ratio = excess / np.where(first > 0.0, first, 1.0)
        logits = state[LOGITS] + self.step_size * ratio
        logits -= logits.mean()  # only differences count
        return Solved(softmax(logits), state={LOGITS: logits, FIRST: first})
