"""Docstring sections such as `Numerics: ...` are sections of the built pages, too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXTENSION = Path(__file__).resolve().parents[1] / "docs" / "_extensions" / "one_line_sections.py"


@pytest.fixture(scope="module")
def extension() -> ModuleType:
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("one_line_sections", EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_section_on_one_line_becomes_one(extension: ModuleType) -> None:
    given = ["A line.", "", "Numerics: float64,", "whatever: the input.", "", "Source: none."]
    assert extension.spread(given) == [
        "A line.", "", "Numerics:", "    float64,", "    whatever: the input.", "",
        "Source:", "    none.",
    ]  # fmt: skip


def test_its_indented_lines_stay_in_it(extension: ModuleType) -> None:
    given = [
        "Numerics: float64,",
        "    and so on.",
        "",
        "Example: see there.",
        "    >>> 1",
        "    1",
    ]
    assert extension.spread(given) == [
        "Numerics:", "    float64,", "    and so on.", "",
        "Example:", "    see there.", "", "    >>> 1", "    1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "lines",
    [
        ["Numerics:", "    float64."],
        ["A line that", "Source: ends in no section."],
        ["Note: this is not a section."],
    ],
)
def test_other_lines_stay(extension: ModuleType, lines: list[str]) -> None:
    assert extension.spread(lines) == lines


def test_the_build_warns_about_one_that_is_missed(extension: ModuleType) -> None:
    core = pytest.importorskip("docutils.core")
    napoleon = pytest.importorskip("sphinx.ext.napoleon")
    config = napoleon.Config(napoleon_custom_sections=["Numerics", "Source"])

    def found(lines: list[str]) -> list[str]:
        text = str(napoleon.GoogleDocstring(lines, config))
        return extension.unspread(core.publish_doctree(text))

    lines = ["A line.", "", "Numerics: float64,", "  and so on.", "", "Source: none."]
    assert found(lines) == ["Numerics: float64,", "Source: none."]
    assert found(extension.spread(lines)) == []
