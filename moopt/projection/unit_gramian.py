"""unit_gramian: norms and cosines of a Gramian, with the rows that count."""

import torch
from torch import Tensor


def unit_gramian(gramian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A Gramian in scale-free coordinates; NaN and infinity pass through.

    Returns:
        norms float64 `[m]`, 1 in place of 0; cosines float64 `[m, m]`, 0 in the rows and columns of
        zero gradients; present bool `[m]`, the gradients that are not zero.
    """
    diagonal = gramian.diagonal()
    present = diagonal != 0
    norms = torch.where(present, diagonal, 1.0).sqrt()
    # Dividing twice keeps the product of two small norms from underflowing.
    cosines = gramian / norms[:, None] / norms
    pairs = present[:, None] & present
    return norms, torch.where(pairs, cosines, 0.0), present
