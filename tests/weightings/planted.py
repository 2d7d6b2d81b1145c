"""Violators: for each property a small weighting that breaks it and little else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.solvers import SolverResult
from moopt.weightings import MGDA, Guarantee, Mean, Problem, Sum, Weighting, WeightingOutput
from tests.weightings.settings import Build, fixed

CALLS = [0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted(Weighting):
    """A weighting from a plain function of the statistics."""

    function: Callable[[StepStatistics], Any]
    claims: frozenset[Guarantee] = frozenset(Guarantee)

    name: ClassVar[str] = "Planted"
    source: ClassVar[str] = "a violator"

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return self.claims

    def weigh(self, problem: Problem, state: Any) -> Any:
        raise AssertionError("called by hand alone, past what clears a step of trouble")

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        out = self.function(statistics)
        return WeightingOutput(out, {}, None) if isinstance(out, Tensor) else out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(Mean):
    """Weighs by the norms and counts every call, whether it learned from it or not."""

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        return {"calls": torch.zeros((), device=device)}

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        state = state or self.initial_state(statistics.num_objectives)
        norms = statistics.gramian.diagonal(dim1=-2, dim2=-1).sqrt()
        on = torch.isfinite(norms) if statistics.active is None else statistics.active
        weights = torch.where(on & torch.isfinite(norms), norms, 0.0)
        return WeightingOutput(weights, {"calls": state["calls"] + 1.0}, None)


class WarmUp(Counting):
    """Uniform at first, then by an average of squares, which one NaN spoils for good."""

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return {"calls": zero, "squares": zero.expand(num_objectives).clone()}

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {"calls": 0, "squares": 1}

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        state = state or self.initial_state(statistics.num_objectives)
        squares, calls = state["squares"], state["calls"] + 1.0
        weights = Mean()(statistics).weights
        if calls > 1:
            squares = 0.9 * squares + 0.1 * statistics.gramian.diagonal(dim1=-2, dim2=-1)
            weights = weights * squares
        return WeightingOutput(weights, {"calls": calls, "squares": squares}, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observing(Counting):
    """Scales by what it observes, in a state that `learn` moves."""

    learn: Callable[[Tensor, Tensor], Tensor]

    @property
    def observes(self) -> bool:
        return True

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {"factor": 1}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        return {"factor": torch.ones(num_objectives, dtype=torch.float64, device=device)}

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        state = state or self.initial_state(statistics.num_objectives)
        return WeightingOutput(Mean()(statistics).weights * state["factor"], state, None)

    def observe(
        self,
        state: dict[str, Tensor],
        losses_after: Tensor,
        *,
        names: tuple[str, ...] | None = None,
    ) -> dict[str, Tensor]:
        return {"factor": self.learn(state["factor"], losses_after)}


class ByLoss(Mean):
    """A share of its inverse loss: NaN where that is NaN."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"})

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        assert statistics.losses is not None
        mean = Mean()(statistics).weights
        return WeightingOutput(torch.where(mean > 0, mean / statistics.losses, 0.0), {}, None)


class NothingYet(WarmUp):
    """Obeys every rule; NaN in its state means that nothing was seen yet."""

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"})

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {"first": 1}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        return {"first": torch.full((num_objectives,), math.nan, dtype=torch.float64)}

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        assert statistics.losses is not None
        first = (state or self.initial_state(statistics.num_objectives))["first"]
        mean = Mean()(statistics).weights[..., : statistics.num_objectives]
        new = (mean > 0) & first.isnan() & statistics.losses.isfinite()
        first = torch.where(new, statistics.losses.double(), first)
        weights = mean / (1.0 + torch.where(first.isnan(), 0.0, first).abs())
        weights = torch.nn.functional.pad(weights, (0, len(statistics.auxiliary)))
        return WeightingOutput(weights, {"first": first}, None)


class FromTheEnd(WarmUp):
    """Counts the axes that index objectives from the end: the optimizer would not find them."""

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {"calls": -1, "squares": 1}


class Leaky(WarmUp):
    """Learns from every row, inactive ones too, and weighs by it at the next step."""

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        state = state or self.initial_state(statistics.num_objectives)
        weights = Mean()(statistics).weights * (1.0 + state["squares"].mean())
        squares = statistics.gramian.diagonal(dim1=-2, dim2=-1).nan_to_num()
        return WeightingOutput(weights, state | {"squares": squares}, None)


