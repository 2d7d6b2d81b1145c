"""Run every benchmark in ten minutes, each in a process of its own: `python -m benchmarks`.

`--full` takes longer, for steadier figures.
"""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "import_time",
    "solver",
    "memory",
    "step_path",
    "run",
    "share",
    "growth",
    "output_layer",
    "weightings",
    "faults",
    "peer_properties",
)


def run_all(arguments: list[str]) -> int:
    """Return 0 if every benchmark passed its gates, else 1; all of them run in any case."""
    if "--full" in arguments:
        arguments = [argument for argument in arguments if argument != "--full"]
    else:
        arguments = ["--quick", *arguments]
    failed = [
        name
        for name in NAMES
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments]).returncode
    ]
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nevery correctness gate passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_all(sys.argv[1:]))
