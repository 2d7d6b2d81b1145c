"""On a GPU: results stay on the model's device, and a step waits for it once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from moopt.optim.pending_step import SCALES_CHECKED
from moopt.weightings import WEIGHTINGS
from tests.device.tasks import METHODS, optimizer_on, tensors_of, train, weigh_on
from tests.scalarizations.settings import SETTINGS as SCALARIZATION_SETTINGS
from tests.weightings.properties import DIRECTION_TOL
from tests.weightings.settings import SETTINGS, Build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BUILDS: dict[str, Build] = SETTINGS | SCALARIZATION_SETTINGS


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def waits() -> Iterator[list[warnings.WarningMessage]]:
    """Whatever waited for the device in the block."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")
            caught[:] = [each for each in caught if "synchroniz" in str(each.message)]


@pytest.mark.parametrize("name", BUILDS)
def test_weights_by_hand_are_those_of_the_host_and_on_the_device(
    name: str, device: torch.device
) -> None:
    outputs = weigh_on(device, BUILDS[name])
    assert {tensor.device for tensor in tensors_of(outputs)} == {device}
    for here, there in zip(outputs, weigh_on(torch.device("cpu"), BUILDS[name]), strict=True):
        scale = float(there.weights.abs().sum())
        difference = float((here.weights.cpu() - there.weights).abs().max())
        assert difference <= DIRECTION_TOL * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_gradients_stay_on_the_device_and_records_do_not(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    optimizer = optimizer_on(device, name, dtype)
    train(optimizer, range(2))
    assert optimizer.record.weights.device.type == "cpu"
    parameters = optimizer.param_groups[0]["params"]
    assert all(p.grad.device == device and p.grad.dtype == dtype for p in parameters)


@pytest.mark.parametrize("name", [name for name in METHODS if name in WEIGHTINGS])
def test_a_step_waits_for_the_device_once(name: str, device: torch.device) -> None:
    optimizer = optimizer_on(device, name, torch.float32)
    if optimizer.weighting.state_axes or optimizer.weighting.needs:
        pytest.skip("its state or its losses are read, too")
    train(optimizer, range(SCALES_CHECKED + 1))  # the first steps look for scaled losses
    with waits() as caught:
        train(optimizer, range(1))
    assert len(caught) == 1


def test_a_wait_is_noticed(device: torch.device) -> None:
    """The violator of the test above."""
    value = torch.ones((), device=device)
    with waits() as caught:
        value.item()
    assert len(caught) == 1
