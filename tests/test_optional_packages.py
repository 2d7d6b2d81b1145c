"""Only the absence of an optional package excuses a test."""

from __future__ import annotations

import pytest

from tests import optional_packages
from tests.optional_packages import missing_optional


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> str:
    """An optional package that certainly is not installed."""
    name = "moopt_no_such_package"
    monkeypatch.setattr(optional_packages, "OPTIONAL", frozenset({name, "pytest"}))
    return name


def test_an_absent_optional_package_is_named(absent: str) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        __import__(f"{absent}.inner")
    assert missing_optional(caught.value) == absent
    wrapped = RuntimeError("collection failed")
    wrapped.__cause__ = caught.value
    assert missing_optional(wrapped) == absent


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("wrong"),
        ImportError("broken", name="moopt_no_such_package"),
        ModuleNotFoundError("another", name="moopt_no_such_other"),
        ModuleNotFoundError("installed but broken", name="pytest.inner"),
    ],
    ids=repr,
)
@pytest.mark.usefixtures("absent")
def test_nothing_else_excuses_a_test(error: BaseException | None) -> None:
    assert missing_optional(error) is None


def test_the_core_is_never_optional() -> None:
    assert not {"torch", "numpy", "moopt", "pytest"} & optional_packages.OPTIONAL
