"""fixed_point: the Newton steps, the certificate, the edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from moopt.records.status import SolverStatus
from moopt.solvers import SolverResult, fixed_point
from moopt.solvers.equilibrated import equilibrated
from moopt.solvers.fixed_point import newton_step, started
from tests.cases import case

ALPHAS = (0.5, 1.0, 2.0)


def solve(
    gramian: torch.Tensor, active: torch.Tensor | None, alpha: float, steps: int | None
) -> SolverResult:
    return fixed_point(gramian, active=active, alpha=alpha, max_iter=steps)


NEWTON = {0.5: 8, 1.0: 8, 2.0: 10}
"""Steps that solve four gradients of one size, quadratically in the end."""


def potential(cosines: np.ndarray, r: np.ndarray, power: float, b: np.ndarray) -> float:
    """`1/2 b'Cb - sum_i r_i h(b_i)`, the function that the method minimises."""
    h = np.log(b) if power == 1.0 else b ** (1.0 - power) / (1.0 - power)
    return float(0.5 * b @ cosines @ b - r @ h)


def scattered(seed: int, family: str, m: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines, positive r, and a b far from the solution."""
    gramian = case(family, m, seed).gramian.numpy()
    cosines, _ = equilibrated(gramian, np.sqrt(gramian.diagonal()))
    rng = np.random.default_rng(seed)
    return cosines, np.exp(rng.standard_normal(m)), np.exp(2.0 * rng.standard_normal(m))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("family", ["conflicting", "aligned", "near_opposite"])
def test_the_step_is_a_newton_step_and_descends(alpha: float, family: str) -> None:
    power = 1.0 / alpha
    shortened = 0
    for seed in range(12):
        cosines, r, b = scattered(seed, family)
        r = np.ones_like(r) if alpha == 1.0 else r
        change = newton_step(cosines, r, power, b, cosines @ b, r * b**-power)
        moved = b * (1.0 + change)
        assert (moved > 0.0).all()
        assert potential(cosines, r, power, moved) < potential(cosines, r, power, b)
        # The Newton step solves the linearised equations; a shortened one is a fraction of it.
        hessian = cosines + np.diag(power * r * b ** (-power - 1.0))
        full = np.linalg.solve(hessian, r * b**-power - cosines @ b) / b
        fraction = change[0] / full[0]
        np.testing.assert_allclose(change, fraction * full, rtol=1e-8)
        assert 0.0 < fraction <= 1.0 + 1e-9
        if fraction < 1.0 - 1e-9:
            shortened += 1
            assert np.abs(full).max() > 0.25
            # No other fraction that was tried is better.
            lowest = float(full.min())
            longest = min(1.0, 0.95 / -lowest if lowest < 0.0 else 1.0)
            tried = longest * 0.5 ** np.arange(10.0)
            best = min(potential(cosines, r, power, b * (1.0 + t * full)) for t in tried)
            assert potential(cosines, r, power, moved) <= best + 1e-9 * abs(best)
    assert shortened


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_start_solves_orthogonal_gradients(alpha: float) -> None:
    power = 1.0 / alpha
    rng = np.random.default_rng(0)
    r, eye = np.exp(rng.standard_normal(5)), np.eye(5)
    b = started(eye, r, power)
    np.testing.assert_allclose(b ** (1.0 + power), r, rtol=1e-12)
    # Elsewhere its length is best: b . (C b - r b^-power) = 0.
    cosines, r, _ = scattered(1, "conflicting")
    b = started(cosines, r, power)
    assert float(b @ (cosines @ b - r * b**-power)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_few_steps_are_enough(alpha: float) -> None:
    for family in ("aligned", "conflicting", "crowded"):
        gramian = case(family, 4).gramian
        host = fixed_point(gramian, alpha=alpha)
        assert int(host.num_iter) <= NEWTON[alpha] + 1
        assert float(host.gap) <= 1e-12


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_gap_is_the_residual_after_any_number_of_steps(alpha: float) -> None:
    one = case("conflicting", 4, norm_ratio=3.0)
    gaps = []
    for steps in range(1, 12):
        result = solve(one.gramian, None, alpha, steps)
        products = one.jacobian @ (one.jacobian.T @ result.weights)
        residual = float((products * result.weights ** (1.0 / alpha) - 1.0).abs().max())
        assert float(result.gap) == pytest.approx(residual, rel=1e-6, abs=1e-12)
        gaps.append(residual)
        enough = residual <= 1e-6
        assert int(result.status) == (SolverStatus.CONVERGED if enough else SolverStatus.MAX_ITER)
        if not enough:
            assert int(result.num_iter) == steps
    assert all(b <= a + 1e-13 for a, b in itertools.pairwise(gaps))
    assert gaps[0] > 1e-6 >= gaps[-1]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_where_no_solution_exists_the_gradients_are_combined_to_zero(alpha: float) -> None:
    def checked(result: SolverResult) -> torch.Tensor:
        assert int(result.status) == SolverStatus.DEGENERATE
        assert (float(result.gap), int(result.num_iter)) == (0.0, 0)
        return result.weights

    one = case("strongly_stationary", 4, norm_ratio=1e2)
    weights = checked(solve(one.gramian, None, alpha, None))
    assert float((one.jacobian.T @ weights).norm()) <= 1e-7 * float((weights * one.norms).sum())
    # The length is that of a solution: homogeneous of degree (1 - alpha) / (1 + alpha) - 1.
    scaled = checked(solve(1e4 * one.gramian, None, alpha, None))
    power = 1.0 / alpha
    ratio = 1e2 ** ((power - 1.0) / (power + 1.0) - 1.0)
    torch.testing.assert_close(scaled, ratio * weights, rtol=1e-9, atol=0.0)
    zero_rows = torch.diag(torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64))
    assert checked(solve(zero_rows, None, alpha, None)).tolist() == [0.5, 0.0, 0.5]
    none = checked(solve(zero_rows, torch.zeros(3, dtype=torch.bool), alpha, None))
    assert none.tolist() == [0.0] * 3


