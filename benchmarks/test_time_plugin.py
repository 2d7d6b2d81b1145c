"""A pytest plugin: the processor time of each test, for `benchmarks.test_time`."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS: dict[str, float] = {}


def spent() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = spent()
    result = yield
    SECONDS[item.nodeid] = spent() - before
    return result


def pytest_sessionfinish() -> None:
    Path(os.environ["MOOPT_TEST_TIMES"]).write_text(json.dumps(SECONDS))
