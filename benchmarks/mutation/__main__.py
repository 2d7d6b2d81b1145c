"""Would the tests notice? Mutation testing of the solvers and the weightings, on a random sample.

    python -m benchmarks.mutation --sample 400 --seed 0

Mutants are cosmic-ray's. Those that change annotations alone are no mutants, since annotations are
never evaluated here; nor are those that no test could tell from the original by their kind: `&` as
`*` and `|` as `+`, which are the same of flags, and a comparison of numbers by `is`. The tests of a
mutant are those of `tests/solvers` and `tests/weightings` that run the mutated statement, as one
traced run of all of them tells, cheapest first, as many as take 4 CPU seconds on the original, with
at most 10 examples of each property. Tests that fail on the original, or that do not end on it
within the limit, are an error of this program or of the tests, never a verdict.

A mutant is killed if one of its tests fails. It is also killed, and counted as endless, if its
tests do not end within the limit (10 CPU seconds) although they do on the original, which is then
run again to make sure. All other mutants survive. The bound is Wilson's.

Each mutant runs in a forked child of a process that has already imported torch, so that a run
costs its tests and not the imports. Survivors are listed with their diff, and with the reason of
`survivors.json` if it has one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.mutation.child import Job, outcome, outcomes, preload
from benchmarks.mutation.mutants import ROOT, Mutant, draw, mutated_files
from benchmarks.mutation.reach import Reach, measured

LIMIT = 10
GOAL = 0.85
REASONS = Path(__file__).with_name("survivors.json")


def wilson_low(killed: int, total: int, z: float = 1.96) -> float:
    """The lower end of Wilson's 95 % interval of a share."""
    share = killed / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (centre - spread) / (1 + z * z / total)


def ends_on_original(reach: Reach, sample: list[Mutant], workers: int) -> None:
    """Raise unless the tests of every module of a sample pass on the original, in time."""
    paths = sorted({mutant.path for mutant in sample})
    jobs = [Job(None, reach.of_module(path)) for path in paths]
    for place, verdict in outcomes(jobs, LIMIT, workers):
        if verdict != "passed":
            raise SystemExit(f"the tests of {paths[place]} without any mutation: {verdict}.")


def verdicts(sample: list[Mutant], reach: Reach, workers: int) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with "killed", "endless" or "survived", as they end."""
    jobs = [Job(mutant, reach.tests_of(mutant)) for mutant in sample]
    for place, found in outcomes(jobs, LIMIT, workers):
        mutant, chosen = sample[place], jobs[place].chosen
        if found == "endless" and outcome(None, chosen, LIMIT) != "passed":
            raise SystemExit(f"{chosen.tests} do not end in time without any mutation")
        killed = {"failed": "killed", "endless": "endless"}
        yield mutant, killed.get(found, "survived") if chosen.tests else "survived"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/mutation.json"))
    parser.add_argument("--again", type=Path, help="only the survivors of this earlier result")
    options = parser.parse_args()
    preload()
    os.chdir(ROOT)
    reach = measured(options.workers)
    files = mutated_files()
    sample, count = draw(files, options.sample, options.seed)
    print(f"{count} positions in {len(files)} files; a sample of {len(sample)}", flush=True)
    if options.again is not None:
        wanted = {(m, d) for m, _, d in json.loads(options.again.read_text())["survived"]}
        sample = [mutant for mutant in sample if (mutant.module, mutant.diff()) in wanted]
    else:
        ends_on_original(reach, sample, options.workers)
    reasons = {(m, d): why for m, d, why in json.loads(REASONS.read_text())}
    results: dict[str, list[Mutant]] = {"killed": [], "endless": [], "survived": []}
    for i, (mutant, verdict) in enumerate(verdicts(sample, reach, options.workers)):
        results[verdict].append(mutant)
        if verdict == "survived":
            why = reasons.get((mutant.module, mutant.diff()), "NO REASON YET")
            print(f"\n{mutant.module}:{mutant.line()} ({mutant.operator}): {why}")
            print(mutant.diff(), flush=True)
        if i % 25 == 24:
            print(f"   {i + 1}: {len(results['survived'])} survived", flush=True)
    total = len(sample)
    killed = total - len(results["survived"])
    low = wilson_low(killed, total)
    print(f"\n{killed} of {total} killed: {100 * killed / total:.1f} %, at least {100 * low:.1f} %")
    print(f"{len(results['endless'])} of them by exceeding {LIMIT} CPU seconds")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows = {k: [[m.module, m.operator, m.diff()] for m in v] for k, v in results.items()}
    options.json.write_text(json.dumps({"seed": options.seed, **rows}, indent=1))
    return 0 if low >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
