"""Known faults of the peer, reproduced beside this library in one run.

    python -m benchmarks.faults

Each row is a fault that a user of TorchJD 0.18 meets without a warning, or that ends a training
run; the same check runs on our public calls. Memory and the accuracy of the minimum-norm point
have benchmarks of their own too (`benchmarks.memory`, `benchmarks.solver`).
"""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import moopt
from benchmarks import peer
from benchmarks.report import Report, main
from moopt.aggregators import AGGREGATORS
from moopt.scalarizations import SCALARIZATIONS
from moopt.solvers import min_norm_point
from moopt.testing import OneBatch
from moopt.weightings import WEIGHTINGS, UPGrad, Weighting

DRAWS = 20
NORM_RATIOS = (1.0, 1e-2, 1e-4, 1e-8)
SCALES = (1e-12, 1e-4, 1.0, 1e4, 1e12)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# g_i . d >= -1e-9 ||g_i|| ||d||: the promise of the documentation.
DESCENT_TOL = 1e-9
ACCUMULATION_TOL = 1e-6

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
    print("\nUPGrad's worst cosine with a gradient, where at least 0 is promised\n")
    settings = [("norm ratio", r, conflicting(ratio=r)) for r in NORM_RATIOS]
    settings += [("scale of all gradients", s, conflicting(scale=s)) for s in SCALES]
    mine = [worst_cosine(ours(UPGrad()), problems) for _, _, problems in settings]
    upgrad = peer.aggregator("UPGrad")
    theirs = [worst_cosine(upgrad, p) if upgrad else None for _, _, p in settings]
    rows = [
        [f"{what} {value:g}", f"{a:+.3f}", "-" if b is None else f"{b:+.3f}"]
        for (what, value, _), a, b in zip(settings, mine, theirs, strict=True)
    ]
    report.table(["", "moopt", "TorchJD"], rows)
    report.results["worst_cosine"] = {row[0]: row[1:] for row in rows}
    report.gate("UPGrad never conflicts", min(mine) >= -DESCENT_TOL, f"worst {min(mine):+.1e}")


def instances() -> dict[str, Any]:
    rows = {**WEIGHTINGS, **SCALARIZATIONS, **AGGREGATORS}
    methods: dict[str, Any] = {name: row.example() for name, row in rows.items()}
    return {n: OneBatch(w) if "auxiliary" in w.needs else w for n, w in methods.items()}


def error_of(call: Callable[[], object]) -> str | None:
    """The type of the exception that a call raises, if any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:  # counting them is the point
            return type(error).__name__
    return None


def step_of(weighting: Any, jacobian: Tensor) -> Callable[[], None]:
    """One step with the objectives' names that the roles of `example()` use."""

    def step() -> None:
        parameter = nn.Parameter(torch.zeros_like(jacobian[0]))
        optimizer = moopt.CommonDescent(torch.optim.SGD([parameter], lr=0.1), weighting)
        names = ("forget", "retain", "third")
        optimizer.backward(
            {n: 1 + (g * parameter).sum() for n, g in zip(names, jacobian, strict=True)}
        )
        optimizer.step()
        if weighting.state_axes:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            resumed = moopt.CommonDescent(torch.optim.SGD([parameter], lr=0.1), weighting)
            resumed.load_state_dict(torch.load(file, weights_only=True))

    return step


def crashes(report: Report) -> None:
    methods, rivals = instances(), peer.aggregators(3)
    torch.manual_seed(0)
    jacobian = torch.randn(3, 5)
    overflow = jacobian.clone()
    overflow[0, 0] = float("inf")
    checks = [(f"{d}".removeprefix("torch."), jacobian.to(d)) for d in DTYPES]
    checks.append(("an infinite gradient", overflow))
    rows, failed = [], {}
    for what, given in checks:
        mine = {n: e for n, w in methods.items() if (e := error_of(step_of(w, given)))}
        theirs = {n: e for n, a in rivals.items() if (e := error_of(lambda a=a, g=given: a(g)))}
        failed |= {f"{name}, {what}": error for name, error in mine.items()}
        rows.append([what, f"{len(mine)} of {len(methods)}", f"{len(theirs)} of {len(rivals)}"])
        report.results[f"raises: {what}"] = {"moopt": mine, "TorchJD": theirs}
    states = {n: e for n, a in peer.aggregators(3).items() if (e := peer.reload_error(a, jacobian))}
    stateful = [n for n, w in methods.items() if w.state_axes]
    rows.append(["its own saved state", f"0 of {len(stateful)} stateful", f"{len(states)}"])
    report.results["raises: saved state"] = {"TorchJD": states}
    print("\nMethods that raise from inside a step\n")
    report.table(["", "moopt", "TorchJD"], rows)
    report.gate("no method of ours raises", not failed, "; ".join(failed) or "none does")


