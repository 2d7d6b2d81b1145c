"""The closed forms by themselves: they solve regular problems without handing them over."""

from __future__ import annotations

import math

import pytest
import torch

from moopt.kernels.tolerances import RESOLUTION, STATIONARY
from moopt.solvers.closed_form import (
    CLOSED_FORM_GAP,
    _certified,
    closed_form_three,
    closed_form_two,
)
from moopt.solvers.equilibrated import certificate, equilibrated
from tests.cases import all_cases, case
from tests.solvers.oracles import enumerated, exact_measures

REGULAR = ("aligned", "conflicting", "crowded", "orthogonal", "near_opposite")

VALUE = 1e-13
"""Two ways to the minimum of w'Gw, relative to max G_ii: rounding."""


def solved(gramian: torch.Tensor) -> tuple[list[float], float, bool] | None:
    norms = gramian.diagonal().sqrt()
    c = (gramian / norms / norms[:, None]).tolist()
    if len(c) == 2:
        return closed_form_two(c[0][1], *norms.tolist())
    return closed_form_three(c[0][1], c[0][2], c[1][2], *norms.tolist())


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("family", REGULAR)
def test_regular_problems_are_solved(m: int, family: str) -> None:
    for seed in range(12):
        for norm_ratio in (1.0, 3.0, 1e2):
            one = case(family, m, seed, norm_ratio=norm_ratio)
            result = solved(one.gramian)
            assert result is not None, one
            weights = torch.tensor(result[0], dtype=torch.float64)
            assert float(weights.sum()) == pytest.approx(1.0, abs=1e-15)
            assert (weights >= 0).all()
            value = float(weights @ one.gramian @ weights)
            largest = float(one.gramian.diagonal().max())
            assert abs(value - enumerated(one.gramian)) <= VALUE * largest
            gap, _ = exact_measures(one.jacobian, weights)
            assert abs(result[1] - gap) <= CLOSED_FORM_GAP
            assert result[1] <= CLOSED_FORM_GAP
            assert result[2] is False


@pytest.mark.parametrize("m", [2, 3])
def test_stationary_problems_are_solved_and_told(m: int) -> None:
    for seed in range(8):
        one = case("strongly_stationary", m, seed)
        result = solved(one.gramian)
        assert result is not None
        assert result[2] is True
        weights = torch.tensor(result[0], dtype=torch.float64)
        assert exact_measures(one.jacobian, weights)[1] <= 1e-13


def triangle(angles: tuple[float, float, float], norms: tuple[float, float, float]) -> torch.Tensor:
    """Three rows in a plane, with a fourth coordinate's worth of independence."""
    rows = torch.zeros(3, 5, dtype=torch.float64)
    for i, (angle, norm) in enumerate(zip(angles, norms, strict=True)):
        rows[i, 0], rows[i, 1] = math.cos(angle), math.sin(angle)
        rows[i, 2 + i] = 0.05
        rows[i] *= norm / rows[i].norm()
    return rows


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0)])
def test_every_edge_and_every_row_is_found(order: tuple[int, int, int]) -> None:
    """Rows at 0, 2 and 1 (longer): the edge of the outer two; a very short row: itself."""
    edge = triangle((0.0, 2.0, 1.0), (1.0, 1.3, 2.0))[list(order)]
    result = solved(edge @ edge.T)
    assert result is not None
    inner = order.index(2)
    assert result[0][inner] == 0.0
    assert all(w > 0.1 for i, w in enumerate(result[0]) if i != inner)
    assert exact_measures(edge, torch.tensor(result[0], dtype=torch.float64))[0] <= 1e-12
    lone = triangle((0.0, 0.7, 0.4), (1.0, 5.0, 4.0))[list(order)]
    result = solved(lone @ lone.T)
    assert result is not None
    assert result[0] == [1.0 if i == order.index(0) else 0.0 for i in range(3)]
    assert result[1] == 0.0


