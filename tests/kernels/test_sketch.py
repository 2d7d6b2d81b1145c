"""Sketches: their definition element by element, linearity, mean and variance over the seeds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.kernels.gramian import gramian
from moopt.kernels.sketch import hashing, reference, sketch
from tests.kernels.gradient_rows import Rows, gradient_rows, laid_out, widened

Sketch = Callable[[Rows, int, int], Tensor]
CPU = torch.device("cpu")
STEP, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def splitmix(state: int) -> int:
    """The published function, in Python's integers."""
    z = (state + STEP) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def key(*numbers: int) -> int:
    out = 0
    for number in numbers:
        out = splitmix((out ^ (number & MASK)) * STEP & MASK)
    return out


def by_definition(rows: Rows, size: int, seed: int) -> Tensor:
    """Element by element, as the README states it."""
    out = np.zeros((len(rows), size))
    for i, row in enumerate(rows):
        for t, gradient in enumerate(row):
            if gradient is None:
                continue
            bits, turns = key(seed, t, 0), key(seed, t, 1)
            for e, value in enumerate(widened(gradient).tolist()):
                word = splitmix((bits + e // 64) * STEP & MASK)
                turn = (splitmix((turns + e // size) * STEP & MASK) >> 1) % size
                sign = 1.0 - 2.0 * (word >> (e % 64) & 1)
                out[i, (e % size + turn) % size] += sign * value
    return torch.from_numpy(out)


def test_the_bits_are_those_of_splitmix64() -> None:
    """Its first numbers from state 0, which are published in many places."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [word & MASK for word in hashing.words(0, 0, 3, CPU).tolist()] == published
    assert [word & MASK for word in hashing.words(0, 2, 3, CPU).tolist()] == published[2:]


def test_signs_are_bits_of_the_words_from_any_start() -> None:
    whole = hashing.signs(7, 0, 300, CPU)
    assert set(whole.tolist()) == {-1.0, 1.0}
    for start, stop in ((0, 1), (63, 65), (64, 128), (100, 300), (5, 5)):
        assert torch.equal(hashing.signs(7, start, stop, CPU), whole[start:stop])


@pytest.fixture(params=["as shipped", "short chunks", "gathered"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with borders of chunks inside of blocks, and by the path of devices."""
    if request.param != "as shipped":
        monkeypatch.setattr(reference, "_HOST_CHUNK", 50)
    if request.param == "short chunks":
        monkeypatch.setattr(reference, "_LONG_BLOCK", 1)


@pytest.mark.usefixtures("chunks")
def test_agrees_with_the_definition() -> None:
    @settings(deadline=None, max_examples=60)
    @given(rows=gradient_rows(), size=st.integers(1, 200), seed=st.integers(-(2**70), 2**70))
    def check(rows: Rows, size: int, seed: int) -> None:
        found, expected = sketch(rows, size, seed), by_definition(rows, size, seed)
        assert (found.dtype, found.shape) == (torch.float64, (len(rows), size))
        total = sum(widened(g).abs().sum() for row in rows for g in row if g is not None)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * float(total))

    check()


def whole_numbers(shapes: list[tuple[int, ...]], m: int, seed: int) -> Rows:
    """Rows whose sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randint(-50, 50, s, generator=generator).float() for s in shapes] for _ in "m" * m
    ]


SHAPES = [(3, 500), (40,), (), (7, 2, 30)]


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("size", [1, 16, 1000, 1024, 5000])
def test_is_linear_and_sees_neither_layout_nor_dtype_nor_company(size: int) -> None:
    a, b = whole_numbers(SHAPES, 2, 0), whole_numbers(SHAPES, 2, 1)
    both = [[3 * x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]
    assert torch.equal(sketch(both, size, 5), 3 * sketch(a, size, 5) - sketch(b, size, 5))
    turned: Rows = [[laid_out(x.double(), "transposed", 0) for x in row] for row in a]
    assert torch.equal(sketch(turned, size, 5), sketch(a, size, 5))
    mixed: Rows = [a[0], [x.bfloat16() for x in a[1]], [None] * 4]
    assert torch.equal(sketch(mixed, size, 5)[:2], sketch(a, size, 5))
    assert not sketch(mixed, size, 5)[2].any()
    for t in range(4):  # what is None is zero, and moves nothing else
        holes = [[None if i == t else x for i, x in enumerate(row)] for row in a]
        zeros = [[0 * x if i == t else x for i, x in enumerate(row)] for row in a]
        assert torch.equal(sketch(holes, size, 5), sketch(zeros, size, 5))


def estimates(form: Sketch, left: Tensor, right: Tensor, size: int, seeds: int) -> Tensor:
    """float64 `[seeds]`: the estimates of `<left, right>`."""
    rows: Rows = [[left[:20], left[20:]], [right[:20], right[20:]]]
    sketches = torch.stack([form(rows, size, seed) for seed in range(seeds)])
    return (sketches[:, 0] * sketches[:, 1]).sum(1)


def variance(left: Tensor, right: Tensor, size: int) -> float:
    """Of the theory: the elements of one block never meet, two others with probability 1 / size."""
    block = torch.cat([torch.arange(20) // size, 100 + torch.arange(len(left) - 20) // size])
    apart = (block[:, None] != block).double()
    product = left * right
    terms = (left.square()[:, None] * right.square()) + product[:, None] * product
    return float((terms * apart).sum()) / size


SEEDS = 600


def assert_theory(form: Sketch, left: Tensor, right: Tensor, size: int) -> None:
    """The mean within four standard errors, the variance within its own, at most the bound."""
    found = estimates(form, left, right, size, SEEDS)
    expected, exact = variance(left, right, size), float(left @ right)
    bound = (float(left.square().sum() * right.square().sum()) + exact**2) / size
    assert expected <= bound * (1 + 1e-12)
    assert abs(float(found.mean()) - exact) <= 4 * (expected / SEEDS) ** 0.5 + 1e-12
    # The estimates have heavier tails than normal ones: their variance has an error of its own.
    deviations = (found - exact).square()
    assert abs(float(deviations.mean()) - expected) <= 4 * float(deviations.std()) / SEEDS**0.5 + (
        1e-12 * bound
    )


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 132, generator=generator, dtype=torch.float64)
    period = (torch.arange(132) % 8 == 3).double()
    return {
        "random": (x, y),
        "near": (x, x + 0.1 * y),
        "opposite": (x, -x),
        "constant": (torch.ones_like(x), torch.ones_like(x)),
        "one column of eight": (period, period),
        "one large": (torch.cat([x[:1] * 100, x[1:]]), y),
    }


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("size", [8, 64])
def test_mean_and_variance_over_the_seeds_are_those_of_the_theory(name: str, size: int) -> None:
    assert_theory(sketch, *cases()[name], size)


def without_signs(rows: Rows, size: int, seed: int) -> Tensor:
    """Planted violator: the estimates are too large."""
    ones = mock.patch.object(reference, "signs", lambda key, a, b, device: torch.ones(b - a))
    with ones:
        return sketch(rows, size, seed)


def without_turns(rows: Rows, size: int, seed: int) -> Tensor:
    """Planted violator: a column whose width divides the size falls into one place."""
    still = mock.patch.object(
        reference, "words", lambda key, a, b, device: torch.zeros(b - a, dtype=torch.int64)
    )
    with still:
        return sketch(rows, size, seed)


def one_key(rows: Rows, size: int, seed: int) -> Tensor:
    """Planted violator: all tensors have the same signs and turns."""
    with mock.patch.object(reference, "key_of", lambda seed, t, kind: hashing.key_of(seed, kind)):
        return sketch(rows, size, seed)


@pytest.mark.parametrize(
    ("violator", "name"),
    [
        (without_signs, "constant"),
        (without_turns, "one column of eight"),
        (one_key, "constant"),
        (lambda rows, size, seed: sketch(rows, size, 0), "random"),
    ],
)
def test_violators_fail(violator: Sketch, name: str) -> None:
    with pytest.raises(AssertionError):
        assert_theory(violator, *cases()[name], 8)


def test_cosines_of_long_rows_come_as_near_as_is_said() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 300_000, generator=generator)
    rows: Rows = [[row[:100_000].view(-1, 1000), row[100_000:]] for row in base + 0.5 * base[0]]
    exact = gramian(rows)
    norms = exact.diagonal().sqrt()
    for size in (1024, 1 << 14):
        errors = []
        for seed in range(10):
            s = sketch(rows, size, seed)
            errors.append((s @ s.T - exact) / (norms[:, None] * norms))
        c = exact / (norms[:, None] * norms)
        stated = ((1 + c.square()) / size).sqrt()
        measured = torch.stack(errors).square().mean(0).sqrt()
        assert (measured <= 2 * stated).all()
        assert (measured >= 0.3 * stated).all()


def test_a_process_of_its_own_and_another_number_of_threads_give_the_same() -> None:
    code = (
        "import torch; from moopt.kernels.sketch import sketch;"
        "torch.manual_seed(3); torch.set_num_threads(2);"
        "print(sketch([[torch.arange(100.0)]], 8, seed=11)[0].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before = torch.random.get_rng_state()
    found = sketch([[torch.arange(100.0)]], 8, seed=11)[0].tolist()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert done.stdout.strip() == str(found)
    assert found == by_definition([[torch.arange(100.0)]], 8, 11)[0].tolist()


def test_what_is_not_finite_shows_in_its_own_row_alone() -> None:
    bad = torch.ones(100)
    bad[7] = torch.inf
    found = sketch([[bad], [torch.ones(100)]], 8, seed=0)
    assert not found[0].isfinite().all()
    assert found[1].isfinite().all()


def test_complex_gradients_count_as_real_and_imaginary_parts() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j])
    parts = torch.view_as_real(z)
    assert torch.equal(sketch([[z]], 4, 0), sketch([[parts]], 4, 0))


def test_nothing_reaches_the_host() -> None:
    """Meta tensors hold no data: reading a value, or branching on one, raises."""
    rows: Rows = [[torch.empty(1000, 70, device="meta"), None, torch.empty(3, device="meta")]]
    for size in (16, 4096):
        found = sketch(rows, size, seed=0)
        assert (found.shape, found.device.type) == ((1, size), "meta")


@pytest.mark.parametrize(
    ("rows", "size", "seed", "error", "match"),
    [
        ([], 4, 0, ValueError, "`rows` of `sketch` must hold at least one row"),
        ([[torch.ones(2)], []], 4, 0, ValueError, r"lengths \[1, 0\]"),
        ([[torch.ones(2)]], 0, 0, ValueError, "`size` of `sketch` must be at least 1; got 0"),
        ([[torch.ones(2)]], 4.0, 0, TypeError, "`size` of `sketch` must be an integer; got 4.0"),
        ([[torch.ones(2)]], 4, None, TypeError, "`seed` of `sketch` must be an integer; got None"),
        ([[torch.ones(2)]], 4, True, TypeError, "`seed` of `sketch` must be an integer; got True"),
        ([[torch.eye(2).to_sparse()]], 4, 0, TypeError, "sparse=False"),
    ],
)
def test_errors_name_the_remedy(
    rows: Rows, size: int, seed: int, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        sketch(rows, size, seed)
