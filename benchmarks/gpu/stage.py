"""What the stages share: their command line, their results, launches with other constants."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import moopt.kernels
from benchmarks.harness import interleaved, repetitions
from benchmarks.registry import Shapes


class Stage:
    """One stage: where it runs, what is red, and the file of its results.

    Attributes:
        device: the card, or the host in a rehearsal.
        rehearse: at tiny sizes, without a card.
        red: operations that get no time.
    """

    def __init__(self, description: str | None) -> None:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--rehearse", action="store_true")
        parser.add_argument("--red", nargs="*", default=[])
        options = parser.parse_args()
        self.rehearse, self.red = options.rehearse, set(options.red)
        self.device = torch.device("cpu") if self.rehearse else torch.device("cuda", 0)
        self.out: Path = options.out
        self.out.write_text("")

    def add(self, **row: Any) -> None:
        """Write one result, at once: what comes later may fail or run out of time."""
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def is_red(self, *operations: str) -> bool:
        """Whether one of them has a red gate; printed, because its time is missing then."""
        found = sorted(self.red.intersection(operations))
        if found:
            print(f"   no time of {', '.join(operations)}: the gate of {', '.join(found)} is red")
        return bool(found)

    def rows(self, m: int, shapes: Shapes, dtype: torch.dtype) -> list[list[Tensor]]:
        """m rows of normal entries, filled where they lie."""
        torch.manual_seed(0)
        return [
            [torch.empty(s, dtype=dtype, device=self.device).normal_() for s in shapes]
            for _ in range(m)
        ]

    def timed(self, call: Callable[[], object]) -> dict[str, float]:
        """p20, p50 and p80 of the seconds of one call."""
        functions, seconds = {"": call}, 1e-3 if self.rehearse else 1e-2
        number = repetitions(functions, seconds=seconds, device=self.device)
        rounds = 2 if self.rehearse else 7
        timing = interleaved(functions, rounds=rounds, number=number, device=self.device)[""]
        quantiles = np.quantile(timing.cpu, [0.2, 0.5, 0.8])
        return dict(zip(("p20", "p50", "p80"), map(float, quantiles), strict=True))


def fused() -> dict[str, ModuleType]:
    """Every module of a fused form, by its operation."""
    found = {}
    for folder in pkgutil.iter_modules(moopt.kernels.__path__):
        name = f"moopt.kernels.{folder.name}.triton"
        if folder.ispkg and importlib.util.find_spec(name) is not None:
            found[folder.name] = importlib.import_module(name)
    return found


class Relaunched:
    """A kernel that is launched with some constants or options replaced."""

    def __init__(self, kernel: Any, **replaced: int) -> None:
        self.kernel, self.replaced = kernel, replaced

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        launch = self.kernel[grid]
        return lambda *given, **constants: launch(*given, **(constants | self.replaced))


@contextlib.contextmanager
def relaunched(module: ModuleType, name: str, **replaced: int) -> Iterator[None]:
    """Inside the block the module launches its kernel `name` with these constants and options."""
    kernel = getattr(module, name)
    setattr(module, name, Relaunched(kernel, **replaced))
    try:
        yield
    finally:
        setattr(module, name, kernel)


@contextlib.contextmanager
def constant(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Inside the block the module has another value of a constant."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
