"""Registry: what is timed. A case has an operation, its inputs, its contenders, and their gates.

A new case is a function of `benchmarks.cases` that returns `Case`s; the runner, the plots and the
comparison of revisions find it by `every()`.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

Shapes = Sequence[tuple[int, ...]]
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the inputs of a case are made from.

    Attributes:
        m: the number of objectives.
        shapes: of the tensors of one row; of one problem, where there are no rows.
        dtype: of the entries.
        device: where they lie.
        seed: of their values.
    """

    m: int
    shapes: Shapes
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    seed: int = 0

    @property
    def n(self) -> int:
        """The elements of one row."""
        return sum(map(math.prod, self.shapes))


@dataclasses.dataclass(frozen=True)
class Way:
    """One contender of a case.

    Attributes:
        call: what is timed.
        gate: what is wrong with its result, in words; empty if nothing. It runs before the clock.
        ours: a way of this library. Its red gate withholds its time and fails the run; a peer's is
            told beside its time.
        bytes: of a way that only moves memory; the fastest of them is the floor's speed.
    """

    call: Callable[[], object]
    gate: Callable[[], str] = lambda: ""
    ours: bool = False
    bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A case, built.

    Attributes:
        ways: the contenders, by name.
        before: called before each measurement and not timed.
        base: the name of a way whose time is taken off all others: plain backward passes, say.
        once: each measurement is one call, because `before` serves one.
        wall: time by the clock on the wall, not by the thread's own: several threads.
        problems: solved by one call; times are for one of them.
        missing: peers that are not there, and why.
    """

    ways: Mapping[str, Way]
    before: Callable[[], object] | None = None
    base: str | None = None
    once: bool = False
    wall: bool = False
    problems: int = 1
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Goal:
    """`way` takes at most `at_most` times as long as `beside`; "floor" is the memory's."""

    way: str
    beside: str
    at_most: float


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the registry.

    Attributes:
        name: unique; `--only` looks for its pattern here.
        operation: the family, such as "gramian".
        setting: what `build` is given.
        build: the inputs; it may raise ImportError where the library has no such operation.
        bytes: that no implementation can do without moving; 0 where memory is not the limit.
        goals: printed as met or missed; they gate nothing.
        quick: part of `--quick`, and of the comparison with another revision.
    """

    name: str
    operation: str
    setting: Setting
    build: Callable[[Setting], Inputs]
    bytes: int = 0
    goals: Sequence[Goal] = ()
    quick: bool = True


FAMILIES = ("rows", "solves", "losses", "small_step")
"""The modules of `benchmarks.cases`, in the order in which they run."""


def every(device: torch.device) -> Iterator[Case | tuple[str, str]]:
    """Every case of a device; of a family that cannot be imported, its name and why not.

    The latter happens where the benchmarks run on another revision of the library.
    """
    for family in FAMILIES:
        try:
            module = importlib.import_module(f"benchmarks.cases.{family}")
        except ImportError as error:
            yield family, str(error)
        else:
            yield from module.cases(device)
