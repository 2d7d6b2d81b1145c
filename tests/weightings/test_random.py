"""Random: the distribution of its weights, its state, and what a mask does to the draw."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import RLW
from moopt.weightings import Random

MOMENT_BOUND = 5.0
"""In standard deviations of a sample mean; the seeds are fixed."""

DRAWS = 4000


def weights_of(statistics: StepStatistics, counter: int, seed: int = 0) -> torch.Tensor:
    return Random(seed=seed)(statistics, {"counter": torch.tensor(counter)}).weights


def draws(m: int, seed: int = 0) -> torch.Tensor:
    statistics = StepStatistics(gramian=torch.eye(m, dtype=torch.float64))
    return torch.stack([weights_of(statistics, n, seed) for n in range(DRAWS)])


def check_moments(log_ratios: torch.Tensor) -> None:
    """log(w_i / w_j) is the difference of two standard normals: mean 0, variance 2, kurtosis 3."""
    n = len(log_ratios)
    assert abs(float(log_ratios.mean())) <= MOMENT_BOUND * math.sqrt(2 / n)
    assert abs(float(log_ratios.square().mean()) - 2) <= MOMENT_BOUND * math.sqrt(8 / n)
    fourth = float(log_ratios.pow(4).mean())  # 3 * 2^2, variance 96 * 2^4
    assert abs(fourth - 12) <= MOMENT_BOUND * math.sqrt(96 * 16 / n)


def test_weights_are_the_softmax_of_normal_numbers() -> None:
    logarithms = draws(4).log()
    for i, j in ((0, 1), (1, 2), (0, 3)):
        check_moments(logarithms[:, i] - logarithms[:, j])
    # normals that are not shared: the ratios 0-1 and 2-3 are uncorrelated
    pair = torch.stack([logarithms[:, 0] - logarithms[:, 1], logarithms[:, 2] - logarithms[:, 3]])
    assert abs(float(torch.corrcoef(pair)[0, 1])) <= MOMENT_BOUND / math.sqrt(DRAWS)


def test_uniform_random_weights_fail_the_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(DRAWS, 2, generator=generator, dtype=torch.float64).log()
    with pytest.raises(AssertionError):
        check_moments(uniform[:, 0] - uniform[:, 1])


def test_every_objective_is_treated_alike_on_average() -> None:
    means = draws(5).mean(0)
    assert float((means - 0.2).abs().max()) <= 0.02  # 5 deviations of 0.2 / sqrt(4000)


def test_the_counter_is_the_whole_state() -> None:
    statistics = StepStatistics(gramian=torch.eye(3, dtype=torch.float64))
    weighting, state, path = Random(seed=4), None, []
    for _ in range(5):
        weights, state, _ = weighting(statistics, state)
        path.append(weights)
    assert len({tuple(w.tolist()) for w in path}) == 5
    assert torch.equal(weighting(statistics, {"counter": torch.tensor(3)}).weights, path[3])
    assert not torch.equal(Random(seed=5)(statistics).weights, path[0])
    torch.manual_seed(123)  # no global generator is involved
    assert torch.equal(weighting(statistics).weights, path[0])


def test_a_mask_hands_the_numbers_on() -> None:
    active = torch.tensor([False, True, False, True])
    masked = weights_of(StepStatistics(gramian=torch.eye(4), active=active), 2)
    dropped = weights_of(StepStatistics(gramian=torch.eye(2)), 2)
    assert torch.allclose(masked[active], dropped, rtol=1e-14)
    assert (masked[~active] == 0).all()


def test_the_values_of_the_gramian_are_not_looked_at() -> None:
    finite = Random()(StepStatistics(gramian=torch.eye(2, dtype=torch.float64)))
    for value in (float("nan"), float("inf")):
        gramian = torch.full((2, 2), value, dtype=torch.float64)
        output = Random()(StepStatistics(gramian=gramian))
        assert torch.equal(output.weights, finite.weights)
        assert int(output.state["counter"]) == 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.float64])
def test_a_counter_of_another_dtype_counts_alike(dtype: torch.dtype) -> None:
    gramian = torch.eye(3, dtype=torch.float64)
    usual = Random()(StepStatistics(gramian=gramian), {"counter": torch.tensor(5)})
    every = torch.ones(3, dtype=torch.bool)
    for active in (None, every):
        statistics = StepStatistics(gramian=gramian, active=active)
        other = Random()(statistics, {"counter": torch.tensor(5, dtype=dtype)})
        torch.testing.assert_close(other.weights, usual.weights, rtol=1e-13, atol=0)
        assert other.state["counter"].dtype == dtype


def test_leading_dimensions_share_the_numbers() -> None:
    single = torch.eye(3, dtype=torch.float64)
    batch = single.repeat(2, 4, 1, 1)
    weights = Random()(StepStatistics(gramian=single)).weights
    batched = Random()(StepStatistics(gramian=batch)).weights
    assert batched.is_contiguous()
    torch.testing.assert_close(batched, weights.expand(2, 4, 3), rtol=1e-13, atol=0)


def test_the_loss_weighting_twin_draws_other_numbers() -> None:
    statistics = StepStatistics(gramian=torch.eye(3, dtype=torch.float64), losses=torch.ones(3))
    twin, weights = RLW()(statistics).weights, Random()(statistics).weights
    assert float((twin - weights).abs().max()) > 1e-3


def test_writing_to_the_weights_does_not_change_a_later_draw() -> None:
    statistics = StepStatistics(gramian=torch.eye(3, dtype=torch.float64))
    first = Random()(statistics).weights
    kept = first.clone()
    first.zero_()
    assert torch.equal(Random()(statistics).weights, kept)


FORKED = """
import os, signal, torch, moopt
torch.randn(300_000).exp()  # starts the threads that a child does not have
statistics = moopt.StepStatistics(gramian=torch.eye(3, dtype=torch.float64))
if os.fork() == 0:
    signal.alarm(20)
    moopt.weightings.Random()(statistics)
    os._exit(0)
print(os.wait()[1])
"""


def test_a_forked_process_draws_too() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr
