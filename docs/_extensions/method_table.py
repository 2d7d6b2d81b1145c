"""Sphinx extension: the table of methods and their guarantees, printed from the registry's rows."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.weightings import Guarantee, RegisteredWeighting, Weighting

COLUMNS: Mapping[Guarantee, str] = {
    Guarantee.NON_CONFLICTING: "descent",
    Guarantee.SIMPLEX: "simplex",
    Guarantee.SCALE_EQUIVARIANT: "any loss scale",
    Guarantee.POSITIVELY_HOMOGENEOUS: "homo­geneous",
    Guarantee.PERMUTATION_EQUIVARIANT: "any order",
    Guarantee.ZERO_AT_STATIONARITY: "stops",
    Guarantee.IDEMPOTENT: "idem­potent",
}


def cells(row: RegisteredWeighting, module: str) -> list[str]:
    """One row of the table, in reStructuredText."""
    method = row.example()
    marks = []
    for guarantee in COLUMNS:
        mark = "✓" if guarantee in method.guarantees else ""
        weaker = Guarantee.NON_CONFLICTING_IF_INDEPENDENT in method.guarantees
        if guarantee is Guarantee.NON_CONFLICTING and not mark and weaker:
            mark = "(✓)"
        marks.append(mark)
    needs = ", ".join([*sorted(method.needs), *_kept(method)])
    year = "" if row.year is None else str(row.year)
    return [f":class:`~{module}.{row.name}`", year, needs, *marks]


def _kept(method: Weighting | GradientAggregator) -> list[str]:
    """What it keeps from step to step."""
    rows = ["rows"] if isinstance(method, TrackingAggregator) else []
    return [*(["state"] if method.state_axes else []), *rows]


def table(rows: Iterable[RegisteredWeighting], module: str) -> list[str]:
    """The lines of a list-table."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: methods", ""]
    for row in [["method", "year", "needs", *COLUMNS.values()], *(cells(r, module) for r in rows)]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return lines


class MethodTable(SphinxDirective):
    """`.. method-table:: moopt.weightings.WEIGHTINGS`"""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Read the registry, and parse the table as if it stood on the page."""
        module, name = self.arguments[0].rsplit(".", 1)
        rows = getattr(importlib.import_module(module), name).values()
        container = nodes.container()
        lines = StringList(table(rows, module), source=self.arguments[0])
        self.state.nested_parse(lines, self.content_offset, container)
        return container.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("method-table", MethodTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
