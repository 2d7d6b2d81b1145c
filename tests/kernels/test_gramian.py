"""The Gramian kernel against float64, on hosts and on the path for devices."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import numpy
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.kernels import dispatch
from moopt.kernels.gramian import gramian, reference
from moopt.kernels.pieces import positions
from tests.kernels.gradient_rows import Rows, gradient_rows, gramian_oracle, laid_out, values

# The goal of the design: ten times below the rounding of a bf16 gradient's norm at n = 1e8, and
# what a certificate of 1e-6 needs. Relative to ||g_i|| ||g_j||.
RTOL = 1e-6
# float64 products of at most 1e6 entries: eps * sqrt(1e6) with room for one wrong power of ten.
FLOAT64_RTOL = 1e-12


def gramian_in_blocks(rows: Rows) -> Tensor:
    """The form for long rows in host memory."""
    with mock.patch.object(dispatch, "REFERENCE_ONLY", True):
        return gramian(rows)


def gramian_on_device(rows: Rows) -> Tensor:
    """The path for devices, run in host memory."""
    checked = positions(rows, caller="gramian")
    upper = reference._device_pass(checked, len(rows), torch.device("cpu"))
    return upper.triu() + upper.triu(1).T


def assert_gramian(
    implementation: Callable[[Rows], Tensor], rows: Rows, rtol: float = RTOL
) -> None:
    """Symmetric float64, and as close to the oracle as `rtol` in units of ||g_i|| ||g_j||."""
    got, expected = implementation(rows), gramian_oracle(rows)
    assert got.dtype == torch.float64
    assert torch.equal(got, got.T)
    norms = expected.diagonal().sqrt()
    assert ((got - expected).abs() <= rtol * norms[:, None] * norms).all(), (got, expected)


@pytest.fixture(params=["as shipped", "short chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test also runs with chunks so short that small tensors cross their borders."""
    if request.param == "short chunks":
        monkeypatch.setattr(dispatch, "REFERENCE_ONLY", True)
        monkeypatch.setattr(reference, "_HOST_CHUNK", 320)
        monkeypatch.setattr(reference, "_HOST_CHUNK_MANY_ROWS", 192)
        monkeypatch.setattr(reference, "_DEVICE_CHUNK", 256)
        monkeypatch.setattr(reference, "_BLOCK", 64)
        monkeypatch.setattr(reference, "_GATHER_BELOW", 128)


IMPLEMENTATIONS = pytest.mark.parametrize(
    "implementation", [gramian, gramian_in_blocks, gramian_on_device]
)


@IMPLEMENTATIONS
@pytest.mark.usefixtures("chunks")
def test_agrees_with_float64(implementation: Callable[[Rows], Tensor]) -> None:
    @settings(deadline=None, max_examples=60)
    @given(rows=gradient_rows())
    def check(rows: Rows) -> None:
        assert_gramian(implementation, rows)

    check()


@pytest.mark.usefixtures("chunks")
def test_many_rows() -> None:
    @settings(deadline=None, max_examples=15)
    @given(rows=gradient_rows(max_rows=20))
    def check(rows: Rows) -> None:
        assert_gramian(gramian, rows)

    check()


def test_many_rows_longer_than_their_chunk() -> None:
    """Shorter than what is read where it lies, and longer than a chunk of 16 rows."""
    rows = [[row] for row in torch.randn(16, 40_000, generator=torch.Generator().manual_seed(0))]
    assert_gramian(gramian, rows)


@IMPLEMENTATIONS
def test_float64_gradients_keep_float64_accuracy(
    implementation: Callable[[Rows], Tensor],
) -> None:
    @settings(deadline=None, max_examples=30)
    @given(rows=gradient_rows(dtypes=(torch.float64,)))
    def check(rows: Rows) -> None:
        assert_gramian(implementation, rows, FLOAT64_RTOL)

    check()


def dot_in_own_dtype(rows: Rows) -> Tensor:
    """Planted violator: products and sums in the gradients' dtype."""
    return gramian_by(rows, lambda a, b: torch.dot(a.reshape(-1), b.reshape(-1)).double())


def float32_over_the_whole_tensor(rows: Rows) -> Tensor:
    """Planted violator: float32 all the way, whatever the length and the scale."""
    return gramian_by(
        rows, lambda a, b: torch.dot(a.float().reshape(-1), b.float().reshape(-1)).double()
    )


def with_absolute_eps(rows: Rows) -> Tensor:
    """Planted violator: the usual 1e-8 on the diagonal."""
    return gramian(rows) + 1e-8 * torch.eye(len(rows), dtype=torch.float64)


