"""Everything that is to be measured on a GPU, in at most eight minutes: correctness before speed.

    python -m benchmarks.gpu [--json PATH] [--rehearse]

Stages, each in a process of its own, whose results are written as they come: the gates of every
fused operation and the public functions against exact sums; compute-sanitizer's memcheck and
racecheck, where it is on the PATH; the goals; the sweep over blocks, warps, stages and programs per
core; the registered cases. An operation whose gate is red gets no time. Needs torch, triton, numpy
and scipy, and no network. `--rehearse` runs all of it without a card at tiny sizes, in Triton's
interpreter: set TRITON_INTERPRET=1. Exit code 1: a gate is red or a stage failed; 2: no CUDA.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, run

LIMIT = 470.0
"""Seconds in all."""
STAGES = {"correct": 150.0, "sanitized": 120.0, "goals": 120.0, "sweep": 180.0, "cases": 90.0}
"""Seconds that each may take; what it found until then counts."""
PATH = Path("runs/benchmarks/gpu.json")


def refusal(rehearse: bool) -> str:
    """Why nothing can be run here; empty if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed. Run: pip install triton"
    if rehearse:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return "" if interpreted else "--rehearse needs TRITON_INTERPRET=1 in the environment."
    if not torch.cuda.is_available():
        return "torch sees no CUDA device here; on such a machine use --rehearse."
    return ""


def staged(name: str, out: Path, seconds: float, *flags: str) -> dict[str, Any]:
    """Run one stage; its lines of JSON, and how it ended."""
    if seconds <= 0.0:
        print(f"   {name}: not run, the time is over")
        return {"seconds": 0.0, "ended": "not run, the time is over", "found": []}
    command = [sys.executable, "-m", f"benchmarks.gpu.{name}", "--out", str(out), *flags]
    start = time.perf_counter()
    try:
        code = subprocess.run(command, timeout=seconds).returncode
        ended = "" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {seconds:.0f} s"
    lines = out.read_text().splitlines() if out.exists() else []
    taken = round(time.perf_counter() - start, 1)
    print(f"   {name}: {taken} s{f', {ended}' if ended else ''}\n", flush=True)
    return {"seconds": taken, "ended": ended, "found": [json.loads(line) for line in lines]}


def red(stages: dict[str, Any]) -> list[str]:
    """The operations whose gate is red."""
    found = stages["correct"]["found"]
    return sorted({row["operation"] for row in found if row["gate"]})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, default=PATH, metavar="PATH")
    parser.add_argument("--rehearse", action="store_true", help="on the host, at tiny sizes")
    options = parser.parse_args()
    told = refusal(options.rehearse)
    if told:
        print(f"benchmarks.gpu: {told}", file=sys.stderr)
        return 2
    device = torch.device("cpu") if options.rehearse else torch.device("cuda", 0)
    if options.rehearse:
        print("   a rehearsal: every path runs, and its times mean nothing\n")
    content: dict[str, Any] = {"rehearsal": options.rehearse, **run.conditions(device)}
    content |= {"load": harness.load(), "stages": {}}
    stages, started = content["stages"], time.perf_counter()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in STAGES.items():
            left = LIMIT - (time.perf_counter() - started)
            flags = ["--rehearse"] if options.rehearse else []
            if "correct" in stages:
                flags += ["--red", *red(stages)]
            stages[name] = staged(name, Path(folder) / name, min(seconds, left), *flags)
            options.json.write_text(json.dumps(content, indent=1) + "\n")
            if name == "correct" and stages[name]["ended"] not in ("", "exit code 1"):
                print("   correctness is not known, so nothing is timed")
                return 1
    print(f"   {time.perf_counter() - started:.0f} s in all, written to {options.json}")
    wrong = [name for name, stage in stages.items() if stage["ended"].startswith("exit code")]
    print(f"   FAILED: {', '.join(wrong)}" if wrong else "   every gate is green")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
