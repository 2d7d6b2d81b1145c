"""The Gramian's stated rounding holds against exact sums, in every form, and is no excuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

from moopt.kernels import dispatch
from moopt.kernels.gramian import measured_gramian, reference
from moopt.kernels.pieces import positions

Rows = list[list[Tensor]]
Measured = tuple[Tensor, float]


def in_blocks(rows: Rows) -> Measured:
    with mock.patch.object(dispatch, "REFERENCE_ONLY", True):
        return measured_gramian(rows)


def on_device(rows: Rows) -> Measured:
    """The path for devices, run in host memory."""
    checked = positions(rows, caller="gramian")
    upper = reference._device_pass(checked, len(rows), torch.device("cpu"))
    return upper.triu() + upper.triu(1).T, reference._noise(checked, narrow=False)


def exact(rows: Rows) -> Tensor:
    """`[m, m]` without rounding: the entries are float32, so that float64 holds every product."""
    vectors = [torch.cat([g.double() for g in row]) for row in rows]
    sums = [[math.fsum((a * b).tolist()) for b in vectors] for a in vectors]
    return torch.tensor(sums, dtype=torch.float64)


def errors(measure: Callable[[Rows], Measured], rows: Rows) -> tuple[float, float]:
    """The largest error in units of the two norms, and what was promised."""
    (got, noise), expected = measure(rows), exact(rows)
    norms = expected.diagonal().sqrt()
    return float(((got - expected).abs() / (norms[:, None] * norms)).max()), noise


def gradients(kind: str, m: int, n: int, dtype: torch.dtype) -> Rows:
    generator = torch.Generator().manual_seed(n)

    def uniform(*size: int) -> Tensor:
        return 1 + torch.rand(size, generator=generator)

    signs = torch.randint(2, (m, n), generator=generator) * 2.0 - 1.0
    normal = torch.randn(m, n, generator=generator)
    values = {
        "constant": uniform(m, 1).expand(m, n),  # all errors have one sign
        "signs": uniform(m, 1) * signs,  # inner products cancel
        "random": normal,
        "wide range": (8 * normal).exp() * signs,
        "falling": torch.linspace(1, 1e-3, n).square() * uniform(m, 1),
    }[kind]
    return [[row[: n // 3].to(dtype), row[n // 3 :].to(dtype)] for row in values.contiguous()]


@pytest.mark.parametrize("measure", [measured_gramian, in_blocks, on_device])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["constant", "signs", "random", "wide range", "falling"])
def test_entries_are_as_exact_as_is_said(
    measure: Callable[[Rows], Measured], dtype: torch.dtype, kind: str
) -> None:
    for m, n in ((1, 3), (3, 1000), (7, 1025), (2, 100_000), (20, 3168)):
        error, noise = errors(measure, gradients(kind, m, n, dtype))
        assert error <= noise, (m, n)


@pytest.mark.parametrize("factor", [0.4])
def test_constant_gradients_reach_it_within_a_factor(factor: float) -> None:
    """A bound that nothing comes near would cut away what is sound."""
    for seed in range(50):
        rows = [[torch.full((3072,), 1 + seed / 50)]]
        error, noise = errors(in_blocks, rows)
        if error > factor * noise:
            return
    pytest.fail(f"no constant gradient came within {factor} of {noise}")


def test_what_was_done_decides() -> None:
    """Small rows and many rows are summed in float64, the others in float32 blocks."""
    rows = gradients("random", 3, 3168, torch.float32)
    assert measured_gramian(rows)[1] == pytest.approx(3171 * 2.0**-54)
    assert in_blocks(rows)[1] == pytest.approx(35 * 2.0**-25, rel=1e-6)
    assert in_blocks(gradients("random", 3, 3168, torch.float64))[1] < 1e-13
    assert in_blocks(gradients("random", 16, 3168, torch.float32))[1] < 1e-13
    tiny = [[1e-30 * g for g in row] for row in rows]  # read a second time, in float64
    assert in_blocks(tiny)[1] < 1e-13
    assert on_device(rows)[1] < 1e-13
