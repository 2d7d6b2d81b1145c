"""quota_point by its optimality conditions, in groups, and where no vector meets the quotas."""

from __future__ import annotations

import pytest
import torch

from moopt.records.result import Solved
from moopt.records.status import SolverStatus
from moopt.solvers.quota_point import QUOTA_TOL, quota_point


def solved(
    rows: torch.Tensor, start: torch.Tensor, quotas: torch.Tensor, walls: torch.Tensor
) -> Solved:
    arrays = (tensor.numpy() for tensor in (rows @ rows.T, start, quotas, walls))
    result = quota_point(*arrays)
    return result._replace(weights=torch.from_numpy(result.weights))


def problem(seed: int, m: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(m, m + 2, generator=generator, dtype=torch.float64)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    start = torch.randn(m, generator=generator, dtype=torch.float64)
    quotas = torch.rand(m, generator=generator, dtype=torch.float64)
    return rows, start, quotas


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("m", [1, 2, 4, 10])
def test_the_conditions_of_optimality_hold(m: int, scale: float) -> None:
    for seed in range(10):
        rows, start, quotas = problem(seed, m)
        start, quotas = scale * start, scale * quotas
        walls = torch.arange(m) % 3 != 2
        result = solved(rows, start, quotas, walls)
        shift = result.weights - start
        slack = rows @ (rows.T @ result.weights) - quotas
        unit = float((rows.T @ start).norm() + quotas[walls].max())
        assert not shift[~walls].any()
        assert float(shift.min()) >= -1e-12 * unit
        assert float(slack[walls].min()) >= -QUOTA_TOL * unit
        residual = torch.minimum(shift, slack)[walls].abs().max()
        assert float(residual) <= 10 * QUOTA_TOL * unit
        assert float(result.gap) <= QUOTA_TOL
        assert int(result.status) == SolverStatus.CONVERGED


def test_contradicting_quotas_are_infeasible() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    start = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    walls = torch.tensor([True, True, False])
    ones = torch.ones(3, dtype=torch.float64)
    assert int(solved(rows, start, ones, walls).status) == SolverStatus.INFEASIBLE
    none = solved(rows, start, 0.0 * ones, walls)
    assert int(none.status) == SolverStatus.CONVERGED
    assert torch.equal(none.weights, start)


def test_nothing_is_nothing() -> None:
    rows, start, quotas = problem(0)
    no_walls = solved(rows, start, quotas, torch.zeros(4, dtype=torch.bool))
    assert torch.equal(no_walls.weights, start)
    assert int(no_walls.status) == SolverStatus.CONVERGED
    zeros = torch.zeros(4, dtype=torch.float64)
    still = solved(rows, zeros, zeros, torch.ones(4, dtype=torch.bool))
    assert not still.weights.any()
    assert float(still.gap) == 0.0
