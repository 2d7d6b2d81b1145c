"""Gradients that depend but for the rounding of the Gramian: bounded weights, honest gaps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from moopt.kernels.tolerances import EPS
from moopt.records.result import Solved
from moopt.records.status import SolverStatus
from moopt.solvers import (
    SolverResult,
    cagrad_point,
    dual_cone_point,
    fixed_point,
    min_norm_point,
)
from moopt.solvers.door import each_gramian, rounding_of
from moopt.solvers.dual_cone import dual_cone
from moopt.solvers.noise import shown_noise

M, D = 20, 10

BOUND = 1e4
"""Terms of a direction relative to the longest gradient: 1e3 is what thin cones need."""

SEEDS = range(6)


def stationary(seed: int, k: int) -> Tensor:
    """k of 20 gradients in 10 dimensions sum to zero with positive weights, orthogonal to e.

    The others have a positive product with e: weakly stationary, and the dual cone is not a point.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(M, D, generator=generator, dtype=torch.float64)
    e = torch.randn(D, generator=generator, dtype=torch.float64)
    e /= e.norm()
    rows[:k] -= torch.outer(rows[:k] @ e, e)
    weights = torch.rand(k - 1, generator=generator, dtype=torch.float64) + 0.1
    rows[k - 1] = -(weights @ rows[: k - 1])
    along = rows[k:] @ e
    rows[k:] += torch.outer(along.abs() - along, e)
    return rows[torch.randperm(M, generator=generator)]


