"""Fair timing: interleaved repetitions, wall time and that of one thread or of the device."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
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
        "machine": f"{processor(torch.device('cpu'))}, {torch.get_num_threads()} thread used",
        "load": f"{load()} (1 min)",
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }


def versions() -> dict[str, str]:
    """Of everything that a figure depends on, as far as it is installed."""
    found = {"python": platform.python_version(), "moopt": moopt.__version__}
    for package in ("torch", "numpy", "scipy", "quadprog", "torchjd", "triton", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def revision() -> tuple[str | None, bool | None]:
    """The commit of the library that is imported, and whether files differ from it.

    Both are None outside a git repository.
    """
    folder = Path(moopt.__file__).resolve().parent
    commands = ("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", ".")
    try:
        commit, changed = (
            subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(changed)


def load() -> float | None:
    """Processes that ran or waited in the last minute, where the system tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def processor(device: torch.device) -> str:
    """The card, or the processor and its number of cores; no host name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores"


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
        cpu: CPU time of the calling thread, which the load of other processes disturbs less; on a
            CUDA device the time between two of its events.
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
    warm: Collection[str] = (),
    device: torch.device | None = None,
) -> dict[str, Timing]:
    """Time the functions in turn, round after round, each round starting with another one.

    Slow drifts of the machine (frequency, other processes) so meet all functions alike. One
    round more runs first and is not counted.

    Args:
        functions: what to time, by name.
        rounds: counted rounds.
        number: calls per measurement, of all functions alike or by name.
        before: called before each measurement and not timed; its result is dropped.
        warm: those that are called once more before each measurement: what runs first after another
            function pays for its caches, on some machines milliseconds.
        device: where they run; None is the host.
    """
    clock = _device_clock if device is not None and device.type == "cuda" else _host_clock
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
            if name in warm:
                function()
            elapsed, used = clock(function, calls[name])
            if k > 0:
                wall[name].append(elapsed / calls[name])
                cpu[name].append(used / calls[name])
    return {name: Timing(wall[name], cpu[name]) for name in names}


def _host_clock(function: Callable[[], object], number: int) -> tuple[float, float]:
    wall_start, cpu_start = time.perf_counter(), time.thread_time()
    for _ in range(number):
        function()
    cpu_stop, wall_stop = time.thread_time(), time.perf_counter()
    return wall_stop - wall_start, cpu_stop - cpu_start


def _device_clock(function: Callable[[], object], number: int) -> tuple[float, float]:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    wall_start = time.perf_counter()
    start.record()
    for _ in range(number):
        function()
    stop.record()
    torch.cuda.synchronize()
    return time.perf_counter() - wall_start, start.elapsed_time(stop) / 1e3


def repetitions(
    functions: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    device: torch.device | None = None,
) -> dict[str, int]:
    """How many calls of each, at most `MOST_CALLS`, take that long: the steady state.

    What a function does once for many of its calls is then in a measurement, in the right
    proportion, and what the first call after another function pays for its caches is not.
    """
    once = interleaved(functions, rounds=3, warm=functions, device=device)
    return {
        name: round(min(max(seconds / max(timing.median, 1e-9), 1), MOST_CALLS))
        for name, timing in once.items()
    }
