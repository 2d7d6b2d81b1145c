"""A whole step in a CUDA graph: the bits of the eager one, and a record of the replay."""

from __future__ import annotations

import copy

import pytest
import torch

import moopt
from moopt.weightings import UPGrad
from tests.optimizer.problems import OneOutput, batch, parameters_of, seeded

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="a CUDA graph needs a CUDA device"
)


def wrapped(model, method) -> moopt.CommonDescent:
    base = torch.optim.AdamW(model.parameters(), lr=1e-2, capturable=True, foreach=True)
    return moopt.CommonDescent(base, method, capturable=True)


def step(model, optimizer, x) -> None:
    optimizer.zero_grad(set_to_none=True)
    optimizer.backward(model.losses(x))
    optimizer.step()


@pytest.mark.parametrize("method", [None, "mgda", UPGrad()], ids=str)
def test_a_replayed_step_is_the_eager_one_to_the_last_bit(method) -> None:
    ours = seeded(OneOutput).to("cuda")
    theirs = copy.deepcopy(ours)
    first, second = wrapped(ours, method), wrapped(theirs, method)
    x = batch().to("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(ours, first, x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(ours, first, x)
    for _ in range(3):
        step(theirs, second, x)
    for replay in range(4):
        x.copy_(batch(replay))
        graph.replay()
        step(theirs, second, x)
        for a, b in zip(parameters_of(ours), parameters_of(theirs), strict=True):
            assert torch.equal(a, b)
        assert first.record.step == 3 + replay
        assert torch.equal(first.record.weights, second.record.weights)
        assert torch.equal(first.record.losses, second.record.losses)


def test_an_eager_step_does_not_wait_for_the_device() -> None:
    model = seeded(OneOutput).to("cuda")
    optimizer = wrapped(model, None)
    x = batch().to("cuda")
    for _ in range(4):
        step(model, optimizer, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(model, optimizer, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert optimizer.record.descent


def test_a_capture_without_the_flag_is_refused_in_words() -> None:
    model = seeded(OneOutput).to("cuda")
    base = torch.optim.SGD(model.parameters(), lr=1e-2)
    optimizer = moopt.CommonDescent(base, "pcgrad")
    x = batch().to("cuda")
    step(model, optimizer, x)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="capturable=True"), torch.cuda.graph(graph):
        step(model, optimizer, x)