class Tied(nn.Module):
    """One matrix used twice, behind a reentrant checkpoint if asked for."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.checkpointed = checkpointed

    def losses(self, x: Tensor) -> Tensor:
        """`[3]`: one loss per row of x, the form that the peer's engine takes."""
        body = lambda z: torch.tanh(self.layer(torch.tanh(self.layer(z))))  # noqa: E731
        y = checkpoint(body, x, use_reentrant=True) if self.checkpointed else body(x)
        return (y - 1).square().sum(dim=1)


def jacobian_of(model: Tied, x: Tensor) -> Tensor:
    """float64 `[3, n]`: the gradients, one plain backward each."""
    out = []
    for i in range(3):
        grads = torch.autograd.grad(model.losses(x)[i], list(model.parameters()))
        out.append(torch.cat([g.double().flatten() for g in grads]))
    return torch.stack(out)


def capture(report: Report) -> None:
    print("\nThe Gramian of a layer that is used twice, and behind a reentrant checkpoint\n")
    rows, worst = [], 0.0
    for name, checkpointed in (("tied weights", False), ("reentrant checkpoint", True)):
        torch.manual_seed(0)
        model, x = Tied(checkpointed), torch.randn(3, 6, requires_grad=True)
        plain = Tied(False)
        plain.load_state_dict(model.state_dict())
        gradients = jacobian_of(plain, x)
        expected = gradients @ gradients.T
        record = moopt.backward(model.losses(x), model.parameters(), moopt.Mean())
        mine = float((record.gramian - expected).norm() / expected.norm())
        theirs = peer.layerwise_gramian_error(model, x, expected)
        worst = max(worst, mine)
        rows.append([name, f"{mine:.1e}", theirs])
    report.table(["relative error of the Gramian", "moopt", "TorchJD's autogram engine"], rows)
    report.results["gramian_error"] = {row[0]: row[1:] for row in rows}
    report.gate("the Gramian is exact", worst <= ACCUMULATION_TOL, f"worst error {worst:.1e}")


def minimum_norm(report: Report, draws: int) -> None:
    """Gaussian gradients, and the same with norms that spread over a factor of 100."""
    print("\nMGDA: ||d||^2 above the minimum, and directions that raise an objective\n")
    rows, worst, against = [], 0.0, 0
    methods: dict[str, Direction] = {"moopt": ours(moopt.MGDA())}
    if peer.version():
        methods["TorchJD"] = peer.mgda()
    for m, spread in ((8, 1.0), (16, 1.0), (32, 100.0)):
        generator = torch.Generator().manual_seed(0)
        norms = torch.logspace(0, 1, m, base=spread, dtype=torch.float64)[:, None]
        jacobians = [
            norms * torch.randn(m, 2 * m, generator=generator, dtype=torch.float64)
            for _ in range(draws)
        ]
        least = [min_norm_point(j @ j.T).weights for j in jacobians]
        squares = [float((j.T @ w).square().sum()) for j, w in zip(jacobians, least, strict=True)]
        for name, direction in methods.items():
            found = [direction(j) for j in jacobians]
            pairs = zip(found, squares, strict=True)
            excess = sorted(float(d.square().sum()) / square - 1 for d, square in pairs)
            raising = sum(
                float((j @ d / j.norm(dim=1)).min()) < -DESCENT_TOL * float(d.norm())
                for j, d in zip(jacobians, found, strict=True)
            )
            if name == "moopt":
                worst, against = max(worst, excess[-1]), against + raising
            row = [f"{excess[draws // 2]:.1%}", f"{excess[-1]:.1%}", f"{raising} of {draws}"]
            rows.append([m, f"{spread:g}", name, *row])
            report.results[f"minimum norm, m = {m}, {name}"] = row
    report.table(["m", "norm spread", "", "median", "worst", "raise an objective"], rows)
    exact = worst <= ACCUMULATION_TOL and not against
    report.gate("MGDA is exact", exact, f"worst {worst:.1e}, {against} raise an objective")


def extra_memory(report: Report) -> None:
    """Each in a process of its own; see `benchmarks.memory`."""
    ways = {"moopt": "moopt", **({"TorchJD": "default"} if peer.version() else {})}
    found = {}
    for name, way in ways.items():
        program = f"from benchmarks.memory import measure; print(measure({way!r}))"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = float(done.stdout)
    print("\nPeak extra memory of a step with 3 losses, in gradients\n")
    report.table(list(found), [[f"{value:.2f}" for value in found.values()]])
    report.results["extra_memory"] = found
    report.gate("at most 3.5 gradients", found["moopt"] <= 3.5, f"{found['moopt']:.2f}")


def run(report: Report, quick: bool) -> None:
    non_conflict(report)
    crashes(report)
    capture(report)
    minimum_norm(report, 20 if quick else 100)
    if sys.platform == "linux":
        extra_memory(report)


if __name__ == "__main__":
    main("faults", "what breaks in the peer, and does not here", run)
