"""check_number: its ranges, its messages, and that every setting of every method goes by it."""

from __future__ import annotations

import dataclasses
import math
import re
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moopt.aggregators import AGGREGATORS, GradDrop
from moopt.scalarizations import SCALARIZATIONS, STCH
from moopt.settings.numbers import Range, check_number, frozen_numbers
from moopt.weightings import EPO, WEIGHTINGS, Constant

ROWS = {**WEIGHTINGS, **SCALARIZATIONS, **AGGREGATORS}


def built(name: str) -> object:
    row = ROWS[name]
    return row.build(**row.required)


SETTINGS = [
    (name, field.name)
    for name in ROWS
    for field in dataclasses.fields(built(name))  # type: ignore[arg-type]
    if re.fullmatch(r"(<class .)?(int|float)(.>)?( \| None)?", str(field.type))
]


def holds(value: float, allowed: str) -> bool:
    """The range as it reads: an interval in brackets, or a bound below."""
    if allowed.startswith("finite and "):
        return math.isfinite(value) and (value >= 0 if allowed.endswith(">= 0") else value > 0)
    opening, low, high, closing = re.fullmatch(r"in ([\[(])(-?\d), (-?\d)([\])])", allowed).groups()  # type: ignore[union-attr]
    above = value >= int(low) if opening == "[" else value > int(low)
    return above and (value <= int(high) if closing == "]" else value < int(high))


@pytest.mark.parametrize("allowed", get_args(Range))
@given(value=st.one_of(st.floats(), st.sampled_from([-1.0, -0.0, 0.0, 1.0, 5e-324, 1 - 2**-53])))
def test_a_range_holds_what_it_reads(allowed: Range, value: float) -> None:
    if holds(value, allowed):
        check_number("Mine", "size", value, allowed, use="0.5")
    else:
        with pytest.raises(ValueError, match=r"`size` of `Mine` must be .*Use 0\.5\."):
            check_number("Mine", "size", value, allowed, use="0.5")


@pytest.mark.parametrize(
    "value", [1, np.float32(0.5), np.int64(1), Fraction(1, 2), True, torch.tensor(0.5)]
)
def test_numbers_of_every_kind_pass(value: object) -> None:
    check_number("Mine", "size", value, "in [0, 1]", use="0.5")


@pytest.mark.parametrize("value", ["1", None, [1.0], 1j, torch.tensor([0.5])])
def test_what_is_no_number_is_named(value: object) -> None:
    with pytest.raises(
        TypeError, match=r"`size` of `Mine` must be a number, in \[0, 1\]; got .* Use 0\.5\."
    ):
        check_number("Mine", "size", value, "in [0, 1]", use="0.5")


NO_NUMBERS = [
    "ab", 5, [1j, 2.0], ["a", "b"], [None], [[1.0]], {"forget": "x"}, {1.0, 2.0}, {0: 1.0},
    [10**400], torch.tensor([1 + 2j]), np.array([1 + 2j]), np.array(["1", "2"]), torch.ones(2, 1),
    torch.ones(2, device="meta"),
]  # fmt: skip


@pytest.mark.parametrize("given", NO_NUMBERS, ids=repr)
def test_what_is_not_one_number_per_objective_is_named(given: object) -> None:
    for make, what in (
        (lambda: EPO(preference=given), "`preference` of `EPO`"),
        (lambda: STCH(preference=given), "`preference` of `STCH`"),
        (lambda: Constant(given), "`weights` of `Constant`"),
        (lambda: GradDrop(leak=given), "`leak` of `GradDrop`"),
    ):
        with pytest.raises(TypeError, match=f"{what} must be a sequence of numbers, or a mapping"):
            make()


def test_numbers_are_copied() -> None:
    given = {"a": 1, "b": torch.tensor(2.0)}
    frozen = frozen_numbers(given, "it")
    given["a"] = 3
    assert frozen == {"a": 1.0, "b": 2.0}
    assert frozen_numbers(np.array([1, 2]), "it") == (1.0, 2.0)


def test_an_integer_beyond_every_float_is_compared_as_it_is() -> None:
    check_number("Mine", "size", 10**400, "finite and > 0", use="0.5")
    with pytest.raises(ValueError, match="must be in"):
        check_number("Mine", "size", 10**400, "in [0, 1]", use="0.5")


def test_there_are_settings_to_look_at() -> None:
    assert len(SETTINGS) > 40


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
@pytest.mark.parametrize("value", ["x", [0.5], math.nan])
def test_every_setting_of_every_method_names_itself(name: str, setting: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=f"`{setting}` of `{name}` must be"):
        dataclasses.replace(built(name), **{setting: value})  # type: ignore[type-var]
