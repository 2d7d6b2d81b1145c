"""Faults about conflict: tolerances on the size of gradients, and a test that cannot see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

import moopt
from benchmarks import peer
from benchmarks.report import Report
from moopt.testing import case, check_weighting
from moopt.weightings import DualProj, Guarantee, UPGrad, Weighting, WeightingOutput

DRAWS = 20
NORM_RATIOS = (1.0, 1e-2, 1e-4, 1e-8)
SCALES = (1e-12, 1e-4, 1.0, 1e4, 1e12)
# g_i . d >= -1e-9 ||g_i|| ||d||: the promise of the documentation.
DESCENT_TOL = 1e-9
RADIUS = 0.5
RADIUS_TOL = 1e-6
VIOLATIONS = (1e-1, 1e-2, 1e-4, 1e-7)

Direction = Callable[[Tensor], Tensor]


def ours(weighting: Weighting) -> Direction:
    """The direction that `moopt.backward` leaves in `.grad` for losses with the rows of J."""

    def direction(jacobian: Tensor) -> Tensor:
        parameter = nn.Parameter(torch.zeros_like(jacobian[0]))
        losses = {str(i): 1 + (row * parameter).sum() for i, row in enumerate(jacobian)}
        # The noise-floor rule would set the shorter gradient aside; the method is on trial here.
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        moopt.CommonDescent(optimizer, weighting, inactive_tol=0.0).backward(losses)
        assert parameter.grad is not None
        return parameter.grad

    return direction


def worst_cosine(direction: Direction, jacobians: list[Tensor]) -> float:
    """The smallest g_i . d / (||g_i|| ||d||) over problems and objectives."""
    worst = 1.0
    for jacobian in jacobians:
        d = direction(jacobian)
        norms = jacobian.norm(dim=1) * d.norm()
        worst = min(worst, float((jacobian @ d / norms).min()))
    return worst


def conflicting(scale: float = 1.0, ratio: float = 1.0) -> list[Tensor]:
    """Two conflicting normal rows, the second `ratio` times as long."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for _ in range(DRAWS):
        rows = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        rows[1] -= rows[0]
        out.append(scale * rows * torch.tensor([[1.0], [ratio]], dtype=torch.float64))
    return out


def non_conflict(report: Report) -> None:
    """UPGrad and DualProj, which promise it."""
    print("\nThe worst cosine with a gradient, where at least 0 is promised\n")
    settings = [("norm ratio", r, conflicting(ratio=r)) for r in NORM_RATIOS]
    settings += [("scale of all gradients", s, conflicting(scale=s)) for s in SCALES]
    rows = [[f"{what} {value:g}"] for what, value, _ in settings]
    worst = 1.0
    for method in (UPGrad(), DualProj()):
        rival = peer.aggregator(method.name)
        for row, (_, _, problems) in zip(rows, settings, strict=True):
            mine = worst_cosine(ours(method), problems)
            worst = min(worst, mine)
            row += [f"{mine:+.3f}", f"{worst_cosine(rival, problems):+.3f}" if rival else "-"]
    report.table(["", "UPGrad", "TorchJD's", "DualProj", "TorchJD's"], rows)
    report.results["worst_cosine"] = {row[0]: row[1:] for row in rows}
    report.gate("UPGrad and DualProj never conflict", worst >= -DESCENT_TOL, f"worst {worst:+.1e}")


def radius(report: Report) -> None:
    """CAGrad: ||d - g0|| = c ||g0||."""
    print(f"\nCAGrad's largest error of ||d - g0|| / ||g0||, which is {RADIUS} by definition\n")
    methods = {"moopt": ours(moopt.CAGrad(c=RADIUS))}
    if rival := peer.aggregator("CAGrad"):
        methods["TorchJD"] = rival
    rows = []
    for scale in SCALES:
        errors = []
        for method in methods.values():
            error = 0.0
            for jacobian in conflicting(scale=scale):
                mean = jacobian.mean(0)
                distance = float((method(jacobian) - mean).norm() / mean.norm())
                error = max(error, abs(distance - RADIUS))
            errors.append(error)
        rows.append([f"scale of all gradients {scale:g}", *errors])
    report.table(["", *methods], [[row[0], *(f"{e:.1e}" for e in row[1:])] for row in rows])
    report.results["cagrad_radius"] = {row[0]: row[1:] for row in rows}
    worst = max(row[1] for row in rows)
    report.gate("CAGrad keeps its radius", worst <= RADIUS_TOL, f"worst error {worst:.1e}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Violating(moopt.MGDA):
    """Claims what MGDA does; its direction has a cosine of -violation with the last gradient."""

    violation: float = 1e-2

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.NON_CONFLICTING})

    def __call__(
        self, statistics: moopt.StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian = statistics.gramian
        norms = gramian.diagonal().sqrt()
        cosine = gramian[0, -1] / norms[0] / norms[-1]
        sine = (1 - cosine**2).sqrt()
        # The unit vector across g_n in the plane of g_0 and g_n, turned back beyond it.
        weights = torch.zeros_like(norms)
        weights[0] = 1 / (sine * norms[0])
        weights[-1] = -(cosine / sine + self.violation) / norms[-1]
        return WeightingOutput(weights, {}, None)


def seen_by_norms(jacobian: Tensor, direction: Tensor) -> bool:
    """The test of TorchJD's suite: the positive part of J d is as long as J d, up to 4e-4 of it."""
    inner = jacobian @ direction
    return float(inner.clamp_min(0).norm()) < float(inner.norm()) * (1 - 4e-4)


def seen_by_ours(method: Weighting) -> bool:
    """The test of `moopt.testing`, on two orthogonal gradients."""
    try:
        check_weighting(method, [case("orthogonal", 2)])
    except AssertionError as failures:
        return "guarantee 'non-conflicting'" in str(failures)
    return False


def tests_of_conflict(report: Report) -> None:
    """Which of two tests of the promise notices a method that breaks it."""
    print("\nDoes the test of non-conflict see a direction with this cosine to a gradient?\n")
    problem, rows = case("orthogonal", 2), []
    for violation in VIOLATIONS:
        method = Violating(violation=violation)
        weights = method(moopt.StepStatistics(gramian=problem.gramian)).weights
        theirs = seen_by_norms(problem.jacobian, problem.jacobian.T @ weights)
        rows.append([f"-{violation:g}", seen_by_ours(method), theirs])
    told = [[row[0], *("yes" if seen else "no" for seen in row[1:])] for row in rows]
    report.table(["cosine", "moopt: componentwise", "TorchJD: by norms"], told)
    report.results["sees_a_conflict"] = {row[0]: row[1:] for row in told}
    report.gate("every conflict is seen", all(row[1] for row in rows), "by the test of moopt")
