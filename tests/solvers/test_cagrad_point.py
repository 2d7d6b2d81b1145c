"""cagrad_point: its forms beside each other, its certificate from the Jacobian, its edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import moopt.solvers.cagrad_on_host as host_module
from moopt.records.status import SolverStatus
from moopt.solvers import SolverResult, cagrad_point
from moopt.solvers.cagrad_on_device import DEVICE_TRIPS, cagrad_on_device
from tests.cases import Case, case

FAMILIES = ("aligned", "conflicting", "near_opposite", "weakly_stationary", "zero_row")

FORMS_TOL = 1e-7
"""Difference of two directions relative to the length of their terms: what a Gramian can tell."""

TOL = 1e-10
TRIPS = {"aligned": 4, "conflicting": 4, "near_opposite": 4, "crowded": 11}
"""Trips that are enough at every c: the secant method converges superlinearly."""


def faces(gramian: Tensor, active: Tensor | None, c: float) -> SolverResult:
    return cagrad_on_device(gramian, active, c, TOL, None, enumerate_faces=True)


def root(gramian: Tensor, active: Tensor | None, c: float) -> SolverResult:
    return cagrad_on_device(gramian, active, c, TOL, None, enumerate_faces=False)


FORMS = {"host": lambda g, a, c: cagrad_point(g, active=a, c=c), "faces": faces, "root": root}


def true_gap(one: Case, weights: Tensor, c: float) -> float:
    """max_i (F(w) - g_i . d) / (||g_i|| ||d||), from the Jacobian."""
    g0 = one.jacobian.mean(0)
    w = weights - 1.0 / one.m
    g_w = one.jacobian.T @ (w / w.sum())
    bound = g0 @ g_w + c * g0.norm() * g_w.norm()
    d = one.jacobian.T @ weights
    return float(((bound - one.jacobian @ d) / (one.norms * d.norm())).max())


@pytest.mark.parametrize("c", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("form", ["faces", "root"])
def test_device_forms_agree_with_the_host(form: str, c: float) -> None:
    for family in FAMILIES:
        for norm_ratio in (1.0, 1e4):
            one = case(family, 4, norm_ratio=norm_ratio)
            host, device = cagrad_point(one.gramian, c=c), FORMS[form](one.gramian, None, c)
            assert int(device.status) == int(host.status), one
            assert 0.0 <= float(device.gap) <= TOL
            difference = one.jacobian.T @ (device.weights - host.weights)
            size = float((host.weights.abs() * one.norms).sum())
            assert float(difference.norm()) <= FORMS_TOL * size


def test_the_number_of_trips_is_reported() -> None:
    gramian = case("conflicting", 3).gramian
    assert int(faces(gramian, None, 0.5).num_iter) == 7
    assert int(root(gramian, None, 0.5).num_iter) == DEVICE_TRIPS + 1
    limited = cagrad_on_device(gramian, None, 0.5, TOL, 3, enumerate_faces=False)
    assert int(limited.num_iter) == 4
    assert int(cagrad_on_device(gramian, None, 0.0, TOL, None).num_iter) == 0
    assert int(cagrad_on_device(gramian, None, 0.5, TOL, None).num_iter) == 7
    nine = cagrad_on_device(case("conflicting", 9).gramian, None, 0.5, TOL, 2)
    assert int(nine.num_iter) == 3


@pytest.mark.parametrize("family", TRIPS)
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_few_trips_find_the_root(family: str, c: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "EXCHANGES", 0)
    for norm_ratio in (1.0, 1e2):
        one = case(family, 4, norm_ratio=norm_ratio)
        few = TRIPS[family]
        device = cagrad_on_device(one.gramian, None, c, TOL, few, enumerate_faces=False)
        host = cagrad_point(one.gramian, c=c)
        assert int(device.status) == int(host.status) == SolverStatus.CONVERGED
        assert 1 <= int(host.num_iter) <= few


def test_few_exchanges_find_the_face() -> None:
    """Without the root finder: the exchange alone is exact on independent rows."""
    for family in ("aligned", "conflicting", "orthogonal"):
        for m in (2, 3, 5, 10):
            one = case(family, m, norm_ratio=1e2)
            result = cagrad_point(one.gramian)
            assert float(result.gap) <= host_module.EXACT
            assert 1 <= int(result.num_iter) <= 4 + m // 5


@pytest.mark.parametrize("form", ["host", "root"])
@pytest.mark.parametrize("trips", [1, 2, 3])
def test_the_gap_is_the_true_one(form: str, trips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After too few trips, where it is far from zero."""
    monkeypatch.setattr(host_module, "EXCHANGES", 0)
    for norm_ratio in (1.0, 1e2):
        one = case("crowded", 4, norm_ratio=norm_ratio)
        if form == "host":
            result = cagrad_point(one.gramian, c=0.5, max_iter=trips)
        else:
            result = cagrad_on_device(one.gramian, None, 0.5, TOL, trips, enumerate_faces=False)
        expected = true_gap(one, result.weights, 0.5)
        assert expected > 1e-3
        assert float(result.gap) == pytest.approx(expected, rel=1e-6)
        assert int(result.status) == SolverStatus.MAX_ITER
        assert int(result.num_iter) == trips + 1


