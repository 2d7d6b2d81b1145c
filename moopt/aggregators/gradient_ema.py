"""GradientEMA: any weighting, on moving averages of the gradients."""

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
from moopt.weightings import Guarantee, Weighting

NUM_STEPS = "num_steps"
NESTED = "weighting."


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientEMA(TrackingAggregator):
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

    Numerics: see `TrackingAggregator` for memory. No synchronisation.

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

    Source: the authors' code of Y. Wang, Q. Wang, F. Liu, W. Huang, Y. Du, X. Du and B. Han, "GRU:
    Mitigating the Trade-off between Unlearning and Retention for LLMs", ICML 2025, averages the
    retain gradient this way; here it goes with any method and any objective.
    """

    weighting: Weighting = dataclasses.field(kw_only=False)
    beta: float | Mapping[str, float] = 0.9

    name: ClassVar[str] = "GradientEMA"
    source: ClassVar[str] = (
        "Y. Wang, Q. Wang, F. Liu, W. Huang, Y. Du, X. Du and B. Han, GRU: Mitigating the Trade-off"
        " between Unlearning and Retention for LLMs, ICML 2025"
    )
    tracked: ClassVar[str] = "ema"
    combines_tracked: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.weighting, Weighting):
            raise TypeError(
                f"`weighting` of `GradientEMA` must be a moopt weighting; got {self.weighting!r}."
                " Pass an instance such as moopt.MGDA()."
            )
        if self.weighting.observes or "auxiliary" in self.weighting.needs:
            raise ValueError(
                "`weighting` of `GradientEMA` must need the objectives' gradients and losses alone;"
                f" got {self.weighting!r}. Use it without GradientEMA."
            )
        if isinstance(self.beta, Mapping):
            object.__setattr__(self, "beta", dict(self.beta))
        betas = self.beta.items() if isinstance(self.beta, Mapping) else [(None, self.beta)]
        for key, beta in betas:
            setting = "beta" if key is None else f"beta[{key!r}]"
            check_number(self.name, setting, beta, "in [0, 1)", use="0.9, or a mapping of names")

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
    def needs(self) -> frozenset[str]:
        return self.weighting.needs | frozenset({"names"} if isinstance(self.beta, Mapping) else ())

    @property
    def state_axes(self) -> Mapping[str, int]:
        nested = {NESTED + key: axes for key, axes in self.weighting.state_axes.items()}
        return {NUM_STEPS: 1, **nested}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """No step yet, and the weighting's own initial state."""
        nested = self.weighting.initial_state(num_objectives, device)
        return {
            NUM_STEPS: torch.zeros(num_objectives, dtype=torch.int64, device=device),
            **{NESTED + key: value for key, value in nested.items()},
        }

    def follow(
        self, tracked: Tensor, gradients: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, None]:
        """The moving average; in an objective's first step, its gradient."""
        share = torch.where(state[NUM_STEPS] > 0, self._shares(statistics), 0.0)
        share = share.to(gradients).reshape(-1, *[1] * (gradients.dim() - 1))
        return torch.lerp(gradients, tracked, share), None

    def weigh(
        self, summary: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, State]:
        """The weighting's, for the Gramian of the averages."""
        nested = {k.removeprefix(NESTED): v for k, v in state.items() if k.startswith(NESTED)}
        assert statistics.active is not None
        output = self.weighting(dataclasses.replace(statistics, gramian=summary), nested)
        return output.weights, {
            NUM_STEPS: state[NUM_STEPS] + statistics.active,
            **{NESTED + key: value for key, value in output.state.items()},
        }

    def _shares(self, statistics: StepStatistics) -> Tensor:
        """beta for each objective, float64 `[m]`."""
        like = statistics.gramian[..., 0]
        if not isinstance(self.beta, Mapping):
            return torch.full_like(like, self.beta)
        assert statistics.names is not None
        # One scalar at a time: no copy from the host, which would synchronise a device.
        return torch.stack(
            [torch.full_like(like[0], self.beta.get(name, 0.0)) for name in statistics.names]
        )
