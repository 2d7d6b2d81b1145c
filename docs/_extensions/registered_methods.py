"""Sphinx extension: entries and tables of every registered method, where a page marks a place.

A line of a Markdown page such as `<!-- methods: moopt.weightings.WEIGHTINGS -->` becomes a heading
and an `autoclass` for each method of that registry, and `<!-- rows: ... -->` its table of
guarantees. To read the tables without a build: `python docs/_extensions/registered_methods.py`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import moopt
from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.weightings import (
    MGDA,
    AlignedMTL,
    DualSpaceMGDA,
    Guarantee,
    RegisteredWeighting,
    Weighting,
)

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PAGE = Path(__file__).parents[1] / "methods.md"
MARK = re.compile(r"^<!-- (methods|rows): (\S+) -->$", re.MULTILINE)

COLUMNS: Mapping[Guarantee, str] = {
    Guarantee.NON_CONFLICTING: "descent",
    Guarantee.SIMPLEX: "simplex",
    Guarantee.SCALE_EQUIVARIANT: "any scale",
    Guarantee.POSITIVELY_HOMOGENEOUS: "homog.",
    Guarantee.PERMUTATION_EQUIVARIANT: "any order",
    Guarantee.ZERO_AT_STATIONARITY: "stops",
    Guarantee.IDEMPOTENT: "idemp.",
}

PREFERENCE = {"preference": [1, 2, 3]}
PAIR = {"forget": "forget", "retain": "retain"}
# Settings that change the marks, by method; tests/test_method_tables.py says if one is missing.
SETTINGS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "MGDA": ({"normalize": "l2"}, {"normalize": "loss"}, {"normalize": "loss+"}),
    "DualSpaceMGDA": (
        {"length": "keep"},
        {"variant": "projected"},
        {"variant": "projected", "length": "keep"},
    ),
    "CRMOGM": ({"weighting": DualSpaceMGDA()}, {"momentum": 0.0}),
    "NGDiff": (PAIR,),
    "GRU": (PAIR, {**PAIR, "cosine_clip": -0.5}),
    "BLUR": (PAIR,),
    "OrthogonalSteepestDescent": (PAIR,),
    "HAMU": (PAIR, {"relative": False}, {**PAIR, "relative": False}),
    "PCD": (
        {"primary": "forget", "secondary": "retain"},
        {"primary": "forget", "secondary": "retain", "tau": 0.0, "beta": 0.0},
    ),
    "AlignedMTL": (PREFERENCE,),
    "DualProj": (PREFERENCE,),
    "UPGrad": (PREFERENCE,),
    "CAGrad": ({"c": 1.5, "rescale": "linear"}, {"c": 0.0}),
    "FairGrad": ({"alpha": 1.0},),
    "PMGDA": (PREFERENCE,),
    "STCH": (PREFERENCE,),
    "AugmentedTchebycheff": ({**PREFERENCE, "reference": [1, 1, 2]},),
    "PBI": ({**PREFERENCE, "reference": [1, 1, 2]},),
    "COSMOS": (PREFERENCE,),
    "FAMO": ({"min_losses": [1, 1, 2]},),
    "GradDrop": ({"leak": [0, 0.1, 0.2]},),
    "SAGO": (PAIR,),
    "GradientEMA": ({"weighting": MGDA(normalize="l2")}, {"weighting": AlignedMTL()}),
}


def default() -> Any:
    """What `CommonDescent` uses without a weighting."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    return moopt.CommonDescent(torch.optim.SGD([parameter], lr=1.0)).weighting


def methods(registry: str) -> Iterator[tuple[RegisteredWeighting, Mapping[str, Any], Any]]:
    """Each row of a registry such as "moopt.weightings.WEIGHTINGS", the settings in which it
    differs from the defaults, and the method with these.
    """
    module, _, name = registry.rpartition(".")
    for row in getattr(importlib.import_module(module), name).values():
        for settings in ({}, *SETTINGS.get(row.name, ())):
            yield row, settings, row.build(**{**row.required, **settings})


def cells(
    row: RegisteredWeighting, settings: Mapping[str, Any], method: Any, module: str
) -> list[str]:
    """One row of a table."""
    marks = []
    for guarantee in COLUMNS:
        mark = "✓" if guarantee in method.guarantees else ""
        weaker = Guarantee.NON_CONFLICTING_IF_INDEPENDENT in method.guarantees
        if guarantee is Guarantee.NON_CONFLICTING and not mark and weaker:
            mark = "(✓)"
        marks.append(mark)
    needs = ", ".join([*sorted(method.needs), *_kept(method)])
    label = f"[{row.name}](api/{module.rpartition('.')[2]}.md#{row.name.lower()})"
    told = [(key, value) for key, value in settings.items() if value != row.required.get(key)]
    label += "".join(f", `{key}={_shown(value)}`" for key, value in told)
    if method == default():
        label += ", **the default**"
    return [label, "" if row.year is None else str(row.year), needs, *marks]


def _shown(value: Any) -> str:
    """The value of a setting; of a method, what is not its default."""
    if not isinstance(value, Weighting):
        return repr(value).replace("'", '"')
    fields = [field for field in dataclasses.fields(value) if field.init]
    given = [(field.name, getattr(value, field.name), field.default) for field in fields]
    changed = [f"{key}={_shown(now)}" for key, now, before in given if now != before]
    return f"{value.name}({', '.join(changed)})"


def _kept(method: Weighting | GradientAggregator) -> list[str]:
    """What it keeps from step to step."""
    rows = ["rows"] if isinstance(method, TrackingAggregator) else []
    return [*(["state"] if method.state_axes else []), *rows]


def table(registry: str) -> str:
    """The lines of a Markdown table."""
    module = registry.rpartition(".")[0]
    header = ["method", "year", "needs", *COLUMNS.values()]
    lines = [header, ["---"] * len(header), *(cells(*each, module) for each in methods(registry))]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def entries(registry: str) -> str:
    """A heading and the documentation of each class, in Markdown."""
    module, _, name = registry.rpartition(".")
    return "\n".join(
        f"## {row.name}\n\n```{{eval-rst}}\n.. autoclass:: {module}.{row.name}\n```\n"
        for row in getattr(importlib.import_module(module), name).values()
    )


def expanded(page: str) -> str:
    """A page with what its marks stand for."""
    made = {"methods": entries, "rows": table}
    return MARK.sub(lambda mark: made[mark[1]](mark[2]), page)


def _expand(app: Sphinx, docname: str, source: list[str]) -> None:
    if MARK.search(source[0]):
        source[0] = expanded(source[0])
        app.env.note_reread()  # the registries may change while the page does not


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it before a page is parsed."""
    app.connect("source-read", _expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    print(expanded(PAGE.read_text("utf-8")))
