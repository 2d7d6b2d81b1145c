"""OneBatch: a method of several batches, on problems that have only one."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from moopt.records.result import Array, Solved, State
from moopt.settings.names import sample_name
from moopt.weightings import Guarantee, Problem, StateEntry, Weighting

SAMPLES = 2
"""How many further batches a method may ask for: `MoDo` takes two."""


@dataclasses.dataclass(frozen=True)
class OneBatch(Weighting):
    """A weighting that is shown the same batch again for each sample that it asks for.

    So that methods with auxiliary rows run on a plain Gramian, as the suite's cases are.

    Args:
        weighting: the method; its promises, state and further needs are passed on.
        normalize: show the further batches in units of the longest active gradient, for methods
            whose settings have a unit: `MoDo` moves by `step_size` times a squared length, and far
            beyond the simplex rounding decides where it ends. Default False.

    Example:
        >>> import torch, moopt
        >>> from moopt.testing import OneBatch
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2).double(), names=("a", "b"))
        >>> OneBatch(moopt.weightings.MoDo())(statistics).weights.tolist()
        [0.5, 0.5]
    """

    weighting: Weighting
    normalize: bool = False

    name: ClassVar[str] = "OneBatch"
    source: ClassVar[str] = "this library: an adapter for tests"

    def __post_init__(self) -> None:
        # The clearing of a step asks this instance.
        object.__setattr__(self, "sees_zero_gradients", self.weighting.sees_zero_gradients)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return self.weighting.guarantees

    @property
    def needs(self) -> frozenset[str]:
        return self.weighting.needs - {"auxiliary"}

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return self.weighting.state_entries

    def weigh(self, problem: Problem, state: State) -> Array | Solved:
        """The method's weights, with the objectives' own rows as those of each sample.

        Weights of the samples themselves are left out.
        """
        longest = float(problem.norms.max())
        unit = 1.0 / longest if self.normalize and longest > 0.0 else 1.0
        scale = np.append(np.ones(problem.m), np.full(SAMPLES * problem.m, unit))
        wide = np.tile(problem.gramian, (SAMPLES + 1, SAMPLES + 1)) * scale * scale[:, None]
        names = problem.names or ()
        samples = tuple(sample_name(n, k + 1) for k in range(SAMPLES) for n in names)
        sampled = dataclasses.replace(problem, wide=wide, auxiliary=samples)
        answer = self.weighting.weigh(sampled, state)
        if isinstance(answer, Solved):
            return answer._replace(weights=answer.weights[: problem.m])
        return answer[: problem.m]
