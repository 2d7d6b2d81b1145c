"""check_weighting admits what obeys, and names what does not."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch

import moopt
from moopt.testing import all_cases, check_weighting
from moopt.testing.contract import CONTRACT
from moopt.weightings import Guarantee, Weighting
from tests.weightings.planted import BY_GUARANTEE, BY_RULE, NothingYet, bare_weights, planted
from tests.weightings.settings import constant

FEW = list(all_cases(ms=(1, 2, 5), norm_ratios=(1.0, 1e4)))


@pytest.mark.parametrize("weighting", [moopt.MGDA(normalize="l2"), moopt.Mean(), constant])
def test_the_librarys_own_methods_pass(weighting):
    check_weighting(weighting, FEW)


def test_the_default_cases_reach_every_scale():
    with pytest.raises(AssertionError, match=r"guarantee 'positively homogeneous': \d+ of 480"):
        check_weighting(BY_GUARANTEE[Guarantee.POSITIVELY_HOMOGENEOUS])


@pytest.mark.parametrize("rule", CONTRACT)
def test_a_violator_of_a_rule_is_named(rule):
    with pytest.raises(AssertionError, match=f"fails\\n(.*\\n)*rule {rule!r}: "):
        check_weighting(BY_RULE[rule], FEW)


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_a_violator_of_a_guarantee_is_named_with_its_case(guarantee):
    build = BY_GUARANTEE[guarantee]

    def boastful(positions):
        weighting = build(positions)
        claims = property(lambda self: frozenset({guarantee}))
        return type("Boastful", (type(weighting),), {"guarantees": claims})(
            **{f.name: getattr(weighting, f.name) for f in dataclasses.fields(weighting)}
        )

    shown = r"\d+ of \d+ cases\n    Case\([^)]*\): \w.*\w"
    named = rf"guarantee {guarantee.value!r}: {shown}"
    with pytest.raises(AssertionError, match=named):
        check_weighting(boastful, FEW)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failing(moopt.Mean):
    """Raises inside a step."""

    name: ClassVar[str] = "Failing"

    def __call__(self, statistics, state=None):
        torch.linalg.cholesky(statistics.gramian)
        return super().__call__(statistics, state)


def test_a_method_that_raises_is_reported_and_not_passed_on():
    with pytest.raises(AssertionError, match="LinAlgError"):
        check_weighting(Failing(), FEW)


def test_why_a_function_makes_no_weighting_is_the_cause():
    with pytest.raises(TypeError, match="must be a weighting") as caught:
        check_weighting(lambda positions: moopt.Constant(preference=positions))
    assert "preference" in str(caught.value.__cause__)


def test_what_is_no_output_is_all_that_is_told():
    with pytest.raises(AssertionError, match="must return a WeightingOutput; got list") as caught:
        check_weighting(planted(bare_weights), FEW)
    assert str(caught.value).count("rule ") == 1


def test_losses_that_are_not_declared_are_named():
    with pytest.raises(AssertionError, match="`needs` does not declare losses and names, but with"):
        check_weighting(planted(lambda statistics: statistics.losses / statistics.losses), FEW)


def test_nan_may_mean_nothing_yet():
    check_weighting(NothingYet(), FEW)


def test_claims_are_members_of_guarantee():
    texts = type("Texts", (moopt.Mean,), {"guarantees": frozenset({"simplex"})})
    with pytest.raises(TypeError, match=r"must be members of .*Guarantee; got \['simplex'\]"):
        check_weighting(texts(), FEW)


def test_what_is_no_weighting_is_named():
    for wrong in (moopt.MGDA, 3, lambda positions: "mgda", moopt.aggregators.TrimmedMean()):
        with pytest.raises(TypeError, match=r"must be a weighting.* Write for instance moopt.MGDA"):
            check_weighting(wrong)
    with pytest.raises(ValueError, match="must hold at least one"):
        check_weighting(moopt.MGDA(), [])


def test_weights_that_are_not_finite_are_named() -> None:
    class Bad(Weighting):
        name = "Bad"
        source = "nobody"
        guarantees = frozenset()

        def weigh(self, problem, state):  # type: ignore[no-untyped-def]
            return np.full(problem.m, np.nan)

    with pytest.raises(AssertionError, match="weights of finite gradients are not finite"):
        check_weighting(Bad())


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda m: np.ones((m, 1)), r"float64 of shape \(\d+, 1\)"),
        (lambda m: np.ones(m, dtype=np.float32), r"float32 of shape \(\d+,\)"),
        (lambda m: np.ones(m + 1), r"float64 of shape"),
        (lambda m: [1.0] * m, r"\[1.0"),
        (lambda m: None, "None"),
    ],
)
def test_what_weigh_must_return_is_told(returned, told) -> None:
    class Odd(Weighting):
        guarantees = frozenset()

        def weigh(self, problem, state):  # type: ignore[no-untyped-def]
            return returned(problem.m)

    expected = rf"`weigh` of Odd must return numpy float64 weights of shape \(\d+,\).*{told}"
    with pytest.raises(AssertionError, match=expected):
        check_weighting(Odd(), FEW)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = moopt.CommonDescent(torch.optim.SGD([weight], lr=0.1), Odd())
    with pytest.raises(TypeError, match=expected):
        optimizer.backward({"a": weight.sum(), "b": weight[0]})
