"""Inner products between two lists of rows, and in a diagonal metric, against float64 sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.kernels import dispatch
from moopt.kernels.gramian import gramian, measured_gramian, reference
from moopt.kernels.metric import with_metric
from moopt.kernels.pieces import positions
from tests.kernels.gradient_rows import Rows, gradient_rows, laid_out, widened

Metric = list[Tensor | None]
Form = Callable[[Rows, Rows | None, Metric | None], tuple[Tensor, float]]

KINDS = ("entries", "one value", "zeros among them", "another layout")


class Problem(NamedTuple):
    rows: Rows
    others: Rows | None
    metric: Metric | None


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Rows, and others or a metric or both: of any dtype, layout and size, with missing entries."""
    rows = draw(gradient_rows(max_rows=6))
    m = draw(st.integers(1, len(rows)))
    cross = m < len(rows)
    metric: Metric | None = None
    if not cross or draw(st.booleans()):
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        size = draw(st.sampled_from((1e-30, 1.0, 1e30)))
        metric = [draw(metrics(column, size, generator)) for column in zip(*rows, strict=True)]
    return Problem(rows[:m], rows[m:] if cross else None, metric)


@st.composite
def metrics(
    draw: st.DrawFn, column: tuple[Tensor | None, ...], size: float, generator: torch.Generator
) -> Tensor | None:
    like = next((g for g in column if g is not None), None)
    if like is None:
        return draw(st.sampled_from((None, torch.ones(3))))
    kind = draw(st.sampled_from(KINDS))
    dtype = draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16, torch.float16)))
    shape = torch.Size() if kind == "one value" else like.shape
    weights = torch.rand(shape, generator=generator, dtype=torch.float64) ** 4
    if kind == "zeros among them":
        weights = torch.where(torch.rand(shape, generator=generator) < 0.5, 0.0, weights)
    weights = (weights if dtype == torch.float16 else size * weights).to(dtype)
    return laid_out(weights, "transposed", 0) if kind == "another layout" else weights


def as_shipped(rows: Rows, others: Rows | None, metric: Metric | None) -> tuple[Tensor, float]:
    return measured_gramian(rows, others, metric=metric)


def in_blocks(rows: Rows, others: Rows | None, metric: Metric | None) -> tuple[Tensor, float]:
    """The form for long rows in host memory."""
    with mock.patch.object(dispatch, "REFERENCE_ONLY", True):
        return measured_gramian(rows, others, metric=metric)


def on_device(rows: Rows, others: Rows | None, metric: Metric | None) -> tuple[Tensor, float]:
    """The path for devices, run in host memory."""
    pretended = mock.patch.object(reference, "_HOST_CHUNK_MANY_ROWS", reference._DEVICE_CHUNK)
    with pretended, mock.patch.object(reference, "_host_product", torch.bmm):
        return in_blocks(rows, others, metric)


def oracle(rows: Rows, others: Rows, metric: Metric | None) -> Tensor:
    """float64 `[m, k]` by definition, entry by entry."""
    out = torch.zeros(len(rows), len(others), dtype=torch.float64)
    for i, row in enumerate(rows):
        for j, other in enumerate(others):
            for t, (a, b) in enumerate(zip(row, other, strict=True)):
                if a is None or b is None:
                    continue
                x, y = widened(a), widened(b)
                if metric is not None:
                    weights = metric[t]
                    assert weights is not None
                    weights = weights.double().expand(a.shape)
                    if a.is_complex():
                        weights = weights[..., None].expand(*a.shape, 2)
                    root = weights.reshape(-1).sqrt()
                    x, y = x * root, y * root
                out[i, j] += (x * y).sum()
    return out


def assert_right(form: Form, problem: Problem) -> None:
    """Within the stated noise of the norms in the metric, which is no more than is documented."""
    rows, others, metric = problem
    got, noise = form(rows, others, metric)
    right = rows if others is None else others
    expected = oracle(rows, right, metric)
    assert got.shape == expected.shape
    assert got.dtype == torch.float64
    if others is None:
        assert torch.equal(got, got.T)
    left_norms, right_norms = (oracle(r, r, metric).diagonal().sqrt() for r in (rows, right))
    allowed = (noise + 1e-13) * left_norms[:, None] * right_norms
    assert ((got - expected).abs() <= allowed).all(), (got, expected)
    assert noise <= 1e-12


