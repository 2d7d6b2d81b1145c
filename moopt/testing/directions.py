"""How the checks call a weighting, and when two directions count as the same."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.testing.sampling import Case
from moopt.weightings import Weighting, WeightingOutput

Build = Callable[[Sequence[int]], Weighting]
"""Objective positions -> weighting: positions matter where a setting belongs to an objective."""

EPS = torch.finfo(torch.float64).eps

DESCENT_TOL = 1e-9
"""g_i . d >= -DESCENT_TOL ||g_i|| ||d||: the promise of the documentation."""

ROUNDING = 64 * EPS
"""Rounding of an inner product g_i . sum_j w_j g_j, relative to ||g_i|| sum_j |w_j| ||g_j||."""

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
    return StepStatistics(
        gramian=gramian, losses=losses, names=names, active=active, step=0, **other
    )


def mask_of(case: Case) -> Tensor:
    """bool `[m]`: about two thirds of the objectives, at least one."""
    return torch.tensor([i % 3 != 1 for i in range(case.m)])


def weigh(build: Build, case: Case, active: Tensor | None = None) -> WeightingOutput:
    """The output on a case, from the initial state."""
    weighting = build(range(case.m))
    return weighting(statistics(case.gramian, losses_of(case), active))


def same_state(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Bit for bit; NaN, which may mean "nothing yet", equals NaN."""
    if state.keys() != other.keys():
        return False
    pairs = [(state[key], other[key]) for key in other]
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
        return False
    return all(bool(((a == b) | (a != a) & (b != b)).all()) for a, b in pairs)


def pasts(weighting: Weighting, before: StepStatistics, steps: int = 1) -> list[dict[str, Tensor]]:
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


def outputs(build: Build, case: Case, factors: Tensor | None = None) -> list[WeightingOutput]:
    """The output on a case at the first step; and, for a method with a state, at the second.

    Before that came the same rows in the opposite order, so that it did not learn from this case.

    Args:
        build, case: the method and the case.
        factors: float64 `[m]`, of the rows and of their losses, at either step; None means 1.
    """
    weighting = build(range(case.m))
    scale = torch.ones(case.m, dtype=torch.float64) if factors is None else factors
    gramians = (case.gramian, case.gramian.flip(0, 1))
    losses = (losses_of(case), losses_of(case).flip(0))
    now, before = (
        statistics(gramian * scale[:, None] * scale, loss * scale)
        for gramian, loss in zip(gramians, losses, strict=True)
    )
    return [weighting(now, past) for past in pasts(weighting, before)]


def size(jacobian: Tensor, weights: Tensor) -> float:
    """sum_j |w_j| ||g_j||: the length the direction would have without any cancellation."""
    return float((weights.abs() * jacobian.norm(dim=-1)).sum())


def assert_same_direction(first: Tensor, second: Tensor, scale: float, when: str) -> None:
    """Equal up to what a Gramian can tell; `scale` is their `size`, `when` begins a sentence."""
    difference, allowed = float((first - second).norm()), DIRECTION_TOL * scale
    assert difference <= allowed, (
        f"{when} the direction differs by {difference:.3g}; {allowed:.3g} is rounding"
    )


def assert_parallel(first: Tensor, second: Tensor, sizes: tuple[float, float], when: str) -> None:
    """Equal up to a positive factor; a direction that is rounding of its terms counts as zero."""
    lengths = (float(first.norm()), float(second.norm()))
    vanish = [n <= STATIONARY_TOL * s for n, s in zip(lengths, sizes, strict=True)]
    if any(vanish):
        both = all(n <= DIRECTION_TOL * s for n, s in zip(lengths, sizes, strict=True))
        assert both, f"{when} the direction is no longer zero, or is zero now: {lengths}"
        return
    scale = max(s / n for n, s in zip(lengths, sizes, strict=True))
    unit = f"{when}, and divided by its length,"
    assert_same_direction(first / lengths[0], second / lengths[1], scale, unit)
