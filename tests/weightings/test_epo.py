"""EPO by its programs as HiGHS solves them, its descent, and where on the front it leads."""

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
from moopt.weightings import EPO, Mean, Weighting
from moopt.weightings.epo import epo_adjustments
from tests.cases import Case, case, cases

PROGRAM_TOL = 1e-6
"""Of HiGHS on a program of size one, as a share of the terms of its objective."""

DESCENT_TOL = 1e-8
"""g_i . d >= -DESCENT_TOL ||g_i|| sum_j w_j ||g_j||: ten times the solver's tolerance."""

RAY_TOL = 5e-3
"""How far from equal the r_i loss_i may end: the last steps of the runs are this long."""

INDEPENDENT = ("aligned", "conflicting", "orthogonal")


def epo_weights(gramian, losses, preference, *, active=None, **settings):
    """`EPO` called by hand."""
    method = EPO(preference=preference.tolist(), **settings)
    return method(StepStatistics(gramian=gramian, losses=losses, active=active)).result


def adjustments(losses: Tensor, preference: Tensor) -> Tensor:
    return torch.from_numpy(epo_adjustments(losses.numpy(), preference.numpy()).values)


def drawn(seed: int, m: int, spread: float) -> tuple[Tensor, Tensor]:
    """Losses and a preference; `spread` 0 puts the losses on the ray."""
    generator = torch.Generator().manual_seed(seed)
    preference = 0.2 + torch.rand(m, generator=generator, dtype=torch.float64)
    noise = spread * torch.randn(m, generator=generator, dtype=torch.float64)
    return noise.exp() / preference, preference


def by_highs(
    one: Case, losses: Tensor, preference: Tensor, eps: float, relaxed: bool
) -> tuple[np.ndarray, scipy.optimize.OptimizeResult]:
    """The paper's programs in its own variables, written out; the cost and the result."""
    g, m = one.gramian.numpy(), one.m
    r = preference.numpy() / preference.numpy().sum()
    relative = r * losses.numpy()
    share = relative / relative.sum()
    mu = float((share * np.log(m * share)).sum())
    a = r * (np.log(m * share) - mu)
    pull = g @ a
    rows, bound = [*g], [0.0] * m
    if mu > eps:
        cost = pull
        if (pull > 0).any():
            worst = int(relative.argmax())
            bound = [0.0 if j == worst else -np.inf if pull[j] > 0 else pull[j] for j in range(m)]
    else:
        cost = g.sum(0)
        if not relaxed:
            rows.append(pull)
            bound.append(min(0.0, float(pull.max())))
    kept = [j for j, value in enumerate(bound) if value > -np.inf]
    return cost, scipy.optimize.linprog(
        -cost,
        A_ub=-np.array([rows[j] for j in kept]),
        b_ub=-np.array([bound[j] for j in kept]),
        A_eq=np.ones((1, m)),
        b_eq=[1.0],
        method="highs",
    )


@settings(deadline=None, max_examples=120)
@given(
    cases(INDEPENDENT, ms=(2, 3, 5), scales=(1.0,), norm_ratios=(1.0,)),
    st.integers(0, 2**16),
    st.sampled_from([1.0, 0.3, 1e-3]),
    st.booleans(),
)
def test_it_solves_the_programs_of_the_paper(
    one: Case, seed: int, spread: float, relaxed: bool
) -> None:
    losses, preference = drawn(seed, one.m, spread)
    result = epo_weights(one.gramian, losses, preference, relaxed=relaxed)
    cost, reference = by_highs(one, losses, preference, 1e-4, relaxed)
    if reference.status == 2:
        assert int(result.status) == SolverStatus.INFEASIBLE
        return
    assert int(result.status) == SolverStatus.CONVERGED
    w = result.weights.numpy()
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1.0, abs=1e-12)
    assert cost @ w == pytest.approx(-reference.fun, abs=PROGRAM_TOL * float(np.abs(cost).max()))


def test_the_mean_is_not_the_solution() -> None:
    """The violator of the test above."""
    one = case("conflicting", 3)
    losses, preference = drawn(0, 3, 1.0)
    cost, reference = by_highs(one, losses, preference, 1e-4, False)
    assert cost.mean() < -reference.fun - 100 * PROGRAM_TOL * np.abs(cost).max()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16), st.sampled_from([2, 3, 5]))
def test_adjustments_are_the_derivatives_of_the_non_uniformity(seed: int, m: int) -> None:
    losses, preference = drawn(seed, m, 1.0)
    losses.requires_grad_()
    relative = preference * losses
    share = relative / relative.sum()
    mu = (share * (m * share).log()).sum()
    (slope,) = torch.autograd.grad(mu, losses)
    far = epo_adjustments(losses.detach().numpy(), preference.numpy())
    torch.testing.assert_close(torch.tensor(far.non_uniformity).double(), mu.detach())
    expected = slope * relative.detach().sum() / preference.sum()
    torch.testing.assert_close(torch.from_numpy(far.values), expected)
    assert int(far.worst.argmax()) == int(relative.argmax())
    assert far.worst.sum() == 1
    assert not far.equal


