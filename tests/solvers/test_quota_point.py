"""quota_point by its optimality conditions, in groups, and where no vector meets the quotas."""

from __future__ import annotations

import pytest
import torch

from moopt.records.status import SolverStatus
from moopt.solvers.quota_point import RESIDUAL_TOL, quota_point


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
        result = quota_point(rows @ rows.T, start, quotas, walls)
        shift = result.weights - start
        slack = rows @ (rows.T @ result.weights) - quotas
        unit = float((rows.T @ start).norm() + quotas[walls].max())
        assert not shift[~walls].any()
        assert float(shift.min()) >= -1e-12 * unit
        assert float(slack[walls].min()) >= -RESIDUAL_TOL * unit
        residual = torch.minimum(shift, slack)[walls].abs().max()
        assert float(residual) <= 10 * RESIDUAL_TOL * unit
        assert float(result.gap) <= RESIDUAL_TOL
        assert int(result.status) == SolverStatus.CONVERGED


def test_contradicting_quotas_are_infeasible() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    start = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    walls = torch.tensor([True, True, False])
    ones = torch.ones(3, dtype=torch.float64)
    assert int(quota_point(rows @ rows.T, start, ones, walls).status) == SolverStatus.INFEASIBLE
    none = quota_point(rows @ rows.T, start, 0.0 * ones, walls)
    assert int(none.status) == SolverStatus.CONVERGED
    assert torch.equal(none.weights, start)


def test_groups_are_independent_and_nothing_is_nothing() -> None:
    problems = [problem(seed) for seed in range(3)]
    cosines = torch.stack([rows @ rows.T for rows, _, _ in problems])
    starts, quotas = (torch.stack([p[k] for p in problems]) for k in (1, 2))
    walls = torch.tensor([[True, True, False, False], [True] * 4, [False] * 4])
    together = quota_point(cosines, starts, quotas, walls)
    for i in range(3):
        alone = quota_point(cosines[i], starts[i], quotas[i], walls[i])
        assert torch.allclose(together.weights[i], alone.weights, rtol=1e-12, atol=1e-12)
        assert int(together.status[i]) == int(alone.status)
    assert torch.equal(together.weights[2], starts[2])
    zeros = torch.zeros(4, dtype=torch.float64)
    still = quota_point(cosines[0], zeros, zeros, walls[1])
    assert not still.weights.any()
    assert float(still.gap) == 0.0
