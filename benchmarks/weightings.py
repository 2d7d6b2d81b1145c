"""How long does each weighting take from the Gramian to the weights, beside TorchJD's?

    python -m benchmarks.weightings

The registered methods at their defaults on well-scaled float64 Gramians with conflict, m = 2 to
128. Both libraries' public calls are timed, interleaved, in CPU seconds; the ratio is theirs over
ours. TorchJD's ConFIG and Nash-MTL take the Jacobian: they get one of m + 3 columns, so small that
its products do not count. Gate: where TorchJD has the method and is right, the directions agree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

import moopt
from benchmarks import peer
from benchmarks.harness import interleaved
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


def instances() -> dict[str, Weighting]:
    """Every registered method that its defaults define and that needs the Gramian alone."""
    built = {name: row.build() for name, row in WEIGHTINGS.items() if not row.required}
    return {name: w for name, w in built.items() if not w.needs - {"names"}}


def ours(weighting: Weighting, problem: Case) -> Callable[[], Tensor]:
    given = moopt.StepStatistics(gramian=problem.gramian)
    return lambda: weighting(given).weights


def compare(
    report: Report, name: str, weighting: Weighting, m: int
) -> tuple[float, float | None, float | None]:
    """(our median seconds, TorchJD's or None, the largest difference of directions or None)."""
    times: list[float] = []
    theirs: list[float] = []
    errors: list[float] = []
    for family in FAMILIES:
        problem = case(family, m)
        functions = {"ours": ours(weighting, problem)}
        rival = peer.weighting(name, problem.jacobian, problem.gramian)
        if rival is not None:
            functions["theirs"] = rival.weights
            errors.append(difference(problem, functions["ours"](), rival.direction()))
        timings = interleaved(functions, rounds=5, number=3 if m <= 32 else 1)
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


def picture(medians: dict[str, dict[int, float]]) -> None:
    """Scaling with m, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 5.5), layout="constrained")
    ranked = sorted(medians, key=lambda name: -list(medians[name].values())[-1])
    for i, name in enumerate(ranked):
        seconds = medians[name]
        style = ("-", "--", ":", "-.")[i // 10 % 4]
        axes.loglog(
            list(seconds), [1e6 * s for s in seconds.values()], style, label=name, linewidth=1.3
        )
    axes.set(xlabel="objectives m", ylabel="CPU microseconds of the public call")
    axes.set_xticks(SIZES, [str(m) for m in SIZES])
    axes.grid(color="#E6E6E6")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    pyplot.close(figure)
    print(f"   scaling with m: {PICTURE}")


def run(report: Report, quick: bool) -> None:
    sizes = SIZES[:3] if quick else SIZES
    medians: dict[str, dict[int, float]] = {}
    ratios: dict[str, dict[int, float]] = {}
    for name, weighting in instances().items():
        medians[name], ratios[name] = {}, {}
        worst = 0.0
        for m in sizes:
            mine, theirs, error = compare(report, name, weighting, m)
            medians[name][m] = mine
            if theirs is not None:
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
    picture(medians)


if __name__ == "__main__":
    main("weightings", "the time of every weighting, beside TorchJD's", run)