def everywhere(seed: int, k: int) -> Tensor:
    """The same without e: zero is inside of the hull, and the dual cone is a point."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(M, D, generator=generator, dtype=torch.float64)
    weights = torch.rand(k - 1, generator=generator, dtype=torch.float64) + 0.1
    rows[k - 1] = -(weights @ rows[: k - 1])
    return rows


def in_float32(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.float().double(), rows.float() @ rows.float().T


def in_a_float64_copy(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows, gramian = in_float32(rows)
    return rows, gramian.double()


def in_float64(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows, rows @ rows.T


PRECISIONS = {"float32": in_float32, "copy": in_a_float64_copy, "float64": in_float64}
KINDS = {"weak": stationary, "strong": everywhere}


def projected(gramian: Tensor) -> SolverResult:
    return dual_cone_point(gramian, torch.full((M,), 1.0 / M))


def projections(gramian: Tensor) -> SolverResult:
    def solve(cosines: np.ndarray, norms: np.ndarray) -> Solved:
        u = np.full(len(norms), 1.0 / len(norms))
        return dual_cone(cosines, norms, u, separate=True, noise=rounding_of(gramian))

    return each_gramian(solve, gramian)


def cagrad(gramian: Tensor) -> SolverResult:
    return cagrad_point(gramian, c=1.0)


DESCENDING = {"project the mean": projected, "project each": projections, "CAGrad": cagrad}
SOLVERS: dict[str, Callable[[Tensor], SolverResult]] = {
    **DESCENDING,
    "Nash": fixed_point,
    "fair": lambda gramian: fixed_point(gramian, alpha=2.0),
    "MGDA": min_norm_point,
}


def lengths(rows: Tensor, weights: Tensor) -> tuple[Tensor, float, float]:
    """d, the length of its terms relative to the longest gradient, and ||d|| likewise."""
    norms = rows.norm(dim=-1)
    d = rows.T @ weights
    longest = float(norms.max())
    return d, float((weights.abs() * norms).sum()) / longest, float(d.norm()) / longest


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_weights_are_bounded(name: str, kind: str, precision: str) -> None:
    for seed in SEEDS:
        for k in (2, 3, 6, 10):
            rows, gramian = PRECISIONS[precision](KINDS[kind](seed, k))
            result = SOLVERS[name](gramian)
            _, terms, length = lengths(rows, result.weights)
            assert terms <= BOUND
            assert length <= 1.0


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DESCENDING)
def test_the_direction_of_the_dual_cone_is_found(name: str, precision: str) -> None:
    """It exists, and the gap is no smaller than the true one, but for what rounding hides."""
    noise = EPS if precision == "float64" else torch.finfo(torch.float32).eps
    for seed in SEEDS:
        for k in (2, 3, 6, 10):
            rows, gramian = PRECISIONS[precision](stationary(seed, k))
            result = DESCENDING[name](gramian)
            d, terms, length = lengths(rows, result.weights)
            worst = -float((rows @ d / rows.norm(dim=-1) / d.norm()).min())
            assert length > 1e-3
            assert worst <= float(result.gap) + 4.0 * noise * terms / length
            assert worst <= 1e-3 if precision != "float64" else worst <= 1e-9


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["project the mean", "project each"])
def test_a_direction_that_is_noise_is_not_certified(name: str, precision: str) -> None:
    for seed in SEEDS:
        for k in (2, 3, 6, 10):
            rows, gramian = PRECISIONS[precision](everywhere(seed, k))
            result = SOLVERS[name](gramian)
            d, _, length = lengths(rows, result.weights)
            worst = -float((rows @ d / rows.norm(dim=-1) / d.norm()).min())
            if worst > 1e-3:
                assert int(result.status) != SolverStatus.CONVERGED
                # float64 tells zero from a direction; a coarser Gramian leaves a gap.
                exact = int(result.status) == SolverStatus.DEGENERATE and length <= 1e-10
                assert float(result.gap) > 1e-6 or exact


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_has_no_solution_is_degenerate(precision: str) -> None:
    for alpha in (1.0, 2.0):
        for seed in SEEDS:
            for k in (2, 3, 6, 10):
                _, gramian = PRECISIONS[precision](stationary(seed, k))
                result = fixed_point(gramian, alpha=alpha)
                assert int(result.status) == SolverStatus.DEGENERATE


def test_a_float32_gramian_tells_the_point_from_zero_to_its_own_rounding() -> None:
    for seed in SEEDS:
        _, gramian = in_float32(stationary(seed, 6))
        assert int(min_norm_point(gramian).status) == SolverStatus.DEGENERATE
        assert torch.equal(
            min_norm_point(gramian).weights, min_norm_point(gramian.double()).weights
        )
    eye = torch.eye(5)
    assert int(min_norm_point(eye).status) == SolverStatus.CONVERGED
    assert int(min_norm_point(eye.bfloat16()).status) == SolverStatus.CONVERGED


@pytest.mark.parametrize("alpha", [0.01, 0.1, 100.0])
def test_where_newton_fails_the_gap_is_that_of_the_weights_and_the_direction_descends(
    alpha: float,
) -> None:
    failed = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(4, 6, generator=generator, dtype=torch.float64)
        z[1] = -z[0]
        rows = torch.cat([torch.full((4, 1), 1e-2, dtype=torch.float64), z], -1)
        rows *= 10 ** (4.0 * torch.rand(4, 1, generator=generator, dtype=torch.float64))
        norms = rows.norm(dim=-1)
        result = fixed_point(rows @ rows.T, alpha=alpha)
        assert torch.isfinite(result.weights).all()
        if int(result.status) != SolverStatus.MAX_ITER or float(result.gap) < 1.0:
            continue
        failed += 1
        d = rows.T @ result.weights
        assert float((rows @ d / norms / d.norm()).min()) > 0.0
        if float(result.weights.min()) > 0.0 and math.isfinite(float(result.gap)):
            errors = ((rows @ d).log() + result.weights.log() / alpha).expm1().abs()
            assert math.log(float(result.gap)) == pytest.approx(
                math.log(float(errors.max())), rel=1e-3, abs=1e-3
            )
    assert failed


def test_shown_noise_is_what_a_matrix_cannot_hide() -> None:
    rows, gramian = in_a_float64_copy(stationary(0, 6))
    norms = rows.norm(dim=-1)
    cosines = (gramian / norms / norms[:, None]).numpy()
    cosines.flat[:: M + 1] = 1.0
    assert 1e-9 < shown_noise(cosines, EPS) < 1e-6
    assert shown_noise(cosines, 1e-3) == 1e-3
    assert shown_noise(np.eye(3), EPS) == EPS
