"""random_order: in which order each objective meets the others, drawn anew at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from moopt.weightings.counter_random import counter_uniform, counter_uniform_on_host


def random_order(seed: int, counter: Tensor, m: int, active: Tensor | None = None) -> Tensor:
    """Return, for each of m objectives, the others in an independent uniformly random order.

    Args:
        seed: any integer.
        counter: int64 `[]`, the number of the draw.
        m: the number of objectives, >= 1.
        active: bool `[..., m]`. The active objectives meet one another in the order in which they
            would without the others, so that masking and dropping agree. None means all active.

    Returns:
        int64 `[..., m, m - 1]`; row i holds the other objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.random_order import random_order
        >>> random_order(0, torch.tensor(0), 3).sort(-1).values.tolist()
        [[1, 2], [0, 2], [0, 1]]
    """
    seats = torch.arange(m, device=counter.device)
    ranks = seats if active is None else (active.cumsum(-1) - 1).clamp_min(0)
    keys = counter_uniform(seed, counter, (m * m,))[_pair(ranks[..., :, None], ranks[..., None, :])]
    keys = torch.where(seats[:, None] == seats, 2.0, keys)  # behind every other one
    return keys.argsort(dim=-1, stable=True)[..., : m - 1]


def random_order_on_host(seed: int, counter: int, m: int) -> list[list[int]]:
    """`random_order` with all objectives active, in plain Python."""
    keys = counter_uniform_on_host(seed, counter, m * m)
    order = []
    for i in range(m):
        others = [j for j in range(m) if j != i]
        others.sort(key=[keys[j * j + i if i < j else i * i + i + j] for j in range(m)].__getitem__)
        order.append(others)
    return order


def index_order(m: int, device: torch.device | None = None) -> Tensor:
    """int64 `[m, m - 1]`: for each objective the others by index."""
    others = torch.arange(m - 1, device=device)
    return others + (others >= torch.arange(m, device=device)[:, None])


def _pair(i: Tensor, j: Tensor) -> Tensor:
    """A number below k^2 for every pair below k, whatever k is (Szudzik's pairing)."""
    return torch.where(i < j, j * j + i, i * i + i + j)
