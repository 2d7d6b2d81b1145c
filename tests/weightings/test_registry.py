"""The registry: rows, names and errors."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import ModuleType

import pytest
import torch

import moopt
from moopt.aggregators import AGGREGATORS
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import SCALARIZATIONS
from moopt.testing import OneBatch
from moopt.weightings import (
    CRMOGM,
    GRU,
    MGDA,
    WEIGHTINGS,
    Constant,
    DualSpaceMGDA,
    RegisteredWeighting,
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


PACKAGES = {
    moopt.weightings: WEIGHTINGS,
    moopt.scalarizations: SCALARIZATIONS,
    moopt.aggregators: AGGREGATORS,
}


def methods_in(package: ModuleType) -> set[type]:
    """The classes with a registered name that the files of a package define."""
    files = [f"{package.__name__}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    return {
        thing
        for file in files
        for thing in vars(importlib.import_module(file)).values()
        if isinstance(thing, type) and isinstance(getattr(thing, "name", None), str)
        if thing.__module__ == file
    }


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_method_has_its_row_and_is_public(package: ModuleType) -> None:
    """The row follows from the class; what can be forgotten is the line of the package."""
    rows = PACKAGES[package]
    methods = methods_in(package)
    assert len(methods) > 7
    assert {row.weighting_class for row in rows.values()} == methods
    assert set(rows) <= set(package.__all__)
    for name, row in rows.items():
        assert getattr(package, name) is row.weighting_class
        assert row.year == row.weighting_class.year
        assert row.required == row.weighting_class.example


def test_a_row_is_the_class_alone() -> None:
    assert [field.name for field in dataclasses.fields(RegisteredWeighting)] == ["weighting_class"]


DEFAULT = moopt.CommonDescent(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0))


@pytest.mark.parametrize("spelling", ["mgda_l2", "MGDA-L2", "default", "Default"])
def test_the_default_has_a_name(spelling: str) -> None:
    assert weighting_from_name(spelling) == MGDA(normalize="l2") == DEFAULT.weighting


@pytest.mark.parametrize("typed", ["mgda_l1", "mgda-l", "mgd", "mgda_loss", "mdga", "defualt"])
def test_near_the_default_and_its_plain_form_the_difference_is_told(typed: str) -> None:
    with pytest.raises(ValueError, match=r"Did you mean '.*', which is MGDA\(normalize='l2'\)\?"):
        weighting_from_name(typed)


def test_the_default_is_named_where_its_method_is_registered() -> None:
    with pytest.raises(ValueError, match=r"Choose one of .*, Constant, mgda_l2, default\."):
        weighting_from_name("adam")
    with pytest.raises(ValueError, match=r"got 'default'\. Choose one of UW, .*, EUPMU\."):
        weighting_from_name("default", SCALARIZATIONS)
