"""Leading dimensions of a Gramian are a loop over its members: masks and states are their own."""

from __future__ import annotations

import math

import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import Weighting, WeightingOutput
from tests.cases import case
from tests.weightings.properties import DIRECTION_TOL
from tests.weightings.settings import SETTINGS

M = 4

CASES = [
    case("conflicting", M),
    case("conflicting", M, norm_ratio=1e4),
    case("aligned", M, norm_ratio=1e2, scale=1e-8),
    case("near_opposite", M),
    case("duplicate", M, norm_ratio=1e2),
    case("zero_row", M, scale=1e8),
    case("strongly_stationary", M),
    case("aligned", M, seed=3),
]

LOSSES = torch.tensor([2.0, 0.5, 1.0, 4.0], dtype=torch.float64)
LATER = torch.tensor([1.9, 0.5, 1.1, 2.0], dtype=torch.float64)


def step(
    weighting: Weighting,
    gramian: torch.Tensor,
    active: torch.Tensor | None = None,
    losses: torch.Tensor = LOSSES,
    state: dict[str, torch.Tensor] | None = None,
) -> WeightingOutput:
    names = tuple(f"objective {i}" for i in range(gramian.shape[-1]))
    given = StepStatistics(gramian=gramian, losses=losses, names=names, active=active)
    return weighting(given, state)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_is_a_loop(name: str) -> None:
    weighting = SETTINGS[name](range(M))
    stack = torch.stack([one.gramian for one in CASES])
    broken = stack.clone()
    broken[1, 0, 1] = broken[1, 1, 0] = math.nan
    active = torch.tensor([True, True, False, True])
    each = torch.stack([active.roll(i) for i in range(8)])
    for gramians, mask in ((stack, None), (broken, active), (stack, each)):
        folded = mask.unflatten(0, (2, 4)) if mask is each else mask
        batch = step(weighting, gramians.unflatten(0, (2, 4)), folded)
        assert batch.weights.shape == (2, 4, M)
        for i, one in enumerate(CASES):
            alone = step(weighting, gramians[i], mask[i] if mask is each else mask)
            weights = batch.weights.flatten(0, 1)[i]
            if gramians is broken and i == 1:
                assert torch.equal(weights, alone.weights)
            difference = one.jacobian.T @ (weights - alone.weights)
            size = float((alone.weights.abs() * one.norms).sum())
            assert float(difference.norm()) <= DIRECTION_TOL * size, one
            if alone.result is not None and batch.result is not None:
                assert batch.result.status.shape == batch.result.gap.shape == (2, 4)
                assert int(batch.result.status.flatten()[i]) == int(alone.result.status)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_member_of_a_batch_goes_on_from_its_own_state(name: str) -> None:
    weighting = SETTINGS[name](range(M))
    if not weighting.state_axes:
        return
    first = torch.stack([one.gramian for one in CASES]).unflatten(0, (2, 4))
    second = first.flip(0)
    before = step(weighting, first)
    after = step(weighting, second, None, LATER, before.state)
    for i in range(2):
        for j in range(4):
            state = step(weighting, first[i, j]).state
            alone = step(weighting, second[i, j], None, LATER, state)
            assert torch.equal(after.weights[i, j], alone.weights)
            for key, value in alone.state.items():
                assert torch.equal(after.state[key][i, j], value), key