@settings(deadline=None, max_examples=100)
@given(cases(ms=(2, 3, 5)), st.integers(0, 2**16), st.booleans())
def test_balanced_losses_descend_together(one: Case, seed: int, relaxed: bool) -> None:
    losses, preference = drawn(seed, one.m, 1e-3)
    result = epo_weights(one.gramian, losses, preference, relaxed=relaxed)
    assert relaxed is False or int(result.status) == SolverStatus.CONVERGED
    size = float((result.weights * one.norms).sum())
    steps = one.jacobian @ (one.jacobian.T @ result.weights)
    assert (steps >= -DESCENT_TOL * one.norms * size).all()


@settings(deadline=None, max_examples=50)
@given(
    cases(("orthogonal",), ms=(2, 5, 10), norm_ratios=(1e8,)),
    st.integers(0, 2**16),
    st.sampled_from([1e-3, 1.0]),
)
def test_orthogonal_gradients_of_any_length_are_certified(
    one: Case, seed: int, spread: float
) -> None:
    """Their cosines are rounding, and the weights' units 1e8 apart."""
    losses, preference = drawn(seed, one.m, spread)
    result = epo_weights(one.gramian, losses, preference, relaxed=True)
    assert int(result.status) == SolverStatus.CONVERGED


@pytest.mark.parametrize(("family", "seed"), [("near_opposite", 8), ("duplicate", 9)])
def test_a_step_that_cannot_keep_the_balance_descends(family: str, seed: int) -> None:
    """Where no point of the simplex meets the rows by 1e-9 of the longest weight."""
    one = case(family, 5, seed, norm_ratio=1e8)
    noise = torch.rand(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = epo_weights(one.gramian, 1.0 + 1e-3 * noise, torch.ones(5))
    assert int(result.status) == SolverStatus.INFEASIBLE
    direction = one.jacobian.T @ result.weights
    along = one.jacobian @ direction / one.norms
    assert float(along.min()) >= -DESCENT_TOL * float(direction.norm())


def test_the_worst_loss_does_not_rise_while_balancing() -> None:
    raised = 0
    for seed in range(50):
        one = case("conflicting", 3, seed)
        losses, preference = drawn(seed, 3, 1.0)
        result = epo_weights(one.gramian, losses, preference)
        steps = one.gramian @ result.weights
        assert float(steps[int((preference * losses).argmax())]) >= -DESCENT_TOL
        raised += bool((steps < -1e-3).any())
    assert raised > 5  # controlled ascent is what the method is about


def test_restricted_descent_keeps_the_balance_and_relaxed_descent_need_not() -> None:
    differ = blocked = 0
    for seed in range(60):
        one = case("conflicting", 3, seed)
        losses, preference = drawn(seed, 3, 1e-3)
        pull = one.gramian @ adjustments(losses, preference)
        floor = min(0.0, float(pull.max()))
        kept, free = (
            epo_weights(one.gramian, losses, preference, relaxed=flag) for flag in (False, True)
        )
        if int(kept.status) == SolverStatus.INFEASIBLE:
            blocked += 1
            assert torch.equal(kept.weights, free.weights)
            continue
        unit = float(pull.abs().max())
        assert float(pull @ kept.weights) >= floor - DESCENT_TOL * unit
        differ += float(pull @ free.weights) < floor - 1e-3 * unit
    assert differ > 5
    assert blocked > 0


def test_an_absent_objective_does_not_loosen_the_balance() -> None:
    """Where every active loss would rise along J'a, the step may lose as much balance as that."""
    seen = 0
    active = torch.tensor([True, False, True, True])
    for seed in range(60):
        one = case("aligned", 4, seed)
        losses, preference = drawn(seed, 4, 1e-3)
        gramian = one.gramian[active][:, active]
        masked = epo_weights(one.gramian, losses, preference, active=active)
        dropped = epo_weights(gramian, losses[active], preference[active])
        assert int(masked.status) == int(dropped.status)
        torch.testing.assert_close(masked.weights[active], dropped.weights)
        far = adjustments(losses[active], preference[active])
        seen += float((gramian @ far).max()) < 0.0
    assert seen > 0


def run(weighting: Weighting, targets: Tensor, start: list[float]) -> tuple[Tensor, Tensor]:
    """The end of a run on `loss_i = 1/2 ||x - target_i||^2`, and its losses."""
    x, steps = torch.tensor(start, dtype=torch.float64), 600
    for step in range(steps):
        rows = x - targets
        losses = 0.5 * rows.square().sum(-1)
        statistics = StepStatistics(gramian=rows @ rows.T, losses=losses)
        x = x - 0.1 * 1e-3 ** (step / steps) * rows.T @ weighting(statistics).weights
    return x, 0.5 * (x - targets).square().sum(-1)


TWO = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
THREE = torch.eye(3, 4, dtype=torch.float64)


@pytest.mark.parametrize("r", [[1.0, 1.0], [1.0, 3.0], [5.0, 1.0]])
def test_a_run_with_two_losses_ends_on_the_ray(r: list[float]) -> None:
    """The front is the segment between the targets, and r_1 (1 + x)^2 = r_2 (1 - x)^2 on it."""
    x, _ = run(EPO(preference=r, eps=1e-8), TWO, [0.5, 1.0, 0.3])
    ratio = math.sqrt(r[1] / r[0])
    assert x[0].item() == pytest.approx((ratio - 1.0) / (ratio + 1.0), abs=RAY_TOL)
    assert float(x[1:].norm()) <= RAY_TOL


@pytest.mark.parametrize("r", [[1.0, 1.0, 1.0], [3.0, 1.5, 1.0]])
def test_a_run_with_three_losses_ends_on_the_ray(r: list[float]) -> None:
    """The front is the triangle of the targets."""
    x, losses = run(EPO(preference=r, eps=1e-8), THREE, [0.5, 1.0, 0.3, 1.0])
    relative = torch.tensor(r, dtype=torch.float64) * losses
    assert float(relative.max() / relative.min()) <= 1.0 + 5 * RAY_TOL
    assert abs(float(x[3])) <= RAY_TOL
    assert (x[:3] >= -RAY_TOL).all()
    assert float(x[:3].sum()) == pytest.approx(1.0, abs=RAY_TOL)


def test_a_run_of_the_mean_ends_elsewhere() -> None:
    """The violator of the runs."""
    x, _ = run(Mean(), TWO, [0.5, 1.0, 0.3])
    assert abs(float(x[0]) - (math.sqrt(3.0) - 1.0) / (math.sqrt(3.0) + 1.0)) > 10 * RAY_TOL


def test_the_length_of_the_preference_does_not_matter() -> None:
    one = case("conflicting", 3)
    losses, preference = drawn(4, 3, 1.0)
    first = epo_weights(one.gramian, losses, preference).weights
    torch.testing.assert_close(epo_weights(one.gramian, losses, 1e6 * preference).weights, first)


def test_a_preference_by_name_finds_its_objective() -> None:
    losses = torch.tensor([1.0, 1.0], dtype=torch.float64)
    weighting = EPO(preference={"b": 5.0, "a": 1.0, "absent": 2.0})
    statistics = StepStatistics(
        gramian=torch.eye(2, dtype=torch.float64), losses=losses, names=("a", "b")
    )
    assert weighting.needs == {"losses", "names"}
    assert weighting(statistics).weights.tolist() == [0.0, 1.0]


def test_where_a_program_has_several_solutions_the_order_decides() -> None:
    """Why it is not permutation-equivariant: with equal losses either gradient is optimal."""
    gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    statistics = StepStatistics(gramian=gramian, losses=torch.ones(2))
    weights = EPO()(statistics).weights
    assert not torch.allclose(weights, weights.flip(0))


def test_vanished_losses_stay_finite() -> None:
    one = case("conflicting", 3)
    for losses in ([0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1e-300, 1e300, 1.0]):
        given_losses = torch.tensor(losses, dtype=torch.float64)
        result = epo_weights(one.gramian, given_losses, torch.ones(3))
        assert int(result.status) == SolverStatus.CONVERGED
        assert result.weights.isfinite().all()


def test_losses_outside_of_the_domain_are_a_status() -> None:
    one = case("conflicting", 3)
    active = torch.tensor([True, True, False])
    for value, status in (
        (-1.0, SolverStatus.OUT_OF_DOMAIN),
        (math.nan, SolverStatus.NON_FINITE),
        (math.inf, SolverStatus.NON_FINITE),
    ):
        losses = torch.tensor([1.0, value, -5.0], dtype=torch.float64)
        result = epo_weights(one.gramian, losses, torch.ones(3), active=active)
        assert int(result.status) == status
        assert result.weights.tolist() == [0.5, 0.5, 0.0]
        assert math.isnan(float(result.gap))
    absent = torch.tensor([1.0, 2.0, math.nan], dtype=torch.float64)
    ignored = epo_weights(one.gramian, absent, torch.ones(3), active=active)
    assert int(ignored.status) == SolverStatus.CONVERGED


def test_wrong_settings_name_the_remedy() -> None:
    for wrong in ([0.0, 1.0], [-1.0, 1.0], [], {"a": 0.0, "b": 1.0}, [math.inf]):
        with pytest.raises(ValueError, match="`preference` of `EPO`"):
            EPO(preference=wrong)
    with pytest.raises(ValueError, match="`eps` of `EPO`"):
        EPO(eps=-1.0)
    for tol in (0.0, 1.0):
        with pytest.raises(ValueError, match="`tol` of `EPO`"):
            EPO(tol=tol)
    with pytest.raises(ValueError, match="`max_iter` of `EPO`"):
        EPO(max_iter=0)
    with pytest.raises(ValueError, match="`EPO` as configured needs the losses"):
        EPO()(StepStatistics(gramian=torch.eye(2)))
    with pytest.raises(ValueError, match="one entry per objective; got 2 for 3"):
        EPO(preference=[1.0, 2.0])(StepStatistics(gramian=torch.eye(3), losses=torch.ones(3)))
