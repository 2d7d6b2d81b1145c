"""Where does each method end, and how fast? Problems whose Pareto front is known.

    python -m benchmarks.pareto_fronts

Every method at its defaults, with Adam and one learning rate, from the same random starts. A *gap*
is the distance of the end point to the front, relative to the range of the front in each
objective; *steps* is when the gap first fell below 5 %; *hypervolume* is that of the end points of
all starts together, as a share of the whole front's (moocore). The picture shows the paths.
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
from benchmarks.report import Report, main
from moopt.aggregators import AGGREGATORS
from moopt.scalarizations import SCALARIZATIONS
from moopt.testing import OneBatch
from moopt.weightings import WEIGHTINGS

STARTS = 5
STEPS = 300
LR = 0.03
REACHED = 0.05
PICTURE = Path("runs/benchmarks/pareto_fronts.png")
# Losses that range over orders of magnitude.
ROOTED = ("quadratics",)
SHOWN = ("Sum", "MGDA", "MGDA l2", "UPGrad", "PCGrad", "CAGrad", "NashMTL", "AlignedMTL", "STCH")


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
    names = list(methods())
    if quick:
        names = [name for name in names if name in SHOWN]
    paths: dict[str, dict[str, list[Tensor]]] = {}
    rows = []
    for name in names:
        paths[name], cells = {}, []
        for label, problem in chosen.items():
            runs = [path(problem, methods()[name], start) for start in problem.starts]
            paths[name][label] = runs
            gaps = [problem.gap(run[-1]) for run in runs]
            steps = [first_below(problem, run) for run in runs]
            ends = torch.stack([run[-1] for run in runs])
            share = hypervolume(ends, problem.reference) / hypervolume(
                problem.front, problem.reference
            )
            report.results.setdefault(name, {})[label] = {
                "gap": statistics.median(gaps),
                "steps": statistics.median(steps),
                "hypervolume": share,
            }
            late = statistics.median(steps)
            text = f"{late:.0f}" if late <= STEPS else "-"
            cells.append(f"{100 * statistics.median(gaps):.0f} % {text:>3} {100 * share:3.0f} %")
        rows.append([name, *cells])
        print(f"   {name}", flush=True)
    print(f"\nGap at the end, steps to a gap of 5 %, hypervolume of {STARTS} ends; medians\n")
    report.table(["", *chosen], rows)
    plain = report.results["Sum"]["Fonseca"]["gap"]
    report.gate("the sum reaches a convex part of the front", plain <= REACHED, f"gap {plain:.1e}")
    picture(chosen, paths)


def first_below(problem: Problem, losses: Tensor) -> int:
    """The first step whose gap is at most `REACHED`; one more than there are, if none."""
    return next((i for i, row in enumerate(losses) if problem.gap(row) <= REACHED), len(losses))


def picture(chosen: dict[str, Problem], paths: dict[str, dict[str, list[Tensor]]]) -> None:
    """A row per problem with two objectives, a column per method; made for the width of a page."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [name for name in SHOWN if name in paths]
    flat = {label: p for label, p in chosen.items() if p.front.shape[-1] == 2}
    figure, axes = pyplot.subplots(
        len(flat), len(shown), figsize=(0.85 * len(shown) + 0.5, 0.95 * len(flat) + 0.6),
        sharex="row", sharey="row", layout="constrained", squeeze=False,
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)
    for name, panel in zip(shown, axes[0], strict=True):
        panel.set_title(name, fontsize=8, pad=4)
    for row, (label, problem) in zip(axes, flat.items(), strict=True):
        worst = problem.front.amax(0)
        for panel, name in zip(row, shown, strict=True):
            for points, style in (
                (problem.front, {"color": "#BDBDBD", "linewidth": 3.5}),
                *((run, {"color": "#0B3C78", "linewidth": 0.8}) for run in paths[name][label]),
            ):
                panel.plot(*(points / worst).T.numpy(), **style)
            for run in paths[name][label]:
                x, y = (run[-1] / worst).tolist()
                panel.plot(x, y, "o", color="#E66100", markersize=4.5, mec="white", mew=0.6)
            if label in ROOTED:
                root = {"functions": (lambda v: v.clip(0) ** 0.5, lambda v: v**2)}
                panel.set_xscale("function", **root)
                panel.set_yscale("function", **root)
            low = 0.0 if label in ROOTED else -0.1
            panel.set(xlim=(low, 1.5), ylim=(low, 1.5), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            panel.set_xticklabels(("0", "", "1"))
            panel.set_yticklabels(("0", "", "1"))
            panel.tick_params(labelsize=7, length=2)
        row[0].set_ylabel(f"{label}\n(root axes)" if label in ROOTED else label, fontsize=8)
    figure.supxlabel(
        "first loss (across), second loss (up), relative to the front's largest;"
        f" grey: Pareto front; dots: ends of {STARTS} runs",
        fontsize=8,
    )
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=200)
    pyplot.close(figure)
    print(f"   picture: {PICTURE}")


if __name__ == "__main__":
    main("pareto_fronts", "where each method ends, and how fast, on known fronts", run)