@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_solve_takes_no_iteration(form: str) -> None:
    solve = FORMS[form]
    gramian = case("conflicting", 3).gramian
    broken = gramian.clone()
    broken[0, 1] = math.nan
    result = solve(broken, None, 0.5)
    assert result.weights.tolist() == [1 / 3] * 3
    assert int(result.status) == SolverStatus.NON_FINITE
    assert math.isnan(float(result.gap))
    zeros = solve(torch.zeros(3, 3, dtype=torch.float64), None, 0.5)
    assert zeros.weights.tolist() == [1 / 3] * 3
    assert (int(zeros.status), float(zeros.gap)) == (SolverStatus.DEGENERATE, 0.0)
    none = solve(gramian, torch.zeros(3, dtype=torch.bool), 0.5)
    assert none.weights.tolist() == [0.0] * 3
    assert (int(none.status), float(none.gap)) == (SolverStatus.DEGENERATE, 0.0)
    mean = solve(gramian, None, 0.0)
    assert mean.weights.tolist() == [1 / 3] * 3
    assert (int(mean.status), float(mean.gap)) == (SolverStatus.CONVERGED, 0.0)
    still = solve(torch.zeros(3, 3, dtype=torch.float64), None, 0.0)
    assert int(still.status) == SolverStatus.DEGENERATE
    if form == "host":
        assert [int(r.num_iter) for r in (result, zeros, none, mean, still)] == [0] * 5


@pytest.mark.parametrize("form", FORMS)
def test_inactive_rows_are_as_if_dropped(form: str) -> None:
    active = torch.tensor([True, False, True, True])
    for family in FAMILIES:
        one = case(family, 4, norm_ratio=1e2)
        poisoned = one.gramian.clone()
        poisoned[1], poisoned[:, 1] = math.nan, math.inf
        result = FORMS[form](poisoned, active, 0.4)
        dropped = FORMS[form](one.gramian[active][:, active], None, 0.4)
        assert float(result.weights[1]) == 0.0
        assert int(result.status) == int(dropped.status)
        torch.testing.assert_close(
            one.jacobian[active].T @ (result.weights[active] - dropped.weights),
            torch.zeros(one.jacobian.shape[1], dtype=torch.float64),
            rtol=0.0,
            atol=FORMS_TOL * float((dropped.weights * one.norms[active]).sum()),
        )


@pytest.mark.parametrize("form", FORMS)
def test_opposite_gradients_have_no_mean(form: str) -> None:
    """g0 = 0 though no gradient is: the mean itself is returned."""
    rows = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    result = FORMS[form](rows @ rows.T, None, 0.5)
    assert result.weights.tolist() == [0.5, 0.5]
    assert (int(result.status), float(result.gap)) == (SolverStatus.DEGENERATE, 0.0)


@pytest.mark.parametrize("form", FORMS)
def test_the_ball_decides_at_a_stationary_point(form: str) -> None:
    """g_1 = -g_0 and a third: only a ball that reaches the dual cone is DEGENERATE."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.1, 1.0]], dtype=torch.float64)
    gramian = rows @ rows.T
    # The cone is the ray (0, 1); the mean is (1/30, 1/3), at 0.0995 of its length from it.
    for c, status in ((0.0996, SolverStatus.DEGENERATE), (0.0994, SolverStatus.CONVERGED)):
        result = FORMS[form](gramian, None, c)
        assert int(result.status) == status
        d = rows.T @ result.weights
        assert float((d - torch.tensor([0.0, 1 / 3], dtype=torch.float64)).norm()) <= 1e-3


def test_a_batch_is_a_loop() -> None:
    ones = [case(family, 4, norm_ratio=10.0) for family in FAMILIES]
    stack = torch.stack([one.gramian for one in ones])
    stack[0, 0, 0] = math.nan
    active = torch.ones(5, 4, dtype=torch.bool)
    active[2, 1], active[4] = False, False
    for solve in FORMS.values():
        batch = solve(stack, active, 0.5)
        folded = solve(stack.unflatten(0, (1, 5)), active, 0.5)
        assert folded.weights.shape == (1, 5, 4)
        for i in range(5):
            alone = solve(stack[i], active[i], 0.5)
            assert int(batch.status[i]) == int(folded.status[0, i]) == int(alone.status)
            torch.testing.assert_close(batch.weights[i], alone.weights, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(folded.weights[0, i], alone.weights, rtol=1e-9, atol=1e-12)


def test_wrong_arguments_name_the_remedy() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    for wrong in (torch.ones(3), torch.ones(2, 3), torch.ones(0, 0)):
        with pytest.raises(ValueError, match="not the Jacobian"):
            cagrad_point(wrong)
    for c in (-1e-9, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"use 0\.5"):
            cagrad_point(eye, c=c)
    for settings in ({"tol": 0.0}, {"tol": math.nan}, {"max_iter": 0}):
        with pytest.raises(ValueError, match="Use the defaults"):
            cagrad_point(eye, **settings)
    assert int(cagrad_point(eye, max_iter=1, tol=1e-300).status) >= 0
    assert cagrad_point(torch.ones(1, 1)).weights.tolist() == pytest.approx([1.5])
