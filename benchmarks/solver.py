"""How fast and how exact is the minimum-norm point, beside TorchJD's MGDA?

    python -m benchmarks.solver

Both solve `min_w w^T G w` on the simplex, for the same float64 Gramians: every input family of
the tests, with rows of one norm and with norms up to 100 apart, several seeds. Times are CPU
seconds of the public call. Exactness is judged from the Jacobian, not from either solver's own
report.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import peer
from benchmarks.harness import interleaved, repetitions
from benchmarks.report import Report, main
from moopt.kernels import backends
from moopt.solvers import min_norm_point
from moopt.testing import Case, all_cases

SIZES = (2, 3, 8, 32)
NORM_RATIOS = (1.0, 100.0)
NORM_RATIOS = (1.0, 100.0)
GOALS = {3: 12.0, 8: 20.0, 32: 20.0}
# Below this the rounding of the weights moves x . g_i as much as the claim itself; the same
# tolerance as the property tests.
DESCENT_TOL = 1e-9
CERTIFICATE_TOL = 1e-9


def point(case: Case, weights: Tensor) -> tuple[float, float]:
    """(||x||^2, min_i x . g_i / (||x|| ||g_i||)) of x = J^T w, from the Jacobian."""
    x = case.jacobian.T @ weights.double()
    length = x.norm()
    inner = case.jacobian @ x / (length * case.jacobian.norm(dim=-1)).clamp_min(1e-300)
    return float(length.square()), float(inner.min())


def certificate(case: Case, weights: Tensor) -> float:
    """max_i (||x||^2 - x . g_i) / (||x|| ||g_i||): 0 exactly at the minimum-norm point."""
    x = case.jacobian.T @ weights.double()
    shortfall = x.square().sum() - case.jacobian @ x
    return float((shortfall / (x.norm() * case.jacobian.norm(dim=-1))).max())


def run(report: Report, quick: bool) -> None:
    solvers: dict[str, Callable[[Tensor], Tensor]] = {
        "moopt": lambda gramian: min_norm_point(gramian).weights
    }
    if peer.version():
        solvers["TorchJD"] = peer.mgda_weighting()
    seeds = tuple(range(1 if quick else 3))
    quality, times = [], []
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
            worst <= CERTIFICATE_TOL,
            f"largest certificate {worst:.1e} of at most {CERTIFICATE_TOL:.0e},"
            f" {len(open_cases)} Gramians",
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
        by_solver: dict[str, list[float]] = {name: [] for name in solvers}
        for case in cases:
            gramian = case.gramian
            calls = {name: (lambda f=f, g=gramian: f(g)) for name, f in solvers.items()}
            timings = interleaved(
                calls, rounds=3 if quick else 5, number=repetitions(calls, seconds=5e-3)
            )
            for name, timing in timings.items():
                by_solver[name].append(timing.median)
        medians = {name: statistics.median(values) for name, values in by_solver.items()}
        for name, seconds in medians.items():
            report.results[name][m]["median_microseconds"] = seconds * 1e6
        theirs = medians.get("TorchJD")
        times.append(
            [
                m,
                len(cases),
                f"{medians['moopt'] * 1e6:.1f}",
                f"{theirs * 1e6:.1f}" if theirs else peer.MISSING,
                report.speedup(theirs, medians["moopt"]) if theirs else "-",
            ]
        )
    print(
        "\nExcess of ||x||^2 over the best known, and results that are no common descent direction"
    )
    print("(families with a common descent direction)\n")
    report.table(["m", "solver", "median", "mean", "largest", "over 1 %", "not descent"], quality)
    print("\nMedian CPU microseconds of the public call over all families\n")
    report.table(["m", "Gramians", "moopt", "TorchJD", "ratio"], times)
    if peer.version():
        for m, factor in GOALS.items():
            ratio = (
                report.results["TorchJD"][m]["median_microseconds"]
                / report.results["moopt"][m]["median_microseconds"]
            )
            report.goal(f"solve time at m = {m}", ratio, factor)
    batches(report, quick)


BATCHES = (1, 64, 4096)


def batches(report: Report, quick: bool) -> None:
    """The time for each problem of a batch, in the form that runs here."""
    form = backends()["min_norm of a batch in host memory"]
    print(f"\nMedian CPU microseconds for each problem of a batch; form: {form.name}, {form.why}\n")
    rows = []
    for m in (3, 8, 32):
        generator = torch.Generator().manual_seed(m)
        jacobians = torch.randn(max(BATCHES), m, m + 5, generator=generator, dtype=torch.float64)
        gramians = jacobians @ jacobians.mT
        calls = {
            str(count): (
                lambda g=gramians[0] if count == 1 else gramians[:count]: min_norm_point(g)
            )
            for count in BATCHES
        }
        often = {str(count): max(1, 4096 // count) for count in BATCHES}
        timings = interleaved(calls, rounds=3 if quick else 9, number=often)
        seconds = [timings[str(count)].median / count for count in BATCHES]
        rows.append([m, *(f"{s * 1e6:.2f}" for s in seconds), f"{seconds[0] / seconds[-1]:.0f}x"])
        report.results[f"batches, m = {m}"] = dict(zip(map(str, BATCHES), seconds, strict=True))
    report.table(["m", *(f"of {count}" for count in BATCHES), "falls by"], rows)


if __name__ == "__main__":
    main("solver", "exact minimum-norm points, faster than TorchJD's approximate ones", run)
