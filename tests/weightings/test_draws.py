"""draws: reproducible, independent, never overlapping."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from moopt.weightings.draws import draws

CHI_SQUARE_BOUND = 1.5
"""Chi-square over its degrees of freedom: mean 1, standard deviation 0.09 for 250 bins; 1.5 is 5.6.

The seeds are fixed, so the bound separates a broken generator from a sound one, once and for all.
"""

CORRELATION_BOUND = 5.0
"""In standard deviations 1/sqrt(n) of the correlation of n independent pairs."""


def chi_square_ratio(values: np.ndarray, bins: int = 1000) -> float:
    counts, _ = np.histogram(values, bins=bins, range=(0.0, 1.0))
    expected = len(values) / bins
    return float(((counts - expected) ** 2 / expected).sum()) / (bins - 1)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """In standard deviations of the correlation of independent samples."""
    return abs(float(np.corrcoef(first, second)[0, 1])) * math.sqrt(len(first))


def test_is_a_function_of_its_arguments_only() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    first = draws(9, 4, 2).random(20)
    torch.manual_seed(1)
    np.random.seed(1)
    draws(9, 3, 2).random(7)
    assert (first == draws(9, 4, 2).random(20)).all()
    # shorter draws begin longer ones
    assert (first[:7] == draws(9, 4, 2).random(7)).all()


def test_a_resumed_run_draws_what_an_uninterrupted_one_does() -> None:
    whole = [draws(3, counter).standard_normal(5) for counter in range(10)]
    resumed = [draws(3, counter).standard_normal(5) for counter in range(6, 10)]
    assert (np.array(whole[6:]) == np.array(resumed)).all()


def test_seed_counter_and_stream_are_taken_modulo_their_word() -> None:
    first = draws(-1, 5, 1).random(4)
    assert (first == draws(2**64 - 1, 5 + 2**64, 1 - 2**64).random(4)).all()


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 123456789])
def test_is_uniform_along_the_index_and_along_the_counter(seed: int) -> None:
    along_index = draws(seed, 5).random(100_000)
    along_counter = np.concatenate([draws(seed, counter).random(2) for counter in range(2_500)])
    for values, bins in ((along_index, 1000), (along_counter, 250)):
        assert values.min() >= 0.0
        assert values.max() < 1.0
        assert chi_square_ratio(values, bins) < CHI_SQUARE_BOUND


def test_a_biased_generator_fails_the_uniformity_test() -> None:
    values = draws(0, 0).random(100_000)
    assert chi_square_ratio(values**1.1) > CHI_SQUARE_BOUND
    # and one that is too regular to be random would show as a ratio near zero
    assert chi_square_ratio(values) > 1.0 / CHI_SQUARE_BOUND


def test_neighbouring_draws_are_independent() -> None:
    base = draws(3, 10, 1).random(50_000)
    neighbours = {
        "counter": draws(3, 11, 1).random(50_000),
        "seed": draws(4, 10, 1).random(50_000),
        "stream": draws(3, 10, 2).random(50_000),
        "seed and stream exchanged": draws(1, 10, 3).random(50_000),
        "index": np.roll(base, 1),
    }
    for name, other in neighbours.items():
        assert correlation(base, other) < CORRELATION_BOUND, name
        # pairs fill the square, not only its marginals
        cells = np.floor(base * 32) * 32 + np.floor(other * 32)
        assert chi_square_ratio((cells + 0.5) / 1024, bins=1024) < CHI_SQUARE_BOUND, name
    assert correlation(base, base + 0.3 * neighbours["counter"]) > CORRELATION_BOUND


def test_no_number_repeats() -> None:
    """10^6 of 2^53 numbers collide with probability 6e-5."""
    values = [draws(0, counter).random(10_000) for counter in range(50)]
    values += [draws(seed, 0).random(10_000) for seed in range(1, 26)]
    values += [draws(0, 0, stream).random(10_000) for stream in range(1, 26)]
    assert len(np.unique(np.concatenate(values))) == 10_000 * 100


def test_a_draw_does_not_run_into_the_next() -> None:
    """Of the counter's words, the numbers of a draw move the first and draws the second."""
    bits = draws(0, 3).bit_generator
    state = bits.state["state"]["counter"].copy()
    assert state.tolist() == [0, 3, 0, 0]
    bits.random_raw(1000)
    assert bits.state["state"]["counter"].tolist() == [250, 3, 0, 0]


def test_known_bits() -> None:
    """Philox 4x64-10 of zeros, from the known answers that Random123 ships.

    numpy counts up before each block, so that the first one of a draw has 1 in the first word.
    """
    bits = draws(0, 0).bit_generator
    bits.advance(-1)
    published = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert bits.random_raw(4).tolist() == published


def test_normal_numbers_and_permutations_have_their_distributions() -> None:
    normal = np.concatenate([draws(1, counter).standard_normal(50) for counter in range(400)])
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    first = [int(draws(1, counter).permutation(4)[0]) for counter in range(4_000)]
    assert stats.chisquare(np.bincount(first)).pvalue > 1e-3
