"""CRMOGM: the moving average of another weighting's weights."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from moopt.settings.fields import number
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, StateEntry, Weighting
from moopt.weightings.mgda import MGDA
from moopt.weightings.modifies import Modifies, nested, prefixed

WEIGHTS = "weights"
NUM_STEPS = "num_steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CRMOGM(Modifies, Weighting):
    """Smooth the weights of any weighting: `w_t = a w_(t-1) + (1 - a) w(G_t)`, `w_0 = w(G_0)`.

    Use it where the weights jump from batch to batch. In stochastic training the weights depend on
    the same mini-batch as the gradients they multiply, and this correlation biases the direction.
    The average varies slowly, which weakens the correlation and lets the method converge. A
    smoothed direction need not be a common descent direction of the present batch.

    Each objective has its own average: a new one starts with its first weight, and one that is
    left out of a step keeps its average. Where the modified method promises simplex weights, the
    averages of the objectives in the step are divided by their sum. Where it stops at a gradient
    of zero, so does this one, for that step.

    Args:
        weighting: the method to modify; default `MGDA()`. Its own state is kept under the prefix
            "weighting.".
        momentum: a, in [0, 1); default 0.9; 0 leaves the weights as they are.

    Raises:
        TypeError: if `weighting` is not a weighting.
        ValueError: if `momentum` is out of range.

    Numerics: status and gap are those of the modified method.

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
    Stochastic Multi-Objective Gradient Manipulation and Beyond", NeurIPS 2022,
    https://proceedings.neurips.cc/paper_files/paper/2022/file/f91bd64a3620aad8e70a27ad9cb3ca57-Paper-Conference.pdf.
    The paper has a fixed set of objectives; what happens as they come and go, and the division by
    the sum, are ours.
    """

    weighting: Weighting = dataclasses.field(default_factory=MGDA, kw_only=False)
    momentum: float = number(0.9, "in [0, 1)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting.combines_auxiliary:
            raise ValueError(
                "`weighting` of `CRMOGM` must weigh objectives alone; got one that combines an"
                f" auxiliary row, {self.weighting!r}. Use it without CRMOGM."
            )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        if self.momentum == 0.0:
            return self.weighting.guarantees
        # Averaging loses every guarantee that compares the weights with the present Gramian.
        kept = {
            Guarantee.SIMPLEX,
            Guarantee.POSITIVELY_HOMOGENEOUS,
            Guarantee.PERMUTATION_EQUIVARIANT,
        }
        if Guarantee.SIMPLEX in self.weighting.guarantees:
            kept.add(Guarantee.IDEMPOTENT)
        return self.weighting.guarantees & kept

    @property
    def observes(self) -> bool:
        return self.weighting.observes

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {WEIGHTS: StateEntry(1), NUM_STEPS: StateEntry(1, 0, int), **self.nested_entries}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The averages, divided by their sum where the modified method's weights have sum 1."""
        solved = self.modified(problem, state)
        new, steps = solved.weights, state[NUM_STEPS]
        mixed = self.momentum * state[WEIGHTS] + (1.0 - self.momentum) * new
        average = np.where(steps > 0, mixed, new)
        total = average.sum() if Guarantee.SIMPLEX in self.weighting.guarantees else 1.0
        return solved._replace(
            weights=average / (total or 1.0),
            state={WEIGHTS: average, NUM_STEPS: steps + 1, **(solved.state or {})},
        )

    def unweighed(self, state: State) -> State:
        return {**state, **prefixed(self.weighting.unweighed(nested(state)))}

    def learn(self, state: State, losses_after: Array, names: Sequence[str] | None) -> State:
        """Let the modified method learn; the averages stay."""
        return {**state, **prefixed(self.weighting.learn(nested(state), losses_after, names))}
