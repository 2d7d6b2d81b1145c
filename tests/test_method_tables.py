"""The tables of docs/methods.md are what the registries' rows say today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from moopt.weightings import MGDA, Guarantee
from tests.aggregators.test_conformance import SETTINGS as AGGREGATOR_SETTINGS
from tests.aggregators.test_conformance import sizes
from tests.scalarizations.settings import FURTHER as FURTHER_SCALARIZATIONS
from tests.weightings.settings import FURTHER as FURTHER_WEIGHTINGS
from tests.weightings.settings import PAIRS

DOCS = Path(__file__).resolve().parents[1] / "docs"
LINK = re.compile(r"\]\((api/\w+\.md)#(\w+)\)")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_tables", DOCS / "method_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(script: ModuleType) -> None:
    page = script.PAGE.read_text("utf-8")
    assert script.page_with_tables(page) == page, "run python docs/method_tables.py"
    assert len(script.BLOCK.findall(page)) == 3


def test_a_page_that_is_not_is_noticed(script: ModuleType) -> None:
    page = script.PAGE.read_text("utf-8")
    assert script.page_with_tables(page.replace("| ✓ |", "|  |", 1)) == page
    assert "| [MGDA](api/weightings.md#mgda) | 2012 |" in page


def anchors(page: str) -> set[str]:
    """What links of Markdown and of the built pages call its headings of one word."""
    return {heading.lower() for heading in re.findall(r"^#+ (\w+)$", page, flags=re.MULTILINE)}


def test_every_method_has_a_heading_to_link_to(script: ModuleType) -> None:
    links = LINK.findall(script.PAGE.read_text("utf-8"))
    assert len(set(links)) > 40
    missing = [
        link for link in links if link[1] not in anchors((DOCS / link[0]).read_text("utf-8"))
    ]
    assert missing == []
    assert anchors("# A page\n\n## MGDA\n\n#Sum\n") == {"mgda"}


def test_one_row_is_the_default(script: ModuleType) -> None:
    rows = [
        line for line in script.PAGE.read_text("utf-8").splitlines() if "the default** |" in line
    ]
    assert len(rows) == 1
    assert 'MGDA](api/weightings.md#mgda), `normalize="l2"`' in rows[0]
    assert script.default() == MGDA(normalize="l2")


REGISTRIES = (
    "moopt.weightings.WEIGHTINGS",
    "moopt.scalarizations.SCALARIZATIONS",
    "moopt.aggregators.AGGREGATORS",
)


def promises(script: ModuleType) -> dict[str, list[frozenset[Guarantee]]]:
    """By method, of the default settings and of each further row."""
    out: dict[str, list[frozenset[Guarantee]]] = {}
    for registry in REGISTRIES:
        for row, _, method in script.methods(registry):
            out.setdefault(row.name, []).append(method.guarantees)
    return out


def claims_tested() -> dict[str, list[frozenset[Guarantee]]]:
    """By method, of the further settings that the conformance suites run."""
    out: dict[str, list[frozenset[Guarantee]]] = {}
    methods: list[Any] = [
        build(range(3)) for build in (FURTHER_WEIGHTINGS | FURTHER_SCALARIZATIONS).values()
    ]
    methods += [build(range(sizes(name)[0])) for name, build in AGGREGATOR_SETTINGS.items()]
    methods += [build(range(2)) for build in PAIRS.values()]
    for method in methods:
        out.setdefault(method.name, []).append(method.guarantees)
    return out


def test_tested_settings_that_change_a_mark_have_a_row(script: ModuleType) -> None:
    rows = promises(script)
    for name, claims in claims_tested().items():
        for claim in claims:
            # MoDo is tested with one batch, as another class.
            assert name not in rows or claim in rows[name], name


def test_the_marks_of_further_rows_are_tested_and_differ(script: ModuleType) -> None:
    further = {name: claims for name, claims in promises(script).items() if len(claims) > 1}
    assert set(further) == set(script.SETTINGS)
    for name, (default, *others) in further.items():
        for claim in others:
            assert claim != default, name
            assert claim in claims_tested()[name], name
