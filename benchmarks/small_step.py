"""What does a step cost on a small network, beside an earlier revision and TorchJD?

    python -m benchmarks.small_step
    python -m benchmarks.small_step --against c41d9c8

Three linear layers of width 32, batch 8, SGD, m = 3, 8 and 32 losses of one forward pass. The
overhead is the time of a whole step (forward pass, differentiation, weights, SGD step) beyond that
of the forward pass, m plain backward passes and the SGD step of the same process: medians of
processes that take turns, one thread each. `--against` names a revision of this repository, which
is checked out beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import peer
from benchmarks.report import Report

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("small_step_child.py")
SIZES = (3, 8, 32)
# What the issue that asked for this promises: (method, rival) -> m -> share of the rival's.
GOALS = {
    ("default", "revision"): {3: 0.5, 8: 0.55, 32: 0.75},
    ("upgrad", "torchjd"): {3: 0.75, 8: 1.0, 32: 1.0},
}

Rival = tuple[str, str]


def measured(library: str, method: str, m: int, root: Path) -> dict[str, float]:
    """Seconds of the plain passes and of the whole step, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(CHILD), library, method, str(m)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def ways(revision: str | None) -> list[Rival]:
    found: list[Rival] = [("moopt", "default"), ("moopt", "upgrad")]
    if revision:
        found += [("revision", "default"), ("revision", "upgrad")]
    if peer.version():
        found += [("torchjd", "default"), ("torchjd", "upgrad")]
    return found


def run(report: Report, rounds: int, revision: str | None, root: Path) -> None:
    """Print one table for each m, and the shares that were promised."""
    names = {"moopt": "moopt", "revision": f"moopt {revision}", "torchjd": "TorchJD"}
    for m in SIZES:
        taken: dict[Rival, list[dict[str, float]]] = {way: [] for way in ways(revision)}
        for _ in range(rounds):
            for library, method in taken:
                where = root if library == "revision" else ROOT
                taken[library, method].append(measured(library, method, m, where))
        overhead = {
            way: statistics.median(one["full"] - one["plain"] for one in rows)
            for way, rows in taken.items()
        }
        rows = []
        for (library, method), each in taken.items():
            plain = statistics.median(one["plain"] for one in each)
            spent = overhead[library, method]
            shares = [
                f"{overhead['moopt', method] / spent:.2f}" if library != "moopt" else "",
            ]
            label = {"default": "MGDA(l2)" if library != "torchjd" else "MGDA"}.get(
                method, "UPGrad"
            )
            rows.append(
                [f"{names[library]}, {label}", f"{plain * 1e3:.2f}", f"{spent * 1e3:.2f}", *shares]
            )
        print(f"\nm = {m}")
        report.table(["", "plain ms", "overhead ms", "moopt's share of it"], rows)
        report.results[str(m)] = {" ".join(way): value for way, value in overhead.items()}
        for (method, rival), promised in GOALS.items():
            if (rival, method) in overhead:
                share = overhead["moopt", method] / overhead[rival, method]
                verdict = "met" if share <= promised[m] else "MISSED"
                print(
                    f"   goal {method} beside {names[rival]}, m = {m}: {share:.2f} of at most"
                    f" {promised[m]:g}: {verdict}"
                )
    if not peer.version():
        print(f"\n   TorchJD: {peer.MISSING}")


def main() -> None:
    claim = "cost of a step on three small layers"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_step", description=claim)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/small_step.json"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, noisier figures")
    parser.add_argument("--against", metavar="REVISION", help="an earlier revision to compare with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = Report("small_step", claim)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "revision"
        if options.against:
            clone = ["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(root)]
            subprocess.run(clone, check=True)
            checkout = ["git", "-C", str(root), "checkout", "--quiet", options.against]
            subprocess.run(checkout, check=True)
        run(report, 3 if options.quick else 9, options.against, root)
    report.write(options.json)
    print(f"   written to {options.json}")


if __name__ == "__main__":
    main()
