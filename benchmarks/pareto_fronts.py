"""Where does each method end, and how fast? Problems whose Pareto front is known.

    python -m benchmarks.pareto_fronts

Every method at its defaults, with Adam and one learning rate, from the same random starts. A *gap*
is the distance of the end point to the front, relative to the range of the front in each
objective; *steps* is when the gap first fell below 5 %; *hypervolume* is that of the end points of
all starts together, as a share of the whole front's (moocore). Gap and steps are medians. The
tables are written as Markdown, too, and pictures show the paths: runs/benchmarks/.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import moopt
from benchmarks.front_pictures import draw
from benchmarks.report import Report, main
from moopt.aggregators import AGGREGATORS
from moopt.scalarizations import SCALARIZATIONS
from moopt.testing import OneBatch
from moopt.weightings import WEIGHTINGS

STARTS = 5
STEPS = 300
LR = 0.03
REACHED = 0.05
OUT = Path("runs/benchmarks")
# DTLZ2 has three losses.
DRAWN = ("Fonseca", "VLMOP2", "ZDT1", "quadratics")
# Whose losses range over orders of magnitude.
ROOTED = ("ZDT1", "quadratics")
# By whether they promise descent; rows of the tables and of the pictures come in this order.
SHOWN = {
    "descent": ("MGDA l2", "MGDA", "UPGrad", "NashMTL"),
    "others": ("Sum", "CAGrad", "AlignedMTL", "PCGrad", "STCH"),
}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def whole_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def number(steps: float) -> str:
    return f"{steps:.0f}" if steps <= STEPS else "not reached"


TABLES: dict[str, tuple[str, Callable[[float], str]]] = {
    "Gap at the end": ("gap", percent),
    f"Steps until the gap is {100 * REACHED:.0f} %": ("steps", number),
    f"Hypervolume of the {STARTS} ends": ("hypervolume", whole_percent),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Losses of a vector, with points of the true front.

    Attributes:
        losses: `[n]` -> `[m]`.
        front: `[k, m]`, losses of Pareto optimal points, dense.
        starts: `[STARTS, n]`.
    """

    losses: Callable[[Tensor], Tensor]
    front: Tensor
    starts: Tensor

    @property
    def reference(self) -> Tensor:
        """The reference point of the hypervolume: a tenth of the range beyond the worst."""
        low, high = self.front.amin(0), self.front.amax(0)
        return high + 0.1 * (high - low)

    def gap(self, losses: Tensor) -> float:
        """Distance to the front, relative to its range in each objective."""
        span = self.front.amax(0) - self.front.amin(0)
        return float(((losses - self.front) / span).norm(dim=-1).min())