def test_two_rows_on_both_sides_of_the_corner() -> None:
    """The longer row enters as soon as g_0 . g_1 < ||g_0||^2."""
    for c, expected in ((0.51, 1.0), (0.5, 1.0), (0.49, None), (-1.0, 2 / 3), (1.0, 1.0)):
        weights, gap, stationary = closed_form_two(c, 1.0, 2.0)
        if expected is None:
            expected = (4.0 - 0.98) / (1.0 + 4.0 - 2.0 * 0.98)
        assert weights[0] == pytest.approx(expected, rel=1e-14)
        assert weights == list(reversed(closed_form_two(c, 2.0, 1.0)[0]))
        assert gap <= 1e-15
        assert stationary is (c == -1.0)
    assert closed_form_two(1.0, 1.0, 1.0) == ([0.5, 0.5], 0.0, False)


def test_the_certificate_judges() -> None:
    s, total = 1.0, 2.0
    assert _certified(0.0, 1.0, s, total) == (0.0, False)
    assert _certified(-1.0, 1.0, s, total) == (0.0, False)
    assert _certified(1e-13, 0.25, s, total) == (2e-13, False)
    assert _certified(1e-6, 0.25, s, total) is None
    assert _certified(CLOSED_FORM_GAP, 1.0, s, total) == (CLOSED_FORM_GAP, False)
    # Above STATIONARY, but hidden by the rounding of terms that cancel.
    hidden = 0.9 * RESOLUTION * 1e4
    assert hidden > STATIONARY
    assert _certified(0.0, hidden, s, 1e2) is None
    assert _certified(0.0, 1.2 * hidden, s, 1e2) == (0.0, False)
    assert _certified(0.0, STATIONARY, s, total) == (0.0, True)
    assert _certified(0.0, 4.0 * STATIONARY, 2.0, total) == (0.0, True)
    assert _certified(0.0, -1e-20, s, total) == (0.0, True)
    assert _certified(1e-20, -1e-20, s, total) == (math.inf, True)
    assert _certified(1e-20, 0.0, s, total) == (math.inf, True)


@pytest.mark.parametrize("m", [1, 2, 5])
def test_equilibrated_coordinates_are_cosines_and_ratios(m: int) -> None:
    for norm_ratio in (1.0, 1e4):
        one = case("aligned", m, norm_ratio=norm_ratio)
        gramian = one.gramian.numpy().copy()
        skew = gramian.copy()
        if m > 1:
            skew[0, 1] *= 1.5
            skew[1, 0] *= 0.5
        cosines, r = equilibrated(skew, one.norms.numpy())
        unit = (one.jacobian / one.norms[:, None]).numpy()
        assert abs(cosines - unit @ unit.T).max() <= 1e-14
        assert abs(cosines - cosines.T).max() <= 1e-15
        assert (cosines.diagonal() == 1.0).all()
        assert abs(r - float(one.norms.min()) / one.norms.numpy()).max() <= 1e-15
        assert (abs(equilibrated(3.0 * gramian, one.norms.numpy())[0]) <= 1.0).all()


def test_a_certificate_is_the_gap_of_the_rows() -> None:
    """From the Jacobian, at arbitrary weights."""
    generator = torch.Generator().manual_seed(0)
    for one in all_cases(ms=(3, 5), norm_ratios=(1.0, 1e2), families=REGULAR):
        cosines, r = equilibrated(one.gramian.numpy(), one.norms.numpy())
        v = torch.rand(one.m, generator=generator, dtype=torch.float64)
        weights = torch.from_numpy(r) * v
        weights = weights / weights.sum()
        judged = certificate(cosines, r, v.numpy())
        x = one.jacobian.T @ weights
        gap = float(((x @ x - one.jacobian @ x) / one.norms / x.norm()).max().clamp_min(0.0))
        assert judged.gap == pytest.approx(gap, rel=1e-9, abs=1e-14)
        assert not judged.stationary
        assert not judged.unresolved
        assert judged.status(gap * 1.001 + 1e-14) == 0
        assert judged.status(gap * 0.999) == (1 if gap > 0 else 0)
        assert judged._replace(unresolved=True).status(1.0) == 2
        assert judged._replace(stationary=True).status(1.0) == 2
