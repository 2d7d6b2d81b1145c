"""How far is a step on long gradients from the floor of the memory, on the host?

    python -m benchmarks.step_floor

Lists of tensors like those of a Llama and of LoRA adapters, m = 3, float32 and bfloat16, and
losses whose gradients cost one multiplication. Timed: `backward(losses)`, ours and the peer's, less
m plain backward passes of them; so all of the step is in it: the gradients that are kept, the
Gramian, the minimum-norm point, the combination in place, the record. The floor is the traffic that
nobody can do without, (2 m + 1) n entries, at the best speed at which torch reads or copies such a
list in the same run. The heap is kept. The forms: plain PyTorch, and the compiled kernels where
they are built (`python -m moopt.kernels.native`).
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

import moopt
from benchmarks import peer
from benchmarks.harness import interleaved, keep_the_heap
from benchmarks.report import Report, main
from moopt.kernels import backends, reference_only

M = 3
GRAMIAN_TOL = 1e-6
TWO_THREADS = 0.8
WIDTH, HIDDEN, LAYERS, VOCABULARY = 640, 1760, 8, 8192

LLAMA = [
    (VOCABULARY, WIDTH),
    *[
        *((WIDTH, WIDTH), (WIDTH // 4, WIDTH), (WIDTH // 4, WIDTH), (WIDTH, WIDTH)),
        *((HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN), (WIDTH,), (WIDTH,)),
    ]
    * LAYERS,
]
"""73 matrices and vectors of a Llama."""

LORA = [(16, 4096), (7625, 16)] * 56
"""The pairs of 56 adapters of rank 16."""


def lists() -> dict[str, tuple[list[tuple[int, ...]], torch.dtype, float, float]]:
    """Shapes, dtype, and the goals in times the floor: plain PyTorch, compiled."""
    wide = [*LLAMA, *[(WIDTH,)] * 18, (VOCABULARY, WIDTH), (WIDTH,)]
    return {
        "Llama, float32": (wide, torch.float32, 1.8, 1.1),
        "Llama, bfloat16": (wide, torch.bfloat16, 5.0, 1.2),
        "LoRA, float32": (LORA, torch.float32, 2.5, 1.2),
    }


class Rows:
    """Parameters, losses with given gradients, and the ways of a step on them."""

    def __init__(self, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        shared = [torch.randn(s, generator=generator) for s in shapes]
        self.rows = [
            [(g + torch.randn(g.shape, generator=generator)).to(dtype) for g in shared]
            for _ in range(M)
        ]
        self.spare = [torch.empty_like(g) for g in self.rows[0]]
        self.parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in self.spare]
        self.n = sum(g.numel() for g in shared)
        self.losses: list[Tensor] = []
        self.optimizer = moopt.CommonDescent(
            torch.optim.SGD(self.parameters, lr=1.0), moopt.MGDA(normalize="none")
        )

    def prepare(self) -> None:
        self.optimizer.zero_grad()
        pairs = [list(zip(self.parameters, row, strict=True)) for row in self.rows]
        self.losses = [torch.stack([(p * g).sum() for p, g in row]).sum() for row in pairs]

    def plain(self) -> None:
        for loss in self.losses:
            self.optimizer.optimizer.zero_grad()
            loss.backward()

    def ours(self) -> None:
        self.optimizer.backward(self.losses)

    def in_plain_pytorch(self) -> None:
        with reference_only():
            self.ours()

    def theirs(self, **options: object) -> Callable[[], None]:
        aggregator = peer.mgda()
        return lambda: peer.backward(self.losses, self.parameters, aggregator, **options)

    def read(self) -> None:
        for row in self.rows:
            for g in row:
                g.view(torch.int32 if g.element_size() == 4 else torch.int16).max()

    def summed(self) -> None:
        for row in self.rows:
            for g in row:
                g.sum()

    def copied(self) -> None:
        torch._foreach_copy_(self.spare, self.rows[0])


def run(report: Report, quick: bool) -> None:
    keep_the_heap()
    compiled = backends()["gramian of long rows in host memory"]
    print(f"   compiled kernels: {compiled.name}, {compiled.why}")
    for label, (shapes, dtype, plain_goal, compiled_goal) in lists().items():
        rows = Rows(shapes, dtype)
        size = rows.spare[0].element_size()
        print(f"\n{label}: {rows.n / 1e6:.1f} million entries, {len(shapes)} tensors")
        check(report, label, rows)
        ways: dict[str, Callable[[], None]] = {
            **{"read": rows.read, "sum": rows.summed, "copy": rows.copied, "plain": rows.plain},
            "plain PyTorch": rows.in_plain_pytorch,
        }
        if compiled.name == "native":
            ways["compiled"] = rows.ours
        if peer.version():
            ways["TorchJD default"] = rows.theirs()
            ways["TorchJD optimize_gramian"] = rows.theirs(optimize_gramian_computation=True)
        timings = interleaved(ways, rounds=3 if quick else 9, before=rows.prepare)
        entries = {"read": M, "sum": M, "copy": 2}
        floor = min(timings[k].median * (2 * M + 1) / count for k, count in entries.items())
        speed = (2 * M + 1) * rows.n * size / floor / 1e9
        table = [[f"the floor, at {speed:.0f} GB/s", f"{floor * 1e3:.1f}", "1.0"]]
        steps = [name for name in ways if name not in (*entries, "plain")]
        seconds = {name: timings[name].over(timings["plain"]) for name in steps}
        table += [[k, f"{s * 1e3:.1f}", f"{s / floor:.2f}"] for k, s in seconds.items()]
        report.table(["", "CPU ms", "times the floor"], table)
        report.results[label] = {"floor": floor, **seconds}
        for name, goal in (("plain PyTorch", plain_goal), ("compiled", compiled_goal)):
            if name in seconds:
                told = "met" if seconds[name] <= goal * floor else "MISSED"
                ratio = seconds[name] / floor
                print(f"   goal {name}: {ratio:.2f} of at most {goal} times the floor: {told}")
        if compiled.name == "native" and (os.cpu_count() or 1) > 1:
            threads(report, rows, quick)


def threads(report: Report, rows: Rows, quick: bool) -> None:
    """The compiled step on one and on two threads, wall time less that of the plain passes."""
    seconds = {}
    for count in (1, 2):
        torch.set_num_threads(count)
        timings = interleaved(
            {"plain": rows.plain, "step": rows.ours},
            rounds=3 if quick else 9,
            before=rows.prepare,
        )
        both = zip(timings["step"].wall, timings["plain"].wall, strict=True)
        seconds[count] = statistics.median(step - plain for step, plain in both)
    torch.set_num_threads(1)
    share = seconds[2] / seconds[1]
    told = "met" if share <= TWO_THREADS else "MISSED"
    print(f"   two threads take {share:.2f} of one's time, at most {TWO_THREADS}: {told};")
    print(f"   load {os.getloadavg()[0]:.1f} (1 min)")
    report.results["threads"] = {str(count): value for count, value in seconds.items()}


def check(report: Report, label: str, rows: Rows) -> None:
    """The Gramian and the direction against float64, in every form that is timed."""
    wide = torch.stack([torch.cat([g.double().flatten() for g in row]) for row in rows.rows])
    exact = wide @ wide.T
    norms = exact.diagonal().sqrt()
    for name, step in (("plain PyTorch", rows.in_plain_pytorch), ("as shipped", rows.ours)):
        rows.prepare()
        step()
        error = (rows.optimizer.record.gramian - exact).abs() / (norms[:, None] * norms)
        worst = float(error.max())
        report.gate(f"{label}: Gramian, {name}", worst <= GRAMIAN_TOL, f"error {worst:.1e}")
        direction = torch.cat([p.grad.double().flatten() for p in rows.parameters])
        lowest = float((wide @ direction / (norms * direction.norm())).min())
        report.gate(f"{label}: direction, {name}", lowest > 0.0, f"smallest cosine {lowest:.3f}")


if __name__ == "__main__":
    main("step_floor", "a step on given gradients beside the floor of the memory", run)
