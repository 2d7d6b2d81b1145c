"""Two CommonDescents on one model: each differentiates for its own parameters only."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import Tensor

from moopt import CommonDescent
from moopt.scalarizations import STCH


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))


def losses(net: torch.nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    out = net(torch.randn(8, 4))
    return {"a": out[:, 0].square().mean(), "b": (out[:, 1] - 1.0).square().mean()}


def parts(net: torch.nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    everything = list(net.parameters())
    return [p for p in everything if p.ndim == 2], [p for p in everything if p.ndim < 2]


def gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad.clone() for p in parameters if p.grad is not None]


def recorded_by_hand(optimizer: CommonDescent, net: torch.nn.Module) -> None:
    for name in losses(net):
        with optimizer.objective(name):
            losses(net)[name].backward()
    optimizer.combine_()


WAYS = {
    "backward": lambda optimizer, net: optimizer.backward(losses(net)),
    "blocks": recorded_by_hand,
}


@pytest.mark.parametrize("method", [None, STCH()], ids=["default", "a scalarization"])
@pytest.mark.parametrize("way", WAYS)
def test_each_has_the_direction_that_it_has_alone(way: str, method: object) -> None:
    if way == "blocks" and method is not None:
        way = "backward"
    alone = []
    for i in (0, 1):
        net = model()
        own = parts(net)[i]
        optimizer = CommonDescent(torch.optim.SGD(own, lr=0.1), method)  # type: ignore[arg-type]
        WAYS[way](optimizer, net)
        alone.append(gradients(own))
        del optimizer
    gc.collect()
    net = model()
    matrices, rest = parts(net)
    first, second = (
        CommonDescent(torch.optim.SGD(own, lr=0.1), copy.deepcopy(method))  # type: ignore[arg-type]
        for own in (matrices, rest)
    )
    WAYS[way](first, net)
    assert all(p.grad is None for p in rest)
    WAYS[way](second, net)
    for expected, got in zip(alone, (gradients(matrices), gradients(rest)), strict=True):
        for a, b in zip(expected, got, strict=True):
            torch.testing.assert_close(a, b)
    first.step()
    second.step()


def test_parameters_of_no_other_one_get_their_gradients_as_ever() -> None:
    net = model()
    matrices, rest = parts(net)
    optimizer = CommonDescent(torch.optim.SGD(matrices, lr=0.1))
    optimizer.backward(losses(net))
    expected = torch.autograd.grad(sum(losses(net).values()), rest)  # type: ignore[arg-type]
    for p, gradient in zip(rest, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
