"""Run the registered cases: gates first, then all contenders of a case in turn.

    python -m benchmarks.run [--only PATTERN] [--quick] [--json PATH]

A way of this library whose gate is red gets no time: its words are printed, and the exit code is 1.
A peer's error is told beside its time. One JSON line is written for each way, with the revision,
the versions and the machine. Times are CPU seconds of one thread (between two events on a CUDA
device; on the wall with `--threads`), p20, p50 and p80 of the rounds.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.registry import Case, Inputs, every
from benchmarks.report import format_table

ROUNDS, QUICK_ROUNDS = 9, 5
PATH = Path("runs/benchmarks/run.jsonl")
Record = dict[str, Any]


def conditions(device: torch.device) -> Record:
    """What every line says of the library and the machine."""
    commit, dirty = harness.revision()
    return {
        "revision": commit,
        "dirty": dirty,
        "versions": harness.versions(),
        "machine": harness.processor(device),
        "threads": torch.get_num_threads(),
    }


def measure(case: Case, known: Record, *, quick: bool = False) -> list[Record]:
    """One record for each way; `gate` holds its words, and is empty where the gate is green."""
    setting, inputs = case.setting, case.build(case.setting)
    ways = dict(inputs.ways)
    gates = {name: way.gate() for name, way in ways.items()}
    red = [name for name, way in ways.items() if way.ours and gates[name]]
    ways = {name: way for name, way in ways.items() if name not in red}
    load = harness.load()
    rounds = QUICK_ROUNDS if quick else ROUNDS
    seconds, calls = _seconds(inputs, [*ways], setting.device, rounds, quick) if ways else ({}, {})
    quantiles = {name: np.quantile(s, [0.2, 0.5, 0.8]) for name, s in seconds.items()}
    speeds = [quantiles[name][1] / way.bytes for name, way in ways.items() if way.bytes]
    floor = case.bytes * min(speeds) if case.bytes and speeds else None
    clock = "wall" if inputs.wall else "cpu" if setting.device.type == "cpu" else "cuda events"
    shapes = collections.Counter("x".join(map(str, shape)) for shape in setting.shapes)
    records = []
    for name, way in inputs.ways.items():
        record: Record = {
            "case": case.name,
            "operation": case.operation,
            "way": name,
            "ours": way.ours,
            "gate": gates[name],
            **known,
            "device": setting.device.type,
            "dtype": str(setting.dtype).removeprefix("torch."),
            "m": setting.m,
            "n": setting.n,
            "shapes": dict(shapes),
            "bytes": way.bytes or case.bytes,
            "clock": clock,
            "load": load,
        }
        if name in quantiles:
            p20, p50, p80 = map(float, quantiles[name])
            others = [o for o in quantiles if not (inputs.ways[o].ours or inputs.ways[o].bytes)]
            record |= {"rounds": rounds, "calls": calls[name], "p20": p20, "p50": p50, "p80": p80}
            record["floor_ratio"] = (
                p50 / floor if floor and not way.bytes and name != inputs.base else None
            )
            record["peer_ratios"] = (
                {
                    other: float(quantiles[other][1]) / p50
                    for other in others
                    if other != inputs.base
                }
                if way.ours
                else {}
            )
        records.append(record)
    for name, why in inputs.missing.items():
        print(f"   {name}: left out, {why}")
    return records


def _seconds(
    inputs: Inputs, names: list[str], device: torch.device, rounds: int, quick: bool
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each way and round for one problem, without those of the base; and the calls."""
    functions = {name: inputs.ways[name].call for name in names}
    calls = dict.fromkeys(names, 1)
    if not inputs.once:
        calls = harness.repetitions(functions, seconds=5e-3 if quick else 2e-2, device=device)
    timings = harness.interleaved(
        functions,
        rounds=rounds,
        number=calls,
        before=inputs.before,
        warm=[name for name, number in calls.items() if number > 1],
        device=device,
    )
    taken = {name: t.wall if inputs.wall else t.cpu for name, t in timings.items()}
    base = taken.get(inputs.base or "")
    found = {}
    for name, values in taken.items():
        if base is not None and name != inputs.base and not inputs.ways[name].bytes:
            values = [value - less for value, less in zip(values, base, strict=True)]
        found[name] = [value / inputs.problems for value in values]
    return found, calls


