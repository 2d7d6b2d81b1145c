"""Which share of a training step is not its forward and backward passes, beside TorchJD?

    python -m benchmarks.share

A Llama of 20 million parameters, AdamW, three next-token losses of 512 tokens each, from separate
forward passes and from a common one. A stop-watch runs around each forward pass, each backward pass
(TorchJD's: of all losses together) and the base optimizer's update; the rest is the library's own:
keeping the gradients, Gramian, weights, combination, record. The overhead is a whole step beyond
m plain backward passes and the update. First with the heap as it comes, where memory that was given
back to the system is faulted in again (glibc; who needs more of it pays more), then, without
`--quick`, with a heap that is kept. CPU time of one thread.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

import moopt
from benchmarks import peer
from benchmarks.cases.rows import forms
from benchmarks.harness import keep_the_heap
from benchmarks.models import llama
from benchmarks.registry import CPU
from benchmarks.report import Report, main

NAMES = ("forget", "retain", "kl")
TOKENS, VOCABULARY = 512, 8192
GOAL = 1.5
"""Per cent of a step that the rest may take, update left out, with a forward pass each."""
DIRECTION_RTOL = 1e-5
PEERS = {"TorchJD": {}, "TorchJD, optimize_gramian": {"optimize_gramian_computation": True}}


class Step:
    """A model, its batches, and a whole training step in one of several ways."""

    def __init__(self, *, common: bool, tokens: int = TOKENS, **sizes: int) -> None:
        torch.manual_seed(0)
        self.model = llama(vocabulary=VOCABULARY, **sizes)
        self.parameters = list(self.model.parameters())
        self.batches = torch.randint(VOCABULARY, (len(NAMES), 1, tokens))
        self.common = common
        # A step so short that every round differentiates the same function.
        self.base = torch.optim.AdamW(self.parameters, lr=1e-12, weight_decay=0.0)
        self.spent: Counter[str] = Counter()

    @contextlib.contextmanager
    def watch(self, phase: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.spent[phase] += time.thread_time() - start  # type: ignore[assignment]

    def losses(self) -> Iterator[Tensor]:
        """One after the other, each from a forward pass of its own; or all from a common one."""
        with self.watch("forward"):
            out = self.model(self.batches.flatten(0, 1)).logits if self.common else None
        for i, ids in enumerate(self.batches):
            with self.watch("forward"):
                logits = self.model(ids).logits if out is None else out[i : i + 1]
                loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            yield loss

    def differentiate(self, loss: Tensor, i: int) -> None:
        with self.watch("backward"):
            loss.backward(retain_graph=self.common and i < len(NAMES) - 1)

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        with self.watch("update"):
            optimizer.step()

    def plain(self) -> None:
        for i, loss in enumerate(self.losses()):
            self.base.zero_grad()
            self.differentiate(loss, i)
        self.update(self.base)

    def ours(self, weighting: moopt.weightings.Weighting) -> Callable[[], None]:
        optimizer = moopt.CommonDescent(self.base, weighting)

        def step() -> None:
            optimizer.zero_grad()
            for i, loss in enumerate(self.losses()):
                with optimizer.objective(NAMES[i], loss):
                    self.differentiate(loss, i)
            optimizer.combine_()
            self.update(optimizer)

        return step

    def theirs(self, aggregator: object, **options: bool) -> Callable[[], None]:
        def step() -> None:
            self.base.zero_grad()
            losses = list(self.losses())
            with self.watch("backward"):
                peer.jacobians(losses, self.parameters)
            peer.combine(self.parameters, aggregator, **options)
            self.update(self.base)

        return step

    def timed(self, step: Callable[[], None]) -> Counter[str]:
        """CPU seconds of the whole step and of its phases; the rest is what no phase has."""
        self.spent = Counter()
        with self.watch("whole"):
            step()
        spent = self.spent
        spent["rest"] = spent["whole"] - sum(spent[k] for k in ("forward", "backward", "update"))
        return spent

    def direction(self, step: Callable[[], None]) -> Tensor:
        """float64 `[n]`: what `step` leaves in `.grad`."""
        step()
        return torch.cat([p.grad.double().flatten() for p in self.parameters])


def check(report: Report, step: Step, label: str) -> None:
    """Same gradients, same sum; and a common descent direction at least as short."""
    fixed = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    rows = []
    for loss in step.losses():
        grads = torch.autograd.grad(loss, step.parameters, retain_graph=step.common)
        rows.append(torch.cat([g.double().flatten() for g in grads]))
    jacobian = torch.stack(rows)
    expected = fixed @ jacobian
    sums = {"moopt": step.ours(moopt.Constant(weights=fixed.tolist()))}
    if peer.version():
        sums["TorchJD"] = step.theirs(peer.constant(fixed.float()))
    for name, way in sums.items():
        error = float((step.direction(way) - expected).norm() / expected.norm())
        told = f"relative error {error:.1e}, at most {DIRECTION_RTOL:.0e}"
        report.gate(f"{label}: weighted sum, {name}", error <= DIRECTION_RTOL, told)
    shortest = step.direction(step.ours(moopt.MGDA(normalize="none")))
    inner = jacobian @ shortest / (jacobian.norm(dim=1) * shortest.norm())
    told = f"smallest cosine of a gradient and the direction {float(inner.min()):.3f}"
    report.gate(f"{label}: common descent", bool(inner.min() > 0), told)


def measure(report: Report, label: str, rounds: int, step: Step) -> None:
    """Every way, checked and timed, in a table."""
    size = sum(p.numel() for p in step.parameters)
    print(f"\n{label}: {size / 1e6:.1f} million parameters, {len(step.parameters)} tensors")
    check(report, step, label)
    ways = {"plain": step.plain, **forms(step.ours(moopt.MGDA(normalize="none")), CPU)}
    for name, options in PEERS.items() if peer.version() else ():
        ways[name] = step.theirs(peer.mgda(), **options)
    taken: dict[str, list[Counter[str]]] = {name: [] for name in ways}
    for k in range(rounds + 1):
        names = list(ways)
        for name in names[k % len(names) :] + names[: k % len(names)]:
            spent = step.timed(ways[name])
            if k:
                taken[name].append(spent)
    phases = ("forward", "backward", "update", "rest", "whole")
    middle = {n: {p: statistics.median(s[p] for s in t) for p in phases} for n, t in taken.items()}
    rows, found = [], {}
    for name, spent in middle.items():
        share = 100 * spent["rest"] / spent["whole"]
        overhead = statistics.median(
            a["whole"] - b["whole"] for a, b in zip(taken[name], taken["plain"], strict=True)
        )
        found[name] = {**spent, "share": share, "overhead": overhead}
        row = [name, *(f"{spent[p] * 1e3:.0f}" for p in phases)]
        rows.append([*row, f"{share:.2f} %", "" if name == "plain" else f"{overhead * 1e3:.0f}"])
    print()
    if not report.passed:
        print("   a gate is red: no times")
        return
    report.table(["CPU ms", *phases, "rest", "overhead"], rows)
    if not peer.version():
        print(f"   TorchJD: {peer.MISSING}")
    report.results[label] = found
    share = found["moopt"]["share"]
    told = "met" if share <= GOAL else "MISSED"
    print(f"   goal: all but passes and update at most {GOAL} % of a step: {share:.2f} %, {told}")


def run(report: Report, quick: bool) -> None:
    rounds = 2 if quick else 4
    measure(report, "a forward pass each", rounds, Step(common=False))
    if not quick:
        keep_the_heap()
        measure(report, "a forward pass each, heap kept", rounds, Step(common=False))
        measure(report, "one forward pass, heap kept", rounds, Step(common=True))


if __name__ == "__main__":
    main("share", "what of a training step is not its forward and backward passes", run)
