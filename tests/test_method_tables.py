"""The tables of docs/methods.md are what the registries' rows say today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


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
    assert "| [MGDA](api/weightings.md) | 2012 |" in page
