"""Which packages a test may lack: the test is then skipped, and the summary says so."""

from __future__ import annotations

from importlib.util import find_spec

# What the extras of pyproject.toml bring. torch, numpy and pytest are never optional here.
OPTIONAL = frozenset(
    [
        "accelerate",
        "clarabel",
        "cvxpy",
        "hypothesis",
        "matplotlib",
        "myst_parser",
        "peft",
        "rich",
        "rouge_score",
        "safetensors",
        "scipy",
        "sphinx",
        "tokenizers",
        "torchjd",
        "transformers",
        "triton",
        "tyro",
    ]
)


def missing_optional(error: BaseException | None) -> str | None:
    """The optional package whose absence `error`, or a cause of it, reports; None if none does.

    An optional package that is installed but broken is an error, not a reason to skip.
    """
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.split(".")[0]
            if package in OPTIONAL and find_spec(package) is None:
                return package
        error = error.__cause__ or error.__context__
    return None
