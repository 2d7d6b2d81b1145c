"""CRMOGM: the moving average of another weighting's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.cr_mogm_on_host import cr_mogm_on_host
from moopt.weightings.mgda import MGDA
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.unit_rows import all_finite, surely_finite

WEIGHTS = "weights"
NUM_STEPS = "num_steps"

SMALLEST_SUM = 1e-300
"""A divisor for weights that are all zero, far below every sum of others."""

NESTED = "weighting."

# As an int: a trace takes the comparison of a tensor with an enum member for a plain False.
NON_FINITE = int(SolverStatus.NON_FINITE)


def cr_mogm_weights(
    weights: Tensor,
    average: Tensor,
    num_steps: Tensor,
    *,
    momentum: float = 0.9,
    active: Tensor | None = None,
) -> Tensor:
    """Return the next moving average `a average + (1 - a) weights`, objective by objective.

    An objective's first step starts its average; an inactive one keeps it.

    Args:
        weights: float64 `[..., m]`, this step's weights of the modified method.
        average: float64 `[..., m]`, the former averages.
        num_steps: int64 `[..., m]`, how many steps each average holds.
        momentum: a, in [0, 1).
        active: bool `[..., m]`; None means all active.

    Returns:
        float64 `[..., m]`.

    Example:
        >>> import torch
        >>> from moopt.weightings.cr_mogm import cr_mogm_weights
        >>> new, old = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
        >>> cr_mogm_weights(new, old, torch.tensor([3, 0]), momentum=0.5).tolist()
        [0.5, 0.0]
    """
    mixed = torch.where(num_steps > 0, momentum * average + (1.0 - momentum) * weights, weights)
    return mixed if active is None else torch.where(active, mixed, average)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CRMOGM(Weighting):
    """Smooth the weights of any weighting: `w_t = a w_(t-1) + (1 - a) w(G_t)`, `w_0 = w(G_0)`.

    In stochastic training the weights depend on the same mini-batch as the gradients they
    multiply, and this correlation biases the direction. The average varies slowly, which weakens
    the correlation and lets the method converge. A smoothed direction need not be a common
    descent direction of the present batch.

    Each objective has its own average: a new one starts with its first weight, an inactive one
    keeps its average and gets weight 0. Where the modified method promises simplex weights, the
    averages of the active objectives are divided by their sum. A non-finite step passes the
    modified method's weights through and leaves the averages alone.

    Args:
        weighting: the method to modify; default `MGDA()`. Its own state is kept under the prefix
            "weighting.".
        momentum: a, in [0, 1); default 0.9; 0 leaves the weights as they are.

    Raises:
        TypeError: if `weighting` is not a weighting.
        ValueError: if `momentum` is out of range.

    Numerics: no synchronisation beyond those of `weighting`.

    Example:
        >>> import torch, moopt
        >>> weighting = moopt.CRMOGM(moopt.MGDA(), momentum=0.5)
        >>> first = moopt.StepStatistics(gramian=torch.eye(2, dtype=torch.float64))
        >>> second = moopt.StepStatistics(
        ...     gramian=torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        ... )
        >>> weights, state, _ = weighting(first)
        >>> [round(w, 12) for w in weighting(second, state).weights.tolist()]
        [0.65, 0.35]

    Source: S. Zhou, W. Zhang, J. Jiang, W. Zhong, J. Gu and W. Zhu, "On the Convergence of
    Stochastic Multi-Objective Gradient Manipulation and Beyond", NeurIPS 2022. The paper has a
    fixed set of objectives; what happens as they come and go, and the division by the sum, are
    ours.
    """

    weighting: Weighting = dataclasses.field(default_factory=MGDA, kw_only=False)
    momentum: float = 0.9

    name: ClassVar[str] = "CRMOGM"
    source: ClassVar[str] = (
        "S. Zhou, W. Zhang, J. Jiang, W. Zhong, J. Gu and W. Zhu, On the Convergence of Stochastic"
        " Multi-Objective Gradient Manipulation and Beyond, NeurIPS 2022"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.weighting, Weighting):
            raise TypeError(
                f"`weighting` of `CRMOGM` must be a moopt weighting; got {self.weighting!r}. Pass"
                " an instance such as moopt.MGDA()."
            )
        if self.weighting.combines_auxiliary:
            raise ValueError(
                "`weighting` of `CRMOGM` must weigh objectives alone; got one that combines an"
                f" auxiliary row, {self.weighting!r}. Use it without CRMOGM."
            )
        check_number(self.name, "momentum", self.momentum, "in [0, 1)", use="0.9")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        if self.momentum == 0.0:
            return self.weighting.guarantees
        # Whatever compares the weights with the present Gramian is lost by averaging.
        kept = {
            Guarantee.SIMPLEX,
            Guarantee.POSITIVELY_HOMOGENEOUS,
            Guarantee.PERMUTATION_EQUIVARIANT,
        }
        if Guarantee.SIMPLEX in self.weighting.guarantees:
            kept.add(Guarantee.IDEMPOTENT)
        return self.weighting.guarantees & kept

    @property
    def needs(self) -> frozenset[str]:
        return self.weighting.needs

    @property
    def state_axes(self) -> Mapping[str, int]:
        nested = {NESTED + key: axes for key, axes in self.weighting.state_axes.items()}
        return {WEIGHTS: 1, NUM_STEPS: 1, **nested}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """Zero averages of zero steps, and the modified method's own initial state."""
        nested = self.weighting.initial_state(num_objectives, device)
        return {
            WEIGHTS: torch.zeros(num_objectives, dtype=torch.float64, device=device),
            NUM_STEPS: torch.zeros(num_objectives, dtype=torch.int64, device=device),
            **{NESTED + key: value for key, value in nested.items()},
        }

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        m = statistics.num_objectives
        if state is None:
            state = self.initial_state(m, gramian.device)
        nested = {
            key.removeprefix(NESTED): value
            for key, value in state.items()
            if key.startswith(NESTED)
        }
        output = self.weighting(statistics, nested)
        new = output.weights[..., :m]
        simplex = Guarantee.SIMPLEX in self.weighting.guarantees
        average = state[WEIGHTS].expand(new.shape)
        num_steps = state[NUM_STEPS].expand(new.shape)
        following = {NESTED + key: value for key, value in output.state.items()}
        if active is None and new.dim() == 1 and surely_finite(gramian) and _solved(output.result):
            host = cr_mogm_on_host(new, average, num_steps, self.momentum, simplex)
            weights, average, num_steps = map(torch.from_numpy, host)
            following |= {WEIGHTS: average, NUM_STEPS: num_steps}
            weights = with_auxiliary_rows(weights, statistics)
            return WeightingOutput(weights, following, output.result)
        finite = all_finite(gramian, active)[..., None]
        if output.result is not None:
            finite = finite & (output.result.status != NON_FINITE)[..., None]
        usable = finite.expand(new.shape) if active is None else active & finite
        average = cr_mogm_weights(new, average, num_steps, momentum=self.momentum, active=usable)
        weights = torch.where(usable, average, 0.0)
        if simplex:
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(SMALLEST_SUM)
        weights = with_auxiliary_rows(torch.where(finite, weights, new), statistics)
        following |= {WEIGHTS: average, NUM_STEPS: num_steps + usable}
        return WeightingOutput(weights, following, output.result)

    @property
    def observes(self) -> bool:
        """Whether the modified method does."""
        return self.weighting.observes

    def observe(
        self,
        state: dict[str, Tensor],
        losses_after: Tensor,
        *,
        names: tuple[str, ...] | None = None,
    ) -> dict[str, Tensor]:
        """Let the modified method observe; the averages stay."""
        nested = {k.removeprefix(NESTED): v for k, v in state.items() if k.startswith(NESTED)}
        observed = self.weighting.observe(nested, losses_after, names=names)
        return state | {NESTED + key: value for key, value in observed.items()}


def _solved(result: SolverResult | None) -> bool:
    """Whether a result on the host, if there is one, is about finite numbers."""
    return result is None or int(result.status) != NON_FINITE
