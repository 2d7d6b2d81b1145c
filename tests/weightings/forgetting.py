"""What the tests of the unlearning methods share: pairs and groups of gradients with roles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import Guarantee, Weighting, WeightingOutput
from tests.cases import NORM_RATIOS, SCALES, Case, all_cases
from tests.weightings.properties import GUARANTEES
from tests.weightings.settings import fixed

PAIRS = list(all_cases(ms=(2,), scales=(1.0, 1e-30, 1e30), norm_ratios=NORM_RATIOS))
TRIPLES = list(all_cases(ms=(3,), scales=SCALES, norm_ratios=(1.0, 1e2)))

IDENTITY_TOL = 1e-9
"""An equation between inner products, relative to the lengths of what it multiplies: the Gramian's
rounding, 2e-16, times what cancels in the cases, at most 1e4, squared for its condition."""

ROUNDING = 64 * torch.finfo(torch.float64).eps
"""Rounding of an inner product g_i . sum_j w_j g_j, relative to ||g_i|| sum_j |w_j| ||g_j||."""


def weigh(
    weighting: Weighting, jacobian: Tensor, active: Tensor | None = None, **fields: object
) -> WeightingOutput:
    """Row 0 is "forget", the others "retain", "retain 2", ..."""
    m = len(jacobian)
    names = ("forget", "retain", *(f"retain {i}" for i in range(2, m)))[:m]
    statistics = StepStatistics(gramian=jacobian @ jacobian.T, names=names, active=active, **fields)
    return weighting(statistics)


def pair(case: Case, weighting: Weighting) -> tuple[Tensor, Tensor, Tensor, float]:
    """(g_f, g_r, d, the length of d without any cancellation)."""
    weights = weigh(weighting, case.jacobian).weights
    scale = float((weights.abs() * case.norms).sum())
    return case.jacobian[0], case.jacobian[1], case.jacobian.T @ weights, scale


def check_promise(weighting: Weighting, guarantee: Guarantee, cases: list[Case]) -> None:
    """A promise holds on every case, and what is not promised fails on one."""

    def on_every_case() -> None:
        for case in cases:
            GUARANTEES[guarantee](fixed(weighting), case)

    if guarantee in weighting.guarantees:
        on_every_case()
        return
    weaker = guarantee is Guarantee.NON_CONFLICTING_IF_INDEPENDENT
    if not (weaker and Guarantee.NON_CONFLICTING in weighting.guarantees):
        with pytest.raises(AssertionError):
            on_every_case()
