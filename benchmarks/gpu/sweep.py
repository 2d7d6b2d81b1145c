"""The sweep: blocks, warps, stages and programs per core of the kernels on rows.

Each setting is compared with exact sums before it is timed. The best of each kernel, dtype and
width is printed beside the one that is shipped.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.gpu.stage import Stage, constant, fused, relaunched
from benchmarks.registry import Shapes
from moopt.kernels.combine import combine_
from moopt.kernels.gramian import gramian
from moopt.kernels.pieces import positions

SHAPES: Shapes = [(4096, 4096)] * 16
TINY: Shapes = [(40, 30), (1025,)]
TOL = 1.2e-6
Grid = dict[str, tuple[int, ...]]
GRIDS: dict[tuple[str, str, int], Grid] = {
    ("gramian", "pairs_kernel", 3): {
        "BLOCK": (1024, 512, 2048, 4096),
        "num_warps": (4, 8, 2),
        "PROGRAMS_PER_CORE": (4, 8, 2, 16),
        "num_stages": (3, 1),
    },
    ("combine", "combine_kernel", 3): {
        "BLOCK": (1024, 2048, 4096, 512),
        "num_warps": (4, 8, 2),
        "num_stages": (3, 1),
    },
    ("gramian", "tiles_kernel", 16): {
        "BLOCK": (32, 64, 16),
        "num_warps": (4, 8),
        "PROGRAMS_PER_CORE": (4, 8, 2),
        "num_stages": (3, 1),
    },
}
"""Operation, kernel and width: what is tried, the shipped values first. Capitals are constants."""


def settings(grid: Grid) -> Iterator[dict[str, int]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


class Swept:
    """Rows, and an operation of a fused module on them."""

    def __init__(self, stage: Stage, operation: str, m: int, dtype: torch.dtype) -> None:
        self.operation, self.m, self.device = operation, m, stage.device
        self.module = fused()[operation]
        self.rows = stage.rows(m, TINY if stage.rehearse else SHAPES, dtype)
        self.weights = torch.full((m,), 1.0 / m, dtype=torch.float64, device=self.device)

    def call(self) -> Any:
        if self.operation == "gramian":
            checked = positions(self.rows, caller="gramian")
            return self.module.gramian_triton(checked, self.m, self.device)[0]
        return self.module.combine_triton_(positions(self.rows, caller="combine_"), self.weights)

    def gate(self, copies: list[list[torch.Tensor]]) -> str:
        """What differs from the plain form, on copies of some of the rows."""
        from moopt.kernels import reference_only

        whole, self.rows = self.rows, [[g.clone() for g in row] for row in copies]
        try:
            with reference_only():
                if self.operation == "gramian":
                    wanted = gramian(copies)
                    size = wanted.diagonal().sqrt()[:, None] * wanted.diagonal().sqrt()
                    error = float(((self.call() - wanted).abs() / size).max())
                else:
                    wanted = torch.cat([g.flatten() for g in combine_(self.rows, self.weights)])
                    self.rows = [[g.clone() for g in row] for row in copies]
                    self.call()
                    found = torch.cat([g.flatten() for g in self.rows[0]])
                    error = float((found.double() - wanted.double()).abs().max())
                    error /= 10.0 * torch.finfo(found.dtype).eps / TOL
        finally:
            self.rows = whole
        return "" if error <= TOL else f"errs by {error:.1e}"


def sweep(stage: Stage, key: tuple[str, str, int], dtype: torch.dtype) -> bool:
    operation, kernel, m = key
    swept = Swept(stage, operation, m, dtype)
    copies = [[g.clone() for g in row[:2]] for row in swept.rows]
    best: tuple[float, dict[str, int]] | None = None
    shipped, green = None, True
    for setting in itertools.islice(settings(GRIDS[key]), 2 if stage.rehearse else None):
        with ExitStack() as stack:
            launch = {k: v for k, v in setting.items() if k != "PROGRAMS_PER_CORE"}
            stack.enter_context(relaunched(swept.module, kernel, **launch))
            if "PROGRAMS_PER_CORE" in setting:
                programs = setting["PROGRAMS_PER_CORE"]
                stack.enter_context(constant(swept.module, "PROGRAMS_PER_CORE", programs))
            row = {"kernel": kernel, "m": m, "dtype": str(dtype), **setting}
            try:
                told = swept.gate(copies)
                timing = {} if told else stage.timed(swept.call)
            except Exception as error:  # a setting that does not fit into the card
                told, timing = f"does not run: {type(error).__name__}", {}
        stage.add(**row, gate=told, **timing)
        green = green and not told.startswith("errs")
        if timing:
            shipped = shipped or timing["p50"]
            best = min(
                best or (timing["p50"], setting), (timing["p50"], setting), key=lambda b: b[0]
            )
    if best and shipped:
        gain = 100 * (1 - best[0] / shipped)
        print(f"   {kernel}, m = {m}, {dtype}: {shipped * 1e6:.4g} us as shipped;")
        print(f"      {best[0] * 1e6:.4g} us, {gain:.0f} % less, with {best[1]}", flush=True)
    return green


def main() -> int:
    stage = Stage(__doc__)
    green = True
    for key in GRIDS:
        if not stage.is_red(key[0]):
            for dtype in (torch.bfloat16, torch.float32):
                green = sweep(stage, key, dtype) and green
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
