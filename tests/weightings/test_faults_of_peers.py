"""PEERS.md, faults 2 and 7, by name: half precision, and a state that its own library refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moopt import CommonDescent, StepStatistics
from moopt.weightings import (
    DBMTL,
    IMTLG,
    NTK,
    AlignedMTL,
    ConFIG,
    GradNorm,
    GradVac,
    Krum,
    PCGrad,
    Random,
    Weighting,
)
from tests.cases import case

METHODS: tuple[type[Weighting], ...] = (
    PCGrad,
    GradVac,
    IMTLG,
    AlignedMTL,
    ConFIG,
    Krum,
    Random,
    NTK,
    DBMTL,
    GradNorm,
)

STATEFUL = tuple(method for method in METHODS if method().state_axes)

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def make(method: type[Weighting], dtype: torch.dtype, seed: int = 0) -> CommonDescent:
    torch.manual_seed(seed)
    weight = nn.Parameter(torch.randn(8, dtype=torch.float64).to(dtype))
    return CommonDescent(torch.optim.SGD([weight], lr=0.05), method())


def losses_of(optimizer: CommonDescent, step: int) -> dict[str, torch.Tensor]:
    """Four linear losses whose conflicting gradients change from step to step."""
    (weight,) = optimizer.param_groups[0]["params"]
    rows = case("conflicting", 4, step % 3).jacobian.to(weight.dtype)
    return {f"loss {i}": weight @ row + 10.0 for i, row in enumerate(rows)}


def train(optimizer: CommonDescent, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        optimizer.backward(losses_of(optimizer, step))
        optimizer.step()


def weight_of(optimizer: CommonDescent) -> torch.Tensor:
    return optimizer.param_groups[0]["params"][0].detach()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_fault_2_parameters_of_every_dtype_train(
    method: type[Weighting], dtype: torch.dtype
) -> None:
    """In bf16 eight of TorchJD's aggregators crash; its Gramian is as coarse as the gradient."""
    optimizer = make(method, dtype)
    before = weight_of(optimizer).clone()
    train(optimizer, range(4))
    record, after = optimizer.record, weight_of(optimizer)
    assert record.weights.dtype == record.gramian.dtype == torch.float64
    assert after.dtype == dtype
    assert bool(torch.isfinite(after).all())
    assert not torch.equal(before, after)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_fault_2_a_gramian_of_every_dtype_is_taken_as_float64(
    method: type[Weighting], dtype: torch.dtype
) -> None:
    coarse = case("conflicting", 5).gramian.to(dtype)
    losses = torch.linspace(1.0, 2.0, 5)
    weights = method()(StepStatistics(gramian=coarse, losses=losses)).weights
    expected = method()(StepStatistics(gramian=coarse.double(), losses=losses)).weights
    assert weights.dtype == torch.float64
    assert torch.equal(weights, expected)
    assert bool(torch.isfinite(weights).all())


@pytest.mark.parametrize("name", ["IMTLG", "AlignedMTL", "ConFIG"])
def test_fault_2_the_peer_crashes_there(name: str) -> None:
    """Beside ours: what the tests above would be about."""
    peer = pytest.importorskip("torchjd.aggregation")
    with pytest.raises(RuntimeError, match=r"not implemented for|[Ll]ow precision|BFloat16"):
        getattr(peer, name)()(case("conflicting", 3).jacobian.bfloat16())


@pytest.mark.parametrize("method", STATEFUL)
def test_fault_7_a_saved_state_is_accepted_and_resumes_bit_for_bit(
    method: type[Weighting], tmp_path
) -> None:
    """Five stateful methods of TorchJD refuse their own `state_dict`."""
    whole = make(method, torch.float64)
    train(whole, range(3))
    torch.save({"opt": whole.state_dict(), "weight": weight_of(whole)}, tmp_path / "checkpoint.pt")
    train(whole, range(3, 7))

    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed, forgetful = (make(method, torch.float64, seed=1) for _ in range(2))
    resumed.load_state_dict(loaded["opt"])
    for other in (resumed, forgetful):
        weight_of(other).copy_(loaded["weight"])
        train(other, range(3, 7))
    assert torch.equal(weight_of(resumed), weight_of(whole))
    # the check can fail: without the state the path is another one
    assert not torch.equal(weight_of(forgetful), weight_of(whole))


def test_fault_7_the_peer_refuses_its_own_state() -> None:
    """Beside ours: what the test above would be about."""
    peer = pytest.importorskip("torchjd.aggregation")
    trained = peer.GradVac()
    trained(case("conflicting", 3).jacobian)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        peer.GradVac().load_state_dict(trained.state_dict())
