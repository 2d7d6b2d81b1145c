"""The public names: documented, with a doctest each, and with the signatures that are fixed."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch

import moopt
from tests.import_rules import PUBLIC_PACKAGES

ROOT = Path(__file__).resolve().parents[1]
MODULES = list(PUBLIC_PACKAGES)
NAMES = [
    f"{module}.{name}"
    for module in MODULES
    for name in importlib.import_module(module).__all__
    if name != "__version__"
]
SUBMODULES = {
    "moopt.aggregators",
    "moopt.losses",
    "moopt.scalarizations",
    "moopt.solvers",
    "moopt.weightings",
}


def resolve(qualified: str) -> object:
    module, name = qualified.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def doctest_count(thing: object) -> int:
    """How many doctest statements the docstring of `thing` holds."""
    return len(doctest.DocTestParser().get_examples(inspect.getdoc(thing) or ""))


def undocumented(qualified: str, thing: object) -> str | None:
    """Why `thing` is not documented well enough; None if it is."""
    doc = thing.__dict__.get("__doc__") if isinstance(thing, type) else inspect.getdoc(thing)
    if not doc:
        return f"{qualified} has no docstring of its own"
    if not doctest_count(thing):
        return f"{qualified} has no doctest"
    return None


@pytest.mark.parametrize("qualified", [name for name in NAMES if name not in SUBMODULES])
def test_every_public_name_has_a_docstring_with_a_doctest(qualified: str) -> None:
    thing = resolve(qualified)
    if callable(thing):
        assert undocumented(qualified, thing) is None
    else:
        assert isinstance(thing, Mapping)  # the registry: data, not behaviour


def test_the_documentation_check_can_fail() -> None:
    class Bare:
        pass

    class Wordy:
        """Words, and no example."""

    assert undocumented("Bare", Bare)
    assert undocumented("Wordy", Wordy)


def extension(name: str) -> ModuleType:
    """An extension of the documentation."""
    path = ROOT / "docs" / "_extensions" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented_in(pages: str) -> set[str]:
    """Names with an `auto...` directive in the text of the API pages."""
    return set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", pages, flags=re.MULTILINE))


def missing_pages(names: list[str], documented: set[str]) -> set[str]:
    known = {id(resolve(name)) for name in documented}
    return {name for name in names if name not in SUBMODULES and id(resolve(name)) not in known}


def test_every_public_name_is_in_the_api_reference() -> None:
    expanded = extension("registered_methods").expanded
    pages = "".join(expanded(p.read_text("utf-8")) for p in (ROOT / "docs" / "api").glob("*.md"))
    documented = documented_in(pages)
    assert missing_pages(NAMES, documented) == set()
    assert missing_pages(NAMES, documented - {"moopt.CommonDescent"}) == {"moopt.CommonDescent"}


def test_the_documentation_build_warns_about_an_undocumented_name() -> None:
    pytest.importorskip("sphinx")
    check = extension("public_names").undocumented
    assert check(["moopt"], NAMES) == []
    present = [name for name in NAMES if not name.endswith(".StepRecord")]
    assert check(["moopt"], present) == ["moopt.StepRecord"]


def test_packages_are_there_after_import_moopt_alone() -> None:
    program = "import moopt; print(*(getattr(moopt, name).__name__ for name in moopt._PACKAGES))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == sorted(set(MODULES) - {"moopt"}), done.stderr
    assert set(dir(moopt)) == {*moopt.__all__, *moopt._PACKAGES}
    with pytest.raises(AttributeError, match="module 'moopt' has no attribute 'GRU'"):
        _ = moopt.GRU


def test_all_lists_are_sorted_and_without_repetition() -> None:
    for module in MODULES:
        names = importlib.import_module(module).__all__
        assert len(set(names)) == len(names), module


EARLIER = [
    line
    for line in (ROOT / "tests" / "public_names.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
"""What was public at c41d9c8; no name of it may go."""


def found(qualified: str) -> object:
    """What a dotted name stands for, after the import of the longest package in it."""
    package = max((m for m in MODULES if qualified.startswith(f"{m}.")), key=len)
    thing: object = importlib.import_module(package)
    for part in qualified.removeprefix(f"{package}.").split("."):
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize("qualified", EARLIER)
def test_every_name_that_was_public_still_is(qualified: str) -> None:
    found(qualified)


def test_a_name_that_is_gone_is_noticed() -> None:
    assert len(EARLIER) > 200
    for name in ("moopt.Vanished", "moopt.weightings.MGDA.vanished"):
        with pytest.raises(AttributeError):
            found(name)


FIXED_NAMES = {
    "moopt": (
        "CommonDescent backward StepStatistics StepRecord SolverStatus"
        " MGDA DualSpaceMGDA Mean Sum Constant"
    ),
    "moopt.solvers": "min_norm_point SolverResult",
    "moopt.weightings": "MGDA DualSpaceMGDA Mean Sum Constant WeightingOutput",
    "moopt.scalarizations": (
        "RLW DWA GLS UW IMTLL FAMO STCH PBI COSMOS AugmentedTchebycheff SCALARIZATIONS"
    ),
    "moopt.aggregators": "GradDrop TrimmedMean SAGO GradientAggregator",
    "moopt.losses": (
        "UnlearningCrossEntropyLoss GradientAscentLoss NPOLoss SimNPOLoss"
        " TokenCrossEntropyLoss ReferenceKLLoss"
    ),
}


@pytest.mark.parametrize("module", FIXED_NAMES)
def test_the_fixed_names_are_public(module: str) -> None:
    assert set(FIXED_NAMES[module].split()) <= set(importlib.import_module(module).__all__)


def parameters(function: object) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(function).parameters)  # type: ignore[arg-type]
    found.pop("self", None)
    return found


POSITIONAL, KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
REQUIRED = inspect.Parameter.empty
SIGNATURES = {
    "CommonDescent": {
        "optimizer": (POSITIONAL, REQUIRED),
        "weighting": (POSITIONAL, None),
        "shared": (KEYWORD, None),
        "objectives": (KEYWORD, None),
        "inactive_tol": (KEYWORD, 1e-5),
        "record_every": (KEYWORD, 1),
    },
    "CommonDescent.backward": {
        "losses": (POSITIONAL, REQUIRED),
        "scaler": (KEYWORD, None),
        "accumulate": (KEYWORD, False),
    },
    "CommonDescent.objective": {"name": (POSITIONAL, REQUIRED), "loss": (POSITIONAL, None)},
    "CommonDescent.step": {"closure": (POSITIONAL, None)},
    "backward": {
        "losses": (POSITIONAL, REQUIRED),
        "optimizer_or_parameters": (POSITIONAL, REQUIRED),
        "weighting": (POSITIONAL, None),
        "scaler": (KEYWORD, None),
        "shared": (KEYWORD, None),
    },
    "solvers.min_norm_point": {
        "gramian": (POSITIONAL, REQUIRED),
        "solver": (KEYWORD, "auto"),
        "tol": (KEYWORD, 1e-10),
    },
}


@pytest.mark.parametrize("path", SIGNATURES)
def test_the_fixed_signatures(path: str) -> None:
    thing: object = moopt
    for part in path.split("."):
        thing = getattr(thing, part)
    found = parameters(thing)
    for name, (kind, default) in SIGNATURES[path].items():
        assert (found[name].kind, found[name].default) == (kind, default), name
    required = {
        name
        for name, p in found.items()
        if p.default is REQUIRED and p.kind in (POSITIONAL, KEYWORD)
    }
    assert required <= {n for n, (_, default) in SIGNATURES[path].items() if default is REQUIRED}


def test_the_result_types_have_the_fixed_fields() -> None:
    assert moopt.solvers.SolverResult._fields == ("weights", "status", "gap", "num_iter")
    assert moopt.weightings.WeightingOutput._fields == ("weights", "state", "result")
    expected = (
        "names losses weights gramian norms cosines inactive conflicts stationarity status gap"
        " bypassed"
    )
    weight = torch.nn.Parameter(torch.ones(1))
    record = moopt.backward({"a": weight.sum()}, [weight])
    assert all(hasattr(record, field) for field in expected.split())


@pytest.mark.parametrize(
    "weighting",
    [
        *({"normalize": value} for value in ("none", "l2", "loss", "loss+")),
        *({"variant": value} for value in ("unit_dual", "dual_basis", "projected")),
    ],
    ids=str,
)
def test_every_fixed_setting_can_be_called_by_hand(weighting: dict[str, str]) -> None:
    method = (moopt.MGDA if "normalize" in weighting else moopt.DualSpaceMGDA)(**weighting)
    gramian = torch.tensor([[2.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    losses = torch.tensor([1.0, 1.0], dtype=torch.float64)
    output = method(moopt.StepStatistics(gramian=gramian, losses=losses), state=None)
    assert output.weights.dtype == torch.float64
    assert bool(((gramian @ output.weights) > 0).all())


def test_the_losses_are_modules_with_a_functional_twin() -> None:
    for name in FIXED_NAMES["moopt.losses"].split():
        module = getattr(moopt.losses, name)
        assert issubclass(module, torch.nn.Module)
        assert list(parameters(module.forward))[:2] == ["logits", "labels"]
    twins = [name for name in moopt.losses.__all__ if name.endswith("_loss")]
    assert len(twins) == len(FIXED_NAMES["moopt.losses"].split())


def test_every_status_is_explained_in_the_docs() -> None:
    page = (ROOT / "docs" / "numerics.md").read_text("utf-8")
    for status in moopt.SolverStatus:
        assert f"`{status.name}`" in page
        assert status.explanation
