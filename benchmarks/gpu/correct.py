"""The gates of every fused operation, and the public functions against exact sums."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from types import ModuleType

import torch
from torch import Tensor

import moopt
from benchmarks.cases.solves import TOL, certificate
from benchmarks.gpu.stage import Stage, fused
from moopt.kernels.combine import combine_
from moopt.kernels.gramian import gramian
from moopt.solvers import min_norm_point
from moopt.testing import all_cases

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(0,), (1,), (1025,), (63,), (40_000,), (7, 30)]
WIDTHS = (1, 2, 3, 6, 7, 16, 33)
GRAMIAN_TOL = 1.2e-6
STEP_TOL = 1e-5


def gate(module: ModuleType, device: torch.device, *narrowed: object) -> str:
    """What the gate of a fused form says; the error that it ends in is an answer too."""
    try:
        return str(module.probe(device, *narrowed))
    except Exception as error:  # of a compiler or driver
        return f"{type(error).__name__}: {error}"


def rows_of(stage: Stage, m: int, dtype: torch.dtype) -> list[list[Tensor]]:
    """Rows of which the second conflicts with the first."""
    rows = stage.rows(m, SHAPES, dtype)
    if m > 1:
        rows[1] = [g - 1.5 * f for f, g in zip(rows[0], rows[1], strict=True)]
    return rows


def dense(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.cat([g.cpu().double().flatten() for g in row]) for row in rows])


def public_gramian(stage: Stage, m: int, dtype: torch.dtype) -> str:
    rows = rows_of(stage, m, dtype)
    wide, found = dense(rows), gramian(rows).cpu()
    norms = wide.norm(dim=1)
    worst = float(((found - wide @ wide.T).abs() / (norms[:, None] * norms)).max())
    return "" if worst <= GRAMIAN_TOL else f"an inner product errs by {worst:.1e} of the norms"


def public_combine(stage: Stage, m: int, dtype: torch.dtype) -> str:
    rows = rows_of(stage, m, dtype)
    weights = torch.linspace(-1.0, 2.0, m, dtype=torch.float64)
    wide = dense(rows)
    exact, size = weights @ wide, weights.abs() @ wide.abs()
    found = torch.cat(
        [d.cpu().double().flatten() for d in combine_(rows, weights.to(stage.device))]
    )
    summed = 1e-14 if dtype == torch.float64 else 1e-6
    allowed = exact.abs() * torch.finfo(dtype).eps + size * summed
    wrong = int(((found - exact).abs() > allowed).sum())
    return f"{wrong} of {len(exact)} entries are not rounded as they are to be" if wrong else ""


def public_min_norm(stage: Stage, m: int, _: torch.dtype) -> str:
    worst = 0.0
    for case in all_cases((m,), (0,), norm_ratios=(1.0, 100.0)):
        if case.stationarity == "none" and case.gramian.diagonal().min() > 0:
            found = min_norm_point(case.gramian.to(stage.device)).weights.cpu()
            worst = max(worst, certificate(case, found))
    return "" if worst <= TOL else f"errs by {worst:.1e} where {TOL:.0e} is allowed"


def public_step(stage: Stage, m: int, dtype: torch.dtype) -> str:
    """The direction of a whole step there and on the host."""
    rows, directions = rows_of(stage, m, dtype), []
    for device in (stage.device, torch.device("cpu")):
        parameters = [torch.nn.Parameter(torch.zeros_like(g, device=device)) for g in rows[0]]
        optimizer = moopt.CommonDescent(torch.optim.SGD(parameters, lr=1.0))
        pairs = [zip(parameters, row, strict=True) for row in rows]
        optimizer.backward([sum((p * g.to(device)).sum() for p, g in pair) for pair in pairs])
        directions.append(torch.cat([p.grad.cpu().double().flatten() for p in parameters]))
    error = float((directions[0] - directions[1]).norm() / directions[1].norm())
    allowed = STEP_TOL + torch.finfo(dtype).eps
    return "" if error <= allowed else f"a step differs from the host's by {error:.1e}"


PUBLIC: dict[str, tuple[Callable[[Stage, int, torch.dtype], str], Collection[torch.dtype]]] = {
    "gramian": (public_gramian, DTYPES),
    "combine": (public_combine, DTYPES),
    "min_norm": (public_min_norm, DTYPES[:1]),
    "step": (public_step, DTYPES[1:3]),
}


def main() -> int:
    stage = Stage(__doc__)
    green = True
    for operation, module in fused().items():
        start = time.perf_counter()
        told = gate(module, stage.device, *((3, {torch.bfloat16}) if stage.rehearse else ()))
        green = green and not told
        stage.add(operation=operation, check="gate", gate=told)
        print(f"   {operation}: {told or 'green'}, {time.perf_counter() - start:.0f} s", flush=True)
    for operation, (check, dtypes) in PUBLIC.items():
        for m in (3,) if stage.rehearse else WIDTHS:
            for dtype in dtypes if m > 1 or operation != "min_norm" else ():
                told = check(stage, m, dtype)
                green = green and not told
                stage.add(operation=operation, check=f"m = {m}, {dtype}", gate=told)
                if told:
                    print(f"   {operation}, m = {m}, {dtype}: {told}", flush=True)
    print(f"   public functions: {'green' if green else 'RED, see above'}")
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
