"""How do a solve and a step grow with the number of objectives m and of parameters n?

    python -m benchmarks.growth

The solve: `min_norm_point` on Gramians with conflict, m = 2 to 256. The step: Gramian, solve and
combination of given float32 rows, m = 2 to 32 of a million entries each; and m = 3 rows of 1e5 to
1e8 entries, three decades. Fitted is seconds = constant + factor size^exponent, by least squares of
the relative errors; the residual is their root mean square. The constant is what a call costs
before its first entry. Exit code 1 means that a goal was missed. On two shared cores an exponent
differs by up to 0.05 from run to run, which is the tolerance; large residuals mean that the machine
was busy, or that another form takes over on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.cases.rows import Rows, of_length
from benchmarks.harness import interleaved, keep_the_heap, repetitions
from benchmarks.registry import Setting
from benchmarks.report import Report, main
from moopt.kernels.combine import combine_
from moopt.kernels.gramian import gramian
from moopt.solvers import min_norm_point
from moopt.testing import case

TOLERANCE = 0.05
"""Of an exponent, beyond the goal."""

EXPONENTS = np.linspace(0.0, 5.0, 1001)
"""Those that are tried."""


class Fit(NamedTuple):
    """seconds = constant + factor size^exponent, and the root mean square of relative errors."""

    exponent: float
    constant: float
    factor: float
    residual: float


class Growth(NamedTuple):
    """Sizes, what is called at each, and the goal: an exponent between two bounds."""

    label: str
    size: str
    calls: Mapping[int, Callable[[], object]]
    at_least: float
    at_most: float


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """The best of the curves with a constant and a factor that are not negative.

    Raises:
        ValueError: fewer than four sizes, or a number that is not positive.
    """
    if len(sizes) < 4 or min(*sizes, *seconds) <= 0.0:
        raise ValueError(f"a fit needs four positive points; got {sizes} and {seconds}.")
    x, y = np.asarray(sizes, float), np.asarray(seconds, float)
    x = x / x.max()
    found = []
    for exponent in EXPONENTS:
        powers = x**exponent
        for columns in ([np.ones_like(x), powers], [np.zeros_like(x), powers]):
            terms = np.stack(columns, 1) / y[:, None]
            solved = np.linalg.lstsq(terms, np.ones_like(x), rcond=None)[0]
            if solved.min() >= 0.0:
                residual = float(np.sqrt(np.mean((terms @ solved - 1.0) ** 2)))
                found.append((residual, float(exponent), *map(float, solved)))
    residual, exponent, constant, factor = min(found)
    return Fit(exponent, constant, factor / max(sizes) ** exponent, residual)


def solves() -> Growth:
    gramians = {m: case("conflicting", m).gramian for m in (2, 4, 8, 16, 32, 64, 128, 256)}
    calls = {m: (lambda g=g: min_norm_point(g)) for m, g in gramians.items()}
    return Growth("the solve", "m", calls, -math.inf, 3.0)


def step_of(m: int, n: int) -> Callable[[], object]:
    rows = Rows(Setting(m, of_length(n))).rows
    weights = torch.full((m,), 1.0 / m, dtype=torch.float64)

    def step() -> None:
        min_norm_point(gramian(rows))
        combine_(rows, weights)

    return step


def steps_in_m() -> Growth:
    return Growth(
        "the step", "m", {m: step_of(m, 10**6) for m in (2, 4, 8, 16, 32)}, -math.inf, 2.0
    )


def steps_in_n() -> Growth:
    sizes = [round(10 ** (k / 2)) // 16 * 16 for k in range(10, 17)]
    return Growth("the step", "n", {n: step_of(3, n) for n in sizes}, 0.9, 1.1)


def judge(report: Report, growth: Growth, seconds: Mapping[int, float]) -> bool:
    """Print the times, the fit and whether its exponent is what it is to be."""
    found = fit([*seconds], [*seconds.values()])
    met = growth.at_least - TOLERANCE <= found.exponent <= growth.at_most + TOLERANCE
    rows = [[f"{size:.3g}", f"{taken * 1e6:.4g}"] for size, taken in seconds.items()]
    print()
    report.table([f"{growth.label}: {growth.size}", "CPU us"], rows)
    print(
        f"   {found.constant * 1e6:.3g} us + {found.factor * 1e6:.3g} us"
        f" {growth.size}^{found.exponent:.2f}, residual {100 * found.residual:.0f} %"
    )
    pairs = zip(pairwise(seconds), pairwise(seconds.values()), strict=True)
    slopes = [(math.log(t / s) / math.log(b / a), a, b) for (a, b), (s, t) in pairs]
    slope, low, high = max(slopes)
    print(
        f"   steepest between neighbours: {growth.size}^{slope:.2f}, from {low:.3g} to {high:.3g}"
    )
    least = f" and at least {growth.at_least:g}" if growth.at_least > 0 else ""
    told = "met" if met else "MISSED"
    print(
        f"   goal: an exponent of at most {growth.at_most:g}{least}: {found.exponent:.2f}, {told}"
    )
    report.results[f"{growth.label} in {growth.size}"] = {
        "seconds": seconds,
        "fit": found._asdict(),
        "met": met,
    }
    return met


def run(report: Report, quick: bool) -> bool:
    keep_the_heap()
    met = []
    for make in (solves, steps_in_m, steps_in_n):
        growth = make()
        functions = {str(size): call for size, call in growth.calls.items()}
        calls = repetitions(functions, seconds=1e-2)
        timings = interleaved(
            functions,
            rounds=3 if quick else 9,
            number=calls,
            warm=[k for k, v in calls.items() if v > 1],
        )
        met.append(
            judge(report, growth, {size: timings[str(size)].median for size in growth.calls})
        )
    return all(met)


if __name__ == "__main__":
    main("growth", "how time grows with objectives and parameters", run)
