"""Parameters and backward passes for the tests of the store."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moopt.gradients import GradientStore


def leaves(*shapes: int, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(n, dtype=dtype)) for n in shapes]


def record(
    store: GradientStore,
    name: str,
    parameters: list[torch.nn.Parameter],
    loss: Callable[[], Tensor],
    *,
    auxiliary: bool = False,
) -> list[Tensor | None]:
    """One backward pass into the row of `name`; the row."""
    with store.recording(name, parameters, auxiliary=auxiliary):
        loss().backward()
    return (store.auxiliary if auxiliary else store.rows)[name]
