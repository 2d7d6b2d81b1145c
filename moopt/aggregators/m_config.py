"""MConFIG: ConFIG of remembered momenta, so that one loss per step is enough."""

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
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL
from moopt.weightings import Guarantee
from moopt.weightings.con_fig import config_weights

NUM_STEPS = "num_steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MConFIG(TrackingAggregator):
    """ConFIG of the momenta of all losses, a few of which are differentiated in each step.

    - `m_i <- beta m_i + (1 - beta) g_i` for the losses of this step, the others keep theirs;
    - `d = ConFIG(m_1 / (1 - beta^t_1), m_2 / (1 - beta^t_2), ...)`, over every loss that was ever
      given, `t_i` counting the steps of loss i.

    Give one loss per step in turn, `optimizer.backward({names[step % m]: loss})`: a step then costs
    one backward pass whatever the number of losses. All of them in every step work too.

    Every parameter takes part, task heads too, unless `shared=` of `CommonDescent` names some. A
    single loss takes this way as well, so that it is remembered: until a second one is known, d is
    its momentum.

    Args:
        beta: beta_1, in [0, 1), the share of the past; default 0.9.
        rtol: of ConFIG, relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12.

    Raises:
        ValueError: a setting is out of range.

    Numerics: see `TrackingAggregator` for memory; the rows are the corrected momenta. The noise
        floor (`inactive_tol`) is that of the momenta: one below it has weight 0. A loss that is
        given no more stays as it was last seen. What ConFIG promises holds for the momenta; the
        record measures `-g_i . d` for the losses of the step. No synchronisation.

    Example:
        >>> import torch, moopt
        >>> from moopt.aggregators import MConFIG
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), MConFIG())
        >>> for name, loss in {"a": lambda: w[0] ** 2, "b": lambda: w[1] ** 2}.items():
        ...     optimizer.zero_grad()
        ...     record = optimizer.backward({name: loss()})
        ...     optimizer.step()
        >>> w.grad.tolist()  # of both, where the step had "b" alone
        [3.0, 3.0]

    Source: Q. Liu, M. Chu and N. Thuerey, "ConFIG: Towards Conflict-free Training of Physics
    Informed Neural Networks", ICLR 2025 (arXiv 2408.11104), M-ConFIG, compared with
    `PseudoMomentumOperator` of the authors' code. There the step goes on as Adam's: d is divided
    by the root of a second moment, entry by entry, with beta_2. That acts on d alone and belongs to
    the wrapped optimizer: `torch.optim.Adam(parameters, betas=(0.0, 0.999))`, whose second moment
    is of d, where theirs is of the pseudo-gradient `(M_t d_t - beta M_(t-1) d_(t-1)) / (1 - beta)`
    with `M_t = 1 - beta^t`. Before every loss was given once their step is zero; ours goes along
    what is known.
    """

    beta: float = 0.9
    rtol: float = DEFAULT_RTOL

    name: ClassVar[str] = "MConFIG"
    source: ClassVar[str] = (
        "Q. Liu, M. Chu and N. Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed"
        " Neural Networks, ICLR 2025"
    )
    tracked: ClassVar[str] = "momentum"
    combines_tracked: ClassVar[bool] = True
    combines_absent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.name, "beta", self.beta, "in [0, 1)", use="0.9")
        check_number(
            self.name, "rtol", self.rtol, "in [0, 1)", use="1e-12 of the largest eigenvalue"
        )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        # Descent is that of the momenta.
        return frozenset({Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT})

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {NUM_STEPS: 1}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """No step yet."""
        return {NUM_STEPS: torch.zeros(num_objectives, dtype=torch.int64, device=device)}

    def follow(
        self, tracked: Tensor, gradients: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, None]:
        """The corrected momentum: with t steps, the new gradient's share of it is as below."""
        steps = (state[NUM_STEPS] + 1).double()
        share = (1.0 - self.beta) / (1.0 - self.beta**steps)
        share = share.to(gradients).reshape(-1, *[1] * (gradients.dim() - 1))
        return torch.lerp(tracked, gradients, share), None

    def weigh(
        self, summary: Tensor, statistics: StepStatistics, state: State
    ) -> tuple[Tensor, State]:
        """ConFIG's, for the Gramian of the momenta."""
        result = config_weights(summary, active=statistics.active, rtol=self.rtol)
        return result.weights, {NUM_STEPS: state[NUM_STEPS] + 1}
