"""What every method is asked to do on a device: to weigh two steps, and to train."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import moopt
from moopt.aggregators import AGGREGATORS
from moopt.aggregators.base import Method
from moopt.scalarizations import SCALARIZATIONS
from moopt.testing.directions import Build, statistics
from moopt.weightings import WEIGHTINGS, WeightingOutput

NAMES = ("forget", "retain", "third")
"""The objectives that the examples of the registries know."""

METHODS: dict[str, Method] = {
    name: row.example()
    for rows in (WEIGHTINGS, SCALARIZATIONS, AGGREGATORS)
    for name, row in rows.items()
}
"""Every registered method."""


def weigh_on(device: torch.device, build: Build, m: int = 3) -> list[WeightingOutput]:
    """Two steps, the second from the first's state and without the last objective."""
    outputs: list[WeightingOutput] = []
    weighting = build(range(m))
    for step in range(2):
        positions = torch.arange(1, m + 1, dtype=torch.float64, device=device)
        # Conflicting, independent rows of different norms.
        gramian = positions[:, None] * positions * (torch.eye(m, device=device) * 1.2 - 0.2)
        active = positions + step <= m
        state = outputs[-1].state if outputs else None
        outputs.append(weighting(statistics(gramian, positions, active), state))
    return outputs


def tensors_of(outputs: list[WeightingOutput]) -> Iterator[Tensor]:
    """Everything that came back."""
    for weights, state, result in outputs:
        yield weights
        yield from state.values()
        yield from result or ()


def optimizer_on(device: torch.device, name: str, dtype: torch.dtype) -> moopt.CommonDescent:
    """Of two shared parameters and a head of the first objective."""
    parameters = []
    for shape in ((4, 3), (4,), (3,)):
        values = torch.linspace(-1.0, 1.5, torch.Size(shape).numel(), device=device)
        parameters.append(torch.nn.Parameter(values.reshape(shape).to(dtype)))
    # One tensor at a time: the fused forms do not know a device of their own.
    inner = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, foreach=False)
    return moopt.CommonDescent(inner, METHODS[name])


def train(optimizer: moopt.CommonDescent, steps: range, *, absent: str | None = None) -> None:
    """Each step on targets of its own, the odd ones without `absent`; what the method asks for."""
    parameters = optimizer.param_groups[0]["params"]
    for step in steps:
        optimizer.zero_grad()
        losses = losses_of(parameters, step)
        if step % 2 and absent is not None:
            losses.pop(absent)
        samples = ()
        if "auxiliary" in optimizer.weighting.needs:
            samples = (losses_of(parameters, step + 1), losses_of(parameters, step + 2))
        optimizer.backward(losses, samples=samples)
        optimizer.step()
        if optimizer.weighting.observes:
            after = losses_of(parameters, step)
            optimizer.observe({name: loss.detach() for name, loss in after.items()})


def losses_of(parameters: list[Tensor], step: int) -> dict[str, Tensor]:
    """Three positive losses whose gradients are independent and conflict."""
    weight, bias, head = parameters
    hidden = weight.sum(1) + bias
    places = torch.arange(4, dtype=hidden.dtype, device=hidden.device)
    losses = {}
    for i, name in enumerate(NAMES):
        target = 3.0 * (places * (i + 1.0) + step % 3).cos()
        losses[name] = (hidden - target).square().mean()
    losses[NAMES[0]] = losses[NAMES[0]] + (head - 1.0).square().mean()
    return losses
