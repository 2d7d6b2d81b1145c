"""compute-sanitizer's memcheck and racecheck on one small call of every fused operation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import torch

from benchmarks.gpu.stage import Stage, fused

TOOLS = ("memcheck", "racecheck")
SECONDS = 55
CALLS = "from benchmarks.gpu.sanitized import call_each; call_each({device!r}, {width})"


def call_each(device: str, width: int) -> None:
    """The gates of all operations at one width: every border, every kernel of that width."""
    for operation, module in fused().items():
        told = module.probe(torch.device(device), width, {torch.bfloat16, torch.float32})
        if told:
            raise SystemExit(f"{operation}: {told}")
    if device != "cpu":
        torch.cuda.synchronize()


def sanitized(tool: str | None, device: str, width: int) -> str:
    """What a tool finds in the calls, in words; without a tool, whether they run."""
    # So that each tensor has bounds of its own.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    program = [sys.executable, "-c", CALLS.format(device=device, width=width)]
    command = ["compute-sanitizer", "--tool", tool, *program] if tool else program
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"not known: it took more than {SECONDS} s"
    output = done.stdout + done.stderr
    if tool is None:
        return "" if done.returncode == 0 else output[-500:]
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", output)
    if summary is None:
        return f"not known: {output[-300:].strip()}"
    clean = re.match(r"0 (errors|hazards)", summary.group(1))
    return "" if clean and done.returncode == 0 else f"{summary.group(1)}; {output[-300:]}"


def main() -> int:
    stage = Stage(__doc__)
    found = shutil.which("compute-sanitizer") is not None and not stage.rehearse
    if not found:
        print("   compute-sanitizer: not on the PATH; the calls run without it")
    wrong = False
    for tool in TOOLS if found else (None,):
        told = sanitized(tool, str(stage.device), 3)
        stage.add(tool=tool or "none", told=told)
        print(f"   {tool or 'without a tool'}: {told or 'clean'}", flush=True)
        wrong = wrong or bool(told and not told.startswith("not known"))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
