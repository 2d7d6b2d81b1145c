"""Fused and unfused runs of one model, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import moopt
from tests.optimizer.problems import OneOutput, batch, parameters_of, seeded

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
STEPS = 20
FLOAT64 = 1e-12
"""Relative to 1 and the entry: 20 steps of float64's rounding."""
FLOAT32 = 2e-5
"""The same in float32: Adam divides by the size of a direction whose rounding it thereby keeps."""

Take = Callable[[nn.Module, moopt.CommonDescent, int], None]
F64 = torch.float64


def backward(model: nn.Module, optimizer: moopt.CommonDescent, step: int) -> None:
    dtype = next(model.parameters()).dtype
    sign = -1.0 if optimizer.param_groups[0]["maximize"] else 1.0
    optimizer.zero_grad()
    losses = model.losses(batch(step, dtype=dtype))
    optimizer.backward({name: sign * loss for name, loss in losses.items()})
    optimizer.step()


def trained(
    base: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    fused: bool,
    cls: type[nn.Module] = OneOutput,
    dtype: torch.dtype = F64,
    take: Take = backward,
    steps: int = STEPS,
    **options: Any,
) -> tuple[nn.Module, moopt.CommonDescent]:
    model = seeded(cls, dtype=dtype)
    optimizer = moopt.CommonDescent(base(model), fused=fused, **options)
    for step in range(steps):
        take(model, optimizer, step)
    return model, optimizer


def difference(one: Any, other: Any) -> float:
    """How far two models and the states of their optimizers are apart; infinity where unlike."""
    (mine, form), (its, wanted) = (
        tree_flatten((parameters_of(model), optimizer.state_dict()))
        for model, optimizer in (one, other)
    )
    apart = [0.0]
    for found, like in zip(mine, its, strict=True) if form == wanted else [(0, 1)]:
        if isinstance(found, Tensor) and isinstance(like, Tensor):
            same = (found.dtype, found.shape) == (like.dtype, like.shape)
            error = (found - like).abs() / (1.0 + like.abs()) if same else torch.tensor(torch.inf)
            apart.append(float(error.max()))
        elif found != like:
            apart.append(float("inf"))
    return max(apart)


def both(base: Any, **options: Any) -> tuple[Any, Any]:
    return trained(base, fused=True, **options), trained(base, fused=False, **options)


BASES = {
    "sgd": lambda m: SGD(m.parameters(), lr=0.05),
    "momentum": lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda m: Adam(m.parameters(), lr=0.01, weight_decay=0.1),
    "adamw": lambda m: AdamW(m.parameters(), lr=0.01),
    "amsgrad over torch's fused": lambda m: AdamW(
        m.parameters(), lr=0.01, amsgrad=True, fused=True
    ),
}


def waiting(fused: bool = True, **options: Any) -> tuple[nn.Module, moopt.CommonDescent]:
    """A direction waits for the third step."""
    model, optimizer = trained(BASES["momentum"], fused=fused, steps=2, **options)
    optimizer.zero_grad()
    optimizer.backward(model.losses(batch(2, dtype=F64)))
    return model, optimizer
