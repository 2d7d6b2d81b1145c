"""The dual basis of dependent gradients, known to rounding: ConFIG, IMTLG and DualSpaceMGDA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import moopt
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.solvers.pseudo_inverse import pseudo_inverse
from moopt.weightings import IMTLG, AlignedMTL, ConFIG, DualSpaceMGDA, Weighting
from moopt.weightings.dual_basis import RESIDUAL_TOL, dual_combination

METHODS = [ConFIG(), IMTLG(), DualSpaceMGDA(), DualSpaceMGDA(variant="unit_dual")]

LONGEST = 100.0
"""Terms of a least-squares direction relative to its length; those of noise have 1e3 and more."""


def combined(rows: list[Tensor], count: int, seed: int) -> Tensor:
    """Further rows: positive combinations of the given ones, rounded to float32."""
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.stack(rows)
    factors = torch.rand(count, len(rows), generator=generator)
    return torch.cat([jacobian, factors @ jacobian])


def dependent(kind: str, seed: int) -> Tensor:
    """float32 gradients, not all of which are independent, with a common descent direction."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "more losses than parameters":
        return torch.randn(5, 3, generator=generator) * 0.3 + 1.0
    a, b, c = torch.randn(3, 50, generator=generator)
    return torch.stack([a, b, a + b]) if kind == "sum" else combined([a, b, c], 2, seed)


@pytest.mark.parametrize("kind", ["more losses than parameters", "sum", "mix"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_dependent_float32_gradients_get_the_least_squares_direction(
    method: Weighting, kind: str
) -> None:
    for seed in range(50):
        jacobian = dependent(kind, seed)
        result = method(StepStatistics(gramian=jacobian @ jacobian.T))
        exact = method(StepStatistics(gramian=jacobian.double() @ jacobian.double().T))
        for output in (result, exact):
            d = jacobian.double().T @ output.weights
            size = float((output.weights.abs() * jacobian.double().norm(dim=1)).sum())
            assert 0.0 < size <= LONGEST * float(d.norm())
            residual = float(output.result.gap)
            expected = SolverStatus.CONVERGED if residual <= 1e-3 else SolverStatus.RANK_DEFICIENT
            assert int(output.result.status) == expected
        assert torch.allclose(result.weights, exact.weights, rtol=0, atol=1e-4 * size)


def test_noise_that_is_not_told_makes_weights_of_its_own() -> None:
    """The violator: the same Gramian said to be exact."""
    longest = 0.0
    for seed in range(50):
        jacobian = dependent("sum", seed)
        weights = ConFIG()(StepStatistics(gramian=(jacobian @ jacobian.T).double())).weights
        size = float((weights.abs() * jacobian.double().norm(dim=1)).sum())
        longest = max(longest, size / float((jacobian.double().T @ weights).norm()))
    assert longest > 10 * LONGEST


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_step_on_dependent_losses_moves(method: Weighting) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
        optimizer = moopt.CommonDescent(torch.optim.SGD(net.parameters(), lr=0.0), method)
        output = net(torch.randn(32, 20))
        a, b = output[:, 0].square().mean(), (output[:, 1] - 1.0).square().mean()
        optimizer.backward({"a": a, "b": b, "sum": a + b})
        optimizer.step()
        assert optimizer.record.descent
        assert optimizer.record.status != SolverStatus.DEGENERATE


@pytest.mark.parametrize("method", [*METHODS, AlignedMTL()], ids=repr)
def test_the_cut_off_is_at_least_the_noise(method: Weighting) -> None:
    """Gradients that differ by less than the rounding shows are one: they share the weight."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 1e-3]], dtype=torch.float64)
    gramian = rows @ rows.T
    noisy = method(StepStatistics(gramian=gramian, noise=1e-6)).weights
    assert float((noisy[0] - noisy[1]).abs()) <= 1e-5 * float(noisy.abs().max())
    if not isinstance(method, AlignedMTL):
        told = method(StepStatistics(gramian=gramian)).result
        assert int(told.status) == SolverStatus.CONVERGED


def test_combinations_of_dual_vectors_have_the_slopes_asked_for() -> None:
    unit = np.linalg.qr(np.random.default_rng(0).standard_normal((7, 4)))[0].T
    unit[1] = 0.6 * unit[0] + 0.8 * unit[1]
    cosines = unit @ unit.T
    slopes = np.array([1.0, 1e-3, 2.0, 5.0])
    solved = dual_combination(cosines, pseudo_inverse(cosines), slopes)
    assert unit @ (unit.T @ solved.weights) == pytest.approx(slopes, rel=1e-12)
    assert solved.status is SolverStatus.CONVERGED
    assert solved.gap <= 1e-12
    missed = dual_combination(cosines, 0.5 * pseudo_inverse(cosines), slopes)
    assert missed.gap > RESIDUAL_TOL
    assert missed.status is SolverStatus.RANK_DEFICIENT


def test_gradients_that_cancel_are_degenerate() -> None:
    turns = 2.0 * np.pi * np.arange(3) / 3.0
    unit = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    cosines = unit @ unit.T
    inverse = pseudo_inverse(cosines)
    solved = dual_combination(cosines, inverse, np.ones(3))
    assert solved.status is SolverStatus.DEGENERATE
    assert solved.weights.tolist() == [0.0, 0.0, 0.0]
    other = dual_combination(cosines, inverse, np.array([1.0, 1.0, 1.001]))
    assert other.status is SolverStatus.RANK_DEFICIENT
    assert np.linalg.norm(unit.T @ other.weights) > 1e-4


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_float32_gradients_that_cancel_are_degenerate(method: Weighting) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        g = torch.randn(50)
        jacobian = torch.stack([g, -3.0 * g])
        output = method(StepStatistics(gramian=jacobian @ jacobian.T))
        assert int(output.result.status) == SolverStatus.DEGENERATE
        assert output.weights.tolist() == [0.0, 0.0]
