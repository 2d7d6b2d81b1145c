"""The combination kernel against float64, in place, on hosts and on the path for devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.kernels.combine import combine_, reference
from tests.kernels.gradient_rows import Rows, copied, gradient_rows, values, widened

# Each of at most 5 terms is rounded twice (product, sum) in the accumulation's dtype; a factor
# of two covers weights that are rounded to float32 first.
ACCUMULATED_ULPS = 8
Combine = Callable[[Rows, Tensor], list[Tensor | None]]


def combine_on_device(rows: Rows, weights: Tensor) -> list[Tensor | None]:
    """The path for devices, run in host memory."""
    direction, checked = reference._targets(rows)
    reference._Combination(checked, weights, on_host=False).run()
    return direction


def combine_with_known_weights(rows: Rows, weights: Tensor) -> list[Tensor | None]:
    """The path for rows on a device and weights on the host, run in host memory."""
    direction, checked = reference._targets(rows)
    reference._Combination(checked, weights.tolist(), on_host=False).run()
    return direction


def assert_combination(implementation: Combine, rows: Rows, weights: Tensor) -> None:
    """Rounded once to the gradients' dtype, after sums in at least float32."""
    got = implementation(copied(rows), weights)
    assert len(got) == len(rows[0])
    for t, direction in enumerate(got):
        terms = [
            w * widened(row[t])
            for w, row in zip(weights.tolist(), rows, strict=True)
            if row[t] is not None
        ]
        if not terms:
            assert direction is None
            continue
        first = next(row[t] for row in rows if row[t] is not None)
        assert direction is not None
        assert direction.dtype == first.dtype
        assert direction.shape == first.shape
        expected, size = sum(terms), sum(term.abs() for term in terms)
        real = first.real.dtype if first.is_complex() else first.dtype
        info = torch.finfo(real)
        accumulated = torch.finfo(torch.promote_types(real, torch.float32)).eps
        error = (widened(direction) - expected).abs()
        allowed = (
            0.5 * info.eps * expected.abs()
            + ACCUMULATED_ULPS * accumulated * size
            + len(terms) * info.smallest_normal
        )
        assert (error <= allowed).all(), (t, error.max(), direction, expected)


IMPLEMENTATIONS = pytest.mark.parametrize(
    "implementation", [combine_, combine_on_device, combine_with_known_weights]
)
# On a device weights take part in float32: none between 0 and 1e-36.
WEIGHTS = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-6, 1), st.floats(-1, -1e-6))


