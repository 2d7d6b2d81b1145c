"""off_span by its conditions: only the walls move, and the result is orthogonal to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moopt.solvers.off_span import off_span
from tests.cases import all_cases, case

ORTHOGONAL = 1e-13
"""Cosine with a wall, relative to the lengths of the terms: rounding of a few terms."""


def moved_off(rows: Tensor, start: Tensor, walls: Tensor, **settings: float) -> Tensor:
    solved = off_span((rows @ rows.T).numpy(), start.numpy(), walls.numpy(), **settings)
    return torch.from_numpy(solved)


def unit_rows(jacobian: Tensor) -> Tensor:
    norms = jacobian.norm(dim=-1, keepdim=True)
    return jacobian / torch.where(norms > 0, norms, 1.0)


@pytest.mark.parametrize("m", [2, 3, 5, 9])
def test_the_result_is_orthogonal_to_the_walls_and_nearest(m: int) -> None:
    generator = torch.Generator().manual_seed(m)
    for one in all_cases(ms=(m,), families=("aligned", "conflicting", "near_opposite", "zero_row")):
        rows = unit_rows(one.jacobian)
        start = torch.randn(m, generator=generator, dtype=torch.float64)
        walls = torch.arange(m) % 2 == 1
        y = moved_off(rows, start, walls)
        torch.testing.assert_close(y[~walls], start[~walls], rtol=0.0, atol=1e-15)
        size = float(y.abs().sum())
        d = rows.T @ y
        assert float((rows[walls] @ d).abs().max()) <= ORTHOGONAL * size
        # Nearest: what was taken away lies in the span of the walls, orthogonal to what is left.
        assert abs(float((rows.T @ (y - start)) @ d)) <= ORTHOGONAL * size**2


def test_refinement_goes_below_the_accuracy_of_the_inverse() -> None:
    """Walls at an angle of 1e-4: the inverse, of norm 1e8, loses eight digits."""
    rows = torch.tensor([[1.0, 1.0, 0.3], [1.0, 0.0, 0.0], [1.0, 1e-4, 0.0]], dtype=torch.float64)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    walls = torch.tensor([False, True, True])
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    y = moved_off(rows, start, walls)
    left = rows.T @ y
    assert float((rows[1:] @ left).abs().max()) <= 1e-11
    along = rows[0, 2]
    torch.testing.assert_close(left[2], along, rtol=1e-9, atol=0.0)


def test_the_cut_off_joins_walls_that_are_nearly_one() -> None:
    rows = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1e-4, 0.0]], dtype=torch.float64)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    walls = torch.tensor([False, True, True])
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    d = rows.T @ moved_off(rows, start, walls, rtol=1e-6)
    assert float(d[1]) > 0.5
    assert float((rows.T @ moved_off(rows, start, walls)).norm()) <= 1e-6


def test_no_wall_changes_nothing_and_all_walls_leave_nothing() -> None:
    rows = unit_rows(case("conflicting", 4, 2).jacobian)
    start = torch.linspace(-1.0, 1.0, 4, dtype=torch.float64)
    before = start.clone()
    assert torch.equal(moved_off(rows, start, torch.zeros(4, dtype=torch.bool)), start)
    left = moved_off(rows, start, torch.ones(4, dtype=torch.bool))
    assert float(left.abs().max()) <= 1e-10
    assert torch.equal(start, before)


def test_walls_that_depend_but_for_noise_are_told_by_it() -> None:
    """Walls a, b and a + b in float32: without their third eigenvalue nothing is near-singular."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        rows = torch.randn(4, 50, generator=generator)
        rows[2] = rows[0] + rows[1]
        rows = unit_rows(rows)
        gramian = (rows @ rows.T).double().numpy()
        walls = torch.tensor([True, True, True, False])
        start = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        noise = torch.finfo(torch.float32).eps
        y = torch.from_numpy(off_span(gramian, start.numpy(), walls.numpy(), noise=noise))
        d = rows.double().T @ y
        assert float(y.abs().max()) <= 10.0
        assert float((rows[:3].double() @ d).abs().max()) <= 1e-5