def starts(n: int, low: float, high: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return low + (high - low) * torch.rand(STARTS, n, generator=generator, dtype=torch.float64)


def fonseca(n: int) -> Problem:
    """1 - exp(-||x -+ 1 / sqrt(n)||^2); optimal on the segment between the two centres.

    Source: C. M. Fonseca and P. J. Fleming, "An overview of evolutionary algorithms in
    multiobjective optimization", Evolutionary Computation, 1995; with bounds it is VLMOP2.
    """

    def losses(x: Tensor) -> Tensor:
        c = 1 / math.sqrt(n)
        return torch.stack([1 - torch.exp(-(x - s * c).square().sum()) for s in (1, -1)])

    t = torch.linspace(-1, 1, 500, dtype=torch.float64)[:, None] / math.sqrt(n)
    return Problem(losses, torch.stack([losses(p.expand(n)) for p in t]), starts(n, -1.0, 1.0))


def zdt1() -> Problem:
    """ZDT1 with x = sigmoid(z): f2 = g (1 - sqrt(f1 / g)), g = 1 + 9 mean(x_2...); optimal g = 1.

    Source: E. Zitzler, K. Deb and L. Thiele, "Comparison of multiobjective evolutionary
    algorithms", Evolutionary Computation, 2000; the relaxation is ours.
    """

    def losses(z: Tensor) -> Tensor:
        x = torch.sigmoid(z)
        g = 1 + 9 * x[1:].mean()
        return torch.stack([x[0], g * (1 - (x[0] / g).sqrt())])

    f = torch.linspace(0, 1, 500, dtype=torch.float64)
    return Problem(losses, torch.stack([f, 1 - f.sqrt()], -1), starts(6, -1.0, 1.0))


def dtlz2() -> Problem:
    """DTLZ2 with three objectives and x = sigmoid(z): an eighth of the unit sphere.

    Source: K. Deb, L. Thiele, M. Laumanns and E. Zitzler, "Scalable multi-objective optimization
    test problems", CEC 2002; the relaxation is ours.
    """

    def losses(z: Tensor) -> Tensor:
        x = torch.sigmoid(z)
        g = 1 + (x[2:] - 0.5).square().sum()
        a, b = x[0] * math.pi / 2, x[1] * math.pi / 2
        return g * torch.stack([a.cos() * b.cos(), a.cos() * b.sin(), a.sin()])

    grid = torch.linspace(0, math.pi / 2, 40, dtype=torch.float64)
    a, b = (v.flatten() for v in torch.meshgrid(grid, grid, indexing="ij"))
    front = torch.stack([a.cos() * b.cos(), a.cos() * b.sin(), a.sin()], -1)
    return Problem(losses, front, starts(6, -1.5, 1.5))


def two_quadratics() -> Problem:
    """Two quadratics with conflict, unequal scale and high curvature across: PCGrad's setting.

    0.5 (x - a)' A (x - a) and 50 (x - b)' B (x - b); optimal where
    (t A + (1 - t) 100 B) x = t A a + (1 - t) 100 B b.

    Source: the three conditions of T. Yu et al., "Gradient Surgery for Multi-Task Learning",
    NeurIPS 2020, Section 2.2; the numbers are ours.
    """
    first = torch.tensor([[1.0, 0.0], [0.0, 20.0]], dtype=torch.float64)
    second = 100 * torch.tensor([[20.0, 0.0], [0.0, 1.0]], dtype=torch.float64) / 20
    a, b = (torch.tensor(v, dtype=torch.float64) for v in ([-1.0, 0.0], [1.0, 0.5]))

    def losses(x: Tensor) -> Tensor:
        return torch.stack([0.5 * (x - a) @ first @ (x - a), 0.5 * (x - b) @ second @ (x - b)])

    t = torch.logspace(-4, 4, 800, dtype=torch.float64)
    points = [torch.linalg.solve(s * first + second, s * first @ a + second @ b) for s in (t * 100)]
    return Problem(losses, torch.stack([losses(p) for p in points]), starts(2, -2.0, 2.0))


def problems() -> dict[str, Problem]:
    return {
        "Fonseca": fonseca(2),
        "VLMOP2": fonseca(10),
        "ZDT1": zdt1(),
        "DTLZ2": dtlz2(),
        "quadratics": two_quadratics(),
    }


def methods() -> dict[str, Any]:
    """The registered methods without roles; l2-normalised MGDA beside them, as the default.

    The losses are exact, so that methods of several batches see the same one again. TrimmedMean
    has nothing to trim between two objectives.
    """
    rows = {**WEIGHTINGS, **SCALARIZATIONS, **AGGREGATORS}
    out = {n: row.build() for n, row in rows.items() if not row.required and n != "TrimmedMean"}
    out = {n: OneBatch(w) if "auxiliary" in w.needs else w for n, w in out.items()}
    return {"MGDA l2": moopt.MGDA(normalize="l2"), **out}


def path(problem: Problem, weighting: Any, start: Tensor) -> Tensor:
    """float64 `[STEPS + 1, m]`: the losses along one run."""
    x = nn.Parameter(start.clone())
    optimizer = moopt.CommonDescent(torch.optim.Adam([x], lr=LR), weighting, inactive_tol=0.0)
    out = []
    for _ in range(STEPS):
        losses = problem.losses(x)
        out.append(losses.detach())
        optimizer.zero_grad()
        optimizer.backward(dict(zip("abc", losses, strict=False)))
        optimizer.step()
        if weighting.observes:
            with torch.no_grad():
                optimizer.observe(dict(zip("abc", problem.losses(x), strict=False)))
    return torch.stack([*out, problem.losses(x).detach()])


def hypervolume(points: Tensor, reference: Tensor) -> float:
    import moocore

    return float(moocore.hypervolume(points.numpy(), ref=reference.numpy()))


def run(report: Report, quick: bool) -> None:
    chosen = problems()
    names = [name for group in SHOWN.values() for name in group]
    if not quick:
        names += [name for name in methods() if name not in names]
    paths: dict[str, dict[str, list[Tensor]]] = {}
    rows: dict[str, list[list[str]]] = {title: [] for title in TABLES}
    for name in names:
        paths[name], found = {}, report.results.setdefault(name, {})
        for label, problem in chosen.items():
            runs = [path(problem, methods()[name], start) for start in problem.starts]
            paths[name][label] = runs
            found[label] = measured(problem, runs)
        for cells, (key, shown) in zip(rows.values(), TABLES.values(), strict=True):
            cells.append([name, *(shown(found[label][key]) for label in chosen)])
        print(f"   {name}", flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "pareto_fronts.md").open("w", encoding="utf-8") as file:
        for title, cells in rows.items():
            print(f"\n{title}\n")
            report.table(["", *chosen], cells)
            lines = [["", *chosen], ["---"] * (len(chosen) + 1), *cells]
            text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
            file.write(f"{title}:\n\n{text}\n")
    plain = report.results["Sum"]["Fonseca"]["gap"]
    report.gate("the sum reaches a convex part of the front", plain <= REACHED, f"gap {plain:.1e}")
    pictures(chosen, paths)


def measured(problem: Problem, runs: list[Tensor]) -> dict[str, float]:
    """Medians over the runs, and the hypervolume of their ends."""
    ends = torch.stack([run[-1] for run in runs])
    whole = hypervolume(problem.front, problem.reference)
    return {
        "gap": statistics.median(problem.gap(end) for end in ends),
        "steps": statistics.median(first_below(problem, run) for run in runs),
        "hypervolume": hypervolume(ends, problem.reference) / whole,
    }


def first_below(problem: Problem, losses: Tensor) -> int:
    """The first step whose gap is at most `REACHED`; one more than there are, if none."""
    return next((i for i, row in enumerate(losses) if problem.gap(row) <= REACHED), len(losses))


def pictures(chosen: dict[str, Problem], paths: dict[str, dict[str, list[Tensor]]]) -> None:
    """One of the methods that promise descent, one of the others; see docs/choosing.md."""
    fronts = {label: chosen[label].front for label in DRAWN}
    for group, names in SHOWN.items():
        target = OUT / f"fronts_{group}.png"
        draw(target, fronts, {name: paths[name] for name in names}, ROOTED)
        print(f"   picture: {target}")


if __name__ == "__main__":
    main("pareto_fronts", "where each method ends, and how fast, on known fronts", run)
