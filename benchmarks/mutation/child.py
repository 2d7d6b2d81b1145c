"""Tests in a forked child, of the original or of a mutant, within CPU seconds."""

from __future__ import annotations

import gc
import importlib.abc
import importlib.util
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.mutation.mutants import Mutant

BACKSTOP = 12.0
"""Wall-clock seconds for one CPU second of the limit: against a child that sleeps."""

OPTIONS = ["-q", "-p", "no:cacheprovider", "-W", "ignore:Module already imported"]
EXAMPLES = 10

NO_TESTS = 5
"""pytest's exit code where nothing was selected: nothing has failed."""


def preload() -> None:
    """Import what the tests need from elsewhere, so that a child costs its tests alone."""
    import cvxpy  # noqa: F401
    import hypothesis
    import pytest  # noqa: F401
    import scipy.optimize  # noqa: F401
    import torch
    import torchjd.aggregation  # noqa: F401
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch.set_num_threads(1)
    # The first use of a fake tensor and of the compiler costs seconds.
    with FakeTensorMode():
        torch.eye(2).sort(-1)
    torch.compile(torch.sin, backend="aot_eager", fullgraph=True)(torch.ones(2))
    torch.compiler.reset()
    # The same examples for every mutant; a failure is a kill, and need not be shrunk.
    hypothesis.settings.register_profile(
        "mutation",
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )
    hypothesis.settings.load_profile("mutation")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.freeze()


class Selection(NamedTuple):
    """Tests, in order.

    Attributes:
        tests: pytest's names.
        known: every test of the original, where the mutated code decides which tests there are
            (what is new runs first), else None.
    """

    tests: list[str]
    known: frozenset[str] | None


class Chosen:
    """A pytest plugin: only these tests, in this order, each with few examples."""

    def __init__(self, chosen: Selection) -> None:
        self.known = chosen.known
        self.place = {test: i for i, test in enumerate(chosen.tests)}
        self.functions = {test.split("[")[0] for test in chosen.tests}

    def pytest_pycollect_makeitem(self, collector, name, obj):  # type: ignore[no-untyped-def]
        """Spares the parameters of functions that are not wanted."""
        wanted = self.known is not None or f"{collector.nodeid}::{name}" in self.functions
        return None if wanted or not name.startswith("test_") else []

    def pytest_collection_modifyitems(self, items) -> None:  # type: ignore[no-untyped-def]
        items[:] = [
            item
            for item in items
            if item.nodeid in self.place
            or (self.known is not None and item.nodeid not in self.known)
        ]
        items.sort(key=lambda item: self.place.get(item.nodeid, -1))
        for item in items:
            few_examples(item.function)


def few_examples(function) -> None:  # type: ignore[no-untyped-def]
    """Settings in the source of a test outrank the profile, so they are changed here."""
    import hypothesis

    if not hypothesis.is_hypothesis_test(function):
        return
    name = "_hypothesis_internal_use_settings"
    old = getattr(function, name)
    profile = hypothesis.settings()
    new = hypothesis.settings(
        old,
        max_examples=min(old.max_examples, EXAMPLES),
        phases=profile.phases,
        derandomize=True,
        database=None,
    )
    setattr(function, name, new)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the mutated source in place of the file's."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != self.mutant.module:
            return None
        return importlib.util.spec_from_loader(name, self, origin=str(self.mutant.path))

    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        code = compile(self.mutant.source, str(self.mutant.path), "exec")
        module.__file__ = str(self.mutant.path)
        exec(code, module.__dict__)


class Job(NamedTuple):
    """A mutant (None: the original) and the tests to run on it."""

    mutant: Mutant | None
    chosen: Selection


def outcomes(jobs: Sequence[Job], limit: int, workers: int = 1) -> Iterator[tuple[int, str]]:
    """(place among the jobs, verdict) of each job as it ends, `workers` at a time.

    "passed", "failed" or "endless": more than `limit` CPU seconds.
    """
    waiting = list(enumerate(jobs))[::-1]
    running: dict[int, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            place, job = waiting.pop()
            running[_started(job, limit)] = (place, time.monotonic() + BACKSTOP * limit)
        time.sleep(0.01)
        for child, (place, deadline) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del running[child]
                code = os.waitstatus_to_exitcode(status)
                ended = code not in (-signal.SIGXCPU, -signal.SIGKILL)
                yield (
                    place,
                    "endless" if not ended else "passed" if code in (0, NO_TESTS) else "failed",
                )
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)


def outcome(mutant: Mutant | None, chosen: Selection, limit: int) -> str:
    """The verdict of one job."""
    return next(outcomes([Job(mutant, chosen)], limit))[1]


def _started(job: Job, limit: int) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        _run(*job)
    return child


def _run(mutant: Mutant | None, chosen: Selection) -> None:
    import pytest

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    if mutant is not None:
        sys.meta_path.insert(0, _Finder(mutant))
    files = list(dict.fromkeys(test.split("::")[0] for test in chosen.tests))
    try:
        code = int(
            pytest.main(["-x", *OPTIONS, "-m", "not slow", *files], plugins=[Chosen(chosen)])
        )
    except BaseException:  # a mutant may raise anything, at import too; each is a kill
        traceback.print_exc()
        code = 1
    os._exit(code)