@pytest.fixture(params=["as shipped", "short chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test also runs with chunks so short that small tensors cross their borders."""
    if request.param == "short chunks":
        monkeypatch.setattr(reference, "_HOST_CHUNK", 320)
        monkeypatch.setattr(reference, "_DEVICE_CHUNK", 256)
        monkeypatch.setattr(reference, "_LONG", 100)


@IMPLEMENTATIONS
@pytest.mark.usefixtures("chunks")
def test_agrees_with_float64(implementation: Combine) -> None:
    @settings(deadline=None, max_examples=80)
    @given(rows=gradient_rows(), data=st.data())
    def check(rows: Rows, data: st.DataObject) -> None:
        weights = torch.tensor([data.draw(WEIGHTS) for _ in rows], dtype=torch.float64)
        assert_combination(implementation, rows, weights)

    check()


def in_own_dtype(rows: Rows, weights: Tensor) -> list[Tensor | None]:
    """Planted violator: 16-bit sums, rounded after every term."""
    direction = rows[0]
    torch._foreach_mul_(direction, weights[0].item())
    for row, weight in zip(rows[1:], weights[1:].tolist(), strict=True):
        torch._foreach_add_(direction, row, alpha=weight)
    return direction


def with_missing_as_first(rows: Rows, weights: Tensor) -> list[Tensor | None]:
    """Planted violator: takes None in the first row for None everywhere."""
    return [
        d if g is not None else None for g, d in zip(rows[0], combine_(rows, weights), strict=True)
    ]


def normal_rows(m: int, dtype: torch.dtype, *sizes: int) -> Rows:
    generator = torch.Generator().manual_seed(0)
    return [[values((n,), "normal", generator).to(dtype) for n in sizes] for _ in range(m)]


@pytest.mark.parametrize(
    ("violator", "rows"),
    [
        (in_own_dtype, normal_rows(3, torch.bfloat16, 1000)),
        (in_own_dtype, normal_rows(3, torch.float16, 1000)),
        (with_missing_as_first, [[None], [torch.ones(2)], [torch.ones(2)]]),
    ],
)
def test_violators_fail(violator: Combine, rows: Rows) -> None:
    weights = torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert_combination(violator, rows, weights)
    assert_combination(combine_, rows, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_long_rows(dtype: torch.dtype) -> None:
    weights = torch.tensor([0.3, -0.6, 0.1], dtype=torch.float64)
    assert_combination(combine_, normal_rows(3, dtype, 700_001, 3, 600_000), weights)


@IMPLEMENTATIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_into_the_first_row_and_nowhere_else(
    implementation: Combine, dtype: torch.dtype
) -> None:
    rows = normal_rows(3, dtype, 5, 70, 600_000)
    rows[0][1] = None
    addresses = [rows[0][0].data_ptr(), rows[1][1].data_ptr(), rows[0][2].data_ptr()]
    before = copied(rows)
    direction = implementation(rows, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    assert [d.data_ptr() for d in direction] == addresses
    for i, t in ((1, 0), (1, 2), (2, 0), (2, 1), (2, 2)):
        assert torch.equal(rows[i][t], before[i][t])


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64]
)
def test_one_row_with_weight_one_is_untouched(implementation: Combine, dtype: torch.dtype) -> None:
    g = torch.randn(300, dtype=torch.float64).mul(1e-3).to(dtype)
    # A NaN would make every comparison false; infinity and both zeros are compared bit by bit.
    g[:3] = torch.tensor([torch.inf, 0.0, -0.0]).to(dtype)
    before = g.clone()
    (direction,) = implementation([[g]], torch.ones(1, dtype=torch.float64))
    assert direction is g
    as_bytes = torch.view_as_real(g) if dtype.is_complex else g
    expected = torch.view_as_real(before) if dtype.is_complex else before
    assert torch.equal(as_bytes.view(torch.uint8), expected.view(torch.uint8))


@IMPLEMENTATIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("size", [3, 600_000])
def test_weight_zero_does_not_hide_non_finite_gradients(
    implementation: Combine, dtype: torch.dtype, bad: float, row: int, size: int
) -> None:
    rows: Rows = [[torch.ones(size, dtype=dtype)], [torch.ones(size, dtype=dtype)]]
    rows[row][0][1] = bad
    weights = torch.ones(2, dtype=torch.float64)
    weights[row] = 0.0
    (direction,) = implementation(rows, weights)
    assert direction[0] == 1
    assert direction[1].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_weights_beyond_float32(dtype: torch.dtype, scale: float) -> None:
    """The host widens: 1e45 is infinity in float32, 1e-50 is zero."""
    g = torch.full((4,), scale).to(dtype)
    weight = torch.tensor([1e45 if scale < 1 else 1e-50], dtype=torch.float64)
    expected = (g.double() * weight).to(dtype)
    (direction,) = combine_([[g]], weight)
    assert direction.isfinite().all()
    assert torch.equal(direction, expected)


def independent(rows: Rows, weights: Tensor) -> list[Tensor]:
    """By definition, in new memory."""
    return [
        sum(w * row[t] for w, row in zip(weights.tolist(), rows, strict=True))
        for t in range(len(rows[0]))
    ]


def entangled_rows() -> dict[str, Rows]:
    base, other = torch.arange(6.0), torch.ones(6)
    return {
        "one tensor for two parameters": [[base, base], [other, 2 * other]],
        "one tensor for two objectives": [[base, other], [base, other]],
        "slices of another gradient": [[base, base[:2], base[2:]], [other, other[:2], other[2:]]],
        "the later row shares with another position": [[other[:3], base[:3]], [base[3:], base[:3]]],
        "expanded": [[torch.ones(1).expand(6)], [base]],
        "overlapping window": [[base.unfold(0, 3, 1)], [torch.ones(4, 3)]],
    }


@IMPLEMENTATIONS
@pytest.mark.parametrize("name", entangled_rows())
def test_shared_memory_is_not_overwritten(implementation: Combine, name: str) -> None:
    rows = entangled_rows()[name]
    weights = torch.tensor([0.5, 0.25], dtype=torch.float64)
    expected = independent(rows, weights)
    for got, wanted in zip(implementation(rows, weights), expected, strict=True):
        assert torch.equal(got, wanted)


def test_disjoint_views_of_one_buffer_stay_in_place() -> None:
    buffer = torch.arange(6.0)
    rows: Rows = [[buffer[:2], buffer[2:]], [torch.ones(2), torch.ones(4)]]
    direction = combine_(rows, torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert direction[0] is rows[0][0]
    assert buffer.tolist() == [1, 3, 5, 7, 9, 11]


@IMPLEMENTATIONS
def test_uninitialised_memory_is_never_read(
    implementation: Combine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = normal_rows(3, torch.bfloat16, 5, 999, 70001)
    rows[0][1] = rows[2][1] = rows[1][0] = None
    weights = torch.tensor([0.5, -0.25, 0.3], dtype=torch.float64)
    clean = implementation(copied(rows), weights)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    for got, expected in zip(implementation(copied(rows), weights), clean, strict=True):
        assert torch.equal(got, expected)


def test_nothing_reaches_the_host() -> None:
    """Meta tensors hold no data: reading a value, or branching on one, raises."""
    for dtype in (torch.float32, torch.bfloat16):
        rows = [[torch.empty(1000, 700, device="meta", dtype=dtype), None]] * 3
        direction = combine_(rows, torch.empty(3, device="meta", dtype=torch.float64))
        assert direction[0].shape == (1000, 700)
        assert direction[0].dtype == dtype
        assert direction[1] is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_agrees_and_does_not_synchronise(dtype: torch.dtype) -> None:
    rows = normal_rows(3, dtype, 3, 70001, 700_001)
    weights = torch.tensor([0.5, -0.25, 0.3], dtype=torch.float64)
    there = [[g.cuda() for g in row] for row in rows]
    weights_there = weights.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        direction = combine_(there, weights_there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_combination(lambda *_: [d.cpu() for d in direction], rows, weights)


def test_requires_grad_rows_are_accepted() -> None:
    g = torch.ones(2, requires_grad=True) * 3
    (direction,) = combine_([[g], [torch.ones(2)]], torch.tensor([1.0, 1.0], dtype=torch.float64))
    assert direction.tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    ("rows", "weights", "error", "match"),
    [
        ([[torch.ones(2)]], torch.ones(2), ValueError, r"shape \[m\] = \[1\]"),
        ([[torch.ones(2)], []], torch.ones(2), ValueError, "lengths"),
        ([[torch.eye(2).to_sparse()]], torch.ones(1), TypeError, "sparse=False"),
        ([], torch.ones(0), ValueError, "at least one row"),
    ],
)
def test_errors_name_the_remedy(
    rows: Rows, weights: Tensor, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        combine_(rows, weights)


def test_a_conjugate_view_is_combined_in_memory_of_its_own() -> None:
    """What its real view shows is a copy, in which nothing may be left behind."""
    z, y = torch.tensor([1 + 2j, 3 - 1j]), torch.tensor([4j, 1 + 0j])
    for first in (z.conj(), torch.cat([z, z])[:2].conj()):
        expected = 2 * first + 3 * y
        (direction,) = combine_([[first], [y.clone()]], [2.0, 3.0])
        assert torch.equal(direction, expected)
