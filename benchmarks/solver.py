"""How exact is the minimum-norm point, beside TorchJD's MGDA?

    python -m benchmarks.solver

Both solve `min_w w^T G w` on the simplex, for the same float64 Gramians: every input family of
the tests, with rows of one norm and with norms up to 100 apart, several seeds. Exactness is judged
from the Jacobian, not from either solver's own report. `benchmarks.run` has the times.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from torch import Tensor

from benchmarks import peer
from benchmarks.cases.solves import NORM_RATIOS, TOL, certificate
from benchmarks.report import Report, main
from moopt.solvers import min_norm_point
from moopt.testing import Case, all_cases

SIZES = (2, 3, 8, 32)
# Below this the rounding of the weights moves x . g_i as much as the claim itself; the same
# tolerance as the property tests.
DESCENT_TOL = 1e-9


def point(case: Case, weights: Tensor) -> tuple[float, float]:
    """(||x||^2, min_i x . g_i / (||x|| ||g_i||)) of x = J^T w, from the Jacobian."""
    x = case.jacobian.T @ weights.double()
    length = x.norm()
    inner = case.jacobian @ x / (length * case.jacobian.norm(dim=-1)).clamp_min(1e-300)
    return float(length.square()), float(inner.min())


def run(report: Report, quick: bool) -> None:
    solvers: dict[str, Callable[[Tensor], Tensor]] = {
        "moopt": lambda gramian: min_norm_point(gramian).weights
    }
    if peer.version():
        solvers["TorchJD"] = peer.mgda_weighting()
    seeds = tuple(range(1 if quick else 3))
    quality = []
    for m in SIZES:
        cases = [
            c
            for c in all_cases((m,), seeds, norm_ratios=NORM_RATIOS)
            if c.gramian.diagonal().min() > 0
        ]
        open_cases = [c for c in cases if c.stationarity == "none"]
        answers = {name: [f(c.gramian) for c in open_cases] for name, f in solvers.items()}
        points = {
            name: [point(c, w) for c, w in zip(open_cases, given, strict=True)]
            for name, given in answers.items()
        }
        best = [
            min(squares)
            for squares in zip(*([p[0] for p in ps] for ps in points.values()), strict=True)
        ]
        worst = max(certificate(c, w) for c, w in zip(open_cases, answers["moopt"], strict=True))
        report.gate(
            f"exact at m = {m}",
            worst <= TOL,
            f"largest certificate {worst:.1e} of at most {TOL:.0e}, {len(open_cases)} Gramians",
        )
        for name, found in points.items():
            excess = [p[0] / b - 1 for p, b in zip(found, best, strict=True)]
            against = sum(p[1] < -DESCENT_TOL for p in found)
            quality.append(
                [
                    m,
                    name,
                    f"{statistics.median(excess):.1e}",
                    f"{statistics.mean(excess):.1e}",
                    f"{max(excess):.1e}",
                    f"{sum(e > 0.01 for e in excess)} of {len(excess)}",
                    f"{against} of {len(found)}",
                ]
            )
            report.results.setdefault(name, {})[m] = {
                "median_excess": statistics.median(excess),
                "mean_excess": statistics.mean(excess),
                "max_excess": max(excess),
                "over_one_percent": sum(e > 0.01 for e in excess),
                "not_descent": against,
                "cases": len(found),
            }
    print(
        "\nExcess of ||x||^2 over the best known, and results that are no common descent direction"
    )
    print("(families with a common descent direction)\n")
    report.table(["m", "solver", "median", "mean", "largest", "over 1 %", "not descent"], quality)


if __name__ == "__main__":
    main("solver", "exact minimum-norm points, and TorchJD's approximate ones", run)
