"""GRU: the nearest vector that does not raise the retain loss, the clip, and absent roles."""

from __future__ import annotations

import pytest
import torch

from moopt.weightings import GRU, Guarantee
from tests.weightings.forgetting import (
    IDENTITY_TOL,
    PAIRS,
    ROUNDING,
    TRIPLES,
    check_promise,
    pair,
    weigh,
)

NAMED = GRU(forget="forget", retain=["retain", "retain 2"])
PAIR = GRU(forget="objective 0", retain="objective 1")
CLIPPED = GRU(forget="objective 0", retain="objective 1", cosine_clip=-0.5)


def test_the_direction_is_the_projection_onto_the_half_space() -> None:
    """KKT: d = g_f + u g_r with u >= 0, g_r . d >= 0 and u (g_r . d) = 0."""
    conflicts = 0
    for case in PAIRS:
        forget, retain, direction, scale = pair(case, NAMED)
        if (case.norms == 0).any():
            continue
        weights = weigh(NAMED, case.jacobian).weights
        inner = float(retain @ direction)
        assert weights[0] == 1.0
        assert weights[1] >= 0.0
        assert inner >= -ROUNDING * float(retain.norm()) * scale
        if weights[1] > 0:
            conflicts += 1
            assert abs(inner) <= ROUNDING * float(retain.norm()) * scale
        else:
            assert torch.equal(direction, forget)
    assert conflicts > 10


def test_several_retain_objectives_constrain_as_their_sum() -> None:
    for case in TRIPLES:
        retain = case.jacobian[1] + case.jacobian[2]
        weights = weigh(NAMED, case.jacobian).weights
        direction = case.jacobian.T @ weights
        scale = float((weights.abs() * case.norms).sum())
        present = case.norms[1:] > 0
        assert (weights[1:] == torch.where(present, weights[1:].max(), 0.0)).all()
        assert float(retain @ direction) >= -ROUNDING * float(case.norms[1:].sum()) * scale


def test_the_clip_bounds_the_correction() -> None:
    half = GRU(forget="forget", retain="retain", cosine_clip=-0.5)
    clipped = 0
    for case in PAIRS:
        forget, retain, direction, _ = pair(case, half)
        if (case.norms == 0).any():
            continue
        cosine = float(forget @ retain / forget.norm() / retain.norm())
        removed = float((direction - forget).norm() / forget.norm())
        assert removed == pytest.approx(min(0.5, max(0.0, -cosine)), abs=IDENTITY_TOL)
        clipped += cosine < -0.5
    assert clipped > 10


@pytest.mark.parametrize("weighting", [PAIR, CLIPPED], ids=["full", "clipped"])
@pytest.mark.parametrize("guarantee", Guarantee, ids=lambda g: g.value)
def test_exactly_the_promises_for_a_pair_hold(weighting: GRU, guarantee: Guarantee) -> None:
    check_promise(weighting, guarantee, PAIRS)


def test_absent_roles_leave_the_other() -> None:
    jacobian = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    assert weigh(NAMED, jacobian[:1]).weights.tolist() == [1.0]
    assert weigh(NAMED, jacobian[[0, 2]]).weights.tolist() == [1.0, 0.0]
    assert weigh(NAMED, jacobian[[2, 1]]).weights.tolist() == [0.0, 1.0]
    masked = torch.tensor([False, True, True])
    assert weigh(NAMED, jacobian + 1.0, active=masked).weights.tolist() == [0.0, 1.0, 1.0]
    assert weigh(NAMED, jacobian, active=masked).weights.tolist() == [0.0, 1.0, 0.0]


def test_opposite_gradients_leave_nothing() -> None:
    jacobian = torch.tensor([[1.0, 1.0], [-7.0, -7.0]], dtype=torch.float64)
    direction = jacobian.T @ weigh(NAMED, jacobian).weights
    assert float(direction.norm()) <= ROUNDING


def test_settings_out_of_range_name_the_remedy() -> None:
    for clip in (-1.0, 0.0, None):
        assert GRU(forget="a", retain="b", cosine_clip=clip).cosine_clip == clip
    for clip in (-1.5, 0.1, float("nan")):
        with pytest.raises(ValueError, match="`cosine_clip` of `GRU` must be in"):
            GRU(forget="a", retain="b", cosine_clip=clip)
