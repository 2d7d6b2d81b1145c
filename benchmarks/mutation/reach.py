"""Which tests reach a mutant: measured, by running every test once under a line tracer."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.mutation.child import OPTIONS, Selection, few_examples
from benchmarks.mutation.mutants import FOLDERS, ROOT, Mutant, mutated_files

TESTS = ("tests/solvers", "tests/weightings")
CACHE = ROOT / "runs/benchmarks/mutation_reach.json"

BUDGET = 4.0
"""CPU seconds of the chosen tests on the original, well below the limit; under the tracer, so that
without it they take less."""

COLLECTION = "::collection"
"""Ends the name that stands for a test, in the lines that run while a file is collected."""

CLAIMS = "tests/weightings/test_conformance.py"
"""The file whose tests are made from what the library claims."""

INSPECTING = "tests/weightings/test_registry.py"
"""The file whose tests look at classes and signatures without running them."""

FILE = 0.05
"""CPU seconds to collect a file; the conformance suite takes one."""

TOGETHER = 4
"""Instances of one parametrized test before the others have had a turn."""


class Reach:
    """Lines of the mutated files that each test runs, and its CPU seconds.

    Args:
        seconds: by test.
        lines: the tests by (file relative to the root, line).
    """

    def __init__(self, seconds: dict[str, float], lines: dict[str, dict[int, set[str]]]) -> None:
        self.seconds, self.lines = seconds, lines

    def tests_of(self, mutant: Mutant) -> Selection:
        """The tests that run the mutated statement, the cheapest first, up to the budget.

        Where it runs nowhere, or while tests are collected alone: those that run its module.
        """
        found: set[str] = set()
        if _runs_on_import(mutant):
            found |= {test for test in self.seconds if test.startswith(INSPECTING)}
        for file, first, last in _statement(mutant):
            for line, tests in self.lines.get(file, {}).items():
                if first <= line <= last:
                    found |= tests
        if all(test.endswith(COLLECTION) or test.startswith(INSPECTING) for test in found):
            found |= self._tests_of_module(mutant.path)
        # Every import runs code while tests are collected; only here does it decide about tests.
        found = {t for t in found if not t.endswith(COLLECTION) or t.startswith(CLAIMS)}
        collected = any(test.endswith(COLLECTION) for test in found)
        known = frozenset(self.seconds) if collected else None
        return Selection(self._within_budget(found), known)

    def of_module(self, path: Path) -> Selection:
        """The tests that run anything of a module, the cheapest first, up to the budget."""
        tests = {t for t in self._tests_of_module(path) if not t.endswith(COLLECTION)}
        return Selection(self._within_budget(tests), None)

    def _tests_of_module(self, path: Path) -> set[str]:
        return set().union(*self.lines.get(str(path.relative_to(ROOT)), {0: set()}).values())

    def _within_budget(self, tests: set[str]) -> list[str]:
        turns: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            turns[test.split("[")[0]].append(test)
        order = sorted(
            (k // TOGETHER, self.seconds[test], test)
            for group in turns.values()
            for k, test in enumerate(group)
        )
        out, spent = [], 0.0
        files: set[str] = set()
        for _, cost, test in order:
            file = test.split("::")[0]
            cost += 0.0 if file in files else 1.0 if file == CLAIMS else FILE
            if spent + cost <= BUDGET:
                out.append(test)
                files.add(file)
                spent += cost
        return out


def _runs_on_import(mutant: Mutant) -> bool:
    """Whether the mutated code is a decorator, a default or the body of a class or module."""
    nodes: list[ast.stmt] = []
    _descend(ast.parse(mutant.path.read_text()).body, mutant.line(), nodes)
    inside = [node for node in nodes[:-1] if isinstance(node, ast.FunctionDef)]
    return not inside


def _statement(mutant: Mutant) -> list[tuple[str, int, int]]:
    """(file, first line, last line) of what runs the mutated code."""
    line, source = mutant.line(), mutant.path.read_text()
    path = str(mutant.path.relative_to(ROOT))
    nodes: list[ast.stmt] = []
    _descend(ast.parse(source).body, line, nodes)
    innermost = nodes[-1]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef)]
    if isinstance(innermost, ast.FunctionDef):  # a decorator, or a default
        return [(path, innermost.body[0].lineno, innermost.end_lineno or 0)]
    if functions:
        last = innermost.end_lineno or 0
        body = getattr(innermost, "body", None)
        if body:  # the head of a compound statement
            last = max(innermost.lineno, body[0].lineno - 1)
        return [(path, innermost.lineno, last)]
    names = {n.id for n in ast.walk(innermost) if isinstance(n, ast.Name)}
    if isinstance(innermost, ast.Assign | ast.AnnAssign):
        target = innermost.targets[0] if isinstance(innermost, ast.Assign) else innermost.target
        names = {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b")
        files = mutated_files() if len(nodes) == 1 else [mutant.path]
        return [
            (str(file.relative_to(ROOT)), i, i)
            for file in files
            for i, text in enumerate(file.read_text().splitlines(), 1)
            if pattern.search(text)
        ]
    return []  # an import, or the head of a class: every test of the module


def _descend(body: list[ast.stmt], line: int, nodes: list[ast.stmt]) -> None:
    for node in body:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)])
        if first <= line <= (node.end_lineno or 0):
            nodes.append(node)
            for field in ("body", "orelse", "finalbody"):
                _descend(getattr(node, field, []), line, nodes)
            for handler in getattr(node, "handlers", []):
                _descend(handler.body, line, nodes)


def measured(workers: int = 1) -> Reach:
    """The reach of every test; of the files that have changed since, measured again."""
    cache = json.loads(CACHE.read_text()) if CACHE.exists() else {}
    sources = [p for t in ("moopt", "tests") for p in (ROOT / t).rglob("*.py")]
    support = _digest([p for p in sources if not p.name.startswith("test_")])
    paths = [p for t in TESTS for p in sorted((ROOT / t).glob("test_*.py"))]
    keys = {str(path.relative_to(ROOT)): support + _digest([path]) for path in paths}
    stale = [name for name, key in keys.items() if cache.get(name, {}).get("key") != key]
    # The longest first, so that the workers end together.
    size = {name: (ROOT / name).stat().st_size for name in stale}
    for name, tests in _measure(sorted(stale, key=lambda name: -size[name]), workers):
        cache[name] = {"key": keys[name], "tests": tests}
        print(f"   {name}: {sum(t['seconds'] for t in tests.values()):.1f} s", flush=True)
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    CACHE.write_text(json.dumps(cache))
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in keys:
        for test, found in cache[name]["tests"].items():
            seconds[test] = found["seconds"]
            for path, numbers in found["lines"].items():
                for number in numbers:
                    lines[path][number].add(test)
    return Reach(seconds, lines)


def _digest(paths: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def _measure(files: list[str], workers: int) -> Iterator[tuple[str, dict[str, dict]]]:
    """(file, {test: seconds and lines}) of each file, in forked children; a failure is an error."""
    waiting, running = files[::-1], {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < workers:
                file = waiting.pop()
                target = Path(folder) / file.replace("/", ".")
                sys.stdout.flush()
                child = os.fork()
                if child == 0:
                    _trace(file, target)
                running[child] = (file, target)
            child, _ = os.wait()
            file, target = running.pop(child)
            text = target.read_text() if target.exists() else ""
            found = json.loads(text) if text else {"failed": ["the tests do not start"]}
            if found["failed"]:
                raise SystemExit(f"{file} fails without any mutation: {found['failed']}; mend it.")
            yield file, found["tests"]


class _Tracer:
    """A pytest plugin: the lines and the CPU seconds of each test."""

    def __init__(self, coverage) -> None:  # type: ignore[no-untyped-def]
        self.coverage = coverage
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items) -> None:  # type: ignore[no-untyped-def]
        for item in items:
            few_examples(item.function)

    def pytest_runtest_logstart(self, nodeid, location) -> None:  # type: ignore[no-untyped-def]
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = -time.process_time()

    def pytest_runtest_logreport(self, report) -> None:  # type: ignore[no-untyped-def]
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid, location) -> None:  # type: ignore[no-untyped-def]
        self.seconds[nodeid] += time.process_time()
        self.coverage.switch_context("")


def _trace(file: str, target: Path) -> None:
    import coverage
    import pytest

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    tracer = coverage.Coverage(data_file=None, source=[str(ROOT / f) for f in FOLDERS])
    plugin = _Tracer(tracer)
    tracer.start()
    tracer.switch_context(file + COLLECTION)
    # Compiled code is not traced, and too slow here.
    code = pytest.main([*OPTIONS, "-m", "not slow", file], plugins=[plugin])
    tracer.stop()
    tests: dict[str, dict] = {
        test: {"seconds": seconds, "lines": {}} for test, seconds in plugin.seconds.items()
    }
    tests[file + COLLECTION] = {"seconds": 0.0, "lines": {}}
    data = tracer.get_data()
    for path in data.measured_files():
        name = str(Path(path).relative_to(ROOT))
        for line, contexts in data.contexts_by_lineno(path).items():
            for test in contexts:
                if test in tests:
                    tests[test]["lines"].setdefault(name, []).append(line)
    failed = plugin.failed or ([] if code in (0, 5) else [f"exit {code}"])
    target.write_text(json.dumps({"tests": tests, "failed": failed}))
    os._exit(0)
