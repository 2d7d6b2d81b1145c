"""How the checks call a weighting, and when two directions count as the same."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.testing.sampling import Case
from moopt.weightings import Weighting, WeightingOutput

Build = Callable[[Sequence[int]], Weighting]
"""Objective positions -> weighting: positions matter where a setting belongs to an objective."""

State = dict[str, Tensor]

DIRECTION_TOL = 1e-6
"""Two directions agree, relative to sum_j |w_j| ||g_j||: the square root of the Gramian's rounding
(1.5e-8) is what a Gramian can tell about a direction; times 64 for its condition."""

STATIONARY_TOL = 1e-7
"""||d|| relative to sum_j |w_j| ||g_j|| that counts as zero; the solver itself stops at 6e-8."""

SIMPLEX_TOL = 1e-12
"""Rounding of a sum of up to 256 weights."""


def losses_of(case: Case) -> Tensor:
    """Positive losses that differ between objectives by up to a factor of ten."""
    return torch.linspace(1.0, 10.0, case.m, dtype=torch.float64).flip(0)


def statistics(
    gramian: Tensor, losses: Tensor | None = None, active: Tensor | None = None, **other: Any
) -> StepStatistics:
    """One step's statistics, with the names "objective 0", "objective 1", ..."""
    names = tuple(f"objective {i}" for i in range(gramian.shape[-1]))
    known = {"losses": losses, "names": names, "active": active, "step": 0, **other}
    return StepStatistics(gramian=gramian, **known)


def pasts(weighting: Weighting, before: StepStatistics, steps: int = 1) -> list[State]:
    """The initial state; and, for a method with a state, the one after some steps."""
    state = weighting.initial_state(before.num_objectives)
    if not weighting.state_axes:
        return [state]
    later = state
    for _ in range(steps):
        later = weighting(before, later).state
        if weighting.observes:
            assert before.losses is not None
            later = weighting.observe(later, 0.9 * before.losses, names=before.names)
    return [state, later]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a method made of rows g_i, which it was shown the Gramian of."""

    rows: Tensor
    output: WeightingOutput

    @functools.cached_property
    def direction(self) -> Tensor:
        """float64 `[d]`, sum_i w_i g_i."""
        return self.rows.T @ self.output.weights

    @functools.cached_property
    def size(self) -> float:
        """sum_i |w_i| ||g_i||: the length the direction would have without any cancellation."""
        return float((self.output.weights.abs() * self.rows.norm(dim=-1)).sum())

    @property
    def status(self) -> SolverStatus:
        """A method without a solver claims its promise of every direction."""
        result = self.output.result
        return SolverStatus.CONVERGED if result is None else SolverStatus(int(result.status))


def assert_same_direction(first: Tensor, second: Tensor, scale: float, when: str) -> None:
    """Equal up to what a Gramian can tell; `scale` is their `size`, `when` begins a sentence."""
    difference, allowed = float((first - second).norm()), DIRECTION_TOL * scale
    assert difference <= allowed, (
        f"{when} the direction differs by {difference:.3g}; {allowed:.3g} is rounding"
    )
