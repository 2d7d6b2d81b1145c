"""unit_gramian: norms and cosines of a Gramian, with the rows that count."""

from typing import NamedTuple

import torch
from torch import Tensor

CANCELLED = 64 * torch.finfo(torch.float64).eps
"""||d||^2 below this share of the squared sum of its terms' lengths is rounding: d = 0."""


class UnitGramian(NamedTuple):
    """A Gramian in scale-free coordinates.

    Attributes:
        norms: float64 `[m]`, 1 in place of 0.
        cosines: float64 `[m, m]`; 0 in the rows and columns of zero gradients.
        present: bool `[m]`, the gradients that are not zero.
    """

    norms: Tensor
    cosines: Tensor
    present: Tensor


def unit_gramian(gramian: Tensor) -> UnitGramian:
    """Return norms, cosines and the mask of non-zero rows; NaN and infinity pass through."""
    diagonal = gramian.diagonal()
    present = diagonal != 0
    norms = torch.where(present, diagonal, 1.0).sqrt()
    # Dividing twice keeps the product of two small norms from underflowing.
    cosines = gramian / norms[:, None] / norms
    pairs = present[:, None] & present
    return UnitGramian(norms, torch.where(pairs, cosines, 0.0), present)
