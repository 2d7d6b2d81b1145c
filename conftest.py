"""Settings for every pytest run, of tests and of doctests alike."""

from __future__ import annotations

import os
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.optional_packages import missing_optional

# Before torch is imported: threads that compete for few cores are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Modules that exist for an optional package cannot be collected for doctests without it.
collect_ignore_glob = []
if find_spec("triton") is None:
    collect_ignore_glob.append("moopt/kernels/*/triton.py")
if find_spec("transformers") is None:
    collect_ignore_glob.append("moopt/integrations/*")


def _skip(report: Any, error: BaseException | None, where: Path) -> None:
    package = missing_optional(error)
    if package is not None:
        report.outcome = "skipped"
        report.longrepr = (str(where), 0, f"Skipped: needs the package {package}")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """A test module that imports a missing optional package is skipped, not an error."""
    report = yield
    if report.failed and report.call.excinfo is not None:
        _skip(report, report.call.excinfo.value, collector.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """So is a test that imports one inside its body."""
    report = yield
    if report.failed and call.excinfo is not None:
        _skip(report, call.excinfo.value, item.path)
    return report
