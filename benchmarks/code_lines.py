"""How many lines of code has each package of the library?

    python -m benchmarks.code_lines [--against c41d9c8]

A line counts if it holds any token of Python but a docstring or a comment, a string under an
attribute being a docstring too; the files are formatted by ruff.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

from benchmarks.report import format_table

ROOT = Path(__file__).resolve().parents[1]
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """The number of lines of one file."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


FASTER = "kernels: faster or leaner forms"
"""Of kernels that have a plain form too, which counts with the others."""


def package_of(name: str) -> str:
    """Where a module counts, by its path from the root of the repository."""
    _, *folders, file = name.split("/")
    names = ("backends.py", "fused.py", "gates.py", "linear.py", "table.py", "triton.py")
    if folders[:1] == ["kernels"] and ("native" in folders or file in names):
        return FASTER
    return folders[0] if folders else "(loose)"


def by_package(revision: str | None) -> Counter[str]:
    """Code lines of each package in the working tree, or in a revision."""
    counts: Counter[str] = Counter()
    for name, source in sources(revision).items():
        counts[package_of(name)] += code_lines(source)
    return counts


def sources(revision: str | None) -> dict[str, str]:
    """The text of every module, by its path from the root of the repository."""
    if revision is None:
        return {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "moopt").rglob("*.py")}
    names = git("ls-tree", "-r", "--name-only", revision, "moopt").splitlines()
    return {name: git("show", f"{revision}:{name}") for name in names if name.endswith(".py")}


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--against", metavar="REVISION", help="an earlier revision to compare with")
    options = parser.parse_args()
    now = by_package(None)
    before = by_package(options.against) if options.against else Counter()
    header = ["package", *([options.against] if options.against else []), "now"]
    rows = [
        [name, *([str(before[name])] if options.against else []), str(now[name])]
        for name in sorted({*now, *before})
    ]
    for name, left_out in (("all", 0), ("all but these forms", now[FASTER])):
        total = [str(before.total())] if options.against else []
        rows.append([name, *total, str(now.total() - left_out)])
    print(format_table(header, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