class Late(WarmUp):
    """Uniform at first, then the first objective only."""

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        state = state or self.initial_state(statistics.num_objectives)
        weights = Mean()(statistics).weights if state["calls"] == 0 else first_only(statistics)
        return WeightingOutput(weights, state | {"calls": state["calls"] + 1.0}, None)


def ring(statistics: StepStatistics) -> Tensor:
    """By the products with the neighbours in the order, which a shift and a reversal keep."""
    gramian, order = statistics.gramian, torch.arange(statistics.num_objectives)
    neighbours = [gramian[..., order, order.roll(shift)] for shift in (1, -1)]
    return (neighbours[0] + neighbours[1]).softmax(-1)


def planted(function: Callable[[StepStatistics], Any]) -> Build:
    return fixed(Planted(function=function))


def _mean(statistics: StepStatistics) -> Tensor:
    return Mean()(statistics).weights


def sum_to_one_with_a_negative(statistics: StepStatistics) -> Tensor:
    weights = _mean(statistics).clone()
    weights[..., 0] -= 1.0
    weights[..., -1] += 1.0
    return weights


def ascent(statistics: StepStatistics) -> Tensor:
    return -_mean(statistics)


def sum_of_weights_by_norm(statistics: StepStatistics) -> Tensor:
    """Squared norms as weights: neither scale-equivariant nor homogeneous."""
    return statistics.gramian.diagonal(dim1=-2, dim2=-1)


def first_only(statistics: StepStatistics) -> Tensor:
    weights = torch.zeros_like(_mean(statistics))
    weights[..., 0] = 1.0
    return weights


def chaotic_in_order(statistics: StepStatistics) -> Tensor:
    """The first objective matters most, and the last bits of the Gramian matter as much."""
    noise = (1e18 * statistics.gramian.diagonal(dim1=-2, dim2=-1)).sin()
    return (noise - torch.arange(noise.shape[-1])).softmax(-1)


def ignores_the_mask(statistics: StepStatistics) -> Tensor:
    return torch.ones(statistics.gramian.shape[:-1], dtype=torch.float64)


def masked_rows_leak(statistics: StepStatistics) -> Tensor:
    """Weight 0 on masked rows, but their number enters the others' weights."""
    weights = torch.full(statistics.gramian.shape[:-1], 1.0, dtype=torch.float64)
    weights /= statistics.num_objectives
    return weights if statistics.active is None else weights * statistics.active


def single_precision(statistics: StepStatistics) -> Tensor:
    return _mean(statistics).float()


def coarse_on_coarse_input(statistics: StepStatistics) -> Tensor:
    """float64 weights, computed in the Gramian's dtype."""
    norms = statistics.gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    return (norms / norms.sum(-1, keepdim=True)).double()


def decomposes_any_dtype(statistics: StepStatistics) -> Tensor:
    """bfloat16 has no eigenvalues in PyTorch."""
    return _mean(statistics) * torch.linalg.eigvalsh(statistics.gramian).double()


def a_list(statistics: StepStatistics) -> Any:
    return WeightingOutput(_mean(statistics).tolist(), {}, None)  # type: ignore[arg-type]


def bare_weights(statistics: StepStatistics) -> Any:
    return [_mean(statistics)]


def nested_state(statistics: StepStatistics) -> Any:
    return WeightingOutput(_mean(statistics), {"past": {}}, None)  # type: ignore[dict-item]


def mixes_groups(statistics: StepStatistics) -> Tensor:
    weights = _mean(statistics)
    return weights / statistics.gramian.diagonal(dim1=-2, dim2=-1).sum().clamp_min(1e-300)


def weighs_auxiliary_rows(statistics: StepStatistics) -> Tensor:
    return torch.ones(statistics.gramian.shape[:-1], dtype=torch.float64)


def counts_calls(statistics: StepStatistics) -> Tensor:
    CALLS[0] += 1
    return _mean(statistics) * CALLS[0]


def undeclared_state(statistics: StepStatistics) -> WeightingOutput:
    return WeightingOutput(_mean(statistics), {"secret": torch.zeros(1)}, None)


