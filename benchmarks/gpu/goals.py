"""The goals of the fused step on a card: a model of 8e9 parameters, LoRA adapters, the solve."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.stage import Stage
from benchmarks.registry import Shapes
from moopt.kernels.combine import combine_
from moopt.kernels.gramian import gramian
from moopt.kernels.gramian_min_norm import DevicePoint, gramian_min_norm, kept_numbers
from moopt.solvers import min_norm_point
from moopt.testing import case

M = 3
GRAMIAN_TOL = 1.2e-6
WIDTH, HIDDEN, VOCABULARY = 4096, 14_336, 128_256
LAYER: Shapes = [
    *((WIDTH, WIDTH), (1024, WIDTH), (1024, WIDTH), (WIDTH, WIDTH)),
    *((HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN), (WIDTH,), (WIDTH,)),
]
LLAMA: Shapes = [(VOCABULARY, WIDTH), *LAYER * 32, (WIDTH,), (VOCABULARY, WIDTH)]
"""291 tensors, 8.03e9 elements."""
LORA: Shapes = [(16, WIDTH), (WIDTH, 16), (16, WIDTH), (HIDDEN, 16)] * 94
"""376 matrices of adapters of rank 16, 40 million elements."""
TINY: Shapes = [(16, 40), (40, 16), (7,)]
STEPS: dict[str, tuple[Shapes, float, float | None]] = {
    "8e9 bf16": (LLAMA, 31e-3, None),
    "LoRA 40 M bf16": (LORA, 250e-6, 170e-6),
}
"""Shapes, and the goals in seconds: eager, and in a CUDA graph."""
SOLVES = {3: 8e-6, 16: 40e-6, 32: 120e-6}
"""Seconds of one solve in a CUDA graph."""


def exact(rows: list[list[Tensor]]) -> Tensor:
    """The Gramian, tensor by tensor in float64."""
    total = torch.zeros(M, M, dtype=torch.float64, device=rows[0][0].device)
    for column in zip(*rows, strict=True):
        for part in zip(*(g.flatten().split(1 << 27) for g in column), strict=True):
            wide = torch.stack([g.double() for g in part])
            total += wide @ wide.T
    return total


def captured(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """A replay of the call's launches as one CUDA graph; on the host, the call."""
    if device.type == "cpu":
        return call
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def synchronisation(call: Callable[[], object], device: torch.device) -> str:
    """The first synchronisation with the host, in words; empty if there is none."""
    if device.type == "cpu":
        call()
        return ""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def judged(stage: Stage, name: str, call: Callable[[], object], goal: float, **known: Any) -> None:
    """Time a call and say whether it keeps to its goal."""
    try:
        timing = stage.timed(call)
    except RuntimeError as error:
        stage.add(goal=name, at_most=goal, told=str(error).splitlines()[0])
        print(f"   {name}: MISSED, {str(error).splitlines()[0]}", flush=True)
        return
    met = timing["p50"] <= goal
    floor = known["bytes"] / known["speed"] if known.get("bytes") else None
    stage.add(goal=name, at_most=goal, met=met, **timing, **known, floor=floor)
    beside = f", {timing['p50'] / floor:.2f} floors" if floor else ""
    told = "met" if met else "MISSED"
    print(f"   {name}: {timing['p50'] * 1e6:.4g} us of {goal * 1e6:g}{beside}, {told}", flush=True)


def copy_speed(stage: Stage) -> float:
    """Bytes that a copy reads and writes in a second."""
    source = torch.ones(1 << (12 if stage.rehearse else 30), device=stage.device)
    target = torch.empty_like(source)
    return 8 * len(source) / stage.timed(lambda: target.copy_(source))["p50"]


def in_graph(
    stage: Stage, name: str, call: Callable[[], object], goal: float, **known: Any
) -> None:
    """As `judged`, for a replay of the call; a call that cannot be captured misses its goal."""
    try:
        replay = captured(call, stage.device)
    except RuntimeError as error:
        told = f"cannot be captured: {str(error).splitlines()[0]}"
        stage.add(goal=name, at_most=goal, met=False, told=told)
        print(f"   {name}: MISSED, {told}", flush=True)
    else:
        judged(stage, name, replay, goal, **known)


def step_goals(stage: Stage, name: str, speed: float) -> Callable[[], None] | None:
    """The fused step of one list; what is left to do in a graph, if all is right.

    Raises:
        Red: the Gramian is wrong.
    """
    shapes, eager, graph = STEPS[name]
    rows = stage.rows(M, TINY if stage.rehearse else shapes, torch.bfloat16)

    losses = torch.ones(M, dtype=torch.float64, device=stage.device)
    kept = kept_numbers(M, stage.device)

    def step() -> None:
        packed = gramian_min_norm(rows, losses, kept, point=DevicePoint.HULL)
        combine_(rows, packed[:M])

    wanted = exact(rows)
    found = gramian(rows)
    norms = wanted.diagonal().sqrt()
    error = float(((found - wanted).abs() / (norms[:, None] * norms)).max())
    told = "" if error <= GRAMIAN_TOL else f"an inner product errs by {error:.1e} of the norms"
    if not told and not torch.equal(found, gramian(rows)):
        told = "two runs differ in their bits"
    stage.add(check=f"{name}: Gramian", gate=told, error=error)
    print(f"   {name}: Gramian errs by {error:.1e}: {told or 'green'}", flush=True)
    if told:
        raise Red(told)
    moved = (2 * M + 1) * 2 * sum(g.numel() for g in rows[0])
    waits = synchronisation(step, stage.device)
    stage.add(goal=f"{name}: synchronisations", at_most=0, met=not waits, told=waits)
    print(f"   {name}: no synchronisation: {f'MISSED, {waits}' if waits else 'met'}", flush=True)
    judged(stage, f"{name}, eager", step, eager, bytes=moved, speed=speed)
    if graph is None:
        return None
    label = f"{name}, in a graph"
    return lambda: in_graph(stage, label, step, graph, bytes=moved, speed=speed)


class Red(Exception):
    """A gate is red."""


def main() -> int:
    stage = Stage(__doc__)
    speed = copy_speed(stage)
    stage.add(copy_bytes_per_second=speed)
    print(f"   a copy moves {speed / 1e12:.2f} TB/s", flush=True)
    # In a graph at the end: a capture that fails may leave something behind.
    at_the_end: list[Callable[[], None] | None] = []
    green = True
    if not stage.is_red("gramian", "combine", "gramian_min_norm", "step"):
        for name in STEPS:
            try:
                at_the_end.append(step_goals(stage, name, speed))
            except Red:
                green = False
    if not stage.is_red("min_norm"):
        for m, goal in SOLVES.items():
            problem = case("conflicting", m).gramian.to(stage.device)
            solve = functools.partial(min_norm_point, problem)
            judged(stage, f"solve, m = {m}, eager", solve, goal)
            label = f"solve, m = {m}, in a graph"
            at_the_end.append(functools.partial(in_graph, stage, label, solve, goal))
    for measure in filter(None, at_the_end):
        measure()
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
