"""The weighted sum of m rows of gradients, in plain PyTorch and in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def combine_(rows: Sequence[Sequence[Tensor | None]], weights: Tensor) -> list[Tensor | None]:
    """Write `sum_i weights[i] * rows[i]` into the storage of the first row that has a tensor.

    Args:
        rows: `m` sequences of `T` gradients; None is zero. They are consumed.
        weights: float64 `[m]` on the rows' device.

    Returns:
        The `T` tensors of the direction; None where every row has None.
    """
    values = weights.tolist() if weights.device.type == "cpu" else list(weights.unbind())
    direction: list[Tensor | None] = []
    for position in zip(*rows, strict=True):
        terms = [(w, g) for w, g in zip(values, position, strict=True) if g is not None]
        if not terms:
            direction.append(None)
            continue
        target = terms[0][1]
        wide = target.dtype in (torch.bfloat16, torch.float16)
        total = sum((g.float() if wide else g) * w for w, g in terms)
        direction.append(target.copy_(total))
    return direction