def shown(case: Case, records: list[Record]) -> bool:
    """Print the records of a case; whether every gate of ours is green."""
    timed = {record["way"]: record for record in records if "p50" in record}
    scale, unit = (1e3, "ms") if any(r["p50"] > 2e-3 for r in timed.values()) else (1e6, "us")
    floor = next((r["p50"] / r["floor_ratio"] for r in timed.values() if r.get("floor_ratio")), 0.0)
    ours = [record["way"] for record in timed.values() if record["ours"]]
    rows = [["the memory's floor", "", f"{floor * scale:.4g}", "", "1.00", ""]] if floor else []
    for name, record in timed.items():
        ratio = record.get("floor_ratio")
        moved = not record["ours"] and name not in timed[ours[0]]["peer_ratios"] if ours else True
        beside = "" if moved else f"{record['p50'] / timed[ours[0]]['p50']:.2f}"
        cells = [f"{record[key] * scale:.4g}" for key in ("p20", "p50", "p80")]
        rows.append([name, *cells, f"{ratio:.2f}" if ratio else "", beside])
    if rows:
        print(format_table([case.name, "p20", f"p50 {unit}", "p80", "floors", "of ours"], rows))
    for record in records:
        if record["gate"]:
            told = "GATE RED, no time:" if record["ours"] else "note:"
            print(f"   {told} {record['way']}: {record['gate']}")
    for goal in case.goals:
        beside = floor if goal.beside == "floor" else timed.get(goal.beside, {}).get("p50")
        if goal.way in timed and beside:
            ratio = timed[goal.way]["p50"] / beside
            told = "met" if ratio <= goal.at_most else "MISSED"
            most = f"at most {goal.at_most:.3g} times {goal.beside}"
            print(f"   goal: {goal.way} in {most}: {ratio:.3g}, {told}")
    return not any(record["ours"] and record["gate"] for record in records)


def run(
    cases: Iterable[Case | tuple[str, str]], known: Record, *, quick: bool = False
) -> Iterator[tuple[list[Record], bool]]:
    """Measure and print case after case; records, and whether the gates of ours are green."""
    for case in cases:
        if isinstance(case, tuple):
            print(f"   {case[0]}: cannot run here, {case[1]}")
            continue
        start = time.perf_counter()
        try:
            records = measure(case, known, quick=quick)
        except (ImportError, AttributeError) as error:
            print(f"   {case.name}: cannot run here, {type(error).__name__}: {error}")
            continue
        green = shown(case, records)
        print(f"   {time.perf_counter() - start:.0f} s\n")
        yield records, green


def chosen(device: torch.device, only: str, quick: bool) -> Iterator[Case | tuple[str, str]]:
    for case in every(device):
        name = case[0] if isinstance(case, tuple) else case.name
        in_time = isinstance(case, tuple) or case.quick or not quick
        if re.search(only, name) and in_time:
            yield case


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name has it")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds")
    parser.add_argument("--json", type=Path, default=PATH, metavar="PATH")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    harness.keep_the_heap()
    known = conditions(options.device)
    for key, value in known.items():
        print(f"   {key}: {value}")
    print(f"   load: {harness.load()} (1 min)\n")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    green, count = True, 0
    with options.json.open("w") as file:
        cases = chosen(options.device, options.only, options.quick)
        for records, passed in run(cases, known, quick=options.quick):
            green, count = green and passed, count + 1
            file.writelines(json.dumps(record) + "\n" for record in records)
    print(f"   {count} cases, written to {options.json}")
    if not count:
        print(f"   no case has {options.only!r} in its name")
    return 0 if green and count else 1


if __name__ == "__main__":
    sys.exit(main())
