"""What follows from the class of a method: its name, its source and year, and its checks."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.scalarizations import Scalarization
from moopt.settings.fields import integer, number, one_of, per_objective
from moopt.weightings import Guarantee, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told(Weighting):
    """A method.

    Source: A. Author,
    "A Title", Venue 1998, https://arxiv.org/abs/2001.00000. We differ.

    More.
    """

    share: float | None = number(None, "in [0, 1]")
    size: float = number(2.0, "finite and > 0")
    count: int = integer(1, least=1)
    limit: int | None = integer(None, least=1)
    word: str = one_of("yes", ("yes", "no"))
    preference: list[float] | None = per_objective()

    guarantees = frozenset({Guarantee.SIMPLEX})

    def weigh(self, problem, state):
        return problem.norms


class Named(Told):
    """Another.

    Source: of this class, 2003.
    """

    name: ClassVar[str] = "Else"
    year: ClassVar[int | None] = 2004


class Silent(Weighting):
    guarantees = frozenset()

    def weigh(self, problem, state):
        return problem.norms


def test_name_source_and_year_are_those_of_the_class() -> None:
    assert Told.name == Told().name == "Told"
    assert Told.source.startswith('A. Author, "A Title", Venue 1998, https')
    assert Told.source.endswith("We differ.")
    assert Told.year == 1998


def test_what_a_class_says_itself_goes_first() -> None:
    assert (Named.name, Named.source, Named.year) == ("Else", "of this class, 2003.", 2004)


def test_a_class_without_a_docstring_has_a_name() -> None:
    """All classes are such under `python -OO`."""
    assert (Silent.name, Silent.source, Silent.year) == ("Silent", "", None)


@pytest.mark.parametrize("base", [Weighting, Scalarization, GradientAggregator, TrackingAggregator])
def test_a_base_class_has_none(base: type) -> None:
    assert not hasattr(base, "name")


def test_settings_are_checked_and_copied() -> None:
    given = [1, 2]
    assert Told(preference=given).preference == (1.0, 2.0)
    assert Told(share=None, limit=None, word="no").word == "no"
    for settings, error in (
        ({"share": 2.0}, ValueError),
        ({"size": None}, TypeError),
        ({"count": 0}, ValueError),
        ({"count": None}, TypeError),
        ({"limit": 1.5}, TypeError),
        ({"word": "maybe"}, ValueError),
        ({"preference": [-1.0]}, ValueError),
    ):
        (setting,) = settings
        with pytest.raises(error, match=f"`{setting}` of `Told` must"):
            Told(**settings)


def test_objectives_by_name_need_the_names() -> None:
    assert Told(preference={"a": 1.0}).needs == {"names"}
    assert Told(preference=[1.0]).needs == Told().needs == frozenset()
