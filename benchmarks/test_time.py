"""How much processor time do the tests take, beside those of an earlier revision?

    python -m benchmarks.test_time --against c41d9c8

Both suites run at once, one process and one thread each. A test of this tree counts as an old one
if the revision has a test function of that name, whatever its file and parameters; the rest are
new. What a test starts in other processes counts as its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.against import ROOT, checked_out
from benchmarks.report import Report

PLUGIN = Path(__file__).with_name("test_time_plugin.py")


def started(root: Path, out: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start the suite of one tree; its seconds by test are in `out` at the end."""
    environment = os.environ | {
        "PYTHONPATH": f"{root}{os.pathsep}{PLUGIN.parent}",
        "OMP_NUM_THREADS": "1",
        "MOOPT_TEST_TIMES": str(out),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "no:xdist", "-p", PLUGIN.stem, *arguments]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL)


def by_function(seconds: dict[str, float]) -> Counter[str]:
    """Seconds by the name of the test function."""
    total: Counter[str] = Counter()
    for test, taken in seconds.items():
        total[test.split("[")[0].rpartition("::")[2]] += taken  # type: ignore[assignment]
    return total


def run(report: Report, revision: str, arguments: list[str], folder: Path, earlier: Path) -> None:
    outs = {root: folder / f"{i}.json" for i, root in enumerate((earlier, ROOT))}
    suites = [started(root, out, arguments) for root, out in outs.items()]
    codes = [suite.wait() for suite in suites]
    before, now = (by_function(json.loads(out.read_text())) for out in outs.values())
    old = sum(seconds for name, seconds in now.items() if name in before)
    new = sum(seconds for name, seconds in now.items() if name not in before)
    whole = sum(before.values())
    rows = [
        [f"tests of {revision}, there", f"{whole:.0f}", "1.00"],
        ["the same tests here", f"{old:.0f}", f"{old / whole:.2f}"],
        ["new tests here", f"{new:.0f}", f"{new / whole:.2f}"],
    ]
    report.table(["", "CPU seconds", "share"], rows)
    print("\n   the dearest new tests:")
    for name, seconds in now.most_common():
        if name not in before and seconds >= 2.0:
            print(f"   {seconds:6.1f} s  {name}")
    print(f"\n   exit codes of pytest: {revision} {codes[0]}, here {codes[1]}")
    report.results.update(before=whole, old=old, new=new, exit_codes=codes)


def main() -> None:
    claim = "processor time of the tests"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.test_time", description=claim)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/test_time.json"))
    parser.add_argument("--against", metavar="REVISION", required=True)
    parser.add_argument("arguments", nargs="*", help="handed to pytest, such as tests/weightings")
    options = parser.parse_args()
    report = Report("test_time", claim)
    with tempfile.TemporaryDirectory() as folder, checked_out(options.against) as tree:
        run(report, options.against, options.arguments or ["tests"], Path(folder), tree)
    report.write(options.json)
    print(f"   written to {options.json}")


if __name__ == "__main__":
    main()
