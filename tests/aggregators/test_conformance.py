"""Registry rows x guarantees x cases, as for weightings; the direction is what a step leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import moopt
from moopt.aggregators import (
    AGGREGATORS,
    SAGO,
    DBMTLWithEMA,
    ExcessMTL,
    GradDrop,
    GradientAggregator,
    GradientEMA,
    MConFIG,
    MoCo,
    TrimmedMean,
)
from moopt.testing.directions import DIRECTION_TOL, STATIONARY_TOL, losses_of
from moopt.weightings import Guarantee
from tests.cases import Case, all_cases, case, cases

Build = Callable[[Sequence[int]], GradientAggregator]
NAMED = "objective {}"
SIZES = (4, 5)
PAIR = (2,)
INDEPENDENT = 1e-6
"""Smallest eigenvalue of the cosines of independent rows."""


def sago(positions: Sequence[int]) -> SAGO:
    return SAGO(forget=NAMED.format(0), retain=[NAMED.format(i) for i in positions[1:]])


SETTINGS: dict[str, Build] = {
    "TrimmedMean": lambda at: TrimmedMean(),
    "TrimmedMean of all": lambda at: TrimmedMean(trim=0),
    "GradDrop": lambda at: GradDrop(),
    "GradDrop leaking": lambda at: GradDrop(leak=[0.1 * i for i in at]),
    "SAGO": sago,
    "SAGO pair": sago,
    "MoCo": lambda at: MoCo(),
    "GradientEMA": lambda at: GradientEMA(moopt.MGDA()),
    "GradientEMA of AlignedMTL": lambda at: GradientEMA(moopt.AlignedMTL()),
    "GradientEMA of unit rows": lambda at: GradientEMA(moopt.MGDA(normalize="l2")),
    "DBMTLWithEMA": lambda at: DBMTLWithEMA(),
    "ExcessMTL": lambda at: ExcessMTL(),
    "MConFIG": lambda at: MConFIG(),
}


class Step(NamedTuple):
    """What one step leaves, and the length that the direction would have without cancellation."""

    direction: Tensor
    weights: Tensor
    size: float


def steps(
    build: Build, case: Case, factors: Tensor | None = None, order: Sequence[int] | None = None
) -> list[Step]:
    """At the first step, and at the second one after the rows in the opposite order."""
    scale = torch.ones(case.m, dtype=torch.float64) if factors is None else factors
    order = list(range(case.m) if order is None else order)
    now = (case.jacobian, losses_of(case))
    before = (case.jacobian.flip(0), losses_of(case).flip(0))
    out = []
    for sequence in ([now], [before, now]):
        parameter = torch.zeros(case.jacobian.shape[1], dtype=torch.float64, requires_grad=True)
        optimizer = moopt.CommonDescent(
            torch.optim.SGD([parameter], lr=0.0), build(range(case.m)), inactive_tol=0.0
        )
        for rows, values in sequence:
            rows, values = (rows * scale[:, None])[order], (values * scale)[order]
            optimizer.zero_grad()
            losses = values + rows @ parameter
            optimizer.backward({NAMED.format(i): losses[i] for i in range(case.m)})
            optimizer.step()
        assert parameter.grad is not None
        weights = optimizer.record.weights
        # Rows may be averages of both steps'; entrywise methods have no weights.
        norms = (torch.maximum(case.norms, case.norms.flip(0)) * scale)[order]
        size = float((weights.abs().where(weights.isfinite(), 1.0) * norms).sum())
        out.append(Step(parameter.grad.clone(), weights, size))
    return out


def same(first: Tensor, second: Tensor, size: float) -> None:
    assert float((first - second).norm()) <= DIRECTION_TOL * size


def non_conflicting(build: Build, case: Case) -> None:
    for step in steps(build, case):
        along = case.jacobian @ step.direction
        assert (along >= -DIRECTION_TOL * case.norms * step.direction.norm()).all()


def simplex(build: Build, case: Case) -> None:
    for step in steps(build, case):
        assert (step.weights >= 0).all()
        assert abs(float(step.weights.sum()) - 1.0) <= DIRECTION_TOL


def scale_equivariant(build: Build, case: Case) -> None:
    factors = 2.0 ** torch.tensor([(5 * i) % 17 - 8 for i in range(case.m)], dtype=torch.float64)
    for one, other in zip(steps(build, case), steps(build, case, factors), strict=True):
        lengths = [float(step.direction.norm()) for step in (one, other)]
        if any(
            n <= STATIONARY_TOL * each.size for n, each in zip(lengths, (one, other), strict=True)
        ):
            continue  # rounding of its terms
        scale = max(one.size / lengths[0], other.size / lengths[1])
        same(one.direction / lengths[0], other.direction / lengths[1], scale)


def positively_homogeneous(build: Build, case: Case) -> None:
    for factor in (2.0**-7, 2.0):
        factors = torch.full((case.m,), factor, dtype=torch.float64)
        for one, other in zip(steps(build, case), steps(build, case, factors), strict=True):
            same(factor * one.direction, other.direction, factor * one.size)


def permutation_equivariant(build: Build, case: Case) -> None:
    """On independent rows: another order rounds differently, and may so decide on a rank."""
    cosines = case.gramian / case.norms[:, None] / case.norms
    if not float(torch.linalg.eigvalsh(cosines.nan_to_num())[0]) > INDEPENDENT:
        return
    exchanged = [1, 0, *range(2, case.m)]
    for order in ([*range(1, case.m), 0], exchanged):
        for one, other in zip(steps(build, case), steps(build, case, order=order), strict=True):
            same(one.direction, other.direction, max(one.size, other.size))


def zero_at_stationarity(build: Build, case: Case) -> None:
    if case.stationarity != "none":
        for step in steps(build, case):
            assert float(step.direction.norm()) <= STATIONARY_TOL * step.size


def idempotent(build: Build, case: Case) -> None:
    """Also where an objective is absent, and after another gradient."""
    parameter = torch.zeros(case.jacobian.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = moopt.CommonDescent(torch.optim.SGD([parameter], lr=0.0), build(range(case.m)))
    everyone = range(case.m)
    for row, present in ((case.jacobian[0], everyone), (case.jacobian[-1], everyone[1:])):
        optimizer.zero_grad()
        optimizer.backward({NAMED.format(i): 1.0 + row @ parameter for i in present})
        optimizer.step()
        assert parameter.grad is not None
        same(row, parameter.grad, float(row.norm()))


CHECKS: dict[Guarantee, Callable[[Build, Case], None]] = {
    Guarantee.NON_CONFLICTING: non_conflicting,
    Guarantee.SIMPLEX: simplex,
    Guarantee.SCALE_EQUIVARIANT: scale_equivariant,
    Guarantee.POSITIVELY_HOMOGENEOUS: positively_homogeneous,
    Guarantee.PERMUTATION_EQUIVARIANT: permutation_equivariant,
    Guarantee.ZERO_AT_STATIONARITY: zero_at_stationarity,
    Guarantee.IDEMPOTENT: idempotent,
}


def sizes(name: str) -> tuple[int, ...]:
    return PAIR if name == "SAGO pair" else SIZES


CLAIMS = [
    (name, guarantee)
    for name in SETTINGS
    for guarantee in CHECKS
    if guarantee in SETTINGS[name](range(sizes(name)[0])).guarantees
]

LARGE = [case("orthogonal", 5, seed=1, scale=1e30)]
"""A step of a squared length ends in a vertex there, and rounding chooses among equals."""

UNCLAIMED = [(name, g) for name in SETTINGS for g in CHECKS if (name, g) not in CLAIMS]


@pytest.mark.parametrize(("name", "guarantee"), CLAIMS, ids=lambda x: getattr(x, "value", x))
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_every_claimed_guarantee_holds(name: str, guarantee: Guarantee, data) -> None:
    settings = cases(ms=sizes(name), scales=(1.0, 1e-8, 1e8), norm_ratios=(1.0, 1e4))
    CHECKS[guarantee](SETTINGS[name], data.draw(settings))


@pytest.mark.parametrize(("name", "guarantee"), UNCLAIMED, ids=lambda x: getattr(x, "value", x))
def test_a_guarantee_that_is_not_claimed_has_a_counterexample(
    name: str, guarantee: Guarantee
) -> None:
    def on_every_case() -> None:
        for each in (*all_cases(ms=sizes(name), norm_ratios=(1.0, 1e2)), *LARGE):
            CHECKS[guarantee](SETTINGS[name], each)

    with pytest.raises(AssertionError):
        on_every_case()


def test_every_row_is_run() -> None:
    """Settings are named after their method."""
    assert {name.split()[0] for name in SETTINGS} == set(AGGREGATORS)
