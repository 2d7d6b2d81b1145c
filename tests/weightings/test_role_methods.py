"""What all methods with roles share: groups, masks, overflow and zero rows stay apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import moopt
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.weightings import (
    BLUR,
    GRU,
    HAMU,
    PCD,
    NGDiff,
    OrthogonalSteepestDescent,
    Weighting,
)

NAMES = ("f", "r", "k", "p")
ROLES = {"forget": "f", "retain": ["r", "k", "p"]}
METHODS: dict[str, Weighting] = {
    "NGDiff": NGDiff(**ROLES),
    "GRU": GRU(**ROLES),
    "GRU clip": GRU(**ROLES, cosine_clip=-0.1),
    "BLUR": BLUR(**ROLES),
    "HAMU": HAMU(**ROLES, quota=0.3),
    "HAMU absolute": HAMU(**ROLES, quota=0.3, radius=2.0, relative=False),
    "OrthogonalSteepestDescent": OrthogonalSteepestDescent(**ROLES),
    "PCD": PCD(primary="f", secondary=["r", "k", "p"], tau=0.4),
}

EQUAL = 1e-12
"""Rounding of weights of order one on well-conditioned gradients."""


def rows(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    # The forget gradient conflicts with the retain gradients' sum, mildly.
    jacobian[0] = jacobian[0] - 0.4 * jacobian[1:].sum(0)
    return jacobian


def weigh(weighting: Weighting, gramian: Tensor, active: Tensor | None = None):
    return weighting(StepStatistics(gramian=gramian, names=NAMES, active=active))


@pytest.mark.parametrize("name", METHODS)
def test_groups_do_not_touch_one_another(name: str) -> None:
    weighting = METHODS[name]
    good, other = rows(0), 1e3 * rows(1)
    masked = other @ other.T
    masked[2] = masked[:, 2] = math.nan
    broken = other @ other.T
    broken[1, 3] = broken[3, 1] = math.inf
    empty = torch.zeros(4, 4, dtype=torch.float64)
    groups = torch.stack([good @ good.T, masked, broken, empty, good @ good.T])
    active = torch.ones(5, 4, dtype=torch.bool)
    active[1, 2] = active[2, 0] = False
    active[4] = False
    together = weigh(weighting, groups, active)
    assert together.weights.shape == (5, 4)
    for i in range(5):
        alone = weigh(weighting, groups[i], active[i])
        assert torch.allclose(together.weights[i], alone.weights, rtol=EQUAL, atol=EQUAL)
        if alone.result is not None and together.result is not None:
            assert int(together.result.status[i]) == int(alone.result.status)
            gaps = together.result.gap[i], alone.result.gap
            assert torch.allclose(*gaps, rtol=EQUAL, atol=EQUAL, equal_nan=True)
    assert together.weights[1, 2] == 0.0
    assert together.weights[2].tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 1 / 3])
    assert together.weights[3].tolist() == [0.25] * 4  # of zero gradients: d = 0
    assert not together.weights[4].any()
    status, gap = together.result.status, together.result.gap
    assert status[2:].tolist() == [SolverStatus.NON_FINITE, *2 * [SolverStatus.DEGENERATE]]
    assert math.isnan(float(gap[2]))
    if weigh(weighting, groups[0], active[0]).result is not None:
        assert bool((gap[[0, 1, 3]] >= 0).all())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("gone", range(4))
def test_masking_and_zeroing_a_row_agree_with_dropping_it(name: str, gone: int) -> None:
    weighting = METHODS[name]
    jacobian = rows(2)
    kept = [i for i in range(4) if i != gone]
    gramian = jacobian @ jacobian.T
    few = StepStatistics(gramian=gramian[kept][:, kept], names=tuple(NAMES[i] for i in kept))
    dropped = weighting(few).weights
    poisoned = gramian.clone()
    poisoned[gone] = poisoned[:, gone] = math.nan
    active = torch.tensor([i != gone for i in range(4)])
    masked = weigh(weighting, poisoned, active).weights
    assert torch.allclose(masked[kept], dropped, rtol=EQUAL, atol=EQUAL)
    assert masked[gone] == 0.0
    jacobian[gone] = 0.0
    zeroed = weigh(weighting, jacobian @ jacobian.T).weights
    assert torch.allclose(zeroed[kept], dropped, rtol=EQUAL, atol=EQUAL)


@pytest.mark.parametrize("name", METHODS)
def test_results_carry_no_graph(name: str) -> None:
    gramian = (rows(3) @ rows(3).T).requires_grad_()
    assert not weigh(METHODS[name], gramian).weights.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_goes_by_the_names_of_the_losses(name: str) -> None:
    """Objectives in another order, and one fewer in the second step."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, dtype=torch.float64))
    targets = dict(zip("fkrp", torch.randn(4, 6, dtype=torch.float64), strict=True))
    optimizer = moopt.CommonDescent(torch.optim.SGD([weight], lr=0.1), METHODS[name])
    for names in ("kfpr", "rpf"):
        losses = {key: (weight - targets[key]).pow(2).sum() for key in names}
        gradients = {key: 2 * (weight.detach() - targets[key]) for key in names}
        optimizer.zero_grad()
        record = optimizer.backward(losses)
        assert record.names == tuple(names)
        direction = sum(w * gradients[key] for w, key in zip(record.weights, names, strict=True))
        assert torch.allclose(weight.grad, direction, rtol=EQUAL, atol=EQUAL)
        if names == "kfpr":
            jacobian = torch.stack([gradients[key] for key in NAMES])
            expected = weigh(METHODS[name], jacobian @ jacobian.T).weights
            by_name = dict(zip(names, record.weights.tolist(), strict=True))
            assert [by_name[key] for key in NAMES] == pytest.approx(expected.tolist(), rel=1e-9)
        optimizer.step()
