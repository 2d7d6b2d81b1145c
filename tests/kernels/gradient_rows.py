"""Rows of gradients for the kernel tests: a hypothesis strategy and float64 oracles."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

Rows = list[list[Tensor | None]]

SHAPES = ((0,), (), (1,), (7,), (3, 5), (1, 1, 9), (129,), (64, 33), (1025,), (2, 1, 1500))
LAYOUTS = ("contiguous", "transposed", "sliced", "expanded", "every row another")
VALUES = ("normal", "constant", "heavy tails", "zero")
# fp16 holds 6e-8 to 65504 only; the others hold every scale that the design asks for.
SCALES = (1.0, 1e-30, 1e30, 1e-8, 1e8)
FP16_SCALES = (1.0, 1e-3, 1e2)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64)


def values(shape: tuple[int, ...], kind: str, generator: torch.Generator) -> Tensor:
    """float64 values of one kind."""
    if kind == "constant":
        return torch.full(shape, 0.1, dtype=torch.float64)
    if kind == "zero":
        return torch.zeros(shape, dtype=torch.float64)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    return normal.pow(5) / 15 if kind == "heavy tails" else normal


def laid_out(tensor: Tensor, layout: str, row: int) -> Tensor:
    """The same values (for "expanded": the first one along the first axis) in another layout."""
    if layout == "every row another":
        layout = LAYOUTS[row % 3]
    if tensor.dim() == 0 or tensor.numel() == 0 or layout == "contiguous":
        return tensor
    if layout == "transposed":
        return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor
    if layout == "expanded":
        return tensor[:1].expand(tensor.shape)
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


@st.composite
def gradient_rows(
    draw: st.DrawFn,
    max_rows: int = 5,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    scales: tuple[float, ...] = SCALES,
) -> Rows:
    """Rows over up to six parameters: odd sizes, layouts, dtypes, missing entries, scales."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    m = draw(st.integers(1, max_rows))
    row_scales = [draw(st.sampled_from(scales)) for _ in range(m)]
    rows: Rows = [[] for _ in range(m)]
    for _ in range(draw(st.integers(0, 6))):
        shape = draw(st.sampled_from(SHAPES))
        dtype = draw(st.sampled_from(dtypes))
        layout = draw(st.sampled_from(LAYOUTS))
        for i, row in enumerate(rows):
            if draw(st.integers(0, 4)) == 0:
                row.append(None)
                continue
            scale = row_scales[i]
            if dtype == torch.float16:
                scale = FP16_SCALES[SCALES.index(scale) % len(FP16_SCALES)]
            tensor = scale * values(shape, draw(st.sampled_from(VALUES)), generator)
            if dtype.is_complex:
                tensor = torch.complex(tensor, scale * values(shape, "normal", generator))
            row.append(laid_out(tensor.to(dtype), layout, i))
    return rows


def widened(tensor: Tensor) -> Tensor:
    """float64, 1-D, in logical order."""
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.double().reshape(-1)


def gramian_oracle(rows: Rows) -> Tensor:
    """float64 `[m, m]` by definition, entry by entry."""
    m = len(rows)
    out = torch.zeros(m, m, dtype=torch.float64)
    for i in range(m):
        for j in range(m):
            for a, b in zip(rows[i], rows[j], strict=True):
                if a is not None and b is not None:
                    out[i, j] += (widened(a) * widened(b)).sum()
    return out


def copied(rows: Rows) -> Rows:
    """Rows with memory of their own, in the same layouts where those are dense."""
    return [[None if g is None else g.clone() for g in row] for row in rows]
