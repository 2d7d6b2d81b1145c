"""HAMU: optimal within its constraints, the stop rule, and the settings."""

from __future__ import annotations

import math

import pytest
import torch

from moopt.records.status import SolverStatus
from moopt.weightings import HAMU, Guarantee
from tests.weightings.forgetting import IDENTITY_TOL, PAIRS, check_promise, pair, weigh

ANGLE_TOL = 1e-6
"""A cosine after two `acos`, whose rounding near 1 is the square root of eps, times its slope."""

CVXPY_TOL = 1e-6
"""Shortfall of g_r . d relative to R ||g_r||: clarabel stops at 1e-8, and the optimum is flat."""


def make(**settings) -> HAMU:
    return HAMU(forget="forget", retain=["retain", "retain 2"], **settings)


@pytest.mark.parametrize("quota", [0.0, 0.5, 1.0])
def test_it_is_the_best_direction_within_the_constraints(quota: float) -> None:
    """Both constraints are met, and no vector that meets them is nearer to g_r in angle."""
    for case in PAIRS:
        weighting = make(quota=quota, stop=False)
        forget, retain, direction, _ = pair(case, weighting)
        if (case.norms == 0).any():
            continue
        bound, f, r = float(retain.norm()), forget / forget.norm(), retain / retain.norm()
        cosine = float(f @ r)
        if 1.0 - cosine**2 < ANGLE_TOL:
            continue  # collinear: tested apart
        result = weigh(weighting, case.jacobian).result
        assert int(result.status) == SolverStatus.CONVERGED
        assert float(result.gap) <= IDENTITY_TOL
        d = direction / bound
        assert float(d.norm()) <= 1.0 + IDENTITY_TOL
        assert float(f @ d) >= quota - IDENTITY_TOL
        # In the plane of f and r the angle to f is at most acos(quota): the rest is free.
        angle = max(0.0, math.acos(cosine) - math.acos(quota))
        assert float(r @ d) == pytest.approx(math.cos(angle), abs=ANGLE_TOL)


def test_agrees_with_cvxpy() -> None:
    cvxpy = pytest.importorskip("cvxpy")
    generator = torch.Generator().manual_seed(0)
    for quota in (0.1, 0.7, 3.0):
        for _ in range(5):
            jacobian = torch.randn(3, 4, generator=generator, dtype=torch.float64)
            forget, retain = jacobian[0].numpy(), (jacobian[1] + jacobian[2]).numpy()
            output = weigh(make(quota=quota, radius=2.0, relative=False, stop=False), jacobian)
            d = cvxpy.Variable(4)
            problem = cvxpy.Problem(
                cvxpy.Maximize(retain @ d), [forget @ d >= quota, cvxpy.norm(d) <= 2.0]
            )
            optimum = problem.solve(solver=cvxpy.CLARABEL)
            if problem.status.startswith("infeasible"):
                assert int(output.result.status) == SolverStatus.INFEASIBLE
                assert (output.weights == 0).all()
                continue
            direction = (jacobian.T @ output.weights).numpy()
            assert retain @ direction == pytest.approx(optimum, abs=CVXPY_TOL * 20)
            assert forget @ direction >= quota - CVXPY_TOL


def test_it_stops_exactly_where_the_retain_loss_must_rise() -> None:
    generator = torch.Generator().manual_seed(1)
    stopped = 0
    for _ in range(200):
        jacobian = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        output = weigh(make(quota=0.6), jacobian)
        anyway = jacobian.T @ weigh(make(quota=0.6, stop=False), jacobian).weights
        rises = float(jacobian[1] @ anyway) < 0
        # The paper's form: kappa > sqrt(||g_r||^2 ||g_f||^2 - Q^2 ||g_r||^2 / R^2).
        f, r = (float(row.norm()) for row in jacobian)
        quota = 0.6 * r * f
        hard = -float(jacobian[0] @ jacobian[1]) > math.sqrt(r**2 * f**2 - quota**2 * r**2 / r**2)
        assert rises == hard == (int(output.result.status) == SolverStatus.INFEASIBLE)
        assert rises == bool((output.weights == 0).all())
        stopped += rises
    assert 10 < stopped < 190


@pytest.mark.parametrize("quota", [0.5, 1.0])
@pytest.mark.parametrize("guarantee", Guarantee, ids=lambda g: g.value)
def test_exactly_the_promises_for_a_pair_hold(guarantee: Guarantee, quota: float) -> None:
    weighting = HAMU(forget="objective 0", retain="objective 1", quota=quota)
    check_promise(weighting, guarantee, PAIRS)


@pytest.mark.parametrize(
    ("settings", "sign", "expected"),
    [
        ({"quota": 0.5}, 1.0, [0.0, 1.0]),
        ({"quota": 1.0}, 1.0, [0.0, 1.0]),
        ({"quota": 0.5}, -1.0, [0.0, 0.0]),
        ({"quota": 0.0}, -1.0, [0.0, 0.0]),
        ({"quota": 0.5, "stop": False}, -1.0, [1.0, 0.0]),
    ],
)
def test_parallel_gradients(settings: dict, sign: float, expected: list[float]) -> None:
    jacobian = torch.tensor([[1.0, 0.0], [2.0 * sign, 0.0]], dtype=torch.float64)
    assert weigh(make(**settings), jacobian).weights.tolist() == expected


def test_opposite_gradients_without_a_quota_are_degenerate() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    assert int(weigh(make(quota=0.0), jacobian).result.status) == SolverStatus.DEGENERATE


def test_absent_roles_leave_the_other() -> None:
    jacobian = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    assert weigh(make(quota=0.5, radius=3.0), jacobian[:1]).weights.tolist() == [1.5]
    assert weigh(make(quota=0.5, radius=3.0), jacobian[[2, 1]]).weights.tolist() == [0.0, 3.0]
    absolute = make(quota=10.0, radius=4.0, relative=False)
    assert weigh(absolute, jacobian[[0, 2]]).weights.tolist() == [10.0 / 25.0, 0.0]
    assert weigh(absolute, jacobian[[2, 1]]).weights.tolist() == [0.0, 2.0]


def test_settings_out_of_range_name_the_remedy() -> None:
    for settings in ({"quota": 0.0}, {"quota": 1.0}, {"quota": 7.0, "relative": False}):
        assert make(**settings).quota == settings["quota"]
    for settings in ({"quota": 1.1}, {"quota": -0.1}, {"quota": math.inf, "relative": False}):
        with pytest.raises(ValueError, match="`quota` of `HAMU` must be"):
            make(**settings)
    for radius in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="`radius` of `HAMU` must be finite and > 0"):
            make(radius=radius)
