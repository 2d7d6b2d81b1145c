"""Every registered method has its row in docs/methods.md and its entry in the reference."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from moopt.weightings import MGDA, WEIGHTINGS, Guarantee, Mean, RegisteredWeighting
from tests.aggregators.test_conformance import SETTINGS as AGGREGATOR_SETTINGS
from tests.aggregators.test_conformance import sizes
from tests.scalarizations.settings import FURTHER as FURTHER_SCALARIZATIONS
from tests.weightings.settings import FURTHER as FURTHER_WEIGHTINGS
from tests.weightings.settings import PAIRS

DOCS = Path(__file__).resolve().parents[1] / "docs"
LINK = re.compile(r"\]\((api/\w+\.md)#(\w+)\)")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = DOCS / "_extensions" / "registered_methods.py"
    spec = importlib.util.spec_from_file_location("registered_methods", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(script: ModuleType, name: str) -> str:
    """A page of the documentation as it is built."""
    return script.expanded((DOCS / name).read_text("utf-8"))


@pytest.mark.parametrize("package", ["weightings", "scalarizations", "aggregators"])
def test_every_method_has_rows_and_one_entry(package: str, script: ModuleType) -> None:
    tables, reference = page(script, "methods.md"), page(script, f"api/{package}.md")
    registry = importlib.import_module(f"moopt.{package}")
    for name, row in getattr(registry, package.upper()).items():
        assert f"| [{name}](api/{package}.md#{name.lower()}) | {row.year or ''} |" in tables
        assert (
            len(re.findall(rf"^\.\. autoclass:: moopt\.{package}\.{name}$", reference, re.M)) == 1
        )


def test_a_new_class_gets_its_row_and_its_entry(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newest(Mean):
        name = "Newest"
        year = 2031

    rows = {**WEIGHTINGS, "Newest": RegisteredWeighting(weighting_class=Newest)}
    monkeypatch.setattr("moopt.weightings.WEIGHTINGS", rows)
    assert "| [Newest](api/weightings.md#newest) | 2031 |" in page(script, "methods.md")
    assert ".. autoclass:: moopt.weightings.Newest\n" in page(script, "api/weightings.md")


def test_no_table_is_written_by_hand(script: ModuleType) -> None:
    text = (DOCS / "methods.md").read_text("utf-8")
    assert len(script.MARK.findall(text)) == 3
    assert not [line for line in text.splitlines() if line.startswith("|")]


def anchors(page: str) -> set[str]:
    """What links of Markdown and of the built pages call its headings of one word."""
    return {heading.lower() for heading in re.findall(r"^#+ (\w+)$", page, flags=re.MULTILINE)}


def test_every_method_has_a_heading_to_link_to(script: ModuleType) -> None:
    links = LINK.findall(page(script, "methods.md"))
    assert len(set(links)) > 40
    missing = [link for link in links if link[1] not in anchors(page(script, link[0]))]
    assert missing == []
    assert anchors("# A page\n\n## MGDA\n\n#Sum\n") == {"mgda"}


def test_one_row_is_the_default(script: ModuleType) -> None:
    lines = page(script, "methods.md").splitlines()
    rows = [line for line in lines if "the default** |" in line]
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
