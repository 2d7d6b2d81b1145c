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
from benchmarks.fault_conflicts import (
    DESCENT_TOL,
    Direction,
    non_conflict,
    ours,
    radius,
    tests_of_conflict,
)
from benchmarks.report import Report, main
from moopt.aggregators import AGGREGATORS, TrackingAggregator
from moopt.scalarizations import SCALARIZATIONS
from moopt.solvers import min_norm_point
from moopt.testing import OneBatch
from moopt.weightings import WEIGHTINGS

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ACCUMULATION_TOL = 1e-6


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


def trained(weighting: Any, steps: list[Tensor], checkpoint: Any = None) -> tuple[Tensor, Any]:
    """The parameter after a step for each Jacobian, and the checkpoint, which may be gone on from.

    The objectives have the names that the roles of `example()` use.
    """
    parameter = nn.Parameter(torch.zeros_like(steps[0][0]))
    optimizer = moopt.CommonDescent(torch.optim.SGD([parameter], lr=0.1), weighting)
    if checkpoint is not None:
        file = io.BytesIO()
        torch.save(checkpoint, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        optimizer.load_state_dict(loaded["optimizer"])
        parameter.data.copy_(loaded["parameter"])

    def losses(jacobian: Tensor) -> dict[str, Tensor]:
        names = ("forget", "retain", "third")
        return {n: 1 + (g * parameter).sum() for n, g in zip(names, jacobian, strict=True)}

    for jacobian in steps:
        optimizer.zero_grad()
        optimizer.backward(losses(jacobian))
        optimizer.step()
        if weighting.observes:
            optimizer.observe(losses(jacobian))
    after = parameter.detach().clone()
    return after, {"optimizer": optimizer.state_dict(), "parameter": after}


def resume_error(weighting: Any, jacobian: Tensor) -> str | None:
    """What goes wrong when a run of four steps is saved after two and resumed, if anything."""
    steps = [jacobian, jacobian.flip(0), jacobian.roll(1, 0), jacobian]
    resumed: list[Tensor] = []
    whole, _ = trained(weighting, steps)
    _, checkpoint = trained(weighting, steps[:2])
    error = error_of(lambda: resumed.append(trained(weighting, steps[2:], checkpoint)[0]))
    if error is None and not torch.equal(resumed[0], whole):
        return "takes another path"
    return error


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
        mine = {
            n: e
            for n, w in methods.items()
            if (e := error_of(lambda w=w, g=given: trained(w, [g])))
        }
        theirs = {n: e for n, a in rivals.items() if (e := error_of(lambda a=a, g=given: a(g)))}
        failed |= {f"{name}, {what}": error for name, error in mine.items()}
        told = f"{len(theirs)} of {len(rivals)}" if rivals else "-"
        rows.append([what, f"{len(mine)} of {len(methods)}", told])
        report.results[f"raises: {what}"] = {"moopt": mine, "TorchJD": theirs}
    theirs = {n: e for n, a in peer.aggregators(3).items() if (e := peer.reload_error(a, jacobian))}
    stateful = {
        name: method
        for name, method in methods.items()
        if method.state_axes or isinstance(method, TrackingAggregator)
    }
    mine = {n: e for n, w in stateful.items() if (e := resume_error(w, jacobian))}
    failed |= {f"{name}, its own saved state": error for name, error in mine.items()}
    told = f"{len(theirs)}" if rivals else "-"
    rows.append(["its own saved state", f"{len(mine)} of {len(stateful)} stateful", told])
    report.results["raises: saved state"] = {"moopt": mine, "TorchJD": theirs}
    print("\nMethods that raise from inside a step, or do not resume where they stopped\n")
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
    radius(report)
    tests_of_conflict(report)
    crashes(report)
    capture(report)
    minimum_norm(report, 20 if quick else 100)
    if sys.platform == "linux":
        extra_memory(report)


if __name__ == "__main__":
    main("faults", "what breaks in the peer, and does not here", run)
