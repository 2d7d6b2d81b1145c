"""How do the times of the registered cases compare with those of another revision?

    python -m benchmarks.against REVISION [--only PATTERN] [--full]

The revision is checked out in a throw-away worktree, which is removed at the end, also after an
error. Its library runs under this tree's benchmarks; the two take turns, here, there, there, here,
each time in a process of its own. What the revision cannot run is said by name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import format_table

ROOT = Path(__file__).resolve().parents[1]
TURNS = ("here", "there", "there", "here")
Key = tuple[str, str]


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A worktree of a revision of this repository, removed in any case."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def environment(library: Path, folder: Path) -> dict[str, str]:
    """Of a process that imports `moopt` from one tree, and `benchmarks` from this one."""
    folder.mkdir()
    (folder / "moopt").symlink_to(library / "moopt")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    return os.environ | {"PYTHONPATH": str(folder)}


def prepared(library: Path, folder: Path) -> dict[str, str]:
    """The environment of a tree, with the compiled kernels where this tree has them."""
    found = environment(library, folder)
    if library != ROOT and list((ROOT / "moopt/kernels/native").glob("*.so")):
        build = [sys.executable, "-P", "-m", "moopt.kernels.native"]
        if subprocess.run(build, env=found, capture_output=True, cwd=folder).returncode:
            print("   there: the compiled kernels cannot be built")
    return found


def measured(environment: dict[str, str], out: Path, options: list[str]) -> list[dict[str, Any]]:
    """The records of one run, and what it could not run printed."""
    command = [sys.executable, "-P", "-m", "benchmarks.run", "--json", str(out), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=out.parent)
    if not out.exists():
        raise RuntimeError(f"the benchmarks ended before their first case:\n{done.stderr[-2000:]}")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    for line in done.stdout.splitlines():
        if "cannot run here" in line:
            print(f"   {line.strip().replace('cannot run here', 'cannot run')}")
    if done.stderr:
        print(done.stderr[-2000:], file=sys.stderr)
    return records


def compared(runs: list[tuple[str, list[dict[str, Any]]]]) -> tuple[list[list[str]], list[str]]:
    """Rows of a table of our ways, and sentences on what has no ratio.

    Args:
        runs: "here" or "there", and the records of the run.
    """
    times: dict[str, dict[Key, list[float]]] = {place: defaultdict(list) for place in set(TURNS)}
    told: dict[str, None] = {}
    for place, records in runs:
        for record in records:
            key = record["case"], record["way"]
            if record["ours"] and record["gate"]:
                told[f"{place}, {key[0]}, {key[1]}: gate red, {record['gate']}"] = None
            elif record["ours"]:
                times[place][key].append(record["p50"])
    rows = []
    for key, here in times["here"].items():
        there = times["there"].get(key)
        if there is None:
            told[f"{key[0]}, {key[1]}: not there"] = None
            continue
        mine, theirs = statistics.median(here), statistics.median(there)
        rows.append([*key, f"{theirs * 1e6:.4g}", f"{mine * 1e6:.4g}", f"{mine / theirs:.2f}"])
    return rows, list(told)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name has it")
    parser.add_argument("--full", action="store_true", help="every case, more rounds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the worktree is removed
    flags = ["--only", options.only, *([] if options.full else ["--quick"])]
    with tempfile.TemporaryDirectory() as name, checked_out(options.revision) as tree:
        folder = Path(name)
        trees = {"here": ROOT, "there": tree}
        environments = {p: prepared(root, folder / p) for p, root in trees.items()}
        runs = []
        for k, place in enumerate(TURNS):
            print(f"   run {k + 1} of {len(TURNS)}: {place}", flush=True)
            runs.append((place, measured(environments[place], folder / f"{k}.jsonl", flags)))
    rows, told = compared(runs)
    print()
    if rows:
        headers = ["case", "way", f"{options.revision[:12]} us", "here us", "ratio"]
        print(format_table(headers, rows))
    for sentence in told:
        print(f"   {sentence}")
    return 1 if not rows or any(t.startswith("here") for t in told) else 0


if __name__ == "__main__":
    sys.exit(main())
