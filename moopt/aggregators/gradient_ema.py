"""GradientEMA: any weighting, on moving averages of the gradients."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from moopt.aggregators.tracking import NUM_STEPS, TrackingAggregator
from moopt.settings.fields import checked_by
from moopt.settings.numbers import check_number
from moopt.weightings import MGDA
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, StateEntry, Weighting
from moopt.weightings.modifies import Modifies


def _past_shares(beta: Any, owner: str, name: str) -> Any:
    """A number in [0, 1), or a copy of a mapping from names to such numbers."""
    if not isinstance(beta, Mapping):
        check_number(owner, name, beta, "in [0, 1)", use="0.9, or a mapping of names")
        return beta
    for key, share in beta.items():
        check_number(owner, f"{name}[{key!r}]", share, "in [0, 1)", use="0.9")
    return dict(beta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientEMA(Modifies, TrackingAggregator):
    """Average each objective's gradient over the steps, and let a weighting combine the averages.

    `y_i <- beta_i y_i + (1 - beta_i) g_i`, from `y_i = g_i` in the first step of an objective, and
    `d = sum_i w_i y_i` with the weighting's w for the Gramian `Y Y'`. For batches so small that
    their noise hides which gradients conflict. What the weighting promises then holds for the
    averages, not for this batch: the record measures `g_i . d`.

    Args:
        weighting: the method, of objectives alone.
        beta: in [0, 1), the share of the past; default 0.9. Or a mapping from objective name; an
            objective that it does not name is not averaged.

    Raises:
        TypeError: `weighting` is not a weighting.
        ValueError: `beta` is out of range, or the weighting needs auxiliary rows or `observe`.

    Numerics: see `TrackingAggregator` for memory.

    Example:
        >>> import torch, moopt
        >>> from moopt.aggregators import GradientEMA
        >>> from moopt.weightings import GRU
        >>> gru = GRU(forget="forget", retain="retain")
        >>> method = GradientEMA(gru, beta={"retain": 0.95})
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), method)
        >>> record = optimizer.backward({"forget": w[0] ** 2, "retain": (w[0] + w[1]) ** 2})
        >>> record.names
        ('forget', 'retain')

    Source: Wang, Wang, Liu, Huang, Du, Du and Han, "GRU: Mitigating the Trade-off between
    Unlearning and Retention for LLMs", ICML 2025, https://arxiv.org/abs/2503.09117, whose code
    averages the retain gradient this way; here it goes with any method and objective.
    """

    weighting: Weighting = dataclasses.field(kw_only=False)
    beta: float | Mapping[str, float] = dataclasses.field(
        default=0.9, metadata=checked_by(_past_shares)
    )

    example: ClassVar[Mapping[str, Any]] = {"weighting": MGDA()}
    row_name: ClassVar[str] = "ema"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting.observes or "auxiliary" in self.weighting.needs:
            raise ValueError(
                "`weighting` of `GradientEMA` must need the objectives' gradients and losses alone;"
                f" got {self.weighting!r}. Use it without GradientEMA."
            )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        # Those that hold whatever the rows are, averages of earlier gradients here.
        kept = {
            Guarantee.SIMPLEX,
            Guarantee.SCALE_EQUIVARIANT,
            Guarantee.POSITIVELY_HOMOGENEOUS,
            Guarantee.PERMUTATION_EQUIVARIANT,
        }
        return frozenset(self.weighting.guarantees & kept)

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {NUM_STEPS: StateEntry(1, 0, int), **self.nested_entries}

    def share(self, problem: Problem, state: State) -> Array:
        """`1 - beta_i`; 1 in an objective's first step."""
        past: Any = self.beta
        if isinstance(past, Mapping):
            past = [past.get(name, 0.0) for name in problem.names or ()]
        return np.where(state[NUM_STEPS] > 1, 1.0 - np.asarray(past), 1.0)

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The weighting's, for the Gramian of the averages."""
        solved = self.modified(problem, state)
        return solved._replace(state={**state, **(solved.state or {})})
