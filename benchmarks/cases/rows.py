"""Cases on m rows of gradients: the Gramian, the combination, and a whole step.

Lists of tensors like those of a Llama and of LoRA adapters, and of n elements for n = 1e4 to 1e7.
A step is `backward(losses)` of losses whose gradients cost one multiplication, less m plain
backward passes of them: the gradients that are kept, the Gramian, the minimum-norm point, the
combination in place, the record. Its floor is the traffic that nobody can do without, (2 m + 1) n
entries, at the best speed at which torch reads or copies such a list in the same rounds.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

import moopt
from benchmarks import peer
from benchmarks.registry import Case, Goal, Inputs, Setting, Shapes, Way
from moopt.kernels.combine import combine_
from moopt.kernels.gramian import gramian

T = TypeVar("T")
GRAMIAN_TOL = 1e-6
WEIGHTS = (0.5, 0.3, 0.2)
PLAIN = "moopt, plain PyTorch"
TWO_THREADS = 0.8
WIDTH, HIDDEN, LAYERS, VOCABULARY = 640, 1760, 8, 8192

LLAMA: Shapes = [
    (VOCABULARY, WIDTH),
    *[
        *((WIDTH, WIDTH), (WIDTH // 4, WIDTH), (WIDTH // 4, WIDTH), (WIDTH, WIDTH)),
        *((HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN), (WIDTH,), (WIDTH,)),
    ]
    * LAYERS,
    *[(WIDTH,)] * 18,
    (VOCABULARY, WIDTH),
    (WIDTH,),
]
"""93 matrices and vectors of a Llama, 46 million elements."""

LORA: Shapes = [(16, 4096), (7625, 16)] * 56
"""The pairs of 56 adapters of rank 16, 10 million elements."""


def of_length(n: int) -> Shapes:
    return [(n // 16,)] * 16


LISTS: dict[str, tuple[Shapes, torch.dtype, float, float]] = {
    "Llama, float32": (LLAMA, torch.float32, 1.8, 1.1),
    "Llama, bfloat16": (LLAMA, torch.bfloat16, 5.0, 1.2),
    "LoRA, float32": (LORA, torch.float32, 2.5, 1.2),
}
"""Shapes, dtype, and the goals of a step in times the floor: plain PyTorch, compiled."""


class Rows:
    """m rows, parameters, losses with these gradients, and the ways of a step on them."""

    def __init__(self, setting: Setting) -> None:
        generator = torch.Generator(setting.device).manual_seed(setting.seed)

        def normal(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, device=setting.device)

        shared = [normal(shape) for shape in setting.shapes]
        self.m, self.size = setting.m, setting.n * setting.dtype.itemsize
        self.rows = [
            [(g + normal(g.shape)).to(setting.dtype) for g in shared] for _ in range(self.m)
        ]

    @functools.cached_property
    def dense(self) -> Tensor:
        """float64 `[m, n]`."""
        return torch.stack([torch.cat([g.double().flatten() for g in row]) for row in self.rows])

    @functools.cached_property
    def exact(self) -> Tensor:
        """The Gramian in float64."""
        return self.dense @ self.dense.T

    def gramian_gate(self, found: Callable[[], Tensor]) -> str:
        norms = self.exact.diagonal().sqrt()
        worst = float(((found() - self.exact).abs() / (norms[:, None] * norms)).max())
        return "" if worst <= GRAMIAN_TOL else f"an inner product errs by {worst:.1e} of the norms"

    def combine_gate(self, combine: Callable[[list[list[Tensor]]], list[Tensor]]) -> str:
        copies = [[g.clone() for g in row] for row in self.rows]
        found = torch.cat([g.double().flatten() for g in combine(copies)])
        weights = self.dense.new_tensor(WEIGHTS[: self.m])
        size = weights @ self.dense.abs()
        worst = float(((found - weights @ self.dense).abs() / size).max())
        allowed = 2 * torch.finfo(self.rows[0][0].dtype).eps
        return "" if worst <= allowed else f"an entry errs by {worst:.1e} of its terms"

    def memory(self) -> dict[str, Way]:
        """The ways that only move memory."""
        spare = [torch.empty_like(g) for g in self.rows[0]]
        bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[spare[0].element_size()]

        def read() -> None:
            for row in self.rows:
                for g in row:
                    g.view(bits).max()

        def added() -> None:
            for row in self.rows:
                for g in row:
                    g.sum()

        return {
            "read": Way(read, bytes=self.m * self.size),
            "sum": Way(added, bytes=self.m * self.size),
            "copy": Way(lambda: torch._foreach_copy_(spare, self.rows[0]), bytes=2 * self.size),
        }


class Step:
    """Parameters and losses with given gradients, and the ways of a step on them."""

    def __init__(self, rows: Rows) -> None:
        self.given = rows
        self.parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in rows.rows[0]]
        self.losses: list[Tensor] = []
        self.optimizer = moopt.CommonDescent(
            torch.optim.SGD(self.parameters, lr=1.0), moopt.MGDA(normalize="none")
        )

    def prepare(self) -> None:
        self.optimizer.zero_grad()
        pairs = [zip(self.parameters, row, strict=True) for row in self.given.rows]
        self.losses = [torch.stack([(p * g).sum() for p, g in row]).sum() for row in pairs]

    def plain(self) -> None:
        for loss in self.losses:
            self.optimizer.optimizer.zero_grad()
            loss.backward()

    def ours(self) -> None:
        self.optimizer.backward(self.losses)

    def gate(self, step: Callable[[], None]) -> str:
        self.prepare()
        step()
        told = self.given.gramian_gate(lambda: self.optimizer.record.gramian)
        direction = torch.cat([p.grad.double().flatten() for p in self.parameters])
        norms = self.given.exact.diagonal().sqrt()
        lowest = float((self.given.dense @ direction / (norms * direction.norm())).min())
        return told if lowest > 0.0 else f"the direction raises a loss: cosine {lowest:.3f}"

    def theirs(self, **options: object) -> Callable[[], None]:
        aggregator = peer.mgda()
        return lambda: peer.backward(self.losses, self.parameters, aggregator, **options)


def forms(call: Callable[[], T], device: torch.device) -> dict[str, Callable[[], T]]:
    """A call as shipped, and in plain PyTorch where that is another form."""
    if not faster(device):
        return {"moopt": call}
    from moopt.kernels import reference_only

    def plain() -> T:
        with reference_only():
            return call()

    return {"moopt": call, PLAIN: plain}


def faster(device: torch.device) -> bool:
    """Whether long rows have a faster form there; earlier revisions of the library have none."""
    with contextlib.suppress(ImportError):
        from moopt.kernels import backends

        place = "of long rows in host memory" if device.type == "cpu" else f"on {device}"
        return backends()[f"gramian {place}"].name != "reference"
    return False


def gramians(setting: Setting) -> Inputs:
    given = Rows(setting)

    def joined() -> Tensor:
        matrix = torch.stack([torch.cat([g.flatten() for g in row]) for row in given.rows])
        return matrix @ matrix.T

    ways = {
        name: Way(call, functools.partial(given.gramian_gate, call), ours=True)
        for name, call in forms(lambda: gramian(given.rows), setting.device).items()
    }
    ways["torch: cat and @"] = Way(joined, lambda: given.gramian_gate(joined))
    return Inputs(ways | given.memory())


def combinations(setting: Setting) -> Inputs:
    given, copies = Rows(setting), Rows(setting).rows
    factors = WEIGHTS[: setting.m]
    weights = torch.tensor(factors, dtype=torch.float64, device=setting.device)

    def chained(rows: list[list[Tensor]]) -> list[Tensor]:
        torch._foreach_mul_(rows[0], factors[0])
        for row, weight in zip(rows[1:], factors[1:], strict=True):
            torch._foreach_add_(rows[0], row, alpha=weight)
        return rows[0]

    gates = forms(lambda: given.combine_gate(lambda rows: combine_(rows, weights)), setting.device)
    ways = {
        name: Way(call, gates[name], ours=True)
        for name, call in forms(lambda: combine_(copies, weights), setting.device).items()
    }
    ways["torch: foreach"] = Way(lambda: chained(copies), lambda: given.combine_gate(chained))
    return Inputs(ways | given.memory())


def steps(setting: Setting) -> Inputs:
    given = Rows(setting)
    step = Step(given)
    ways = {"plain": Way(step.plain)}
    for name, call in forms(step.ours, setting.device).items():
        ways[name] = Way(call, functools.partial(step.gate, call), ours=True)
    if peer.version():
        ways["TorchJD"] = Way(step.theirs())
        ways["TorchJD, optimize_gramian"] = Way(step.theirs(optimize_gramian_computation=True))
    missing = {} if peer.version() else {"TorchJD": peer.MISSING}
    return Inputs(ways | given.memory(), step.prepare, "plain", once=True, missing=missing)


def on_threads(setting: Setting) -> Inputs:
    """The Gramian and the combination on one and on two threads, by the clock on the wall."""
    given = Rows(setting)

    def on(threads: int) -> None:
        torch.set_num_threads(threads)
        gramian(given.rows)
        combine_(given.rows, WEIGHTS)
        torch.set_num_threads(1)

    ways = {
        "moopt": Way(lambda: on(1), ours=True),
        "moopt, two threads": Way(lambda: on(2), ours=True),
    }
    return Inputs(ways, wall=True)


def cases(device: torch.device) -> Iterator[Case]:
    for label, (shapes, dtype, plain, native) in LISTS.items():
        setting = Setting(3, shapes, dtype, device)
        row = setting.n * dtype.itemsize
        quick = label.startswith("LoRA")
        goals = [Goal("moopt", "floor", native), Goal(PLAIN, "floor", plain)]
        goals = goals if faster(device) else [Goal("moopt", "floor", plain)]
        yield Case(f"gramian, {label}", "gramian", setting, gramians, 3 * row, quick=quick)
        yield Case(f"combine, {label}", "combine", setting, combinations, 4 * row, quick=quick)
        yield Case(f"step, {label}", "step", setting, steps, 7 * row, goals)
    for n in (10**4, 10**5, 10**6, 10**7):
        setting = Setting(3, of_length(n), torch.float32, device)
        row = 4 * setting.n
        yield Case(f"step, n = {n:.0e}", "step", setting, steps, 7 * row, quick=False)
    if device.type == "cpu" and faster(device) and (os.cpu_count() or 1) > 1:
        goal = [Goal("moopt, two threads", "moopt", TWO_THREADS)]
        setting = Setting(3, LLAMA, torch.float32, device)
        yield Case("two threads, Llama, float32", "two threads", setting, on_threads, 0, goal)