FORMS = pytest.mark.parametrize("form", [as_shipped, in_blocks, on_device])


@pytest.fixture(params=["as shipped", "short chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "short chunks":
        monkeypatch.setattr(dispatch, "REFERENCE_ONLY", True)
        monkeypatch.setattr(reference, "_HOST_CHUNK_MANY_ROWS", 192)
        monkeypatch.setattr(reference, "_DEVICE_CHUNK", 256)
        monkeypatch.setattr(reference, "_BLOCK", 64)


@FORMS
@pytest.mark.usefixtures("chunks")
def test_agrees_with_float64(form: Form) -> None:
    @settings(deadline=None, max_examples=60)
    @given(problem=problems())
    def check(problem: Problem) -> None:
        assert_right(form, problem)

    check()


def sample(scale: float = 1.0, dtype: torch.dtype = torch.float32, size: int = 70_001) -> Problem:
    generator = torch.Generator().manual_seed(0)

    def rows(count: int) -> Rows:
        return [
            [
                (scale * torch.randn(n, generator=generator, dtype=torch.float64)).to(dtype)
                for n in (5, 40, size)
            ]
            for _ in range(count)
        ]

    left, right = rows(3), rows(2)
    left[1][0] = right[0][2] = None
    weights = [10.0 ** (6 * torch.rand(n, generator=generator) - 3) for n in (5, 40, size)]
    return Problem(left, right, [*weights[:1], torch.tensor(0.5), *weights[2:]])


def metric_twice(rows: Rows, others: Rows | None, metric: Metric | None) -> tuple[Tensor, float]:
    """Planted violator: the metric on both sides."""
    squares = metric and [None if w is None else w.square() for w in metric]
    return measured_gramian(rows, others, metric=squares)


def metric_late(rows: Rows, others: Rows | None, metric: Metric | None) -> tuple[Tensor, float]:
    """Planted violator: one element late."""
    late = metric and [None if w is None else w.flatten().roll(1).view_as(w) for w in metric]
    return measured_gramian(rows, others, metric=late)


def in_float32(rows: Rows, others: Rows | None, metric: Metric | None) -> tuple[Tensor, float]:
    """Planted violator: products in float32."""
    assert others is not None
    assert metric is not None
    total, missing = torch.zeros(len(rows), len(others)), torch.zeros(())
    for t, weights in enumerate(metric):
        assert weights is not None
        for i, row in enumerate(rows):
            for j, other in enumerate(others):
                a, b = row[t], other[t]
                a, b = (missing if g is None else g.float() for g in (a, b))
                total[i, j] += (weights.float() * a * b).sum()
    return total.double(), 1e-13


def rows_for_others(rows: Rows, others: Rows | None, metric: Metric | None) -> tuple[Tensor, float]:
    """Planted violator: the others are taken for rows."""
    return measured_gramian(rows, rows[: len(others or rows)], metric=metric)


@pytest.mark.parametrize("violator", [metric_twice, metric_late, in_float32, rows_for_others])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_violators_fail(violator: Form, scale: float) -> None:
    problem = sample(scale)
    with pytest.raises(AssertionError):
        assert_right(violator, problem)
    assert_right(as_shipped, problem)
    assert_right(on_device, problem)


@FORMS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_options_agree_with_each_other(form: Form, dtype: torch.dtype) -> None:
    rows, others, metric = sample(dtype=dtype)
    assert others is not None
    plain, _ = form(rows, None, [torch.ones(()) for _ in rows[0]])
    torch.testing.assert_close(plain, gramian(rows), rtol=0, atol=1e-6 * float(plain.max()))
    joint, _ = form([*rows, *others], None, metric)
    cross, _ = form(rows, others, metric)
    torch.testing.assert_close(cross, joint[:3, 3:], rtol=0, atol=1e-13 * float(joint.max()))
    turned, _ = form(others, rows, metric)
    torch.testing.assert_close(turned, cross.T, rtol=0, atol=1e-13 * float(joint.max()))


@FORMS
def test_a_power_of_four_in_the_metric_comes_out_bit_for_bit(form: Form) -> None:
    rows, others, metric = sample()
    assert metric is not None
    scaled: Metric = [None if w is None else w * 2.0**-60 for w in metric]
    assert torch.equal(form(rows, others, scaled)[0] * 2.0**60, form(rows, others, metric)[0])


@FORMS
@pytest.mark.parametrize("bad", [-1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("cross", [False, True])
def test_a_bad_metric_shows(form: Form, bad: float, cross: bool) -> None:
    """In every two rows that have a gradient there; pairs without one may show it too."""
    rows: Rows = [[torch.ones(3), None], [torch.ones(3), torch.ones(2)], [None, torch.ones(2)]]
    metric: Metric = [torch.ones(3), torch.tensor([1.0, bad])]
    got, _ = form(rows, rows if cross else None, metric)
    assert not got[1:, 1:].isfinite().any()
    metric[1] = torch.tensor([1.0, 0.0])
    assert form(rows, rows if cross else None, metric)[0].isfinite().all()


def test_negative_zero_is_zero() -> None:
    assert gramian([[torch.ones(2)]], metric=[torch.tensor([-0.0, 1.0])]).item() == 1.0


def test_a_zero_metric_and_no_parameters_give_zero() -> None:
    assert gramian([[torch.ones(2)]], metric=[torch.zeros(())]).tolist() == [[0.0]]
    assert gramian([[], []], [[]], metric=[]).tolist() == [[0.0], [0.0]]
    assert gramian([[None], [None]], [[None]], metric=[None]).tolist() == [[0.0], [0.0]]


def test_nothing_reaches_the_host() -> None:
    """Meta tensors hold no data: reading a value, or branching on one, raises."""
    rows = [[torch.empty(1000, 70, device="meta"), None, torch.empty(3, device="meta")]] * 3
    metric = [torch.empty(1000, 70, device="meta"), None, torch.empty((), device="meta")]
    for others, shape in ((None, (3, 3)), (rows[:2], (3, 2))):
        got = gramian(rows, others, metric=metric)
        assert (got.shape, got.dtype, got.device.type) == (shape, torch.float64, "meta")


@FORMS
def test_memory_is_not_written(form: Form) -> None:
    rows, others, metric = sample()
    assert metric is not None
    before = [w.clone() for w in metric if w is not None]
    form(rows, others, metric)
    assert all(map(torch.equal, before, metric))  # type: ignore[arg-type]


def test_the_metric_of_a_complex_gradient_has_its_shape() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j])
    assert gramian([[z]], metric=[torch.tensor([2.0, 10.0])]).item() == pytest.approx(110.0)
    assert gramian([[z.conj()]], [[z]], metric=[torch.tensor(2.0)]).item() == pytest.approx(10.0)


ONE = [[torch.ones(2)]]


@pytest.mark.parametrize(
    ("others", "metric", "error", "match"),
    [
        ([], None, ValueError, "`others` of `gramian` must hold at least one row"),
        ([[]], None, ValueError, r"lengths \[1, 0\]"),
        ([[torch.ones(3)]], None, ValueError, r"\[2\] and \[3\] at position 0"),
        (None, [], ValueError, "one entry per parameter, 1; got 0"),
        (None, [None], ValueError, "wherever a row has a gradient; got None at position 0"),
        (None, [torch.ones(1)], ValueError, r"\[2\], or \[\]; got \[1\] at position 0"),
        (None, [torch.ones(2, device="meta")], ValueError, "where the gradients lie, on cpu"),
        (None, [torch.ones(2, dtype=torch.int64)], TypeError, "int64 at position 0"),
        (None, [torch.ones(2, dtype=torch.complex64)], TypeError, "complex64 at position 0"),
        (None, [torch.ones(2).to_sparse()], TypeError, "sparse_coo"),
    ],
)
def test_errors_name_the_remedy(
    others: Rows | None, metric: Metric | None, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        gramian(ONE, others, metric=metric)


def test_the_checked_positions_carry_the_metric_last() -> None:
    rows: Rows = [[torch.ones(2, 3), None]]
    joint = with_metric(positions(rows, caller="gramian"), rows, [torch.tensor(2.0), None])
    assert joint[0][-1] is not None
    assert joint[0][-1].shape == (2, 3)
    assert joint[1] == [None, None]
