"""Scalarizations under the contract of every weighting, and what they claim beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import SCALARIZATIONS, Scalarization
from moopt.testing import check_weighting
from moopt.weightings import Guarantee, WeightingOutput
from tests.cases import all_cases
from tests.scalarizations.settings import DEFAULTS, SETTINGS
from tests.weightings.properties import GUARANTEES, dataclass_is_frozen
from tests.weightings.settings import fixed

# The gradients do not matter, only how many there are.
CASES = list(all_cases(ms=(1, 2, 3)))

UNCLAIMED = [
    (name, guarantee)
    for name in SETTINGS
    for guarantee in Guarantee
    if guarantee not in SETTINGS[name](range(3)).guarantees
]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_rule_and_every_claim_holds(name: str) -> None:
    check_weighting(SETTINGS[name], CASES)


@pytest.mark.parametrize(("name", "guarantee"), UNCLAIMED, ids=lambda x: getattr(x, "value", x))
def test_a_guarantee_that_is_not_claimed_has_a_counterexample(name, guarantee) -> None:
    def on_every_case() -> None:
        for case in CASES:
            GUARANTEES[guarantee](SETTINGS[name], case)

    with pytest.raises(AssertionError):
        on_every_case()


class Leaking(Scalarization):
    """Violates the contract: masked losses enter the number of objectives, and the sum."""

    name, source = "Leaking", "a violator"

    def weigh(self, problem, state):
        return np.full(problem.m, 1.0 / problem.num_objectives)


class Positional(Scalarization):
    """Claims permutation equivariance, and gives the first objective more."""

    name, source = "Positional", "a violator"

    def weigh(self, problem, state):
        weights = np.full(problem.m, problem.share)
        weights[0] *= 2
        return weights


@pytest.mark.parametrize(
    ("violator", "property_name"),
    [
        (Leaking(), "mask equals dropping"),
        (Positional(), "permutation-equivariant"),
    ],
)
def test_a_planted_violator_is_caught(violator, property_name) -> None:
    with pytest.raises(AssertionError, match=property_name):
        check_weighting(violator, CASES)


@pytest.mark.parametrize("name", SCALARIZATIONS)
def test_rows_and_classes(name: str) -> None:
    row = SCALARIZATIONS[name]
    assert dataclass_is_frozen(row.weighting_class)
    assert row.weighting_class.__name__ == name
    assert issubclass(row.weighting_class, Scalarization)
    assert "losses" in row.example().needs
    assert str(row.year) in row.source


def weigh(name: str, losses: list[float], **fields) -> WeightingOutput:
    m = len(losses)
    names = tuple(f"objective {i}" for i in range(m))
    gramian = torch.full((m, m), float("nan"))
    given = StepStatistics(gramian=gramian, losses=torch.tensor(losses), names=names, **fields)
    return SETTINGS[name](range(m))(given)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_a_status(name: str, bad: float) -> None:
    output = weigh(name, [1.0, bad, 3.0])
    assert output.weights.tolist() == [1 / 3] * 3
    assert SolverStatus(int(output.result.status)) is SolverStatus.NON_FINITE
    assert torch.isnan(output.result.gap)


NEEDS_POSITIVE = {"GLS", "UW", "UW fast", "IMTLL", "IMTLL fast", "FAMO", "FAMO bounded"}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("losses", [[2.0, -1.0, 3.0], [2.0, -1e-30, 3.0]])
def test_a_negative_loss_is_fine_or_a_status(name: str, losses: list[float]) -> None:
    output = weigh(name, losses)
    if name in NEEDS_POSITIVE:
        assert SolverStatus(int(output.result.status)) is SolverStatus.OUT_OF_DOMAIN
        assert output.weights.tolist() == [1 / 3] * 3
        initial = SETTINGS[name](range(3)).initial_state(3)
        for key in set(initial) - {"log_losses"}:
            assert torch.equal(output.state[key], initial[key])
    else:
        assert SolverStatus(int(output.result.status)) is SolverStatus.CONVERGED
        assert torch.isfinite(output.weights).all()


def test_losses_that_are_all_zero() -> None:
    domains = {name: weigh(name, [0.0, 0.0]) for name in SETTINGS}
    out = {
        name
        for name, output in domains.items()
        if int(output.result.status) == SolverStatus.OUT_OF_DOMAIN
    }
    assert out == NEEDS_POSITIVE | {"COSMOS", "COSMOS preferred"}


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_required(name: str) -> None:
    with pytest.raises(ValueError, match="needs the losses; got none"):
        SETTINGS[name](range(2))(StepStatistics(gramian=torch.eye(2)))


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_do_not_depend_on_the_callers_grad_mode(name: str) -> None:
    expected = weigh(name, [2.0, 1.0, 3.0]).weights
    with torch.no_grad():
        assert torch.equal(weigh(name, [2.0, 1.0, 3.0]).weights, expected)


def test_fixed_is_what_the_rows_build() -> None:
    assert set(DEFAULTS) == set(SCALARIZATIONS)
    assert fixed(SCALARIZATIONS["STCH"].build())(range(2)) == DEFAULTS["STCH"](range(2))
