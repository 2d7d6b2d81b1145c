"""OneBatch: a method of several batches, on problems that have only one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.record import StepStatistics, sample_name
from moopt.weightings import Guarantee, Weighting, WeightingOutput

SAMPLES = 2
"""How many further batches a method may ask for: `MoDo` takes two."""


@dataclasses.dataclass(frozen=True)
class OneBatch(Weighting):
    """A weighting that is shown the same batch again for each sample that it asks for.

    So that methods with auxiliary rows run on a plain Gramian, as the suite's cases are.

    Args:
        weighting: the method; its promises, state and further needs are passed on.

    Example:
        >>> import torch, moopt
        >>> from moopt.testing import OneBatch
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2).double(), names=("a", "b"))
        >>> OneBatch(moopt.weightings.MoDo())(statistics).weights.tolist()
        [0.5, 0.5]
    """

    weighting: Weighting

    name: ClassVar[str] = "OneBatch"
    source: ClassVar[str] = "this library: an adapter for tests"

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return self.weighting.guarantees

    @property
    def needs(self) -> frozenset[str]:
        return self.weighting.needs - {"auxiliary"}

    @property
    def state_axes(self) -> Mapping[str, int]:
        return self.weighting.state_axes

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """The method's own."""
        return self.weighting.initial_state(num_objectives, device)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        m, width = statistics.num_objectives, statistics.gramian.shape[-1]
        assert statistics.names is not None
        # Each sample's rows are the objectives', after the rows that are there.
        again = torch.arange(m, device=statistics.gramian.device).repeat(SAMPLES)
        rows = torch.cat([torch.arange(width, device=again.device), again])
        samples = [sample_name(n, k + 1) for k in range(SAMPLES) for n in statistics.names[:m]]
        output = self.weighting(
            dataclasses.replace(
                statistics,
                gramian=statistics.gramian.index_select(-2, rows).index_select(-1, rows),
                auxiliary=(*statistics.auxiliary, *samples),
            ),
            state,
        )
        return output._replace(weights=output.weights[..., :width])
