"""The architecture as data and pure functions: sources in, sentences about violations out."""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# The arrows of docs/architecture.md: a package may import itself and what is named here.
# The longest matching prefix decides; a module without an entry is a violation. No package is
# exempt: the arrows have no cycle, which `test_the_arrows_have_one_direction` checks.
GROUND = frozenset({"__version__", "records", "settings"})
SMALL_MATHS = GROUND | {"kernels", "solvers"}
METHODS = frozenset({"weightings", "scalarizations", "aggregators"})
ARROWS: Mapping[str, frozenset[str]] = {
    "__version__": frozenset(),
    "records": frozenset(),
    "settings": frozenset({"records"}),
    "kernels": GROUND,
    "solvers": GROUND | {"kernels"},
    "gradients": GROUND | {"kernels"},
    "losses": GROUND | {"kernels"},
    "diagnostics": SMALL_MATHS,
    "projection": SMALL_MATHS,
    "weightings": SMALL_MATHS,
    "scalarizations": SMALL_MATHS | {"weightings"},
    "aggregators": SMALL_MATHS | {"weightings", "scalarizations"},
    "testing": SMALL_MATHS | METHODS,
    "step": SMALL_MATHS | METHODS | {"gradients"},
    "optim": SMALL_MATHS | METHODS | {"gradients", "step"},
}

# Third-party packages beside torch, by a pattern of the module's name.
THIRD_PARTY: Mapping[str, frozenset[str]] = {
    "moopt.kernels.*.triton": frozenset({"triton"}),
    "moopt.integrations.*": frozenset({"transformers"}),
    "moopt.*plots": frozenset({"matplotlib"}),
    "moopt.*": frozenset({"numpy"}),
}
DISTRIBUTED_HOMES = ("moopt.gradients.replicas", "moopt.gradients.shards")
PUBLIC_PACKAGES = (
    "moopt",
    "moopt.solvers",
    "moopt.weightings",
    "moopt.scalarizations",
    "moopt.aggregators",
    "moopt.losses",
    "moopt.kernels",
    "moopt.testing",
    "moopt.diagnostics",
    "moopt.projection",
)
# Benchmarks of single kernels also take the names in `__all__` of the kernels' folders; those that
# tune them on a card take everything in there.
OF_KERNELS = ("benchmarks.cases.rows", "benchmarks.growth", "benchmarks.gpu.")
TUNING = "benchmarks.gpu."
# What `import torch` loads anyway, and a part that it does not.
LOADED_BY_TORCH = {"torch", "numpy"}
HEAVY = "numpy.random"
MAX_LINES = 350
# Kernels, and tests that are lists of cases, are long without holding two ideas.
MAX_LONG_LINES, LONG = 500, ("moopt.kernels.", "tests.")
# Longer files that hold one idea all the same, and why.
LONG_FOR_A_REASON = {
    "moopt.optim.common_descent": "the optimizer's public methods and their docstrings",
}


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported thing: `name` of `module` (None for `import module`), and when it happens."""

    module: str
    name: str | None
    line: int
    on_load: bool  # outside functions and `if TYPE_CHECKING:`


@dataclasses.dataclass(frozen=True)
class Source:
    """One module: its dotted name, whether it is a package, and its text."""

    name: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def imports(self) -> list[Import]:
        """Every import, with relative ones made absolute, and `import_module("literal")` too."""
        return list(_walk(self, self.tree, on_load=True))


Sources = Mapping[str, Source]


def read_sources(root: Path, folder: str) -> dict[str, Source]:
    """The modules under `root/folder`, by dotted name."""
    sources = {}
    for path in sorted((root / folder).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        sources[name] = Source(name, path.read_text(encoding="utf-8"), is_package)
    return sources


def sources_of(texts: Mapping[str, str]) -> dict[str, Source]:
    """Sources from plain texts; a name that is another's parent is a package."""
    return {
        name: Source(name, text, any(other.startswith(name + ".") for other in texts))
        for name, text in texts.items()
    }


def _walk(source: Source, node: ast.AST, on_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, None, child.lineno, on_load)
        elif isinstance(child, ast.ImportFrom):
            module = _absolute(source, child)
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, on_load)
        elif isinstance(child, ast.Call) and _is_import_call(child):
            yield Import(child.args[0].value, None, child.lineno, on_load)
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from _walk(source, child, on_load and not later and not typing_only)


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = source.name.split(".")
    package = package[: len(package) - node.level + source.is_package]
    return ".".join([*package, *([node.module] if node.module else [])])


def _is_import_call(node: ast.Call) -> bool:
    called = ast.unparse(node.func).split(".")[-1]
    literal = bool(node.args) and isinstance(node.args[0], ast.Constant)
    return literal and called in ("import_module", "__import__")


def _target(item: Import, sources: Sources) -> str:
    """The module that `item` loads: `from package import module` is the module."""
    inner = f"{item.module}.{item.name}"
    return inner if inner in sources else item.module


def _package(module: str) -> str | None:
    """The entry of `ARROWS` that `moopt.x.y` belongs to; "" for moopt's own `__init__`."""
    if module == "moopt":
        return ""
    inner = module.removeprefix("moopt.")
    matches = [key for key in ARROWS if inner == key or inner.startswith(key + ".")]
    return max(matches, key=len, default=None)


def _is_ours(module: str) -> bool:
    return module == "moopt" or module.startswith("moopt.")


