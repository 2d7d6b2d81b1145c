"""How long does each weighting take from the Gramian to the weights, beside TorchJD's?

    python -m benchmarks.weightings

The registered methods at their defaults (roles: the first objective, and all others) on well-
scaled float64 Gramians with conflict, m = 2 to 128. Both libraries' public calls are timed,
interleaved, twenty milliseconds of calls at a time, in CPU seconds; the ratio is theirs over ours.
TorchJD's ConFIG and Nash-MTL take the Jacobian: they get one of m + 3 columns, so small that its
products do not count. Gate: where TorchJD has the method and is right, the directions agree.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

import moopt
from benchmarks import peer
from benchmarks.harness import interleaved, repetitions
from benchmarks.report import Report, main
from moopt.testing import Case, case
from moopt.weightings import WEIGHTINGS, Weighting

SIZES = (2, 3, 8, 32, 128)
FAMILIES = ("aligned", "conflicting", "orthogonal")
GOALS = {"MGDA": 5.0, "CAGrad": 5.0, "NashMTL": 5.0, "UPGrad": 2.0, "PCGrad": 2.0}
GOAL_FROM = {"UPGrad": 8, "PCGrad": 8}
ELSEWHERE = 1 / 1.2
# One call of the peer may take seconds at m = 128; past this a size is left out for both.
PATIENCE = 2.0
AGREEMENT = 1e-6
# Why two directions of the same name differ, where they do; the rest must agree.
DIFFER = {
    "MGDA": "TorchJD stops its Frank-Wolfe loop early",
    "CRMOGM": "as for MGDA, which it modifies",
    "PCGrad": "the order of the projections is random in both",
    "GradVac": "the order of the projections is random in both",
    "Random": "random",
    "Krum": "the paper adds up squared distances, TorchJD distances",
    "CAGrad": "the interior-point solver of TorchJD stops early",
    "NashMTL": "TorchJD stops at a residual of 1e-3",
}
PICTURE = Path("runs/benchmarks/weightings.png")


def objectives(m: int) -> tuple[str, ...]:
    return tuple(f"objective {i}" for i in range(m))


def instances(m: int) -> dict[str, Weighting]:
    """Every registered method that needs the Gramian alone, with roles where it has any."""
    first, *others = objectives(m)
    roles = {"forget": first, "retain": others, "primary": first, "secondary": others}
    built = {
        name: row.build(**{role: roles[role] for role in row.required})
        for name, row in WEIGHTINGS.items()
        if row.required.keys() <= roles.keys()
    }
    return {name: weighting for name, weighting in built.items() if not weighting.needs - {"names"}}


def ours(weighting: Weighting, problem: Case) -> Callable[[], Tensor]:
    """The call of a training step: the state goes from one to the next, as inside TorchJD's."""
    given = moopt.StepStatistics(gramian=problem.gramian, names=objectives(problem.m))
    state: dict[str, Tensor] | None = None

    def call() -> Tensor:
        nonlocal state
        weights, state, _ = weighting(given, state)
        return weights

    return call


def compare(
    report: Report, name: str, weighting: Weighting, m: int
) -> tuple[float, float | None, float | None]:
    """(our median seconds, TorchJD's or None, the largest difference of directions or None)."""
    times: list[float] = []
    theirs: list[float] = []
    errors: list[float] = []
    for seed, family in enumerate(FAMILIES):
        problem = case(family, m)
        if hasattr(weighting, "seed"):  # or numbers kept from the last family would be used again
            weighting = dataclasses.replace(weighting, seed=seed)  # type: ignore[type-var]
        functions = {"ours": ours(weighting, problem)}
        rival = peer.weighting(name, problem.jacobian, problem.gramian)
        if rival is not None:
            functions["theirs"] = rival.weights
            errors.append(difference(problem, functions["ours"](), rival.direction()))
        timings = interleaved(functions, rounds=7, number=repetitions(functions, seconds=2e-2))
        times.append(timings["ours"].median)
        if rival is not None:
            theirs.append(timings["theirs"].median)
    return (
        statistics.median(times),
        statistics.median(theirs) if theirs else None,
        max(errors, default=None),
    )


