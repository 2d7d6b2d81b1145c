"""On a GPU: no method waits for the device, and its weights are those of the host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

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
def device() -> Iterator[torch.device]:
    """A device on which waiting raises; what loads libraries on first use has run before."""
    device = torch.device("cuda", torch.cuda.current_device())
    eye = torch.eye(2, dtype=torch.float64, device=device)
    torch.linalg.solve_triangular(torch.linalg.cholesky_ex(eye)[0], eye, upper=False)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield device
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", BUILDS)
def test_weighing_does_not_wait_for_the_device(name: str, device: torch.device) -> None:
    outputs = weigh_on(device, BUILDS[name])
    torch.cuda.set_sync_debug_mode("default")
    assert {tensor.device for tensor in tensors_of(outputs)} == {device}
    for here, there in zip(outputs, weigh_on(torch.device("cpu"), BUILDS[name]), strict=True):
        scale = float(there.weights.abs().sum())
        difference = float((here.weights.cpu() - there.weights).abs().max())
        assert difference <= DIRECTION_TOL * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_training_does_not_wait_for_the_device(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    optimizer = optimizer_on(device, name, dtype)
    train(optimizer, range(2))
    torch.cuda.set_sync_debug_mode("default")
    assert optimizer.record.weights.device == device
    assert all(p.grad.dtype == p.dtype == dtype for p in optimizer.param_groups[0]["params"])


def test_waiting_for_the_device_raises(device: torch.device) -> None:
    """The violator of the tests above."""
    value = torch.ones((), device=device)
    with pytest.raises(RuntimeError, match="synchroniz"):
        value.item()
