"""MConFIG: ConFIG of remembered momenta, so that one loss per step is enough."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from moopt.aggregators.tracking import NUM_STEPS, TrackingAggregator
from moopt.settings.fields import number
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL
from moopt.weightings import ConFIG
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, StateEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class MConFIG(TrackingAggregator):
    """Take ConFIG of the momenta of all losses, and differentiate a few of them in each step.

    Use it for many losses when a backward pass for each in every step costs too much.

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
        no longer given stays as it last was. Status and what ConFIG promises are those of the
        momenta; the record measures `-g_i . d` for the losses of the step.

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
    Informed Neural Networks", ICLR 2025, https://arxiv.org/abs/2408.11104, M-ConFIG, compared with
    `PseudoMomentumOperator` of the authors' code. There the step goes on as Adam's: d is divided by
    the root of a second moment, entry by entry, with beta_2. That acts on d alone and belongs to
    the wrapped optimizer: `torch.optim.Adam(parameters, betas=(0.0, 0.999))`, whose second moment
    is of d, where theirs is of the pseudo-gradient `(M_t d_t - beta M_(t-1) d_(t-1)) / (1 - beta)`
    with `M_t = 1 - beta^t`. Until every loss has been given once, their step is zero; ours follows
    what is known.
    """

    beta: float = number(0.9, "in [0, 1)")
    rtol: float = number(DEFAULT_RTOL, "in [0, 1)")

    # Descent is that of the momenta.
    guarantees = frozenset({Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT})
    state_entries: ClassVar[Mapping[str, StateEntry]] = {NUM_STEPS: StateEntry(1, 0, int)}
    row_name: ClassVar[str] = "momentum"
    combines_absent: ClassVar[bool] = True

    def share(self, problem: Problem, state: State) -> Array:
        """`(1 - beta) / (1 - beta^t_i)`, which makes the row the corrected momentum."""
        return (1.0 - self.beta) / (1.0 - self.beta ** state[NUM_STEPS])

    def weigh(self, problem: Problem, state: State) -> Array | Solved:
        """ConFIG's, for the Gramian of the momenta."""
        return ConFIG(rtol=self.rtol).weigh(problem, {})
