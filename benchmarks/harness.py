"""Fair timing: interleaved repetitions, medians, wall and CPU time of one thread."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import moopt
from benchmarks import peer


def environment() -> dict[str, str]:
    """What a reader needs to judge the figures; no host name, no path."""
    return {
        "moopt": moopt.__version__,
        "torch": torch.__version__,
        "torchjd": peer.version() or peer.MISSING,
        "python": platform.python_version(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread used",
        "load": f"{os.getloadavg()[0]:.1f} (1 min)" if hasattr(os, "getloadavg") else "?",
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per call, one entry per round; entry k of every function is from round k.

    Attributes:
        wall: elapsed time.
        cpu: CPU time of the calling thread, which the load of other processes disturbs less.
    """

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        """Median CPU seconds."""
        return statistics.median(self.cpu)

    @property
    def median_wall(self) -> float:
        """Median wall seconds."""
        return statistics.median(self.wall)

    def over(self, base: Timing) -> float:
        """Median over rounds of the CPU seconds beyond `base` in the same round."""
        return statistics.median(a - b for a, b in zip(self.cpu, base.cpu, strict=True))


MOST_CALLS = 5000

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


def keep_the_heap() -> None:
    """Let glibc keep the memory that is freed, so that no page is faulted in twice.

    Otherwise it gives long tensors back to the system whenever the end of the heap is free, and who
    allocates next pays for the pages again: 10 to 50 ms in a step with 3 x 23 million float32
    entries, mostly for who needs most memory, but also now for one candidate, now for the other.
    It cannot be undone. Elsewhere than on glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, -1)
    mallopt(_MMAP_MAX, 0)


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    number: int | Mapping[str, int] = 1,
    before: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time the functions in turn, round after round, each round starting with another one.

    Slow drifts of the machine (frequency, other processes) so meet all functions alike. One
    round more runs first and is not counted.

    Args:
        functions: what to time, by name.
        rounds: counted rounds.
        number: calls per measurement, of all functions alike or by name.
        before: called before each measurement and not timed; its result is dropped.
    """
    names = list(functions)
    calls = dict.fromkeys(names, number) if isinstance(number, int) else dict(number)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds + 1):
        shift = k % len(names)
        for name in names[shift:] + names[:shift]:
            function = functions[name]
            if before is not None:
                before()
            wall_start, cpu_start = time.perf_counter(), time.thread_time()
            for _ in range(calls[name]):
                function()
            cpu_stop, wall_stop = time.thread_time(), time.perf_counter()
            if k > 0:
                wall[name].append((wall_stop - wall_start) / calls[name])
                cpu[name].append((cpu_stop - cpu_start) / calls[name])
    return {name: Timing(wall[name], cpu[name]) for name in names}


def repetitions(functions: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, int]:
    """How many calls of each, at most `MOST_CALLS`, take that long: the steady state.

    The first calls after another function's, whose code and data fill the caches, take up to half
    a millisecond more; a single call between two looks at the clock would measure those. And what
    a function does once for many of its calls is in the measurement, in the right proportion.
    """
    once = interleaved(functions, rounds=3)
    return {
        name: round(min(max(seconds / max(timing.median, 1e-9), 1), MOST_CALLS))
        for name, timing in once.items()
    }
