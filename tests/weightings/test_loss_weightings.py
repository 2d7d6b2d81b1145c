"""NTK and DBMTL: their formulas through autograd, the losses they need, and what they ignore."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import DBMTL, MGDA, NTK, GradNorm, Mean, Sum
from tests.cases import Case, case, cases

FORMULA_TOL = 1e-9
"""Relative to sum_i |w_i| ||g_i||: a handful of float64 operations on cosines of norm ratio 1e4."""

NEED_LOSSES = (NTK, DBMTL, GradNorm)


def losses_for(one: Case) -> Tensor:
    return torch.linspace(0.1, 5.0, one.m, dtype=torch.float64)


def direction(one: Case, weighting) -> Tensor:
    statistics = StepStatistics(gramian=one.gramian, losses=losses_for(one))
    return one.jacobian.T @ weighting(statistics).weights


def gradients_of(one: Case, transform) -> Tensor:
    """The gradients of transformed losses, by autograd, where loss_i = l_i + g_i . x at x = 0."""
    x = torch.zeros(one.jacobian.shape[1], dtype=torch.float64, requires_grad=True)
    losses = losses_for(one) + one.jacobian @ x
    rows = [torch.autograd.grad(transform(loss), x, retain_graph=True)[0] for loss in losses]
    return torch.stack(rows)


def ntk_by_autograd(one: Case) -> Tensor:
    s = gradients_of(one, torch.sqrt).norm(dim=1)
    return ((s.sum() / s)[:, None] * one.jacobian).sum(0)


def db_mtl_by_autograd(one: Case) -> Tensor:
    logarithmic = gradients_of(one, torch.log)
    lengths = logarithmic.norm(dim=1)
    return (lengths.max() / lengths[:, None] * logarithmic).sum(0)


LITERAL = {NTK: ntk_by_autograd, DBMTL: db_mtl_by_autograd}


def check_identity(one: Case, method: type, d: Tensor) -> None:
    expected = LITERAL[method](one)
    scale = float(expected.norm()) + float(d.norm())
    assert float((d - expected).norm()) <= FORMULA_TOL * scale


def test_kernels_beyond_the_largest_number_do_not_overflow() -> None:
    gramian = 1e308 * torch.eye(2, dtype=torch.float64)
    losses = torch.full((2,), 1e-308, dtype=torch.float64)
    weights = NTK()(StepStatistics(gramian=gramian, losses=losses)).weights
    torch.testing.assert_close(weights, torch.full_like(losses, 2.0))


@pytest.mark.parametrize("method", LITERAL)
@settings(deadline=None, max_examples=30)
@given(one=cases(("aligned", "conflicting", "orthogonal"), norm_ratios=(1.0, 1e4)))
def test_equals_the_formula_through_autograd(method: type, one: Case) -> None:
    check_identity(one, method, direction(one, method()))


@pytest.mark.parametrize("method", LITERAL)
def test_other_methods_fail_the_identity(method: type) -> None:
    one = case("conflicting", 3, norm_ratio=1e2)
    for other in (*LITERAL, Mean, Sum, MGDA):
        if other is not method:
            with pytest.raises(AssertionError):
                check_identity(one, method, direction(one, other()))


def test_the_equal_lengths_of_db_mtl_and_the_square_roots_of_ntk() -> None:
    one = case("aligned", 4, norm_ratio=1e8)
    statistics = StepStatistics(gramian=one.gramian, losses=losses_for(one))
    lengths = DBMTL()(statistics).weights * one.norms
    longest = (one.norms / losses_for(one)).max()
    assert torch.allclose(lengths, longest.expand(4), rtol=1e-12)
    lengths = NTK()(statistics).weights * one.norms / losses_for(one).sqrt()
    assert torch.allclose(lengths, lengths[0].expand(4), rtol=1e-12)


@pytest.mark.parametrize("method", NEED_LOSSES)
def test_missing_losses_are_named(method: type) -> None:
    assert method().needs == {"losses"}
    with pytest.raises(ValueError, match=f"`{method.__name__}` .*needs the losses; got none"):
        method()(StepStatistics(gramian=torch.eye(2)))


@pytest.mark.parametrize("method", NEED_LOSSES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_loss_gives_uniform_weights_and_keeps_the_state(
    method: type, value: float
) -> None:
    weighting = method()
    eye = torch.eye(3, dtype=torch.float64)
    losses = torch.tensor([1.0, value, 2.0])
    output = weighting(StepStatistics(gramian=eye, losses=losses))
    assert output.weights.tolist() == pytest.approx([1 / 3] * 3)
    for key, before in weighting.initial_state(3).items():
        assert torch.equal(output.state[key], before)
    active = torch.tensor([True, False, True])
    masked = weighting(StepStatistics(gramian=eye, losses=losses, active=active))
    dropped = weighting(StepStatistics(gramian=eye[:2, :2], losses=losses[[0, 2]]))
    assert masked.weights.tolist() == [dropped.weights[0], 0.0, dropped.weights[1]]


@pytest.mark.parametrize("method", [NTK, DBMTL])
def test_vanished_and_negative_losses_stay_finite(method: type) -> None:
    eye = torch.eye(3, dtype=torch.float64)
    for losses in ([0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [-1.0, -2.0, 0.5]):
        given_ = StepStatistics(gramian=eye, losses=torch.tensor(losses))
        weights = method()(given_).weights
        assert torch.isfinite(weights).all()
        assert (weights > 0).all()


@pytest.mark.parametrize("method", [NTK, DBMTL])
def test_a_zero_gradient_changes_nothing(method: type) -> None:
    gramian = torch.diag(torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64))
    losses = torch.tensor([1.0, 1e-3, 2.0])
    weights = method()(StepStatistics(gramian=gramian, losses=losses)).weights
    kept = [0, 2]
    alone = method()(StepStatistics(gramian=gramian[kept][:, kept], losses=losses[kept])).weights
    assert weights.tolist() == [alone[0], 0.0, alone[1]]