def gramian_by(rows: Rows, inner: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    out = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, first in enumerate(rows):
        for j, second in enumerate(rows):
            for a, b in zip(first, second, strict=True):
                if a is not None and b is not None:
                    out[i, j] += inner(a, b)
    return out


def one_row(kind: str, dtype: torch.dtype, scale: float = 1.0, size: int = 1 << 20) -> Rows:
    generator = torch.Generator().manual_seed(0)
    return [[(scale * values((size,), kind, generator)).to(dtype)]]


@pytest.mark.parametrize(
    ("violator", "rows"),
    [
        (dot_in_own_dtype, one_row("normal", torch.bfloat16)),
        (float32_over_the_whole_tensor, one_row("constant", torch.float32)),
        (float32_over_the_whole_tensor, one_row("normal", torch.float32, scale=1e30, size=100)),
        (float32_over_the_whole_tensor, one_row("normal", torch.float32, scale=1e-30, size=100)),
        (with_absolute_eps, one_row("normal", torch.float32, scale=1e-30, size=100)),
    ],
)
def test_violators_fail(violator: Callable[[Rows], Tensor], rows: Rows) -> None:
    with pytest.raises(AssertionError):
        assert_gramian(violator, rows)
    assert_gramian(gramian, rows)
    assert_gramian(gramian_on_device, rows)


@pytest.mark.parametrize("kind", ["constant", "heavy tails"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_rows(kind: str, dtype: torch.dtype) -> None:
    assert_gramian(gramian, one_row(kind, dtype, size=3_000_001))


@pytest.mark.parametrize("layout", ["expanded", "sliced"])
def test_strided_constants(layout: str) -> None:
    """A lone strided piece: numpy would sum it one by one, wrong by 1e-5."""
    constant = torch.full((1025,), -2.3104)
    assert_gramian(gramian, [[laid_out(constant, layout, 0)]])


def test_1e8_ones_are_counted_exactly() -> None:
    ones = torch.ones(1).expand(10**8)
    assert gramian([[ones]]).item() == 1e8


@pytest.mark.parametrize("factor", [2.0**-50, 2.0**-46, 2.0**-40, 2.0**-36])
def test_near_the_underflow_of_float32(factor: float) -> None:
    """From all products lost to none lost: the second pass starts soon enough."""
    rows = one_row("normal", torch.float32, scale=factor)
    rows[0].append(one_row("normal", torch.float32, scale=factor * 2.0**-20)[0][0])
    assert_gramian(gramian, rows)


@IMPLEMENTATIONS
def test_uninitialised_memory_is_never_read(
    implementation: Callable[[Rows], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows: Rows = [
        [
            values((n,), "normal", generator).to(dtype) if (i + n) % 3 else None
            for n in (5, 999, 70001)
        ]
        for i, dtype in enumerate((torch.bfloat16, torch.bfloat16, torch.float32))
    ]
    samples = (rows, rows * 7)
    clean = [implementation(sample) for sample in samples]
    torch_empty, numpy_empty = torch.empty, numpy.empty

    def poisoned(*args: object, **keywords: object) -> numpy.ndarray:
        array = numpy_empty(*args, **keywords)
        array.fill(numpy.nan)
        return array

    monkeypatch.setattr(torch, "empty", lambda *a, **k: torch_empty(*a, **k).fill_(torch.nan))
    monkeypatch.setattr(numpy, "empty", poisoned)
    for sample, expected in zip(samples, clean, strict=True):
        assert torch.equal(implementation(sample), expected)


@IMPLEMENTATIONS
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_non_finite_gradients_show(implementation: Callable[[Rows], Tensor], bad: float) -> None:
    rows: Rows = [[torch.ones(5)], [torch.ones(5)]]
    rows[0][0][2] = bad
    got = implementation(rows)
    assert not got[0].isfinite().any()
    assert got[1, 1] == 5


@pytest.mark.parametrize(
    ("implementation", "keeps"),
    [(gramian, True), (lambda rows: gramian(rows).nan_to_num(0.0), False)],
)
def test_zero_rows_do_not_hide_non_finite_ones(
    implementation: Callable[[Rows], Tensor], keeps: bool
) -> None:
    got = implementation([[torch.zeros(3)], [torch.tensor([torch.inf, 1.0, 1.0])]])
    assert got[0, 0] == 0
    assert bool(got[0, 1].isnan()) is keeps


def test_nothing_reaches_the_host() -> None:
    """Meta tensors hold no data: reading a value, or branching on one, raises."""
    rows = [[torch.empty(1000, 70, device="meta"), None, torch.empty(3, device="meta")]] * 3
    got = gramian(rows)
    assert got.shape == (3, 3)
    assert got.dtype == torch.float64
    assert got.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        got[0, 0].item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_and_does_not_synchronise() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [[values((n,), "heavy tails", generator).float() for n in (3, 70001)] for _ in range(3)]
    there = [[g.cuda() for g in row] for row in rows]
    gramian(there)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = gramian(there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_gramian(lambda _: got.cpu(), rows)


def test_no_parameters_give_zero() -> None:
    assert torch.equal(gramian([[], []]), torch.zeros(2, 2, dtype=torch.float64))


def test_requires_grad_and_conjugate_views_are_accepted() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j], requires_grad=True)
    assert gramian([[z.conj()], [z]]).tolist() == [[15.0, 5.0], [5.0, 15.0]]
    imaginary = z.detach().conj().imag
    assert imaginary.is_neg()
    assert gramian([[imaginary]]).item() == 5.0


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ([], ValueError, "at least one row"),
        ([[torch.ones(2)], []], ValueError, r"lengths \[1, 0\]"),
        ([[torch.ones(2)], [torch.ones(3)]], ValueError, r"\[2\] and \[3\] at position 0"),
        ([[torch.ones(2)], [torch.ones(2, device="meta")]], ValueError, "one device"),
        ([[torch.eye(2).to_sparse()]], TypeError, "sparse=False"),
        ([[torch.ones(2, dtype=torch.int64)]], TypeError, "int64 at position 0"),
    ],
)
def test_errors_name_the_remedy(rows: Rows, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        gramian(rows)
