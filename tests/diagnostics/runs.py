"""A short run whose objectives come, go and fall silent."""

from __future__ import annotations

from collections.abc import Callable

import torch

import moopt
from tests.optimizer.problems import OneOutput, batch, seeded


def train(
    *callbacks: Callable[[moopt.StepRecord], object], steps: int = 6, skip: int = 0
) -> moopt.CommonDescent:
    """Objective "c" leaves after half of the steps; "noise" is inactive throughout.

    Args:
        callbacks: called with the record of each step.
        steps: of the run.
        skip: steps that a checkpoint had done: the optimizer, and its counter, begin after them.
    """
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), moopt.MGDA())
    for step in range(steps):
        if step == skip > 0:
            base = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer = moopt.CommonDescent(base, moopt.MGDA())
        losses = model.losses(batch())
        losses["noise"] = 1.0 + 1e-9 * losses["a"]
        if step >= steps // 2:
            del losses["c"]
        optimizer.zero_grad()
        record = optimizer.backward(losses)
        optimizer.step()
        for callback in callbacks if step >= skip else ():
            callback(record)
    return optimizer
