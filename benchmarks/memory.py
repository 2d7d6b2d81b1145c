"""How much memory does a step need beyond the model, in units of one gradient, beside TorchJD?

    python -m benchmarks.memory

A perceptron of 25 million float32 parameters and three losses. Each way of stepping runs in a
process of its own; the operating system reports the peak resident memory. Extra memory is the
peak during the step minus the resident memory just before it, divided by the bytes of one
gradient. One plain backward pass needs 1; keeping m gradients needs m.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import moopt
from benchmarks import peer
from benchmarks.models import Perceptron
from benchmarks.report import Report, main

M = 3
# m gradients, one layer's product in flight (1/6), chunks and the allocator's slack.
ALLOWED = M + 0.5
WAYS = {
    "plain": "one plain backward",
    "moopt": "moopt",
    "default": "TorchJD default",
    "optimize_gramian": "TorchJD optimize_gramian",
    "default_one_by_one": "TorchJD default, one by one",
    "optimize_gramian_one_by_one": "TorchJD optimize_gramian, one by one",
}


def resident(key: str) -> int:
    """Bytes, from the process's own status (`VmRSS` now, `VmHWM` at the peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system's /proc/self/status has no {key}; run on Linux.")


def losses_of(model: Perceptron) -> list[torch.Tensor]:
    width = model.layers[0].in_features
    generator = torch.Generator().manual_seed(0)
    return [
        (model(torch.randn(1, width, generator=generator)) - 0.1 * k).square().mean()
        for k in range(M)
    ]


def take_step(way: str, model: Perceptron, losses: list[torch.Tensor]) -> Callable[[], object]:
    parameters = list(model.parameters())
    if way == "plain":
        return losses[0].backward
    if way == "moopt":
        optimizer = moopt.CommonDescent(torch.optim.SGD(parameters, lr=0.0), moopt.MGDA())
        return lambda: optimizer.backward({str(k): loss for k, loss in enumerate(losses)})
    return lambda: peer.backward(
        losses,
        parameters,
        peer.mgda(),
        optimize_gramian_computation=way.startswith("optimize_gramian"),
        parallel_chunk_size=1 if way.endswith("one_by_one") else None,
    )


def measure(way: str) -> float:
    """Peak extra memory of one step, in gradients; call it in a fresh process."""
    torch.set_num_threads(1)
    small = Perceptron(width=64)
    take_step(way, small, losses_of(small))()
    model = Perceptron()
    losses = losses_of(model)
    step = take_step(way, model, losses)
    # The peak of the past (reading the libraries in) must not hide the peak of the step.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step()
    return (resident("VmHWM") - before) / sum(4 * p.numel() for p in model.parameters())


def run(report: Report, quick: bool) -> None:
    if not Path("/proc/self/clear_refs").exists():
        print("   skipped: needs Linux, whose kernel can reset a process's peak memory")
        return
    found: dict[str, float] = {}
    for way in WAYS:
        if way in ("plain", "moopt") or peer.version():
            program = f"from benchmarks.memory import measure; print(measure({way!r}))"
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True
            )
            found[way] = float(done.stdout)
    report.gate(
        f"at most {ALLOWED} gradients",
        found["moopt"] <= ALLOWED,
        f"{found['moopt']:.2f} for {M} objectives",
    )
    report.gate(
        "the measurement sees a gradient",
        0.9 <= found["plain"] <= 1.5,
        f"{found['plain']:.2f} for one plain backward pass",
    )
    rows = []
    for way, label in WAYS.items():
        if way not in found:
            rows.append([label, peer.MISSING, ""])
            continue
        ratio = "" if way in ("plain", "moopt") else report.speedup(found[way], found["moopt"])
        rows.append([label, f"{found[way]:.2f}", ratio])
    print()
    report.table([f"peak extra memory, m = {M}", "gradients", "ours is less by"], rows)
    report.results.update(found)


if __name__ == "__main__":
    main("memory", "a step keeps m gradients, not 2 m", run)
