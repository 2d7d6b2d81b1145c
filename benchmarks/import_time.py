"""What does `import moopt` add to `import torch`?

    python -m benchmarks.import_time

Fresh interpreters, medians, with the bytecode that installing (or a first import) leaves beside
the sources; and the third-party modules that it loads beyond torch's, of which there must be none.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

from benchmarks.report import Report, main

LIMIT = 0.3
PROGRAM = """
import json, sys, time
start = time.perf_counter(), time.process_time()
import torch
middle, loaded = (time.perf_counter(), time.process_time()), set(sys.modules)
import moopt
stop = time.perf_counter(), time.process_time()
new = {name.split(".")[0] for name in set(sys.modules) - loaded}
new -= set(sys.stdlib_module_names) | {name.split(".")[0] for name in loaded} | {"moopt"}
print(json.dumps({
    "torch": [b - a for a, b in zip(start, middle)],
    "moopt": [b - a for a, b in zip(middle, stop)],
    "third_party": sorted(new),
}))
"""


def run(report: Report, quick: bool) -> None:
    # Without bytecode the sources are compiled at every start, which takes twice the time.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    measured = []
    for _ in range(4 if quick else 10):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=env
        )
        measured.append(json.loads(done.stdout))
    del measured[0]  # the run that may have written the bytecode
    wall, cpu = (
        {k: statistics.median(run[k][clock] for run in measured) for k in ("torch", "moopt")}
        for clock in (0, 1)
    )
    third_party = measured[0]["third_party"]
    report.gate(
        "nothing beyond torch",
        not third_party,
        f"third-party packages loaded: {', '.join(third_party) or 'none'}",
    )
    # CPU time: the wall clock of a busy machine measures the other processes.
    report.gate(
        f"under {LIMIT} s", cpu["moopt"] < LIMIT, f"import moopt adds {cpu['moopt']:.3f} s of CPU"
    )
    print()
    report.table(
        ["", "CPU s", "wall s"],
        [
            ["import torch", f"{cpu['torch']:.3f}", f"{wall['torch']:.3f}"],
            ["import moopt adds", f"{cpu['moopt']:.3f}", f"{wall['moopt']:.3f}"],
            ["share", *(f"{100 * s['moopt'] / s['torch']:.1f} %" for s in (cpu, wall))],
        ],
    )
    report.results.update({"cpu": cpu, "wall": wall, "third_party": third_party})


if __name__ == "__main__":
    main("import_time", f"import moopt adds less than {LIMIT} s to import torch", run)
