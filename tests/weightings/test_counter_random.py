"""counter_random: uniform, independent, never repeating, the same everywhere."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import ndtri
from torch._subclasses.fake_tensor import FakeTensorMode

from moopt.weightings import counter_random
from moopt.weightings.counter_random import (
    counter_normal,
    counter_uniform,
    counter_uniform_on_host,
)

CHI_SQUARE_BOUND = 1.5
"""Chi-square over its degrees of freedom: mean 1, standard deviation 0.09 for 250 bins; 1.5 is 5.6.

The seeds are fixed, so the bound separates a broken generator from a sound one, once and for all.
"""

CORRELATION_BOUND = 5.0
"""In standard deviations 1/sqrt(n) of the correlation of n independent pairs."""


def draw(seed: int, counter: int, *shape: int) -> torch.Tensor:
    return counter_uniform(seed, torch.tensor(counter), shape)


def chi_square_ratio(values: torch.Tensor, bins: int = 1000) -> float:
    counts = torch.histc(values, bins=bins, min=0.0, max=1.0)
    expected = len(values) / bins
    return float(((counts - expected) ** 2 / expected).sum()) / (bins - 1)


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """In standard deviations of the correlation of independent samples."""
    stacked = torch.stack([first.flatten(), second.flatten()])
    return abs(float(torch.corrcoef(stacked)[0, 1])) * math.sqrt(first.numel())


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 123456789])
def test_is_uniform_along_the_index_and_along_the_counter(seed: int) -> None:
    along_index = draw(seed, 5, 100_000)
    along_counter = torch.cat([draw(seed, counter, 2) for counter in range(2_500)])
    for values, bins in ((along_index, 1000), (along_counter, 250)):
        assert float(values.min()) >= 0.0
        assert float(values.max()) < 1.0
        assert chi_square_ratio(values, bins) < CHI_SQUARE_BOUND


def test_a_biased_generator_fails_the_uniformity_test() -> None:
    values = draw(0, 0, 100_000)
    assert chi_square_ratio(values**1.1) > CHI_SQUARE_BOUND
    # and one that is too regular to be random would show as a ratio near zero
    assert chi_square_ratio(values) > 1.0 / CHI_SQUARE_BOUND


def test_neighbouring_counters_seeds_and_indices_are_independent() -> None:
    base = draw(3, 10, 50_000)
    neighbours = {
        "counter": draw(3, 11, 50_000),
        "seed": draw(4, 10, 50_000),
        "index": base.roll(1),
    }
    for name, other in neighbours.items():
        assert correlation(base, other) < CORRELATION_BOUND, name
        # pairs fill the square, not only its marginals
        cells = (base * 32).long() * 32 + (other * 32).long()
        assert chi_square_ratio((cells + 0.5) / 1024, bins=1024) < CHI_SQUARE_BOUND, name
    assert correlation(base, base + 0.3 * neighbours["counter"]) > CORRELATION_BOUND


def test_no_number_repeats() -> None:
    """10^6 of 2^53 numbers collide with probability 6e-5."""
    values = torch.cat([draw(0, counter, 10_000) for counter in range(50)])
    values = torch.cat([values, *(draw(seed, 0, 10_000) for seed in range(1, 51))])
    assert len(values.unique()) == len(values)


def test_is_a_function_of_its_arguments_only() -> None:
    torch.manual_seed(0)
    first = draw(9, 4, 3, 5)
    torch.manual_seed(1)
    assert torch.equal(first, draw(9, 4, 3, 5))
    assert first.dtype == torch.float64
    # prefixes agree, whatever the shape
    assert torch.equal(first.flatten(), draw(9, 4, 20)[:15])


def test_known_bits() -> None:
    """The first outputs of splitmix64 started at 0, and the third at 1234567, are published."""
    published = {
        (0, 0): 0xE220A8397B1DCDAF,
        (0, 1): 0x6E789E6AA1B965F4,
        (0, 2): 0x06C45D188009454F,
        (1234567, 2): 9817491932198370423,
    }
    for (start, n), word in published.items():
        assert counter_random._output_int(start, n) == word
        assert int(counter_random._output(torch.tensor(start), torch.tensor(n))) % 2**64 == word


def test_the_first_number_of_small_seeds_is_no_corner() -> None:
    """The mixer maps 0 to 0: without the increment, seed 0 would begin with an exact zero."""
    first = torch.cat([draw(seed, 0, 1) for seed in range(-500, 500)])
    assert 1e-6 < float(first[500]) < 1 - 1e-6
    assert chi_square_ratio(first, bins=50) < CHI_SQUARE_BOUND + 0.5


@pytest.mark.parametrize("seed", [0, -3, 2**64 + 5, 987654321987654321])
@pytest.mark.parametrize("counter", [0, 1, 2**40, 2**63 - 1])
def test_host_and_tensor_forms_agree_bit_for_bit(seed: int, counter: int) -> None:
    for count in (12, 40):  # plain Python, and numpy
        assert counter_uniform_on_host(seed, counter, count) == draw(seed, counter, count).tolist()


def test_several_counters_at_once_are_the_draws_of_each() -> None:
    together = counter_uniform(2, torch.tensor([[3, 0], [2**62, 9]]), (2, 3))
    assert together.shape == (2, 2, 2, 3)
    for i, counter in enumerate((3, 0, 2**62, 9)):
        assert torch.equal(together.flatten(0, 1)[i], draw(2, counter, 2, 3))


def test_normal_numbers_are_the_quantiles_of_the_uniform_ones() -> None:
    """scipy's quantiles are a program that we did not write."""
    uniform = counter_uniform(1, torch.arange(100), (50,))
    normal = counter_normal(1, torch.arange(100), (50,))
    expected = torch.from_numpy(ndtri(uniform.numpy()))
    torch.testing.assert_close(normal, expected, rtol=1e-13, atol=1e-15)


def test_the_ends_of_the_generator_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    monkeypatch.setattr(counter_random, "counter_uniform", lambda *_: ends)
    normal = counter_normal(0, torch.tensor(0), (3,))
    expected = torch.from_numpy(ndtri([2.0**-54, 2.0**-53, 1 - 2.0**-53]))
    torch.testing.assert_close(normal, expected, rtol=1e-9, atol=0)
    assert float(normal.abs().max()) < 8.4


def test_reads_no_value_and_traces_in_one_graph() -> None:
    with FakeTensorMode():
        assert draw(1, 0, 2, 3).shape == (2, 3)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda counter: counter_uniform(1, counter, (2, 3)), fullgraph=True, backend="aot_eager"
    )
    for counter in (0, 17):
        assert torch.equal(compiled(torch.tensor(counter)), draw(1, counter, 2, 3))
