"""StepNumbers: what one step computes on a device, and how it lies in one vector."""

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_FUSED = 32
"""Rows of a step that fit into the registers of one program of a GPU."""


class StepNumbers(NamedTuple):
    """The numbers of a step of m objectives, float64, in the order in which they are packed.

    Attributes:
        weights: `[m]`.
        losses: `[m]`, NaN where none was given.
        active: `[m]`, 1 or 0: above the noise floor.
        rises: `[m]`, 1 where the direction raises an active objective.
        idle: `[m]`, steps in a row in which it was not active, this one included.
        gramian: `[m, m]`, unscaled.
        status, gap, stationarity: of the solver and of the hull of the unit gradients.
        descent, fell_back: 1 or 0.
        fallbacks: how many steps fell back since `kept_numbers` was made.
        steps: how many steps there were.
    """

    weights: Tensor
    losses: Tensor
    active: Tensor
    rises: Tensor
    idle: Tensor
    gramian: Tensor
    status: Tensor
    gap: Tensor
    stationarity: Tensor
    descent: Tensor
    fell_back: Tensor
    fallbacks: Tensor
    steps: Tensor

    def packed(self) -> Tensor:
        """All of them in one vector of `size_of(m)` entries."""
        return torch.cat([part.to(self.gramian.dtype).reshape(-1) for part in self])


def size_of(m: int) -> int:
    """The length of the packed numbers of m objectives."""
    return 5 * m + m * m + 7


def unpacked(vector: Tensor, m: int) -> StepNumbers:
    """Views of what `StepNumbers.packed` returned.

    Example:
        >>> import torch
        >>> from moopt.kernels.gramian_min_norm import size_of, unpacked
        >>> unpacked(torch.arange(size_of(2)), 2).gramian.tolist()
        [[10, 11], [12, 13]]
    """
    parts = list(vector.split([m] * 5 + [m * m] + [1] * 7))
    parts[5] = parts[5].view(m, m)
    return StepNumbers(*parts[:6], *(part[0] for part in parts[6:]))


def kept_numbers(m: int, device: torch.device) -> Tensor:
    """What is kept from step to step, float64 `[m + 2]`: `idle`, `fallbacks` and `steps`."""
    return torch.zeros(m + 2, dtype=torch.float64, device=device)
