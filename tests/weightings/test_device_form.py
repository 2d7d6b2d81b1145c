"""The form that other devices run, on real values: it agrees with the host's, in batches too."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.weightings import Weighting, WeightingOutput
from tests.cases import Case, case
from tests.weightings.properties import DIRECTION_TOL
from tests.weightings.settings import SETTINGS

M = 4

MASKS = {"all": None, "three": [True, False, True, True], "one": [False, False, True, False]}

ZERO = 1e-12
"""Of a state: weights of at most 1, and logarithms of losses near 1."""

# Enough to reach every branch, few enough to run in a second.
CASES = [
    case("conflicting", M),
    case("conflicting", M, norm_ratio=1e4),
    case("aligned", M, norm_ratio=1e2, scale=1e-8),
    case("near_opposite", M),
    case("duplicate", M, norm_ratio=1e2),
    case("zero_row", M, scale=1e8),
    case("strongly_stationary", M),
]

LOSSES = torch.tensor([2.0, 0.5, 1.0, 4.0], dtype=torch.float64)
LATER = torch.tensor([1.9, 0.5, 1.1, 2.0], dtype=torch.float64)


class OnDevice(Tensor):
    """A tensor that no host path recognises as its own."""


def step(
    weighting: Weighting,
    gramian: Tensor,
    active: Tensor | None,
    losses: Tensor,
    state: dict[str, Tensor] | None = None,
) -> WeightingOutput:
    names = tuple(f"objective {i}" for i in range(gramian.shape[-1]))
    given = StepStatistics(gramian=gramian, losses=losses, names=names, active=active)
    return weighting(given, state)


def on_device(
    weighting: Weighting,
    gramian: Tensor,
    active: Tensor | None,
    losses: Tensor,
    state: dict[str, Tensor] | None = None,
) -> WeightingOutput:
    moved = None if active is None else active.as_subclass(OnDevice)
    put = functools.partial(torch.Tensor.as_subclass, cls=OnDevice)
    held = (
        None
        if state is None
        else {key: value.as_subclass(OnDevice) for key, value in state.items()}
    )
    return step(weighting, put(gramian), moved, put(losses), held)


def assert_same(one: Case, host: WeightingOutput, device: WeightingOutput) -> None:
    weights = device.weights.as_subclass(Tensor)
    difference = one.jacobian.T @ (host.weights - weights)
    size = float((host.weights.abs() * one.norms).sum())
    assert float(difference.norm()) <= DIRECTION_TOL * size, one
    assert (host.result is None) == (device.result is None)
    if host.result is not None and device.result is not None:
        assert int(host.result.status) == int(device.result.status), one
    assert set(host.state) == set(device.state)
    for key, value in host.state.items():
        torch.testing.assert_close(
            device.state[key].as_subclass(Tensor), value, rtol=1e-6, atol=ZERO
        )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", SETTINGS)
def test_it_agrees_with_the_host(name: str, mask: str) -> None:
    active = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
    weighting = SETTINGS[name](range(M))
    for one in CASES:
        gramian, losses = one.gramian, LOSSES
        if active is not None:  # what is absent may hold anything
            gramian = torch.where(active[:, None] & active, gramian, math.nan)
            losses = torch.where(active, losses, math.inf)
        host = step(weighting, gramian, active, losses)
        device = on_device(weighting, gramian, active, losses)
        assert_same(one, host, device)
        if host.state:
            other = case("conflicting", M, seed=1)
            again = step(weighting, other.gramian, None, LATER, host.state)
            assert_same(other, again, on_device(weighting, other.gramian, None, LATER, host.state))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_is_a_loop(name: str) -> None:
    weighting = SETTINGS[name](range(M))
    if weighting.state_axes:
        return  # one state for all groups: see the conformance suite
    ones = [*CASES, case("aligned", M, seed=3)]
    stack = torch.stack([one.gramian for one in ones])
    broken = stack.clone()
    broken[1, 0, 1] = broken[1, 1, 0] = math.nan
    active = torch.tensor([True, True, False, True])
    each = torch.stack([active.roll(i) for i in range(8)])
    for gramians, mask in ((stack, None), (broken, active), (stack, each)):
        folded = mask.unflatten(0, (2, 4)) if mask is each else mask
        batch = on_device(weighting, gramians.unflatten(0, (2, 4)), folded, LOSSES)
        assert batch.weights.shape == (2, 4, M)
        for i, one in enumerate(ones):
            alone = step(weighting, gramians[i], mask[i] if mask is each else mask, LOSSES)
            weights = batch.weights.as_subclass(Tensor).flatten(0, 1)[i]
            if gramians is broken and i == 1:
                assert torch.equal(weights, alone.weights)
            difference = one.jacobian.T @ (weights - alone.weights)
            size = float((alone.weights.abs() * one.norms).sum())
            assert float(difference.norm()) <= DIRECTION_TOL * size, one
            if alone.result is not None and batch.result is not None:
                assert batch.result.status.shape == batch.result.gap.shape == (2, 4)
                assert int(batch.result.status.flatten()[i]) == int(alone.result.status)


def test_the_tensor_takes_the_other_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this very file: without it both sides would run the same code."""
    import moopt.solvers.host as host_module

    def refuse(*anything: object) -> None:
        raise AssertionError("the host's solver")

    monkeypatch.setattr(host_module, "min_norm_array", refuse)
    weighting = SETTINGS["MGDA"](range(M))
    with pytest.raises(AssertionError, match="the host's solver"):
        step(weighting, CASES[0].gramian, None, LOSSES)
    output = on_device(weighting, CASES[0].gramian, None, LOSSES)
    assert int(output.result.status) == SolverStatus.CONVERGED
