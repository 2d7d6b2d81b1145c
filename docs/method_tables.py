"""Print the tables of docs/methods.md from the registries: `python docs/method_tables.py`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.weightings import Guarantee, RegisteredWeighting, Weighting

PAGE = Path(__file__).with_name("methods.md")
BLOCK = re.compile(r"(<!-- rows: (\S+) -->\n)(.*?)(<!-- end rows -->)", re.DOTALL)

COLUMNS: Mapping[Guarantee, str] = {
    Guarantee.NON_CONFLICTING: "descent",
    Guarantee.SIMPLEX: "simplex",
    Guarantee.SCALE_EQUIVARIANT: "any loss scale",
    Guarantee.POSITIVELY_HOMOGENEOUS: "homogeneous",
    Guarantee.PERMUTATION_EQUIVARIANT: "any order",
    Guarantee.ZERO_AT_STATIONARITY: "stops",
    Guarantee.IDEMPOTENT: "idempotent",
}


def cells(row: RegisteredWeighting, module: str) -> list[str]:
    """One row of a table."""
    method = row.example()
    marks = []
    for guarantee in COLUMNS:
        mark = "✓" if guarantee in method.guarantees else ""
        weaker = Guarantee.NON_CONFLICTING_IF_INDEPENDENT in method.guarantees
        if guarantee is Guarantee.NON_CONFLICTING and not mark and weaker:
            mark = "(✓)"
        marks.append(mark)
    needs = ", ".join([*sorted(method.needs), *_kept(method)])
    page = f"api/{module.rpartition('.')[2]}.md"
    return [f"[{row.name}]({page})", "" if row.year is None else str(row.year), needs, *marks]


def _kept(method: Weighting | GradientAggregator) -> list[str]:
    """What it keeps from step to step."""
    rows = ["rows"] if isinstance(method, TrackingAggregator) else []
    return [*(["state"] if method.state_axes else []), *rows]


def table(registry: str) -> str:
    """The lines of a Markdown table, of a registry such as "moopt.weightings.WEIGHTINGS"."""
    module, _, name = registry.rpartition(".")
    header = ["method", "year", "needs", *COLUMNS.values()]
    rows = getattr(importlib.import_module(module), name).values()
    lines = [header, ["---"] * len(header), *(cells(row, module) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def page_with_tables(text: str) -> str:
    """The page, its tables printed anew."""
    return BLOCK.sub(lambda block: block[1] + table(block[2]) + block[4], text)


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text("utf-8")), encoding="utf-8")
