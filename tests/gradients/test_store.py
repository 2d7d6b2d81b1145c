"""Rows to a Gramian and a direction in `.grad`, in both forms of the kernels."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from moopt.gradients import GradientStore
from moopt.kernels import dispatch
from tests.gradients.rows import leaves, record


@pytest.fixture(params=["gathered", "reference"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(dispatch, "REFERENCE_ONLY", request.param == "reference")
    return request.param


def test_shared_positions():
    a, b, c = parameters = leaves(1, 1, 1)
    store = GradientStore()
    record(store, "x", parameters, lambda: a.sum() + b.sum())
    assert store.shared(None) == [True, True, False]  # a single objective: all it reaches
    record(store, "y", parameters, lambda: a.sum() + c.sum())
    assert store.shared(None) == [True, False, False]
    assert store.shared({id(c)}) == [False, False, True]
    assert store.unweighted([True, False, False]) == 2
    store.gramian([True, False, False])
    store.write_direction_([0.5, 0.25], [True, False, False])
    assert [p.grad.tolist() for p in parameters] == [[0.75], [1.0], [1.0]]
    assert len(store) == 0


def random_rows(
    dtype: torch.dtype, m: int, k: int
) -> tuple[GradientStore, list[torch.nn.Parameter], list[list[Tensor | None]]]:
    """A store of m + k rows with gaps over four parameters, and copies of the rows."""
    generator = torch.Generator().manual_seed(m + k)
    shapes = ((3, 4), (5,), (), (2, 3))
    parameters = [torch.nn.Parameter(torch.zeros(s, dtype=dtype)) for s in shapes]
    store, copies = GradientStore(), []
    for i in range(m + k):
        with store.recording(f"row {i}", parameters, auxiliary=i >= m):
            for t, p in enumerate(parameters):
                if (i + t) % 4 and (t != 3 or i == 1):
                    p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
        row = (store.auxiliary if i >= m else store.rows)[f"row {i}"]
        copies.append([None if g is None else g.clone() for g in row])
    return store, parameters, copies


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize(("m", "k", "weighted"), [(1, 0, 1), (3, 0, 3), (3, 2, 3), (3, 2, 5)])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_direction_is_the_weighted_sum(
    dtype: torch.dtype, m: int, k: int, weighted: int, everywhere: bool
) -> None:
    store, parameters, rows = random_rows(dtype, m, k)
    shared = [True, True, False, False]
    weights = [0.5, -0.25, 2.0, 1.5, 0.125][:weighted]
    parameters[1].grad = waiting = torch.ones(5, dtype=dtype)
    product = store.gramian(shared)
    for i in range(m + k):
        for j in range(m + k):
            pairs = zip(rows[i][:2], rows[j][:2], strict=True)
            exact = sum(
                (a.to(torch.complex128) * b.to(torch.complex128).conj()).real.sum()
                for a, b in pairs
                if a is not None and b is not None
            )
            torch.testing.assert_close(product[i, j].item(), float(exact), rtol=1e-6, atol=1e-6)
    store.write_direction_(weights, shared, everywhere=everywhere)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    for t, p in enumerate(parameters):
        factors = weights if shared[t] or everywhere else [1.0] * m
        terms = [w * row[t] for w, row in zip(factors, rows, strict=False) if row[t] is not None]
        if not terms:
            assert p.grad is None
            continue
        expected = sum(terms) + (1.0 if t == 1 else 0.0)
        torch.testing.assert_close(p.grad, expected, rtol=tolerance, atol=tolerance)
    assert parameters[1].grad is waiting
    assert len(store) == 0


def test_a_given_direction_and_the_plain_sum_of_the_rest():
    store, parameters, rows = random_rows(torch.float64, 3, 1)
    shared = [True, True, False, False]
    given = [torch.ones_like(p) if on else None for p, on in zip(parameters, shared, strict=True)]
    store.write_given_direction_(given, shared)
    assert parameters[0].grad.tolist() == torch.ones(3, 4).tolist()
    torch.testing.assert_close(
        parameters[2].grad, sum(row[2] for row in rows[:3] if row[2] is not None)
    )


def test_a_direction_over_other_positions_or_rows_than_the_gramian() -> None:
    a, b = parameters = leaves(2, 3)
    for change in ("positions", "rows", "dropped"):
        store = GradientStore()
        for factor in (1.0, 2.0):
            record(store, str(factor), parameters, lambda f=factor: f * (a.sum() + b.sum()))
        store.gramian([True, True])
        weights, shared = [0.5, 0.25], [True, change != "positions"]
        if change == "rows":
            record(store, "3.0", parameters, lambda: 3.0 * (a.sum() + b.sum()))
            weights.append(1.0)
        elif change == "dropped":
            store.drop("1.0")
            weights.pop()
        store.write_direction_(weights, shared)
        expected = {"positions": (1.0, 3.0), "rows": (4.0, 4.0), "dropped": (1.0, 1.0)}[change]
        assert (a.grad[0].item(), b.grad[0].item()) == expected
        a.grad = b.grad = None


def test_one_row_comes_back_bit_for_bit():
    (p,) = parameters = leaves(3)
    store = GradientStore()
    with store.recording("x", parameters):
        p.grad = torch.tensor([torch.inf, 0.0, -0.0])
    store.gramian([True])
    store.write_direction_([1.0], [True])
    assert (
        p.grad.view(torch.int32).tolist()
        == torch.tensor([torch.inf, 0.0, -0.0]).view(torch.int32).tolist()
    )


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("m", [2, 7])
def test_weight_zero_does_not_hide_non_finite_gradients(bad: float, m: int) -> None:
    (p,) = parameters = leaves(40)
    store = GradientStore()
    for i in range(m):
        with store.recording(str(i), parameters):
            p.grad = torch.ones(40)
            p.grad[3] = bad if i == 1 else 1.0
    store.gramian([True])
    store.write_direction_([1.0 if i == 0 else 0.0 for i in range(m)], [True])
    assert p.grad[3].isnan()
    assert p.grad[:3].tolist() == [1.0, 1.0, 1.0]


def test_the_rounding_of_the_combination():
    for dtype, eps in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        (p,) = leaves(2, dtype=dtype)
        store = GradientStore()
        record(store, "x", [p], p.sum)
        assert store.accumulation_eps() == torch.finfo(eps).eps


@pytest.mark.parametrize("m", [3, 8])
def test_a_small_step_is_few_calls(m: int, form: str) -> None:
    """A step on a small net is all overhead: no call per parameter or per pair of rows."""
    if form != "gathered":
        pytest.skip("the reference form walks over the rows")
    parameters = leaves(32, 32, 32, 32, 32, 32)
    store, names = GradientStore(), [str(i) for i in range(m)]

    def step() -> None:
        with store.set_aside(parameters):
            for name in names:
                so_far = store.begin(name)
                for p in parameters:
                    p.grad = torch.ones(32)
                store.end(name, so_far)
        shared = store.shared(None)
        store.gramian(shared)
        store.write_direction_([1.0] * m, shared)

    calls = []

    def count(frame, event, _):
        if event == "call" and "/moopt/" in frame.f_code.co_filename:
            calls.append(frame.f_code.co_name)

    sys.setprofile(count)
    try:
        step()
    finally:
        sys.setprofile(None)
    assert len(calls) <= 22 + 4 * m, calls