def difference(problem: Case, weights: Tensor, direction: Tensor) -> float:
    """||d - d'|| / ||d'||, of unit directions: lengths are conventions."""
    mine = problem.jacobian.T @ weights
    return float((mine / mine.norm() - direction / direction.norm()).norm())


def picture(ours: dict[str, dict[int, float]], theirs: dict[str, dict[int, float]]) -> None:
    """Scaling with m, a panel per method, on the same axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 5
    rows = -(-len(ours) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(7.2, 1.25 * rows + 0.5), sharex=True, sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for panel in axes.flat[len(ours) :]:
        panel.remove()
    for i, (name, panel) in enumerate(zip(ours, axes.flat, strict=False)):
        for seconds, style in (
            (theirs[name], {"color": "#8A8A8A", "linestyle": "--", "label": "TorchJD"}),
            (ours[name], {"color": "#0B3C78", "linestyle": "-", "label": "moopt"}),
        ):
            values = [1e6 * s for s in seconds.values()]
            panel.loglog(list(seconds), values, marker="o", markersize=2.5, linewidth=1.3, **style)
        panel.set_title(name, fontsize=8 if len(name) < 20 else 6, pad=3)
        panel.set_xticks(SIZES, [str(m) for m in SIZES])
        panel.minorticks_off()
        panel.tick_params(labelsize=7, labelbottom=i + columns >= len(ours))
        panel.grid(color="#E2E2E2", linewidth=0.6)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    figure.supxlabel("objectives m", fontsize=9)
    figure.supylabel("CPU microseconds of the public call", fontsize=9)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=200)
    pyplot.close(figure)
    print(f"   scaling with m: {PICTURE}")


def run(report: Report, quick: bool) -> None:
    sizes = SIZES[:3] if quick else SIZES
    medians: dict[str, dict[int, float]] = {}
    ratios: dict[str, dict[int, float]] = {}
    rivals: dict[str, dict[int, float]] = {}
    for name in instances(sizes[0]):
        medians[name], ratios[name], rivals[name] = {}, {}, {}
        worst = 0.0
        for m in sizes:
            mine, theirs, error = compare(report, name, instances(m)[name], m)
            medians[name][m] = mine
            if theirs is not None:
                rivals[name][m] = theirs
                ratios[name][m] = theirs / mine
            worst = max(worst, error or 0.0)
            if max(mine, theirs or 0.0) > PATIENCE:
                break
        if ratios[name] and name not in DIFFER:
            report.gate(
                f"{name} agrees with TorchJD",
                worst <= AGREEMENT,
                f"directions differ by {worst:.1e} of at most {AGREEMENT:.0e}",
            )
        elif ratios[name]:
            print(f"   {name} differs from TorchJD's by up to {worst:.1e}: {DIFFER[name]}")
    report.results["microseconds"] = {
        name: {m: 1e6 * s for m, s in row.items()} for name, row in medians.items()
    }
    report.results["ratio"] = ratios
    print("\nMedian CPU microseconds of the public call; in brackets TorchJD's time over ours\n")
    rows = []
    for name, row in medians.items():
        cells = []
        for m in sizes:
            known = f" ({ratios[name][m]:.1f}x)" if m in ratios[name] else ""
            cells.append(f"{1e6 * row[m]:.0f}{known}" if m in row else "-")
        rows.append([name, *cells])
    report.table(["weighting", *(f"m = {m}" for m in sizes)], rows)
    for name, row in ratios.items():
        counted = [ratio for m, ratio in row.items() if m >= GOAL_FROM.get(name, 0)]
        if counted and math.isfinite(min(counted)):
            goal = GOALS.get(name, ELSEWHERE)
            report.goal(f"{name}, the slowest size", min(counted), round(goal, 2))
    picture(medians, rivals)


if __name__ == "__main__":
    main("weightings", "the time of every weighting, beside TorchJD's", run)
