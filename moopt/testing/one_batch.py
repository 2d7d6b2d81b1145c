"""OneBatch: a method of several batches, on problems that have only one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.names import sample_name
from moopt.weightings import Guarantee, Weighting, WeightingOutput

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
        gramian = statistics.gramian.double().index_select(-2, rows).index_select(-1, rows)
        if self.normalize:
            factors = torch.ones_like(gramian[..., 0])
            factors[..., width:] = _inverse_length(statistics)[..., None]
            gramian = gramian * factors[..., :, None] * factors[..., None, :]
        output = self.weighting(
            dataclasses.replace(
                statistics,
                gramian=gramian,
                auxiliary=(*statistics.auxiliary, *samples),
            ),
            state,
        )
        return output._replace(weights=output.weights[..., :width])


def _inverse_length(statistics: StepStatistics) -> Tensor:
    """`[...]`, 1 over the norm of the longest finite active gradient; 1 where there is none."""
    squares = statistics.gramian.double().diagonal(dim1=-2, dim2=-1)
    squares = squares[..., : statistics.num_objectives]
    counts = (
        squares.isfinite() if statistics.active is None else squares.isfinite() & statistics.active
    )
    longest = torch.where(counts, squares, 0.0).amax(-1)
    return torch.where(longest > 0.0, longest, 1.0).rsqrt()
