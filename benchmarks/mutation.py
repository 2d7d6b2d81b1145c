"""Would the tests notice? Mutation testing of the solvers and the weightings, on a random sample.

    python -m benchmarks.mutation --sample 400 --seed 0

Mutants are cosmic-ray's. Those that change annotations alone are no mutants, since annotations are
never evaluated here. A mutant is killed if one of the tests that reach its module fails within
the limit; one whose tests do not end in time counts as surviving. The bound is Wilson's.

Each mutant runs in a forked child of a process that has already imported torch, so that a run
costs its tests and not the imports. Survivors are listed with their diff, for reading.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.abc
import importlib.util
import json
import math
import os
import random
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("moopt/solvers", "moopt/weightings")
LIMIT = 10.0
GOAL = 0.85
# The last two need a choice of variables.
SKIPPED_OPERATORS = (
    "core/ExceptionReplacer",
    "core/VariableReplacer",
    "core/VariableInserter",
)


class Mutant(NamedTuple):
    """One change of one file."""

    path: Path
    operator: str
    occurrence: int
    source: str

    @property
    def module(self) -> str:
        return ".".join(self.path.relative_to(ROOT).with_suffix("").parts)

    def diff(self) -> str:
        lines = difflib.unified_diff(
            self.path.read_text().splitlines(), self.source.splitlines(), n=0, lineterm=""
        )
        return "\n".join(line for line in list(lines)[2:])


def positions(path: Path) -> list[tuple[Path, str, int]]:
    """(file, operator, occurrence) of every mutation of a file."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = list(ast_nodes(get_ast(path.read_text())))
    out = []
    for name in plugins.operator_names():
        if name in SKIPPED_OPERATORS:
            continue
        operator = plugins.get_operator(name)()
        count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        out += [(path, name, occurrence) for occurrence in range(count)]
    return out


def mutant_at(path: Path, name: str, occurrence: int) -> Mutant | None:
    """The mutant at a position; None where the code, annotations aside, is the original's."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    source = path.read_text()
    mutated = mutate_code(source, plugins.get_operator(name)(), occurrence)
    if mutated is None or _code(mutated) in (None, _code(source)):
        return None
    return Mutant(path, name, occurrence, mutated)


def draw(files: list[Path], size: int, seed: int) -> tuple[list[Mutant], int]:
    """(a random sample of mutants, the number of positions that it was drawn from)."""
    every = [position for path in files for position in positions(path)]
    order = random.Random(seed).sample(every, len(every))
    out: list[Mutant] = []
    for position in order:
        if len(out) == size:
            break
        mutant = mutant_at(*position)
        if mutant is not None:
            out.append(mutant)
    return out, len(every)


def _code(source: str) -> str | None:
    """The syntax tree without annotations and docstrings; None where it does not parse."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.Assign) and "Literal" in ast.unparse(node.value):
            node.value = ast.Constant(None)  # an alias of types
    return ast.dump(tree)


def tests_of(module: str) -> list[str]:
    """Arguments of pytest for the tests that reach a module, the nearest first."""
    users = _users(module)
    names = [m.rsplit(".", 1)[1] for m in users]
    folder = ROOT / "tests" / module.split(".")[1]
    named = [p for n in names for p in _test_files(n)]
    classes = sorted({c for m in users for c in _weighting_classes(m)})
    if module.startswith("moopt.solvers"):
        named += sorted(folder.glob("test_*.py"))
    named.append(ROOT / "tests" / "weightings" / "test_conformance.py")
    unique = list(dict.fromkeys(str(p) for p in named))
    chosen = "|".join(classes) or "MGDA"
    pattern = rf"test_conformance\.py::.*\[({chosen})[ \-\]]"
    return [*unique, "--mutation-conformance", pattern]


def _test_files(stem: str) -> list[Path]:
    return sorted((ROOT / "tests").rglob(f"test_{stem}.py"))


