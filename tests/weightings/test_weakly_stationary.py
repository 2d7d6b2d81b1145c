"""By hand at strictly weakly stationary points: no blow-up, and no certificate that lies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import moopt
from moopt.weightings import Weighting

SEEDS, TOGETHER = range(6), (2, 6, 10)
LONGEST = 1e4
"""No term of a direction is longer than this many of the longest gradient."""


def rows_of(seed: int, k: int) -> Tensor:
    """20 gradients in 10 dimensions; k of them, orthogonal to e, sum to zero with weights > 0.

    The others have a product >= 0 with e: no direction lowers all, and e raises none.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(20, 10, generator=generator, dtype=torch.float64)
    e = torch.randn(10, generator=generator, dtype=torch.float64)
    e /= e.norm()
    rows[:k] -= torch.outer(rows[:k] @ e, e)
    weights = torch.rand(k - 1, generator=generator, dtype=torch.float64) + 0.1
    rows[k - 1] = -(weights @ rows[: k - 1])
    along = rows[k:] @ e
    rows[k:] += torch.outer(along.abs() - along, e)
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "weighting",
    [moopt.UPGrad(), moopt.DualProj(), moopt.CAGrad(c=1.0), moopt.FairGrad(), moopt.NashMTL()],
    ids=lambda weighting: weighting.name,
)
def test_the_direction_is_harmless_or_zero(weighting: Weighting, dtype: torch.dtype) -> None:
    for seed in SEEDS:
        for k in TOGETHER:
            rows = rows_of(seed, k).to(dtype)
            output = weighting(moopt.StepStatistics(gramian=rows @ rows.T))
            rows, norms = rows.double(), rows.double().norm(dim=1)
            d = rows.T @ output.weights
            length, longest = float(d.norm()), float(norms.max())
            assert float((output.weights.abs() * norms).max()) <= LONGEST * longest
            assert length <= float(torch.linalg.matrix_norm(rows, 2))
            if length > 1e-4 * longest:  # else d is zero, up to the rounding of float32
                worst = -float((rows @ d / norms / length).min())
                assert worst <= 1e-3
                assert worst <= float(output.result.gap) + 1e-5
