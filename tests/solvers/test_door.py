"""Doors: leading dimensions that broadcast, masks, zero rows, and whose rounding counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moopt.records.result import Solved
from moopt.records.status import SolverStatus
from moopt.solvers import cagrad_point, dual_cone_point, fixed_point, linear_program, min_norm_point
from moopt.solvers.door import each_gramian, rounding_of
from tests.cases import case

GRAMIAN = case("conflicting", 4, norm_ratio=10.0).gramian
MASKS = torch.tensor([[True] * 4, [True, False, True, True], [False] * 4])
SOLVERS = {
    "dual_cone_point": lambda g, on: dual_cone_point(g, torch.ones(4), active=on),
    "cagrad_point": lambda g, on: cagrad_point(g, active=on),
    "fixed_point": lambda g, on: fixed_point(g, active=on),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_one_gramian_takes_several_masks(name: str) -> None:
    together = SOLVERS[name](GRAMIAN, MASKS)
    assert together.weights.shape == (3, 4)
    assert together.status.shape == together.gap.shape == together.num_iter.shape == (3,)
    for i, mask in enumerate(MASKS):
        alone = SOLVERS[name](GRAMIAN, mask)
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.equal(ours[i], theirs)


def test_a_problem_of_a_batch_without_an_active_row_counts_as_all_active() -> None:
    stack = GRAMIAN.expand(3, 4, 4)
    together = min_norm_point(stack, active=MASKS)
    assert torch.equal(together.weights[2], min_norm_point(GRAMIAN).weights)
    assert together.weights[1, 1] == 0.0


def test_one_gramian_takes_several_preferences_and_masks() -> None:
    us = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 1.0]], dtype=torch.float64)
    together = dual_cone_point(GRAMIAN, us[:, None], active=MASKS)
    assert together.weights.shape == (2, 3, 4)
    alone = dual_cone_point(GRAMIAN, us[1], active=MASKS[1])
    assert torch.equal(together.weights[1, 1], alone.weights)


def test_zero_rows_stop_are_kept_or_passed_on() -> None:
    gramian = torch.diag(torch.tensor([4.0, 0.0, 9.0], dtype=torch.float64))
    solved = []

    def solve(cosines: np.ndarray, norms: np.ndarray, *more: np.ndarray) -> Solved:
        solved.append((cosines.tolist(), norms.tolist(), [entry.tolist() for entry in more]))
        return Solved(np.full(len(norms), 7.0), SolverStatus.CONVERGED, 0.5, 3)

    u = torch.tensor([1.0, 2.0, 3.0])
    stopped = each_gramian(solve, gramian, u, zero_rows="stop")
    assert stopped.weights.tolist() == [0.0, 1.0, 0.0]
    assert (int(stopped.status), float(stopped.gap)) == (SolverStatus.DEGENERATE, 0.0)
    kept = each_gramian(solve, gramian, u, zero_rows="keep")
    assert kept.weights.tolist() == [7.0, 2.0, 7.0]
    assert (int(kept.status), float(kept.gap), int(kept.num_iter)) == (0, 0.5, 3)
    passed = each_gramian(solve, gramian, u, zero_rows="pass")
    assert passed.weights.tolist() == [7.0] * 3
    eye, norms = np.eye(3).tolist(), [2.0, 0.0, 3.0]
    assert solved == [
        (np.eye(2).tolist(), [2.0, 3.0], [[1.0, 3.0]]),
        (eye, norms, [[1.0, 2.0, 3.0]]),
    ]


def test_large_numbers_are_finite_and_infinite_ones_are_not() -> None:
    big = torch.full((2, 2), 1e308, dtype=torch.float64).fill_diagonal_(1.7e308)
    assert int(min_norm_point(big).status) == SolverStatus.CONVERGED
    big[0, 1] = math.inf
    assert int(min_norm_point(big).status) == SolverStatus.NON_FINITE


def test_the_rounding_is_that_of_the_dtype() -> None:
    assert rounding_of(torch.ones(1, dtype=torch.float64)) == 2.0**-52
    assert rounding_of(torch.ones(1)) == 2.0**-23
    assert rounding_of(torch.ones(1, dtype=torch.bfloat16)) == 2.0**-7


@pytest.mark.parametrize("solve", [dual_cone_point, cagrad_point, fixed_point, min_norm_point])
def test_what_is_not_a_real_tensor_is_refused(solve: object) -> None:
    more = (torch.ones(2),) if solve is dual_cone_point else ()
    with pytest.raises(TypeError, match=r"torch\.as_tensor"):
        solve([[1.0, 0.0], [0.0, 1.0]], *more)  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"torch\.float64"):
        solve(torch.eye(2).long(), *more)  # type: ignore[operator]


def test_an_empty_batch_of_programs() -> None:
    result = linear_program(torch.ones(0, 3), torch.eye(3), torch.zeros(3))
    assert result.weights.shape == (0, 3)
    assert result.status.shape == (0,)