def _users(module: str) -> list[str]:
    """The module, and those of the mutated folders that import it, nearest first."""
    out, waiting = [], [module]
    while waiting:
        current = waiting.pop(0)
        if current in out:
            continue
        out.append(current)
        pattern = re.compile(rf"^\s*from {re.escape(current)} import", re.MULTILINE)
        for folder in FOLDERS:
            for path in sorted((ROOT / folder).glob("*.py")):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                hidden = path.stem in ("__init__", "registry")
                if not hidden and pattern.search(path.read_text()):
                    waiting.append(name)
    return out


def _weighting_classes(module: str) -> list[str]:
    path = ROOT / (module.replace(".", "/") + ".py")
    return re.findall(r"^class (\w+)\(\w*Weighting\):", path.read_text(), re.MULTILINE)


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


class _Select:
    """A pytest plugin: of the conformance suite, only what the mutant can reach."""

    def __init__(self, pattern: str) -> None:
        self.pattern = re.compile(pattern)

    def pytest_collection_modifyitems(self, items) -> None:  # type: ignore[no-untyped-def]
        items[:] = [
            item
            for item in items
            if "test_conformance.py" not in item.nodeid or self.pattern.search(item.nodeid)
        ]


def outcome(mutant: Mutant | None, arguments: list[str], limit: float) -> str:
    """ "killed", "survived" or "timeout" of one mutant (None: the original) in a forked child."""
    child = os.fork()
    if child == 0:
        _child(mutant, arguments)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _child(mutant: Mutant | None, arguments: list[str]) -> None:
    import pytest

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    if mutant is not None:
        sys.meta_path.insert(0, _Finder(mutant))
    *paths, _, pattern = arguments
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore:Module already imported"]
    try:
        code = int(pytest.main([*options, *paths], plugins=[_Select(pattern)]))
    except BaseException:  # a mutant may raise anything, at import too; each is a kill
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def wilson_low(killed: int, total: int, z: float = 1.96) -> float:
    """The lower end of Wilson's 95 % interval of a share."""
    share = killed / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (centre - spread) / (1 + z * z / total)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one mutant")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/mutation.json"))
    options = parser.parse_args()
    import hypothesis
    import numpy
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    # The same examples for every mutant, and as many as the limit allows.
    hypothesis.settings.register_profile("mutation", max_examples=10, derandomize=True)
    hypothesis.settings.load_profile("mutation")
    del numpy
    os.chdir(ROOT)
    files = [p for f in FOLDERS for p in sorted((ROOT / f).glob("*.py")) if p.stem != "__init__"]
    sample, count = draw(files, options.sample, options.seed)
    print(f"{count} positions in {len(files)} files; a sample of {len(sample)}", flush=True)
    for module in sorted({mutant.module for mutant in sample}):
        if outcome(None, tests_of(module), options.limit) == "killed":
            print(f"the tests of {module} fail without any mutation; mend them first")
            return 2
    results: dict[str, list[Mutant]] = {"killed": [], "survived": [], "timeout": []}
    for i, mutant in enumerate(sample):
        verdict = outcome(mutant, tests_of(mutant.module), options.limit)
        results[verdict].append(mutant)
        if verdict != "killed":
            print(f"\n{verdict}: {mutant.module} ({mutant.operator})\n{mutant.diff()}", flush=True)
        if i % 25 == 24:
            print(f"   {i + 1}: {len(results['killed'])} killed", flush=True)
    killed, total = len(results["killed"]), len(sample)
    low = wilson_low(killed, total)
    print(f"\n{killed} of {total} killed: {100 * killed / total:.1f} %, at least {100 * low:.1f} %")
    print(f"{len(results['survived'])} survived, {len(results['timeout'])} did not end in time")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows = {k: [[m.module, m.operator, m.diff()] for m in v] for k, v in results.items()}
    options.json.write_text(json.dumps({"seed": options.seed, **rows}, indent=1))
    return 0 if killed / total >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
