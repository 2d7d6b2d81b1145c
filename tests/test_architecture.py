"""The arrows between packages hold, and each rule fails on a source that breaks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import import_rules as rules

ROOT = Path(__file__).resolve().parents[1]
MOOPT = rules.read_sources(ROOT, "moopt")
OUTSIDE = {
    name: source
    for folder in ("benchmarks", "examples", "docs")
    for name, source in rules.read_sources(ROOT, folder).items()
}


def markdown_sources() -> list[rules.Source]:
    """The python blocks of the README and of the documentation, a source each."""
    return [
        rules.Source(f"{path.name}#{i}", block)
        for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        for i, block in enumerate(rules.python_blocks(path.read_text(encoding="utf-8")))
    ]


def test_the_walk_sees_the_package() -> None:
    assert {
        "moopt",
        "moopt.records.step_record",
        "moopt.solvers.min_norm",
        "moopt.optim.common_descent",
    } <= set(MOOPT)


@pytest.mark.parametrize(
    "rule",
    [
        rules.rank_violations,
        rules.third_party_violations,
        rules.distributed_violations,
        rules.heavy_import_violations,
        rules.cycles,
    ],
    ids=lambda rule: rule.__name__,
)
def test_moopt_keeps_the_rule(rule) -> None:
    assert rule(MOOPT) == []


def test_benchmarks_examples_and_docs_use_public_names_only() -> None:
    users = [*OUTSIDE.values(), *markdown_sources()]
    assert len(users) > len(OUTSIDE)
    assert rules.private_use_violations(users, MOOPT) == []


def test_every_file_holds_one_idea() -> None:
    tests = rules.read_sources(ROOT, "tests")
    assert rules.length_violations([*MOOPT.values(), *OUTSIDE.values(), *tests.values()]) == []


def test_weightings_and_gradients_never_meet() -> None:
    """The waist of the hourglass, stated apart from the table that could be edited."""
    for here, there in (("weightings", "gradients"), ("gradients", "weightings")):
        assert there not in rules.ARROWS[here]
    for here, there in (("solvers", "weightings"), ("kernels", "solvers"), ("losses", "gradients")):
        assert there not in rules.ARROWS[here]


def test_the_arrows_have_one_direction() -> None:
    """No package is reached from what it may import: there is an order, and nobody is exempt."""
    for home, allowed in rules.ARROWS.items():
        reached, waiting = set(), list(allowed)
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += rules.ARROWS[name]
        assert home not in reached, home


PLANTED = {
    "weighting imports gradients": (
        rules.rank_violations,
        {"moopt.weightings.bad": "from moopt.gradients.store import GradientStore"},
    ),
    "gradients import a weighting": (
        rules.rank_violations,
        {"moopt.gradients.bad": "import moopt.weightings"},
    ),
    "inside a function": (
        rules.rank_violations,
        {"moopt.kernels.bad": "def f():\n    from moopt.solvers import min_norm_point"},
    ),
    "for type checking": (
        rules.rank_violations,
        {
            "moopt.losses.bad": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from moopt.solvers import SolverResult"
        },
    ),
    "relative": (rules.rank_violations, {"moopt.solvers.bad": "from ..weightings import base"}),
    "relative, from a package": (
        rules.rank_violations,
        {"moopt.solvers": "from ..weightings import base", "moopt.solvers.x": ""},
    ),
    "by a string": (
        rules.rank_violations,
        {"moopt.records.step_record": "import importlib\nimportlib.import_module('moopt.kernels')"},
    ),
    "through the root": (rules.rank_violations, {"moopt.solvers.bad": "from moopt import MGDA"}),
    "a module without a rank": (rules.rank_violations, {"moopt.utils": ""}),
    "scipy in a solver": (
        rules.third_party_violations,
        {"moopt.solvers.bad": "def f():\n    import scipy.optimize"},
    ),
    "triton outside kernels": (
        rules.third_party_violations,
        {"moopt.kernels.gramian.reference": "import triton.language as tl"},
    ),
    "transformers in the core": (
        rules.third_party_violations,
        {"moopt.optim.common_descent": "from transformers import Trainer"},
    ),
    "matplotlib outside plots": (
        rules.third_party_violations,
        {"moopt.diagnostics.recorder": "import matplotlib.pyplot as plt"},
    ),
    "torch.distributed imported": (
        rules.distributed_violations,
        {"moopt.gradients.store": "import torch.distributed as dist"},
    ),
    "torch.distributed imported by name": (
        rules.distributed_violations,
        {"moopt.optim.common_descent": "from torch import distributed"},
    ),
    "torch.distributed as an attribute": (
        rules.distributed_violations,
        {"moopt.gradients.gramian": "import torch\nx = torch.distributed.is_initialized()"},
    ),
    "numpy.random at import, two modules deep": (
        rules.heavy_import_violations,
        {
            "moopt": "from moopt.solvers import f",
            "moopt.solvers": "from moopt.solvers.inner import f",
            "moopt.solvers.inner": "from numpy.random import Philox\ndef f(): ...",
        },
    ),
    "a cycle of three": (
        rules.cycles,
        {
            "moopt.a": "import moopt.b",
            "moopt.b": "def f():\n    from moopt import c",
            "moopt.c": "from moopt.a import x",
        },
    ),
    "a module that imports its own package": (
        rules.cycles,
        {"moopt.a": "from moopt.a.b import x", "moopt.a.b": "from moopt.a import y"},
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str) -> None:
    rule, texts = PLANTED[planted]
    assert rule(rules.sources_of(texts)) != []


@pytest.mark.parametrize(
    "text",
    [
        "from moopt.gradients.store import GradientStore",
        "from moopt.solvers.min_norm import min_norm_point",
        "import moopt.kernels.pieces",
        "from moopt import hidden",
        "from moopt import _hidden",
        "import moopt\nmoopt._hidden",
        "from moopt import MGDA\nMGDA._hidden",
    ],
)
def test_a_planted_private_use_is_found(text: str) -> None:
    sources = rules.sources_of({"moopt": "__all__ = ['MGDA']", "moopt.solvers": "__all__ = []"})
    user = rules.Source("benchmarks.bad", text)
    assert rules.private_use_violations([user], sources) != []


def test_benchmarks_of_kernels_take_more_and_others_do_not() -> None:
    sources = rules.sources_of(
        {
            "moopt": "__all__ = []",
            "moopt.kernels": "__all__ = []",
            "moopt.kernels.sum": "__all__ = ['total']",
            "moopt.kernels.sum.triton": "BLOCK = 8",
        }
    )
    folder, hidden, tuned = (
        "from moopt.kernels.sum import total",
        "from moopt.kernels.sum import secret",
        "from moopt.kernels.sum.triton import BLOCK",
    )

    def violations(name: str, text: str) -> list[str]:
        return rules.private_use_violations([rules.Source(name, text)], sources)

    assert violations(rules.OF_KERNELS[0], folder) == []
    assert violations(rules.TUNING + "sweep", tuned) == []
    for name in ("benchmarks.bad", "examples.bad"):
        assert violations(name, folder) != []
        assert violations(name, tuned) != []
    assert violations(rules.OF_KERNELS[0], hidden) != []
    assert violations(rules.OF_KERNELS[0], tuned) != []


def test_the_rules_accept_what_is_allowed() -> None:
    sources = rules.sources_of(
        {
            "moopt": "from moopt.weightings import MGDA\n__all__ = ['MGDA']",
            "moopt.weightings": "from moopt.weightings.mgda import MGDA",
            "moopt.weightings.mgda": "import math, torch\nfrom moopt.solvers import s",
            "moopt.solvers": "def s():\n    import numpy",
        }
    )
    for rule in (
        rules.rank_violations,
        rules.third_party_violations,
        rules.distributed_violations,
        rules.heavy_import_violations,
        rules.cycles,
    ):
        assert rule(sources) == []
    user = rules.Source("examples.good", "from moopt import MGDA\nfrom moopt import weightings")
    assert rules.private_use_violations([user], sources) == []


def test_public_names_are_those_of_all_and_those_imported_as_themselves() -> None:
    text = "from a import B as B, C, D as E\n__all__ = [*ROWS, 'C']"
    assert rules.public_names(rules.Source("moopt", text)) == {"B", "C"}


@pytest.mark.parametrize(("name", "lines"), [("moopt.bad", 351), ("moopt.kernels.bad", 501)])
def test_a_planted_long_file_is_found(name: str, lines: int) -> None:
    assert rules.length_violations([rules.Source(name, "x = 1\n" * (lines - 1))]) == []
    assert rules.length_violations([rules.Source(name, "x = 1\n" * lines)]) != []


IMPORT_TRACE = """
import sys
loaded = lambda: {name.split(".")[0] for name in sys.modules}
import torch
after_torch = loaded()
import moopt
after_moopt = loaded()
import pytest
print(*(after_moopt - after_torch - sys.stdlib_module_names), "|", *(loaded() - after_moopt))
"""


def test_import_moopt_loads_no_third_party_module() -> None:
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_TRACE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    by_moopt, by_pytest = run.stdout.split("|")
    assert by_moopt.split() == ["moopt"]
    assert "pytest" in by_pytest.split()  # so an import that adds something is seen