def nan_passes_through(statistics: StepStatistics) -> Tensor:
    return _mean(statistics) * statistics.gramian.diagonal(dim1=-2, dim2=-1)


def uncertified(statistics: StepStatistics) -> WeightingOutput:
    """Ascent with a certificate that claims convergence."""
    weights = ascent(statistics)
    zero = torch.zeros((), dtype=torch.int64)
    gap = torch.zeros((), dtype=torch.float64)
    return WeightingOutput(weights, {}, SolverResult(weights, zero, gap, zero))


def gives_up(statistics: StepStatistics) -> WeightingOutput:
    """The mean, as a problem that was left unsolved."""
    weights = _mean(statistics)
    status = torch.tensor(int(SolverStatus.MAX_ITER))
    gap = torch.tensor(1e-3, dtype=torch.float64)
    return WeightingOutput(weights, {}, SolverResult(weights, status, gap, status))


def never_certifies(statistics: StepStatistics) -> WeightingOutput:
    """MGDA, which says every time that it did not end, with a gap of nothing."""
    output = MGDA()(statistics)
    assert output.result is not None
    late = torch.full_like(output.result.status, int(SolverStatus.MAX_ITER))
    gap = torch.zeros_like(output.result.gap)
    return output._replace(result=output.result._replace(status=late, gap=gap))


def stands_still(statistics: StepStatistics) -> WeightingOutput:
    """Zero weights, as if every point were stationary."""
    weights = torch.zeros_like(_mean(statistics))
    status = torch.full(weights.shape[:-1], int(SolverStatus.DEGENERATE))
    gap = torch.zeros_like(weights[..., 0])
    return WeightingOutput(weights, {}, SolverResult(weights, status, gap, status))


def stands_still_without_a_word(statistics: StepStatistics) -> Tensor:
    return torch.zeros_like(_mean(statistics))


def reads_undeclared_losses(statistics: StepStatistics) -> Tensor:
    weights = _mean(statistics)
    return weights if statistics.losses is None else weights * (1.0 + (statistics.losses > 5.0))


BY_GUARANTEE: dict[Guarantee, Build] = {
    Guarantee.NON_CONFLICTING: planted(uncertified),
    Guarantee.NON_CONFLICTING_IF_INDEPENDENT: planted(uncertified),
    Guarantee.SIMPLEX: planted(sum_to_one_with_a_negative),
    Guarantee.SCALE_EQUIVARIANT: fixed(Mean()),
    Guarantee.POSITIVELY_HOMOGENEOUS: planted(sum_of_weights_by_norm),
    Guarantee.PERMUTATION_EQUIVARIANT: planted(first_only),
    Guarantee.ZERO_AT_STATIONARITY: fixed(Mean()),
    Guarantee.IDEMPOTENT: fixed(Sum()),
}

BY_RULE: dict[str, Build] = {
    "output": planted(a_list),
    "mask equals dropping": planted(masked_rows_leak),
    "nothing active": planted(ignores_the_mask),
    "types": planted(single_precision),
    "batch": planted(mixes_groups),
    "auxiliary rows": planted(weighs_auxiliary_rows),
    "determinism": planted(counts_calls),
    "state round trip": planted(undeclared_state),
    "non-finite": planted(nan_passes_through),
    "needs": planted(reads_undeclared_losses),
}

FURTHER_BY_RULE: dict[str, tuple[str, Build]] = {
    "a bare list": ("output", planted(bare_weights)),
    "a nested state": ("output", planted(nested_state)),
    "state of inactive rows": ("mask equals dropping", fixed(Leaky())),
    "coarse input": ("types", planted(coarse_on_coarse_input)),
    "no form for bfloat16": ("types", planted(decomposes_any_dtype)),
    "observes NaN": ("non-finite", fixed(Observing(learn=lambda factor, after: factor * after))),
    "observes in place": (
        "state round trip",
        fixed(Observing(learn=lambda factor, after: factor.mul_(after))),
    ),
    "observes in another dtype": (
        "state round trip",
        fixed(Observing(learn=lambda factor, after: factor.float())),
    ),
    "a loss of NaN": ("non-finite", fixed(ByLoss())),
    "axes from the end": ("state round trip", fixed(FromTheEnd())),
}
"""What breaks a rule in another way: violator -> (rule, build)."""
