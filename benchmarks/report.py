"""The report of one benchmark: tables of at most 100 columns, gates, JSON, exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import environment

MAX_COLUMNS = 100
REFUSED = "gate failed"


class Report:
    """Collects what a benchmark finds, prints it, and decides the exit code.

    Correctness gates come first: `speedup` returns a refusal instead of a number once a gate
    that it depends on has failed, so no ratio of wrong results is ever printed.
    """

    def __init__(self, name: str, claim: str) -> None:
        self.name = name
        self.results: dict[str, Any] = {}
        self.gates: dict[str, tuple[bool, str]] = {}
        self.environment = environment()
        print(f"\n== {name}: {claim}")
        for key, value in self.environment.items():
            print(f"   {key}: {value}")

    def gate(self, name: str, passed: bool, detail: str) -> bool:
        """Record one correctness gate and print it."""
        self.gates[name] = (bool(passed), detail)
        print(f"   [{'ok' if passed else 'FAILED'}] {name}: {detail}")
        return bool(passed)

    @property
    def passed(self) -> bool:
        """Whether every gate so far has passed."""
        return all(passed for passed, _ in self.gates.values())

    def speedup(self, slow: float, fast: float) -> str:
        """`slow / fast` as text, or a refusal if a gate has failed."""
        if not self.passed:
            return REFUSED
        return f"{slow / fast:.1f}x" if fast > 0 else f"> {slow:.2g}/0"

    def goal(self, name: str, value: float, at_least: float) -> None:
        """Print whether a speed goal is met; goals depend on the machine and gate nothing."""
        if not self.passed:
            print(f"   goal {name}: {REFUSED}")
            return
        verdict = "met" if value >= at_least else "MISSED"
        print(f"   goal {name}: {value:.1f}x of at least {at_least:g}x: {verdict}")
        self.results.setdefault("goals", {})[name] = {
            "value": value,
            "at_least": at_least,
            "met": value >= at_least,
        }

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; too wide a table is a programming error."""
        print(format_table(headers, rows))

    def write(self, path: Path) -> None:
        """Write environment, gates and results as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "benchmark": self.name,
            "environment": self.environment,
            "gates": {k: {"passed": p, "detail": d} for k, (p, d) in self.gates.items()},
            "results": self.results,
        }
        path.write_text(json.dumps(content, indent=2) + "\n")


def format_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns padded to their widest cell; the first left-aligned, the others right-aligned.

    Raises:
        ValueError: if a line would exceed 100 columns.
    """
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(headers))]
    if sum(widths) + 2 * (len(widths) - 1) > MAX_COLUMNS:
        raise ValueError(
            f"a table must fit {MAX_COLUMNS} columns; got widths {widths}. Shorten the headers"
            " or split the table."
        )
    lines = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def main(name: str, claim: str, run: Callable[[Report, bool], bool | None]) -> None:
    """Parse the command line, run one benchmark on one thread, write JSON, exit 1 on a gate.

    A `run` that returns False has missed goals that it is there for: exit 1 too.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=claim)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks") / f"{name}.json")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, noisier figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(name, claim)
    met = run(report, options.quick)
    report.write(options.json)
    print(f"   written to {options.json}")
    if not report.passed:
        print("   a correctness gate FAILED: no speed-up above is to be trusted")
        sys.exit(1)
    if met is False:
        sys.exit(1)
