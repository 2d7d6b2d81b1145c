"""Mutants: cosmic-ray's changes of one place, without those that change no code."""

from __future__ import annotations

import ast
import difflib
import random
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("moopt/solvers", "moopt/weightings")
# The last two need a choice of variables.
SKIPPED_OPERATORS = (
    "core/ExceptionReplacer",
    "core/VariableReplacer",
    "core/VariableInserter",
)
# Of flags `&` is `*` and `|` is `+`: nothing could notice.
OF_FLAGS = ("core/ReplaceBinaryOperator_BitAnd_Mul", "core/ReplaceBinaryOperator_BitOr_Add")


class Mutant(NamedTuple):
    """One change of one file."""

    path: Path
    operator: str
    occurrence: int
    source: str

    @property
    def module(self) -> str:
        return module_of(self.path)

    def diff(self) -> str:
        """The changed lines, without their numbers, so that it outlives changes elsewhere."""
        before, after = self.path.read_text().splitlines(), self.source.splitlines()
        lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
        return "\n".join(line for line in lines if not line.startswith("@@"))

    def line(self) -> int:
        """The first changed line of the original, from 1; not a blank one before it."""
        before, after = self.path.read_text().splitlines(), self.source.splitlines()
        matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
        changed = next(op for op in matcher.get_opcodes() if op[0] != "equal")
        lines = range(changed[1], changed[2])
        return next((i for i in lines if before[i].strip()), changed[1]) + 1


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def mutated_files() -> list[Path]:
    return [p for f in FOLDERS for p in sorted((ROOT / f).glob("*.py")) if p.stem != "__init__"]


def draw(files: list[Path], size: int, seed: int) -> tuple[list[Mutant], int]:
    """(a random sample of mutants, the number of positions that it was drawn from)."""
    every = [position for path in files for position in _positions(path)]
    order = random.Random(seed).sample(every, len(every))
    out: list[Mutant] = []
    for position in order:
        if len(out) == size:
            break
        mutant = _mutant_at(*position)
        if mutant is not None:
            out.append(mutant)
    return out, len(every)


def _positions(path: Path) -> list[tuple[Path, str, int]]:
    """(file, operator, occurrence) of every mutation of a file."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = list(ast_nodes(get_ast(path.read_text())))
    out = []
    for name in plugins.operator_names():
        if name in SKIPPED_OPERATORS or name in OF_FLAGS or _compares_identity(name):
            continue
        operator = plugins.get_operator(name)()
        count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        out += [(path, name, occurrence) for occurrence in range(count)]
    return out


def _compares_identity(operator: str) -> bool:
    """Whether an operator turns a comparison of values into `is`, whose answer is the cache's."""
    before, _, after = operator.rpartition("_")
    return after in ("Is", "IsNot") and not before.endswith(("_Is", "_IsNot"))


def _mutant_at(path: Path, name: str, occurrence: int) -> Mutant | None:
    """The mutant at a position; None where the code, annotations aside, is the original's."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    source = path.read_text()
    mutated = mutate_code(source, plugins.get_operator(name)(), occurrence)
    if mutated is None or _code(mutated) in (None, _code(source)):
        return None
    return Mutant(path, name, occurrence, mutated)


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
