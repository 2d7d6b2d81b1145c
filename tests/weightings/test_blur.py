"""BLUR: the quota identity, the nearest vector, and absent roles."""

from __future__ import annotations

import pytest
import torch

from moopt.weightings import BLUR, Guarantee
from tests.weightings.forgetting import (
    IDENTITY_TOL,
    PAIRS,
    ROUNDING,
    check_promise,
    pair,
    weigh,
)


def make(gamma: float = 1.0, at_least: bool = False) -> BLUR:
    return BLUR(forget="forget", retain=["retain", "retain 2"], gamma=gamma, at_least=at_least)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 20.0])
def test_the_quota_is_met_exactly(gamma: float) -> None:
    """g_f . d = gamma ||g_f||^2, and d - g_r is along g_f: the nearest such vector to g_r."""
    for case in PAIRS:
        forget, retain, direction, scale = pair(case, make(gamma))
        norm = float(forget.norm())
        slack = ROUNDING * norm * scale
        assert abs(float(forget @ direction) - gamma * norm**2) <= slack
        if norm > 0:
            unit = forget / norm
            change = direction - retain
            across = change - (change @ unit) * unit
            assert float(across.norm()) <= IDENTITY_TOL * scale


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_at_least_keeps_what_the_retain_gradient_brings(gamma: float) -> None:
    kept = 0
    for case in PAIRS:
        forget, retain, direction, scale = pair(case, make(gamma, at_least=True))
        norm = float(forget.norm())
        slack = ROUNDING * norm * scale
        assert float(forget @ direction) >= gamma * norm**2 - slack
        if norm > 0 and float(forget @ retain) > gamma * norm**2 + slack:
            kept += 1
            assert torch.equal(direction, retain)
        else:
            assert abs(float(forget @ direction) - gamma * norm**2) <= slack
    assert kept > 10


def test_several_objectives_of_a_role_count_as_their_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    direction = jacobian.T @ weigh(make(2.0), jacobian).weights
    forget, retain = jacobian[0], jacobian[1] + jacobian[2]
    bracket = 2.0 - retain @ forget / forget.norm() ** 2
    assert torch.allclose(direction, retain + bracket * forget, rtol=IDENTITY_TOL, atol=0.0)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
@pytest.mark.parametrize("guarantee", Guarantee, ids=lambda g: g.value)
def test_exactly_the_promises_for_a_pair_hold(guarantee: Guarantee, gamma: float) -> None:
    weighting = BLUR(forget="objective 0", retain="objective 1", gamma=gamma)
    check_promise(weighting, guarantee, PAIRS)


def test_absent_roles_leave_the_other() -> None:
    jacobian = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    assert weigh(make(0.5), jacobian[:1]).weights.tolist() == [0.5]
    assert weigh(make(0.5), jacobian[[2, 1]]).weights.tolist() == [0.0, 1.0]
    assert weigh(make(0.5), jacobian[[0, 2]]).weights.tolist() == [0.5, 0.0]


def test_settings_out_of_range_name_the_remedy() -> None:
    assert make(0.0).gamma == 0.0
    for gamma in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`gamma` of `BLUR` must be finite"):
            make(gamma)
