"""PMGDA by its two problems as written down, and where on the front it leads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.solvers import min_norm_point
from moopt.weightings import MGDA, PMGDA, Weighting
from moopt.weightings.pmgda import predicted, ray_distance, unit_ray
from moopt.weightings.problem import Problem
from tests.cases import Case, case, cases

PROGRAM_TOL = 1e-6
"""Of HiGHS on a program of size one."""

DIRECTION_TOL = 1e-7
"""The rounding of a float64 Gramian of well-conditioned rows, with four digits to spare."""

RAY_TOL = 2e-3
"""Twice the band of the runs."""

INDEPENDENT = ("aligned", "conflicting", "orthogonal")


def drawn(seed: int, m: int, spread: float) -> tuple[Tensor, Tensor]:
    """Losses and a preference; `spread` 0 puts the losses on the ray."""
    generator = torch.Generator().manual_seed(seed)
    preference = 0.2 + torch.rand(m, generator=generator, dtype=torch.float64)
    noise = spread * torch.randn(m, generator=generator, dtype=torch.float64)
    return noise.exp() * preference, preference


def distance(losses: Tensor, preference: Tensor) -> Tensor:
    unit = preference / preference.norm()
    return (losses - (losses @ unit) * unit).norm()


def constraint_gradient(one: Case, losses: Tensor, preference: Tensor) -> Tensor:
    """The gradient of h at x = 0 with loss_i = l_i + g_i . x, by autograd."""
    x = torch.zeros(one.jacobian.shape[1], dtype=torch.float64, requires_grad=True)
    h = distance(losses + one.jacobian @ x, preference)
    return torch.autograd.grad(h, x)[0]


def weigh(one: Case, losses: Tensor, preference: Tensor, **settings: float):
    weighting = PMGDA(preference=preference.tolist(), **settings)  # type: ignore[arg-type]
    return weighting(StepStatistics(gramian=one.gramian, losses=losses))


def by_highs(one: Case, along: Tensor, sigma: float) -> tuple[np.ndarray, float]:
    """max t subject to g_i . d >= t and u_h . d >= sigma for d in the hull; (unit rows, t)."""
    units = torch.cat([one.jacobian / one.norms[:, None], along[None] / along.norm()])
    inner = (one.jacobian @ units.T).numpy()
    pull = (along @ units.T / along.norm()).numpy()
    m = one.m
    reference = scipy.optimize.linprog(
        np.append(np.zeros(m + 1), -1.0),
        A_ub=np.vstack([np.column_stack([-inner, np.ones(m)]), -np.append(pull, 0.0)]),
        b_ub=np.append(np.zeros(m), -sigma),
        A_eq=np.append(np.ones(m + 1), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * (m + 1) + [(None, None)],
        method="highs",
    )
    assert reference.status == 0
    return units.numpy(), -reference.fun


@settings(deadline=None, max_examples=100)
@given(
    cases(INDEPENDENT, ms=(2, 3, 5), scales=(1.0,), norm_ratios=(1.0, 1e2)),
    st.integers(0, 2**16),
    st.sampled_from([0.5, 0.95, 1.0]),
)
def test_a_correcting_step_solves_the_program_of_the_paper(
    one: Case, seed: int, sigma: float
) -> None:
    losses, preference = drawn(seed, one.m, 1.0)
    output = weigh(one, losses, preference, sigma=sigma, h_tol=1e-6)
    assert int(output.result.status) == SolverStatus.CONVERGED
    along = constraint_gradient(one, losses, preference)
    _, value = by_highs(one, along, sigma)
    d = one.jacobian.T @ output.weights
    unit = float(one.norms.max())
    assert float(along @ d / along.norm()) >= sigma - PROGRAM_TOL
    assert float(d.norm()) <= 1.0 + PROGRAM_TOL
    assert float((one.jacobian @ d).min()) == pytest.approx(value, abs=PROGRAM_TOL * unit)


def test_the_steepest_correction_is_not_the_solution() -> None:
    """The violator of the test above: it meets the constraint, and raises a loss needlessly."""
    one = case("conflicting", 3)
    losses, preference = drawn(0, 3, 1.0)
    along = constraint_gradient(one, losses, preference)
    _, value = by_highs(one, along, 0.5)
    steepest = along / along.norm()
    assert float((one.jacobian @ steepest).min()) < value - 0.1


@settings(deadline=None, max_examples=100)
@given(cases(INDEPENDENT, ms=(2, 3, 5), scales=(1.0,), norm_ratios=(1.0,)), st.integers(0, 2**16))
def test_a_predicting_step_lowers_every_loss_and_keeps_the_distance(one: Case, seed: int) -> None:
    losses, preference = drawn(seed, one.m, 1e-3)
    output = weigh(one, losses, preference, h_tol=0.5)
    d = one.jacobian.T @ output.weights
    along = constraint_gradient(one, losses, preference)
    along = along / along.norm()
    size = float((output.weights.abs() * one.norms).sum())
    assert abs(float(along @ d)) <= DIRECTION_TOL * size
    rest = one.jacobian - (one.jacobian @ along)[:, None] * along
    expected = rest.T @ min_norm_point(rest @ rest.T).weights
    assert float((d - expected).norm()) <= DIRECTION_TOL * size
    if int(output.result.status) == SolverStatus.CONVERGED:
        assert (one.jacobian @ d >= -DIRECTION_TOL * one.norms * size).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16), st.sampled_from([2, 3, 5]), st.sampled_from([1e-150, 1.0, 1e150]))
def test_the_distance_to_the_ray_and_its_derivatives(seed: int, m: int, scale: float) -> None:
    losses, preference = drawn(seed, m, 1.0)
    losses.requires_grad_()
    h = distance(losses, preference)
    (slope,) = torch.autograd.grad(h, losses)
    plain = losses.detach()
    sine, ours = ray_distance((plain * scale).numpy(), preference.numpy())
    torch.testing.assert_close(torch.from_numpy(ours), slope)
    torch.testing.assert_close(torch.tensor(sine).double(), h.detach() / plain.norm())
    on_the_ray, none = ray_distance((3.0 * preference * scale).numpy(), preference.numpy())
    assert float(on_the_ray) < 1e-14
    assert not none.any()


def run(weighting: Weighting, targets: Tensor, start: list[float]) -> tuple[Tensor, Tensor]:
    """The end of a run on `loss_i = 1/2 ||x - target_i||^2`, and its losses."""
    x, steps = torch.tensor(start, dtype=torch.float64), 1000
    for step in range(steps):
        rows = x - targets
        losses = 0.5 * rows.square().sum(-1)
        statistics = StepStatistics(gramian=rows @ rows.T, losses=losses)
        # The last steps are shorter than the band of h_tol: longer ones leap over it and back.
        x = x - 0.1 * 1e-3 ** (step / steps) * rows.T @ weighting(statistics).weights
    return x, 0.5 * (x - targets).square().sum(-1)


TWO = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
THREE = torch.eye(3, 4, dtype=torch.float64)


@pytest.mark.parametrize("preference", [[1.0, 1.0], [1.0, 3.0], [5.0, 1.0]])
def test_a_run_with_two_losses_ends_on_the_ray(preference: list[float]) -> None:
    """The front is the segment between the targets, and (1 + x)^2 / (1 - x)^2 = p_1 / p_2 on it."""
    x, _ = run(PMGDA(preference=preference, h_tol=1e-3), TWO, [0.5, 1.0, 0.3])
    ratio = math.sqrt(preference[0] / preference[1])
    assert x[0].item() == pytest.approx((ratio - 1.0) / (ratio + 1.0), abs=RAY_TOL)
    assert float(x[1:].norm()) <= RAY_TOL


@pytest.mark.parametrize("preference", [[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
def test_a_run_with_three_losses_ends_on_the_ray(preference: list[float]) -> None:
    """The front is the triangle of the targets."""
    x, losses = run(PMGDA(preference=preference, h_tol=1e-3), THREE, [0.5, 1.0, 0.3, 1.0])
    aim = torch.tensor(preference, dtype=torch.float64)
    assert float(distance(losses, aim) / losses.norm()) <= RAY_TOL
    assert abs(float(x[3])) <= 10 * RAY_TOL
    assert float(x[:3].sum()) == pytest.approx(1.0, abs=10 * RAY_TOL)


def test_a_run_of_mgda_ends_elsewhere() -> None:
    """The violator of the runs."""
    x, _ = run(MGDA(), TWO, [0.5, 1.0, 0.3])
    ratio = math.sqrt(1.0 / 3.0)
    assert abs(float(x[0]) - (ratio - 1.0) / (ratio + 1.0)) > 10 * RAY_TOL


def test_without_a_gradient_of_the_constraint_it_is_mgda() -> None:
    """On the ray, and where equal gradients move the losses along it."""
    one = case("conflicting", 3)
    preference = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    on_the_ray = weigh(one, 5.0 * preference, preference)
    mgda = MGDA()(StepStatistics(gramian=one.gramian)).weights
    torch.testing.assert_close(on_the_ray.weights, mgda)
    problem = Problem.of(one.gramian.numpy())
    ray = unit_ray(problem, np.zeros(3))
    assert ray is None
    weights = torch.from_numpy(predicted(problem, ray, 1e-9, None).weights)
    torch.testing.assert_close(weights, mgda)
    equal = case("all_equal", 3)
    losses = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    output = PMGDA()(StepStatistics(gramian=equal.gramian, losses=losses))
    assert float(output.weights.sum()) == pytest.approx(1.0)


def test_where_nothing_moves_along_the_ray_the_status_says_so() -> None:
    """Two parallel gradients of lengths 1 and 2 cannot keep the losses equal."""
    gramian = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    losses = torch.tensor([1.0, 1.001], dtype=torch.float64)
    output = PMGDA()(StepStatistics(gramian=gramian, losses=losses))
    assert int(output.result.status) == SolverStatus.DEGENERATE
    assert abs(float(output.weights @ gramian @ output.weights)) <= 1e-12


def test_a_zero_row_does_not_stop_a_correction() -> None:
    one = case("zero_row", 3)
    losses = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    output = PMGDA()(StepStatistics(gramian=one.gramian, losses=losses))
    along = constraint_gradient(one, losses, torch.ones(3, dtype=torch.float64))
    d = one.jacobian.T @ output.weights
    assert int(output.result.status) == SolverStatus.CONVERGED
    assert float(along @ d / along.norm()) >= 0.95 - PROGRAM_TOL


def test_groups_may_differ_in_mode() -> None:
    """One call for a group that corrects and one whose gradients leave nothing to correct."""
    one, equal = case("conflicting", 3), case("all_equal", 3)
    losses = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    groups = torch.stack([one.gramian, equal.gramian])
    both = PMGDA()(StepStatistics(gramian=groups, losses=losses))
    for i, alone in enumerate((one, equal)):
        single = PMGDA()(StepStatistics(gramian=alone.gramian, losses=losses))
        torch.testing.assert_close(both.weights[i], single.weights)
        assert int(both.result.status[i]) == int(single.result.status)


def test_non_finite_losses_are_a_status() -> None:
    one = case("conflicting", 3)
    active = torch.tensor([True, True, False])
    for value in (math.nan, math.inf):
        losses = torch.tensor([1.0, value, 2.0], dtype=torch.float64)
        output = PMGDA()(StepStatistics(gramian=one.gramian, losses=losses, active=active))
        assert int(output.result.status) == SolverStatus.NON_FINITE
        assert output.weights.tolist() == [0.5, 0.5, 0.0]


def test_a_preference_by_name_finds_its_objective() -> None:
    weighting = PMGDA(preference={"b": 1.0, "a": 2.0})
    assert weighting.needs == {"losses", "names"}
    gramian, losses = torch.eye(2, dtype=torch.float64), torch.tensor([2.0, 1.0])
    output = weighting(StepStatistics(gramian=gramian, losses=losses, names=("a", "b")))
    assert output.weights.tolist() == [0.5, 0.5]  # on the ray: plain MGDA


def test_wrong_settings_name_the_remedy() -> None:
    for wrong in ([0.0, 0.0], [-1.0, 1.0], [], [math.nan]):
        with pytest.raises(ValueError, match="`preference` of `PMGDA`"):
            PMGDA(preference=wrong)
    for h_tol in (0.0, 1.0):
        with pytest.raises(ValueError, match="`h_tol` of `PMGDA`"):
            PMGDA(h_tol=h_tol)
    for sigma in (0.0, 1.1):
        with pytest.raises(ValueError, match="`sigma` of `PMGDA`"):
            PMGDA(sigma=sigma)
    with pytest.raises(ValueError, match="`tol` of `PMGDA`"):
        PMGDA(tol=1.0)
    with pytest.raises(ValueError, match="`max_iter` of `PMGDA`"):
        PMGDA(max_iter=0)
    with pytest.raises(ValueError, match="`PMGDA` as configured needs the losses"):
        PMGDA()(StepStatistics(gramian=torch.eye(2)))
    with pytest.raises(ValueError, match="one entry per objective; got 2 for 3"):
        PMGDA(preference=[1.0, 2.0])(StepStatistics(gramian=torch.eye(3), losses=torch.ones(3)))
