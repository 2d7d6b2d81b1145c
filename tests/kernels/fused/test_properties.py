"""Any rows: the fused Gramian and combination against float64 sums, also where nothing is plain."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.kernels.combine import combine_
from moopt.kernels.combine.triton import combine_triton_
from moopt.kernels.gramian.triton import TYPES, gramian_triton
from moopt.kernels.metric import with_metric
from moopt.kernels.min_norm.triton import LARGEST, min_norm_triton
from moopt.kernels.pieces import positions
from moopt.kernels.table import is_plain
from moopt.solvers import min_norm_point
from moopt.testing import all_cases
from moopt.testing.sampling import Case
from tests.kernels.fused.device import DEVICE
from tests.kernels.gradient_rows import Rows, gradient_rows, gramian_oracle
from tests.kernels.test_gramian_in_a_metric import Problem, oracle, problems

RTOL = 1.2e-6
"""What constant rows may reach where tiles are summed in float32; other rows come to 3e-8."""


def moved(rows: Rows) -> Rows:
    return [[None if g is None else g.to(DEVICE) for g in row] for row in rows]


@settings(deadline=None, max_examples=40)
@given(rows=gradient_rows(max_rows=9))
def test_the_gramian_agrees_with_float64(rows: Rows) -> None:
    found, noise = gramian_triton(positions(moved(rows), caller="gramian"), len(rows), DEVICE)
    expected = gramian_oracle(rows)
    norms = expected.diagonal().sqrt()
    assert torch.equal(found, found.T)
    error = (found.cpu() - expected).abs()
    assert (error <= (noise + 1e-15) * norms[:, None] * norms + 1e-300).all()
    assert noise <= RTOL


@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_two_lists_of_rows_and_metrics_agree_with_float64(problem: Problem) -> None:
    rows, others, metric = problem
    together = moved([*rows, *(others or [])])
    checked = positions(together, caller="gramian")
    if metric is not None:
        checked = with_metric(checked, together, moved([metric])[0])
    k = None if others is None else len(others)
    found, noise = gramian_triton(checked, len(rows), DEVICE, k=k, metric=metric is not None)
    right = rows if others is None else others
    left_norms, right_norms = (oracle(r, r, metric).diagonal().sqrt() for r in (rows, right))
    allowed = (noise + 1e-13) * left_norms[:, None] * right_norms + 1e-300
    if metric is not None:  # entries below float32's normal numbers may count as zero
        plain = [oracle(r, r, None).diagonal().sqrt() for r in (rows, right)]
        allowed += torch.finfo(torch.float32).tiny * plain[0][:, None] * plain[1]
    assert ((found.cpu() - oracle(rows, right, metric)).abs() <= allowed).all()
    assert noise <= RTOL


@settings(deadline=None, max_examples=40)
@given(rows=gradient_rows(max_rows=9), data=st.data())
def test_the_combination_agrees_with_the_reference(rows: Rows, data: st.DataObject) -> None:
    weights = torch.tensor(
        data.draw(st.lists(st.floats(-4.0, 4.0), min_size=len(rows), max_size=len(rows))),
        dtype=torch.float64,
    )
    copies = [[None if g is None else g.clone() for g in row] for row in rows]
    expected = combine_(copies, weights)
    checked = positions(moved(rows), caller="combine_")
    left = combine_triton_(checked, weights.to(DEVICE))
    for position, reference in zip(checked, expected, strict=True):
        if reference is None or any(position is other for other in left):
            continue
        assert is_plain(position)
        found = next(g for g in position if g is not None).cpu()
        if reference.is_complex():
            reference = torch.view_as_real(reference)
        entries = [g.cpu().double() for g in position if g is not None]
        size = sum(4.0 * g.abs() for g in entries[1:]) + found.double().abs()
        eps = 2 * torch.finfo(found.dtype).eps
        assert ((found.double() - reference.double()).abs() <= eps * size + 1e-40).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("m", [1, 2, 4, 5, 6, 7, 16, 17, 32])
@pytest.mark.parametrize("sizes", [(0,), (1,), (63,), (1000,), (1025,), (7,) * 100])
def test_every_width_and_length(m: int, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(m)
    rows: Rows = [[torch.randn(n, generator=generator).to(dtype) for n in sizes] for _ in range(m)]
    found, noise = gramian_triton(positions(moved(rows), caller="gramian"), m, DEVICE)
    wide = torch.stack([torch.cat(row).double() for row in rows])  # type: ignore[arg-type]
    norms = wide.norm(dim=1)
    assert ((found.cpu() - wide @ wide.T).abs() <= (noise + 1e-15) * norms[:, None] * norms).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
def test_what_is_not_finite_is_seen_in_its_own_row_alone() -> None:
    for m in (3, 9):
        rows: Rows = [[torch.ones(1030)] for _ in range(m)]
        assert rows[1][0] is not None
        rows[1][0][1027] = math.inf
        found, _ = gramian_triton(positions(moved(rows), caller="gramian"), m, DEVICE)
        bad = ~torch.isfinite(found.cpu())
        expected = torch.zeros(m, m, dtype=torch.bool)
        expected[1], expected[:, 1] = True, True
        assert torch.equal(bad, expected)


def test_memory_beside_the_rows_is_neither_read_nor_written() -> None:
    whole = torch.full((3, 1100), math.nan, device=DEVICE)
    whole[:, 33:1060] = torch.arange(3.0, device=DEVICE)[:, None] + 1.0
    rows: Rows = [[row[33:1060]] for row in whole]
    checked = positions(rows, caller="gramian")
    assert torch.isfinite(gramian_triton(checked, 3, DEVICE)[0]).all()
    combine_triton_(checked, torch.ones(3, dtype=torch.float64, device=DEVICE))
    assert torch.isnan(whole[:, :33]).all()
    assert torch.isnan(whole[:, 1060:]).all()
    assert (whole[0, 33:1060] == 6.0).all()


def test_the_same_bits_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    rows: Rows = [[torch.randn(50_000, generator=generator)] for _ in range(3)]
    checked = positions(moved(rows), caller="gramian")
    once, twice = (gramian_triton(checked, 3, DEVICE)[0] for _ in range(2))
    assert torch.equal(once, twice)


@pytest.mark.parametrize(
    "example", list(all_cases(ms=(2, 3, 5, 10), norm_ratios=(1.0, 1e4))), ids=repr
)
def test_the_minimum_norm_point_is_as_short_as_the_hosts(example: Case) -> None:
    gramian = example.gramian
    weights, status, gap, _ = (x.cpu() for x in min_norm_triton(gramian.to(DEVICE)))
    host = min_norm_point(gramian)
    assert abs(float(weights.sum()) - 1.0) <= 1e-12
    assert (weights >= 0.0).all()
    size = float(weights @ gramian.diagonal().sqrt()) ** 2
    length = float(weights @ gramian @ weights)
    assert length <= float(host.weights @ gramian @ host.weights) + 1e-9 * size
    assert int(status) == int(host.status)
    assert float(gap) <= 1e-10 or int(status) == 2


def test_a_batch_is_its_problems_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64)
    gramian = (rows @ rows.mT).to(DEVICE)
    active = torch.rand(3, 5, generator=generator).to(DEVICE) > 0.3
    together = min_norm_triton(gramian, active.expand(2, 3, 5))
    for i in range(2):
        for j in range(3):
            one = min_norm_triton(gramian[i, j], active[j])
            for whole, part in zip(together, one, strict=True):
                assert torch.equal(whole[i, j], part)
    assert min_norm_triton(gramian[:0])[0].shape == (0, 3, 5)


def test_the_largest_problem() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(LARGEST, LARGEST + 5, generator=generator, dtype=torch.float64)
    weights, status, gap, _ = min_norm_triton((rows @ rows.T).to(DEVICE))
    assert (int(status), float(gap) <= 1e-10) == (0, True)
    norms: Tensor = (rows @ rows.T @ weights.cpu()) / rows.norm(dim=1)
    assert (norms >= 0.0).all()
