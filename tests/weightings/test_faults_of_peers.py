"""PEERS.md, faults 2 and 7, by name: half precision, and a state that its own library refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from moopt import CommonDescent
from moopt.step.method_state import is_stateful
from moopt.testing.directions import statistics
from tests.cases import case
from tests.device.tasks import METHODS, optimizer_on, train
from tests.scalarizations.settings import SETTINGS as SCALARIZATION_SETTINGS
from tests.weightings.settings import SETTINGS

CPU = torch.device("cpu")

BUILDS = SETTINGS | SCALARIZATION_SETTINGS

STATEFUL = [name for name, method in METHODS.items() if is_stateful(method)]

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def parameters_of(optimizer: CommonDescent) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in optimizer.param_groups[0]["params"]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_fault_2_parameters_of_every_dtype_train(name: str, dtype: torch.dtype) -> None:
    """In bf16 eight of TorchJD's aggregators crash; its Gramian is as coarse as the gradient."""
    optimizer = optimizer_on(CPU, name, dtype)
    before = [parameter.clone() for parameter in parameters_of(optimizer)]
    train(optimizer, range(4))
    record = optimizer.record
    assert record.weights.dtype == record.gramian.dtype == torch.float64
    for parameter in optimizer.param_groups[0]["params"]:
        assert parameter.dtype == parameter.grad.dtype == dtype
        assert bool(torch.isfinite(parameter).all())
    assert not torch.equal(before[0], parameters_of(optimizer)[0])


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("name", BUILDS)
def test_fault_2_a_gramian_of_every_dtype_is_taken_as_float64(
    name: str, dtype: torch.dtype
) -> None:
    coarse = statistics(case("conflicting", 5).gramian.to(dtype), torch.linspace(1.0, 2.0, 5))
    # What is taken for rounding follows the dtype that a Gramian came in: it is stated here.
    noise = torch.finfo(dtype).eps
    weighting = BUILDS[name](range(5))
    weights = weighting(dataclasses.replace(coarse, noise=noise)).weights
    exact = dataclasses.replace(coarse, gramian=coarse.gramian.double(), noise=noise)
    expected = weighting(exact).weights
    assert weights.dtype == torch.float64
    assert torch.equal(weights, expected)
    assert bool(torch.isfinite(weights).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fault_2_the_gramian_is_as_exact_as_the_gradients(dtype: torch.dtype) -> None:
    """TorchJD rounds the products to the gradients' dtype, in bf16 to three digits."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 40, generator=generator).to(dtype)
    parameter = torch.nn.Parameter(torch.zeros(40, dtype=dtype))
    optimizer = CommonDescent(torch.optim.SGD([parameter], lr=0.1))
    record = optimizer.backward({str(i): (row * parameter).sum() for i, row in enumerate(rows)})
    exact = rows.double() @ rows.double().T
    assert float((record.gramian - exact).norm() / exact.norm()) <= 1e-6
    coarse = exact.to(dtype).double()
    if dtype in (torch.bfloat16, torch.float16):  # the check can fail
        assert float((coarse - exact).norm() / exact.norm()) > 1e-4


@pytest.mark.parametrize("name", ["IMTLG", "AlignedMTL", "ConFIG"])
def test_fault_2_the_peer_crashes_there(name: str) -> None:
    """Beside ours: what the tests above would be about."""
    peer = pytest.importorskip("torchjd.aggregation")
    with pytest.raises(RuntimeError, match=r"not implemented for|[Ll]ow precision|BFloat16"):
        getattr(peer, name)()(case("conflicting", 3).jacobian.bfloat16())


@pytest.mark.parametrize("name", STATEFUL)
def test_fault_7_a_saved_state_is_accepted_and_resumes_bit_for_bit(name: str, tmp_path) -> None:
    """Five stateful methods of TorchJD refuse their own `state_dict`."""
    whole = optimizer_on(CPU, name, torch.float64)
    train(whole, range(3))
    saved = {"opt": whole.state_dict(), "parameters": parameters_of(whole)}
    torch.save(saved, tmp_path / "checkpoint.pt")
    train(whole, range(3, 7))

    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed, forgetful = (optimizer_on(CPU, name, torch.float64) for _ in range(2))
    resumed.load_state_dict(loaded["opt"])
    groups = loaded["opt"]["param_groups"]
    plain = [{k: v for k, v in g.items() if not k.startswith("moopt_")} for g in groups]
    forgetful.load_state_dict(loaded["opt"] | {"param_groups": plain})
    for other in (resumed, forgetful):
        for parameter, value in zip(parameters_of(other), loaded["parameters"], strict=True):
            parameter.copy_(value)
        train(other, range(3, 7))
    paths = [parameters_of(optimizer) for optimizer in (whole, resumed, forgetful)]
    assert all(torch.equal(a, b) for a, b in zip(paths[0], paths[1], strict=True))
    # the check can fail: without the state the path is another one
    assert not all(torch.equal(a, b) for a, b in zip(paths[0], paths[2], strict=True))


def test_fault_7_the_peer_refuses_its_own_state() -> None:
    """Beside ours: what the test above would be about."""
    peer = pytest.importorskip("torchjd.aggregation")
    trained = peer.GradVac()
    trained(case("conflicting", 3).jacobian)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        peer.GradVac().load_state_dict(trained.state_dict())
