"""What the projection tests share: gradients of every kind, dense references, tolerances."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor

from moopt.projection.structure import Gradient
from tests.cases import Case, cases

KINDS = ("tensor", "list", "dict")

ROUNDING = {
    torch.float64: 1e-13,
    torch.float32: 4e-6,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}
"""Error of a combination, relative to the length of its terms: a few units of the last place, and
for float32 the 1e-6 that the Gramian promises."""

CONDITION = 1e4
"""Condition of the unit rows above which a reference of its own rounding judges nothing."""


def as_kind(row: Tensor, kind: str, dtype: torch.dtype = torch.float64) -> Gradient:
    """A row as one tensor, a list of tensors or a dictionary, with a parameter without gradient."""
    values = row.to(dtype)
    if kind == "tensor":
        return values.clone()
    cut = len(row) // 2
    parts = [values[:cut].clone(), None, values[cut:].reshape(1, -1).clone()]
    return parts if kind == "list" else dict(zip(("a", "unused", "b"), parts, strict=True))


def flat(gradient: Gradient) -> Tensor:
    """float64: the entries of a gradient as one vector."""
    if isinstance(gradient, Tensor):
        return gradient.reshape(-1).to(torch.float64)
    entries = gradient.values() if isinstance(gradient, Mapping) else gradient
    return torch.cat([entry.reshape(-1) for entry in entries if entry is not None]).double()


def gradients_of(case: Case, kind: str) -> list[Gradient]:
    """The rows of a case, in its dtype."""
    return [as_kind(row, kind, case.dtype) for row in case.jacobian]


def condition_of(rows: Tensor) -> float:
    """1 / smallest eigenvalue of the cosines; infinite for dependent rows."""
    if len(rows) == 0:
        return 1.0
    norms = rows.norm(dim=-1, keepdim=True)
    if (norms == 0).any():
        return float("inf")
    smallest = float(torch.linalg.eigvalsh((rows / norms) @ (rows / norms).T)[0])
    return 1.0 / smallest if smallest > 0 else float("inf")


def off_the_span(vector: Tensor, rows: Tensor) -> Tensor:
    """The dense reference: `vector` minus its projection onto the rows, by QR of unit rows."""
    if len(rows) == 0:
        return vector
    basis = torch.linalg.qr((rows / rows.norm(dim=-1, keepdim=True)).T).Q
    vector = vector - basis @ (basis.T @ vector)
    return vector - basis @ (basis.T @ vector)


def every_case(ms: tuple[int, ...] = (1, 2, 3, 5)) -> st.SearchStrategy[Case]:
    """Cases of every dtype; short ones at a scale that they hold."""
    return st.one_of(
        cases(ms=ms),
        cases(ms=ms, scales=(1.0, 1e-8, 1e8), norm_ratios=(1.0, 1e4), dtypes=(torch.float32,)),
        cases(ms=ms, scales=(1.0,), norm_ratios=(1.0, 1e2), dtypes=(torch.bfloat16,)),
        cases(ms=ms, scales=(1.0,), norm_ratios=(1.0,), dtypes=(torch.float16,)),
    )