def rank_violations(sources: Sources) -> list[str]:
    """Imports against the arrows, and modules that have no place in them."""
    found = []
    for source in sources.values():
        home = _package(source.name)
        if home is None:
            found.append(f"{source.name} has no entry in ARROWS; give it a rank.")
        if not home:
            continue
        for item in source.imports():
            target = _target(item, sources)
            other = _package(target) if _is_ours(target) else home
            if other != home and other not in ARROWS[home]:
                found.append(
                    f"{source.name}:{item.line} imports {target}; {home} may import"
                    f" {', '.join(sorted(ARROWS[home])) or 'nothing of moopt'}."
                )
    return found


def third_party_violations(sources: Sources) -> list[str]:
    """Imports of what is neither the standard library, torch, nor allowed for that module."""
    found = []
    for source in sources.values():
        allowed = {"torch", "moopt"}.union(
            *(
                extra
                for pattern, extra in THIRD_PARTY.items()
                if fnmatch.fnmatch(source.name, pattern)
            )
        )
        for item in source.imports():
            top = item.module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in allowed:
                found.append(f"{source.name}:{item.line} imports {top}, not allowed there.")
    return found


def distributed_violations(sources: Sources) -> list[str]:
    """Uses of torch.distributed outside its two homes, by import or by attribute."""
    found, homes = [], " and ".join(DISTRIBUTED_HOMES)
    for source in sources.values():
        if source.name in DISTRIBUTED_HOMES:
            continue
        lines = [
            item.line
            for item in source.imports()
            if f"{item.module}.{item.name or ''}".startswith("torch.distributed")
        ]
        lines += [
            node.lineno
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed"
        ]
        found += [
            f"{source.name}:{line} uses torch.distributed; only {homes} may." for line in lines
        ]
    return found


def loaded_by_import_moopt(sources: Sources) -> set[str]:
    """The modules of moopt that `import moopt` runs, parents included."""
    loaded: set[str] = set()
    waiting = ["moopt"]
    while waiting:
        name = waiting.pop()
        if name in loaded or name not in sources:
            continue
        loaded.add(name)
        for item in sources[name].imports():
            if item.on_load and _is_ours(item.module):
                parts = _target(item, sources).split(".")
                waiting += [".".join(parts[: i + 1]) for i in range(len(parts))]
    return loaded


def heavy_import_violations(sources: Sources) -> list[str]:
    """Third-party imports that `import torch` does not make and `import moopt` would."""
    return [
        f"{name}:{item.line} imports {item.module} while `import moopt` runs; import it where used."
        for name in sorted(loaded_by_import_moopt(sources))
        for item in sources[name].imports()
        if item.on_load
        and (
            item.module.split(".")[0] not in sys.stdlib_module_names | LOADED_BY_TORCH | {"moopt"}
            or item.module.startswith(HEAVY)
        )
    ]


def cycles(sources: Sources) -> list[str]:
    """Each import cycle among the modules, once, as `a -> b -> a`."""
    edges = {
        name: sorted(
            {_target(item, sources) for item in source.imports()} & (sources.keys() - {name})
        )
        for name, source in sources.items()
    }
    found: dict[frozenset[str], str] = {}
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            cycle = path[path.index(name) :]
            found.setdefault(frozenset(cycle), " -> ".join([*cycle, name]))
        elif name not in finished:
            for other in edges[name]:
                visit(other, [*path, name])
            finished.add(name)

    for name in sources:
        visit(name, [])
    return list(found.values())


def public_names(source: Source) -> frozenset[str]:
    """The names that `__all__` spells out, and those imported as themselves, `X as X`."""
    names = set()
    for node in source.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names |= {entry.value for entry in node.value.elts if isinstance(entry, ast.Constant)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
    return frozenset(names)


def private_use_violations(users: Iterable[Source], sources: Sources) -> list[str]:
    """Imports by benchmarks, examples and docs of anything but documented public names."""
    found = []
    for user in users:
        ours: set[str] = set()
        for item in user.imports():
            if not _is_ours(item.module):
                continue
            if item.module.startswith("moopt.kernels.") and user.name.startswith(TUNING):
                continue
            if item.module not in PUBLIC_PACKAGES and not _folder_of_kernels(user, item, sources):
                found.append(f"{user.name}:{item.line} imports {item.module}, which is not public.")
            elif item.name is not None and f"{item.module}.{item.name}" not in PUBLIC_PACKAGES:
                ours.add(item.name)
                if item.name not in public_names(sources[item.module]) | {"__version__"}:
                    found.append(
                        f"{user.name}:{item.line} imports {item.name} from {item.module},"
                        " where `__all__` does not name it."
                    )
            ours.add(item.module.split(".")[0])
        found += [
            f"{user.name}:{node.lineno} reads the private {ast.unparse(node)}."
            for node in ast.walk(user.tree)
            if isinstance(node, ast.Attribute)
            and re.match(r"_[^_]", node.attr)
            and ast.unparse(node).split(".")[0] in ours
        ]
    return found


def _folder_of_kernels(user: Source, item: Import, sources: Sources) -> bool:
    """Whether the import is one by a benchmark of kernels, from the folder of a kernel."""
    folder = sources.get(item.module)
    is_kernel = item.module.startswith("moopt.kernels.") and folder is not None
    return is_kernel and folder.is_package and user.name.startswith(OF_KERNELS)


def length_violations(sources: Iterable[Source]) -> list[str]:
    """Files that hold more than one idea, judged by their length."""
    found = []
    for source in sources:
        lines = len(source.text.splitlines())
        limit = MAX_LONG_LINES if source.name.startswith(LONG) else MAX_LINES
        if lines > limit and source.name not in LONG_FOR_A_REASON:
            found.append(f"{source.name} has {lines} lines; at most {limit}. Split it by ideas.")
    return found


def python_blocks(markdown: str) -> list[str]:
    """The contents of the fenced ```python blocks of a Markdown text."""
    return re.findall(r"^```python\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)