def test_non_finite_entries_take_no_step() -> None:
    gramian = torch.eye(3, dtype=torch.float64)
    gramian[0, 1] = math.nan
    result = solve(gramian, None, 1.0, None)
    assert result.weights.tolist() == [1 / 3] * 3
    assert (int(result.status), int(result.num_iter)) == (SolverStatus.NON_FINITE, 0)
    assert math.isnan(float(result.gap))
    active = torch.tensor([True, False, True])
    masked = solve(gramian, active, 1.0, None)
    torch.testing.assert_close(
        masked.weights, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), rtol=1e-12, atol=0.0
    )


def test_a_batch_is_a_loop() -> None:
    families = ("aligned", "conflicting", "zero_row", "strongly_stationary")
    stack = torch.stack([case(family, 4, norm_ratio=10.0).gramian for family in families])
    active = torch.ones(4, 4, dtype=torch.bool)
    active[1, 2] = False
    for alpha in ALPHAS:
        folded = solve(stack.unflatten(0, (1, 4)), active, alpha, None)
        assert folded.weights.shape == (1, 4, 4)
        for i in range(4):
            alone = solve(stack[i], active[i], alpha, None)
            assert int(folded.status[0, i]) == int(alone.status)
            assert int(folded.num_iter[0, i]) == int(alone.num_iter)
            torch.testing.assert_close(folded.weights[0, i], alone.weights, rtol=1e-9, atol=0.0)


def test_wrong_arguments_name_the_remedy() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    for wrong in (torch.ones(3), torch.ones(2, 3), torch.ones(0, 0), torch.ones(1, 0, 0)):
        with pytest.raises(ValueError, match="not the Jacobian"):
            fixed_point(wrong)
    for alpha in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="alpha = 0 is the sum"):
            fixed_point(eye, alpha=alpha)
    for settings in ({"tol": 0.0}, {"tol": -0.5}, {"tol": 1.0}, {"tol": math.nan}, {"max_iter": 0}):
        with pytest.raises(ValueError, match="Use the defaults"):
            fixed_point(eye, **settings)
    assert int(fixed_point(eye, max_iter=1, tol=0.999).status) == SolverStatus.CONVERGED
    one = torch.full((1, 1), 4.0)
    assert fixed_point(one, alpha=1e-3).weights.tolist() == pytest.approx([0.25 ** (1 / 1001)])


def test_the_default_is_nash() -> None:
    gramian = case("conflicting", 3).gramian
    weights = fixed_point(gramian).weights
    torch.testing.assert_close(
        weights * (gramian @ weights), torch.ones(3).double(), rtol=1e-6, atol=0
    )
