"""The registry: rows, names and errors."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable

import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.testing import OneBatch
from moopt.weightings import (
    CRMOGM,
    GRU,
    MGDA,
    WEIGHTINGS,
    Constant,
    DualSpaceMGDA,
    Weighting,
    weighting_from_name,
)
from tests.weightings.properties import dataclass_is_frozen


@pytest.mark.parametrize("spelling", ["MGDA", "mgda", "Mgda"])
def test_names_ignore_case(spelling: str) -> None:
    assert weighting_from_name(spelling) == MGDA()


@pytest.mark.parametrize("spelling", ["DualSpaceMGDA", "dual_space_mgda", "dual-space-mgda"])
def test_names_ignore_separators(spelling: str) -> None:
    assert weighting_from_name(spelling) == DualSpaceMGDA()


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"got 'adam'.*MGDA, DualSpaceMGDA, CRMOGM, .*Mean, Sum"):
        weighting_from_name("adam")


@pytest.mark.parametrize(("typed", "meant"), [("upgard", "UPGrad"), ("nash_mlt", "NashMTL")])
def test_a_name_that_is_nearly_one_is_suggested(typed: str, meant: str) -> None:
    with pytest.raises(
        ValueError, match=rf"got '{typed}'\. Did you mean '{meant}'\? Choose one of"
    ):
        weighting_from_name(typed)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_row_has_an_example_for_the_same_three_objectives(name: str) -> None:
    statistics = StepStatistics(
        gramian=torch.eye(3, dtype=torch.float64),
        losses=torch.ones(3, dtype=torch.float64),
        names=("forget", "retain", "third"),
    )
    method = WEIGHTINGS[name].example()
    if "auxiliary" in method.needs:
        method = OneBatch(method)
    assert method(statistics).weights.isfinite().all()


def test_a_method_without_defaults_says_what_to_pass() -> None:
    with pytest.raises(
        ValueError, match=r"Pass an instance, such as moopt.weightings.Constant\(weights=\(1.0"
    ):
        weighting_from_name("constant")
    assert WEIGHTINGS["Constant"].build(weights=[1.0]) == Constant([1.0])


def test_rows_tell_what_instances_tell() -> None:
    row = WEIGHTINGS["MGDA"]
    assert row.settings == {"normalize": "none", "solver": "auto", "tol": 1e-10, "max_iter": None}
    assert row.year == 2012
    assert row.guarantees(normalize="l2") == MGDA(normalize="l2").guarantees
    assert row.needs(normalize="loss") == {"losses"}
    assert not row.stateful()
    assert WEIGHTINGS["CRMOGM"].stateful()
    assert WEIGHTINGS["CRMOGM"].settings == {"weighting": MGDA(), "momentum": CRMOGM().momentum}
    assert WEIGHTINGS["Constant"].settings == {}


def test_rows_of_methods_with_roles_tell_too() -> None:
    assert WEIGHTINGS["BLUR"].settings == {"gamma": 1.0, "at_least": False}
    assert WEIGHTINGS["GRU"].needs() == {"names"}
    assert WEIGHTINGS["PCD"].stateful()
    row, pair = WEIGHTINGS["GRU"], GRU(forget="a", retain="b")
    assert row.guarantees() == row.example().guarantees
    assert row.guarantees(forget="a", retain="b") == pair.guarantees > row.guarantees()


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_row_has_every_setting_once(name: str) -> None:
    row = WEIGHTINGS[name]
    fields = {field.name for field in dataclasses.fields(row.weighting_class)}
    assert row.settings.keys() | row.required.keys() == fields
    assert not row.settings.keys() & row.required.keys()


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        WEIGHTINGS["MGDA"] = WEIGHTINGS["Mean"]


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_rows_follow_the_rules_of_the_library(name: str) -> None:
    row = WEIGHTINGS[name]
    assert dataclass_is_frozen(row.weighting_class)
    assert row.name == row.weighting_class.name == row.weighting_class.__name__
    assert row.source == row.weighting_class.source != ""


def functions_of(method: type[Weighting]) -> list[Callable[..., object]]:
    """The public functions of a method's file."""
    members = vars(sys.modules[method.__module__]).values()
    return [f for f in members if inspect.isfunction(f) and f.__module__ == method.__module__]


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_functions_and_class_have_the_same_defaults(name: str) -> None:
    method = WEIGHTINGS[name].weighting_class
    fields = {field.name: field.default for field in dataclasses.fields(method)}
    for function in functions_of(method):
        for key, parameter in inspect.signature(function).parameters.items():
            if key in fields and parameter.default not in (parameter.empty, None):
                assert parameter.default == fields[key], (function.__name__, key)


def test_the_test_of_defaults_sees_functions() -> None:
    """It would pass without any."""
    shared = [
        (name, key)
        for name, row in WEIGHTINGS.items()
        for function in functions_of(row.weighting_class)
        for key, parameter in inspect.signature(function).parameters.items()
        if key in row.weighting_class.__dataclass_fields__
        and parameter.default is not parameter.empty
    ]
    assert len({name for name, _ in shared}) > 12


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_what_has_a_default_goes_by_keyword(name: str) -> None:
    """But the preference, which is an argument as the Gramian is."""
    for function in functions_of(type(WEIGHTINGS[name].example())):
        for key, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not parameter.empty and key != "preference":
                assert parameter.kind is parameter.KEYWORD_ONLY, (function.__name__, key)
