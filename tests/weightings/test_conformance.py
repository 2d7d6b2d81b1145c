"""Registry rows and further settings x properties x cases; each property has a violator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings

from moopt.testing import OneBatch
from moopt.weightings import AlignedMTL, Guarantee, MoDo, SDMGradStochastic
from tests.cases import Case, all_cases, case, cases
from tests.weightings.planted import (
    BY_GUARANTEE,
    BY_RULE,
    FURTHER_BY_RULE,
    Counting,
    Late,
    WarmUp,
    chaotic_in_order,
    gives_up,
    never_certifies,
    planted,
    ring,
    stands_still,
    stands_still_without_a_word,
)
from tests.weightings.properties import CONTRACT, GUARANTEES
from tests.weightings.settings import PAIRS, SETTINGS, Build, fixed

CASES = list(all_cases(ms=(1, 2, 3, 5, 10), norm_ratios=(1.0, 1e2)))

CLAIMS = [
    (name, guarantee)
    for name in SETTINGS
    for guarantee in sorted(SETTINGS[name](range(3)).guarantees, key=lambda g: g.name)
]

PAIR_CLAIMS = [
    (name, guarantee)
    for name in PAIRS
    for guarantee in Guarantee
    if guarantee in PAIRS[name](range(2)).guarantees
]

UNCLAIMED = [
    (name, guarantee)
    for name in SETTINGS
    for guarantee in Guarantee
    if guarantee not in SETTINGS[name](range(3)).guarantees
    # EPO's program of balanced losses may have several solutions (see test_epo.py), and a large
    # step of MoDo ends in a vertex that rounding chooses: no fixed case need show either.
    and (guarantee is not Guarantee.PERMUTATION_EQUIVARIANT or name not in ("EPO", "MoDo"))
    and not (
        # Implied by the stronger promise.
        guarantee is Guarantee.NON_CONFLICTING_IF_INDEPENDENT
        and Guarantee.NON_CONFLICTING in SETTINGS[name](range(3)).guarantees
    )
]


# Some promises break only on few of the dependent rows, some only at an extreme norm ratio.
RARE_CASES = [
    *CASES,
    *all_cases(ms=(3, 5), seeds=(1, 2)),
    *all_cases(ms=(2, 3), seeds=(0, 1), norm_ratios=(1e8,), families=("aligned", "conflicting")),
    case("orthogonal", 5, seed=5, scale=1e30),
]

PAIR_CASES = list(all_cases(ms=(2,), seeds=(0, 1, 2), norm_ratios=(1.0, 1e2, 1e8)))

# The suite shows MoDo's further batches in units of the longest gradient; as they come, its step
# of a squared length ends in a vertex, and rounding chooses among equals.
AS_THEY_COME = {
    "MoDo": fixed(OneBatch(MoDo())),
    "MoDo in large steps": fixed(OneBatch(MoDo(step_size=3.0))),
    "SDMGradStochastic": fixed(OneBatch(SDMGradStochastic())),
    "SDMGradStochastic preferred": lambda at: OneBatch(
        SDMGradStochastic(step_size=0.3, preference=[1.0 + 0.5 * i for i in at])
    ),
}


def on_every_case(
    check: Callable[[Build, Case], None], build: Build, among: Sequence[Case] = CASES
) -> None:
    for each in among:
        check(build, each)


@pytest.mark.parametrize(("name", "guarantee"), CLAIMS, ids=lambda x: getattr(x, "value", x))
@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_every_claimed_guarantee_holds(name: str, guarantee: Guarantee, case: Case) -> None:
    GUARANTEES[guarantee](SETTINGS[name], case)


@pytest.mark.parametrize(("name", "guarantee"), PAIR_CLAIMS, ids=lambda x: getattr(x, "value", x))
@settings(deadline=None, max_examples=30)
@given(case=cases(ms=(2,)))
def test_every_claim_of_a_pair_holds(name: str, guarantee: Guarantee, case: Case) -> None:
    GUARANTEES[guarantee](PAIRS[name], case)


@pytest.mark.parametrize("rule", sorted(CONTRACT))
@pytest.mark.parametrize("name", SETTINGS)
@settings(deadline=None, max_examples=8)
@given(case=cases(scales=(1.0, 1e-8, 1e8), norm_ratios=(1.0, 1e4)))
def test_every_rule_of_the_contract_holds(name: str, rule: str, case: Case) -> None:
    CONTRACT[rule](SETTINGS[name], case)


@pytest.mark.parametrize("guarantee", Guarantee, ids=lambda g: g.value)
def test_a_planted_violator_fails_the_guarantee(guarantee: Guarantee) -> None:
    with pytest.raises(AssertionError):
        on_every_case(GUARANTEES[guarantee], BY_GUARANTEE[guarantee])


def test_weights_that_are_rounding_have_no_order() -> None:
    check = GUARANTEES[Guarantee.PERMUTATION_EQUIVARIANT]
    check(fixed(AlignedMTL()), case("full_stationary", 10, seed=512, scale=1e8))
    check(fixed(AlignedMTL(scale_mode="rmse")), case("full_stationary", 5, seed=9397))


def test_a_certificate_may_be_missing_only_where_rounding_hides_it() -> None:
    check = GUARANTEES[Guarantee.NON_CONFLICTING]
    # What is left of the terms is 2e-7 of their size.
    check(SETTINGS["DualProj"], case("weakly_stationary", 5, seed=248, norm_ratio=1e8))
    # Nothing conflicts in it, and nothing is certified.
    for violator in (gives_up, never_certifies):
        with pytest.raises(AssertionError, match="MAX_ITER"):
            check(planted(violator), case("aligned", 3))


@pytest.mark.parametrize("violator", [stands_still, stands_still_without_a_word])
def test_standing_still_is_no_common_descent(violator) -> None:
    check = GUARANTEES[Guarantee.NON_CONFLICTING]
    check(planted(violator), case("opposite", 3))  # as it should at a stationary point
    with pytest.raises(AssertionError, match="the direction is zero"):
        check(planted(violator), case("aligned", 3))


@pytest.mark.parametrize("build", [planted(ring), fixed(Late())], ids=["ring", "late"])
def test_an_order_that_shows_in_few_permutations_or_late_fails(build: Build) -> None:
    with pytest.raises(AssertionError):
        on_every_case(GUARANTEES[Guarantee.PERMUTATION_EQUIVARIANT], build)


def test_amplified_rounding_is_no_excuse_for_an_order() -> None:
    check = GUARANTEES[Guarantee.PERMUTATION_EQUIVARIANT]
    with pytest.raises(AssertionError):
        check(planted(chaotic_in_order), case("conflicting", 3))


@pytest.mark.parametrize("rule", CONTRACT)
def test_a_planted_violator_fails_the_rule(rule: str) -> None:
    with pytest.raises(AssertionError):
        on_every_case(CONTRACT[rule], BY_RULE[rule])


@pytest.mark.parametrize(("rule", "build"), FURTHER_BY_RULE.values(), ids=FURTHER_BY_RULE)
def test_another_violator_fails_the_rule(rule: str, build: Build) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=r"state|dtype|Float|float64|axes|nan"):
        on_every_case(CONTRACT[rule], build)


def test_the_violator_of_axes_breaks_nothing_else() -> None:
    CONTRACT["state round trip"](fixed(WarmUp()), case("conflicting", 3))


@pytest.mark.parametrize("counting", [Counting(), WarmUp()], ids=["at once", "late"])
def test_a_state_that_moves_on_what_cannot_be_used_fails_the_rule(counting: Counting) -> None:
    with pytest.raises(AssertionError):
        on_every_case(CONTRACT["non-finite"], fixed(counting))


@pytest.mark.parametrize("name", PAIRS)
def test_a_guarantee_that_a_pair_does_not_claim_has_a_counterexample(name: str) -> None:
    claims = PAIRS[name](range(2)).guarantees
    weaker = (
        {Guarantee.NON_CONFLICTING_IF_INDEPENDENT} if Guarantee.NON_CONFLICTING in claims else set()
    )
    for guarantee in set(Guarantee) - claims - weaker:
        with pytest.raises(AssertionError):
            on_every_case(GUARANTEES[guarantee], PAIRS[name], PAIR_CASES)


@pytest.mark.parametrize(("name", "guarantee"), UNCLAIMED, ids=lambda x: getattr(x, "value", x))
def test_a_guarantee_that_is_not_claimed_has_a_counterexample(
    name: str, guarantee: Guarantee
) -> None:
    with pytest.raises(AssertionError):
        on_every_case(GUARANTEES[guarantee], (SETTINGS | AS_THEY_COME)[name], RARE_CASES)


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_on_the_simplex_are_idempotent(name: str) -> None:
    claims = SETTINGS[name](range(3)).guarantees
    assert Guarantee.SIMPLEX not in claims or Guarantee.IDEMPOTENT in claims
