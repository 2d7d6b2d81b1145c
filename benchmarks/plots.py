"""Pictures of what `benchmarks.run` wrote.

    python -m benchmarks.plots [RUN.jsonl] [--folder FOLDER]

Three pictures: time against m for the solves, time against n for a step, and how much of the time
of each operation on rows is the floor of the memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.run import PATH

Record = dict[str, Any]
COLOURS = {
    "moopt": "#0B3C78",
    "moopt, plain PyTorch": "#5B8FD0",
    "TorchJD": "#7A7A7A",
    "TorchJD, optimize_gramian": "#B0B0B0",
    "LibMTL's Frank-Wolfe": "#8A5AA8",
    "quadprog": "#3F8F5B",
    "scipy nnls": "#C2571A",
    "torch: cat and @": "#C9A227",
    "torch: foreach": "#C9A227",
}
"""Of each way, the same in every picture."""
UNKNOWN = "#D0498A"
SOLVES = {"min_norm": "minimum-norm point", "dual_cone": "projection onto the dual cone"}


def timed(records: Sequence[Record], *operations: str) -> list[Record]:
    """Those of some operations that have a time, without the ways that only move memory."""
    moves = {"read", "sum", "copy", "plain"}
    found = [r for r in records if r["operation"] in operations and "p50" in r]
    return [r for r in found if r["way"] not in moves]


def curves(panel: Any, records: Sequence[Record], size: str, unit: float) -> None:
    """p50 of each way against a size, on logarithmic axes, with p20 to p80 as a band."""
    of_way: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r[size]):
        of_way[record["way"]].append(record)
    for way, points in of_way.items():
        colour = COLOURS.get(way, UNKNOWN)
        x = [p[size] for p in points]
        low, middle, high = ([p[key] * unit for p in points] for key in ("p20", "p50", "p80"))
        width = 2.0 if way == "moopt" else 1.3
        panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.loglog(x, middle, color=colour, marker="o", markersize=3, linewidth=width, label=way)
    panel.grid(color="#E6E6E6", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def against_m(records: Sequence[Record], path: Path) -> bool:
    """One panel for each kind of solve; whether there was anything to draw."""
    kinds = {k: timed(records, k) for k in SOLVES}
    kinds = {k: rows for k, rows in kinds.items() if len({r["m"] for r in rows}) > 1}
    if not kinds:
        return False
    figure, axes = _figure(len(kinds), 3.4)
    for (kind, rows), panel in zip(kinds.items(), axes, strict=True):
        curves(panel, rows, "m", 1e6)
        sizes = sorted({r["m"] for r in rows})
        panel.set_xticks(sizes, [str(m) for m in sizes])
        panel.minorticks_off()
        panel.set_title(SOLVES[kind], fontsize=9)
        panel.set_xlabel("objectives m", fontsize=8)
    axes[0].set_ylabel("CPU microseconds", fontsize=8)
    _save(figure, axes, path)
    return True


def against_n(records: Sequence[Record], path: Path) -> bool:
    """A step beyond its backward passes, and the floor."""
    rows = [r for r in timed(records, "step") if "n = " in r["case"] and r["p50"] > 0]
    if len({r["n"] for r in rows}) < 2:
        return False
    figure, axes = _figure(1, 3.6)
    curves(axes[0], rows, "n", 1e3)
    floors = {r["n"]: 1e3 * r["p50"] / r["floor_ratio"] for r in rows if r["floor_ratio"]}
    floors = dict(sorted(floors.items()))
    style = {"color": "#222222", "linestyle": ":", "linewidth": 1.5}
    axes[0].loglog([*floors], [*floors.values()], label="the memory's floor", **style)
    axes[0].set_title("a step beyond its backward passes, m = 3, float32", fontsize=9)
    axes[0].set_xlabel("parameters n", fontsize=8)
    axes[0].set_ylabel("CPU milliseconds", fontsize=8)
    _save(figure, axes, path)
    return True


def shares(records: Sequence[Record], path: Path) -> bool:
    """The floor in per cent of the time of each way, a group of bars for each case."""
    rows = [r for r in timed(records, "gramian", "combine", "step") if r.get("floor_ratio")]
    rows = [r for r in rows if "n = " not in r["case"] and r["floor_ratio"] > 0]
    if not rows:
        return False
    cases = list(dict.fromkeys(r["case"] for r in rows))
    figure, axes = _figure(1, 0.55 * len(cases) + 1.2)
    panel = axes[0]
    for k, name in enumerate(cases):
        group = [r for r in rows if r["case"] == name]
        height = 0.8 / len(group)
        for i, record in enumerate(group):
            place = k - 0.4 + (i + 0.5) * height
            share = 100 / record["floor_ratio"]
            panel.barh(place, share, 0.9 * height, color=COLOURS.get(record["way"], UNKNOWN))
            white = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
            panel.text(share + 1, place, f"{share:.0f}", va="center", fontsize=6, bbox=white)
    panel.set_yticks(range(len(cases)), cases, fontsize=7)
    panel.set_xlabel("the memory's floor, in per cent of the time", fontsize=8)
    panel.axvline(100, color="#222222", linestyle=":", linewidth=1, zorder=0)
    for way in dict.fromkeys(r["way"] for r in rows):
        panel.barh([0], [0], color=COLOURS.get(way, UNKNOWN), label=way)
    panel.set_ylim(len(cases) - 0.45, -0.55)
    panel.margins(x=0.08)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    _save(figure, axes, path)
    return True


def _figure(panels: int, height: float) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, panels, figsize=(7.2, height), squeeze=False, layout="constrained", sharey=True
    )
    return figure, list(axes[0])


def _save(figure: Any, axes: Sequence[Any], path: Path) -> None:
    from matplotlib import pyplot

    entries: dict[str, Any] = {}
    for panel in axes:
        panel.tick_params(labelsize=7)
        handles, labels = panel.get_legend_handles_labels()
        entries |= {la: h for h, la in zip(handles, labels, strict=True) if la not in entries}
    figure.legend(
        entries.values(), entries, loc="outside upper center", ncols=3, frameon=False, fontsize=7
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
    pyplot.close(figure)


PICTURES = {"time_against_m": against_m, "time_against_n": against_n, "share_of_floor": shares}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("records", type=Path, nargs="?", default=PATH)
    parser.add_argument("--folder", type=Path, default=None, help="beside the records otherwise")
    options = parser.parse_args()
    records = [json.loads(line) for line in options.records.read_text().splitlines()]
    folder = options.folder or options.records.parent
    for name, draw in PICTURES.items():
        path = folder / f"{name}.png"
        print(f"   {path if draw(records, path) else f'{name}: no records for it'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
