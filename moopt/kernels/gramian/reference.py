"""The Gramian of m rows of gradients, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 17


@torch.no_grad()
def gramian(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Inner products between the rows, accumulated in float64.

    Args:
        rows: `m` sequences of `T` gradients; None is zero.

    Returns:
        float64 `[m, m]` on the rows' device.
    """
    m = len(rows)
    device = next((g.device for row in rows for g in row if g is not None), torch.device("cpu"))
    total = torch.zeros(m, m, dtype=torch.float64, device=device)
    for position in zip(*rows, strict=True):
        present = [i for i, g in enumerate(position) if g is not None]
        flat = {}
        for i in present:
            gradient = position[i]
            if gradient.layout != torch.strided:
                raise TypeError("`gramian` needs dense gradients; got a sparse one.")
            if gradient.is_complex():
                gradient = torch.view_as_real(gradient)
            flat[i] = gradient.reshape(-1)
        size = flat[present[0]].numel() if present else 0
        for start in range(0, size, _CHUNK):
            pieces = {i: f[start : start + _CHUNK].double() for i, f in flat.items()}
            for i in present:
                for j in present:
                    if j >= i:
                        total[i, j] += torch.dot(pieces[i], pieces[j])
    return total + total.triu(1).T
