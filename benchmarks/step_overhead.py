"""What does a common descent step cost beyond its m backward passes, beside TorchJD?

    python -m benchmarks.step_overhead

A GPT-like model of 23 million parameters, three next-token losses, from separate forward passes
and from a common one. Timed: from the losses to the end of the base optimizer's step; the forward
pass is not. First with the heap as it comes, where memory that was given back to the system and is
faulted in again counts (glibc; who needs more of it pays more), then with a heap that is kept,
where times repeat to a few per cent. The baseline runs the same m backward passes one by one, each
into empty `.grad`, and one base step: nobody can differentiate m losses for less. Overhead is the
CPU time beyond the baseline of the same round.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import moopt
from benchmarks import peer
from benchmarks.harness import interleaved, keep_the_heap
from benchmarks.models import CONTEXT, VOCABULARY, LanguageModel, language_losses
from benchmarks.report import Report, main

M = 3
NAMES = ("forget", "retain", "kl")
# Directions from float32 gradients that were summed in another order.
DIRECTION_RTOL = 1e-5
# The squared norms are sums of 23 million float32 entries, compared in float64.
NORM_RTOL = 1e-6
PEERS = {
    "TorchJD default": {},
    "TorchJD optimize_gramian": {"optimize_gramian_computation": True},
    "TorchJD default, one by one": {"parallel_chunk_size": 1},
    "TorchJD optimize_gramian, one by one": {
        "optimize_gramian_computation": True,
        "parallel_chunk_size": 1,
    },
}
GOALS = {"TorchJD default": 5.0, "TorchJD optimize_gramian": 3.0}


class Step:
    """Fresh losses before every measurement, then one step in one of several ways."""

    def __init__(self, *, shared_forward: bool) -> None:
        torch.manual_seed(0)
        self.model = LanguageModel()
        self.parameters = list(self.model.parameters())
        self.batches = [torch.randint(VOCABULARY, (1, CONTEXT)) for _ in range(M)]
        self.shared_forward = shared_forward
        # A step so short that every round differentiates the same function.
        self.base = torch.optim.SGD(self.parameters, lr=1e-12)
        self.losses: list[Tensor] = []

    def prepare(self) -> None:
        self.base.zero_grad()
        self.losses = language_losses(self.model, self.batches, shared_forward=self.shared_forward)

    def plain(self) -> None:
        for i, loss in enumerate(self.losses):
            self.base.zero_grad()
            loss.backward(retain_graph=self.shared_forward and i < M - 1)
        self.base.step()

    def ours(self, weighting: moopt.weightings.Weighting) -> Callable[[], None]:
        optimizer = moopt.CommonDescent(self.base, weighting)

        def step() -> None:
            optimizer.backward(dict(zip(NAMES, self.losses, strict=True)))
            optimizer.step()

        return step

    def theirs(self, aggregator: object, **options: object) -> Callable[[], None]:
        def step() -> None:
            peer.backward(self.losses, self.parameters, aggregator, **options)
            self.base.step()

        return step

    def direction(self, step: Callable[[], None]) -> Tensor:
        """float64 `[n]`: what `step` leaves in `.grad`."""
        self.prepare()
        step()
        return torch.cat([p.grad.double().flatten() for p in self.parameters])


def check(report: Report, step: Step, label: str) -> None:
    """Same gradients, same sum; and a minimum-norm point at least as short."""
    fixed = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    ours = step.direction(step.ours(moopt.Constant(weights=fixed.tolist())))
    step.prepare()
    rows = []
    for loss in step.losses:
        grads = torch.autograd.grad(loss, step.parameters, retain_graph=True)
        rows.append(torch.cat([g.double().flatten() for g in grads]))
    expected = sum(w * row for w, row in zip(fixed.tolist(), rows, strict=True))
    error = float((ours - expected).norm() / expected.norm())
    report.gate(
        f"{label}: weighted sum",
        error <= DIRECTION_RTOL,
        f"relative error {error:.1e} against float64, at most {DIRECTION_RTOL:.0e}",
    )
    shortest = step.direction(step.ours(moopt.MGDA(normalize="none")))
    jacobian = torch.stack(rows)
    inner = jacobian @ shortest / (jacobian.norm(dim=1) * shortest.norm())
    report.gate(
        f"{label}: common descent",
        bool(inner.min() > 0),
        f"smallest cosine between a gradient and the direction {float(inner.min()):.3f}",
    )
    if peer.version():
        theirs = step.direction(step.theirs(peer.constant(fixed.float())))
        error = float((theirs - expected).norm() / expected.norm())
        report.gate(f"{label}: TorchJD agrees", error <= DIRECTION_RTOL, f"error {error:.1e}")
        theirs = step.direction(step.theirs(peer.mgda()))
        ratio = float(shortest.square().sum() / theirs.square().sum())
        report.gate(
            f"{label}: no longer than TorchJD's",
            ratio <= 1 + NORM_RTOL,
            f"squared norm is {ratio:.6f} of TorchJD's",
        )


def run(report: Report, quick: bool) -> None:
    for heap in ("", ", heap kept"):
        if heap:
            keep_the_heap()
        for shared_forward in (False, True):
            label = "one forward pass" if shared_forward else "a forward pass each"
            measure(report, quick, label + heap, shared_forward=shared_forward)


def measure(report: Report, quick: bool, label: str, *, shared_forward: bool) -> None:
    """Every way, checked and timed, in a table."""
    step = Step(shared_forward=shared_forward)
    count = sum(p.numel() for p in step.parameters)
    print(f"\n{label}: {count / 1e6:.1f} million parameters, {len(step.parameters)} tensors")
    check(report, step, label)
    ways = {"plain": step.plain, "moopt": step.ours(moopt.MGDA(normalize="none"))}
    if peer.version():
        for name, options in PEERS.items():
            ways[name] = step.theirs(peer.mgda(), **options)
    timings = interleaved(ways, rounds=3 if quick else 9, before=step.prepare)
    base = timings["plain"]
    overheads = {name: t.over(base) for name, t in timings.items() if name != "plain"}
    rows = [
        [
            f"{M} backwards + step",
            f"{base.median * 1e3:.0f}",
            f"{base.median_wall * 1e3:.0f}",
            "0",
            "0 %",
            "",
        ]
    ]
    for name, overhead in overheads.items():
        rows.append(
            [
                name,
                f"{timings[name].median * 1e3:.0f}",
                f"{timings[name].median_wall * 1e3:.0f}",
                f"{overhead * 1e3:.0f}",
                f"{100 * overhead / base.median:.0f} %",
                "" if name == "moopt" else report.speedup(overhead, overheads["moopt"]),
            ]
        )
    print()
    report.table(["", "CPU ms", "wall ms", "overhead ms", "of plain", "ours is less by"], rows)
    if not peer.version():
        print(f"   TorchJD: {peer.MISSING}")
    report.results[label] = {
        name: {"cpu": t.cpu, "wall": t.wall, "overhead": overheads.get(name)}
        for name, t in timings.items()
    }
    for name, factor in GOALS.items():
        if name in overheads:
            report.goal(
                f"overhead beside {name}, {label}",
                overheads[name] / overheads["moopt"],
                factor,
            )


if __name__ == "__main__":
    main("step_overhead", "cost of a common descent step beyond its backward passes", run)
