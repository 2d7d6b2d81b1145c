"""The step's own rules: noise floor, descent certificate, fallback, stationarity."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import moopt
from moopt.solvers import min_norm_point
from moopt.step.method_state import MethodState
from moopt.step.weigh import above_noise_floor as above
from moopt.step.weigh import certified
from moopt.step.weigh import weigh as weigh_step
from moopt.weightings import Guarantee, Weighting
from moopt.weightings.cleared import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boastful(Weighting):
    """Claims common descent and returns whatever it was given."""

    weights: tuple[float, ...]
    name = "boastful"
    source = "a planted violator"
    claims: bool = True

    @property
    def guarantees(self):
        return frozenset({Guarantee.NON_CONFLICTING} if self.claims else ())

    def weigh(self, problem, state):
        return np.array(self.weights)


CONFLICT = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)


def weigh(gramian, weighting, inactive_tol=1e-5):
    m = len(gramian)
    given = Step(gramian=gramian.numpy(), active=np.ones(m, dtype=bool))
    state = MethodState(weighting, {}).read([str(i) for i in range(m)])
    found = weigh_step(weighting, given, state, inactive_tol=inactive_tol)
    tensors = {key: torch.from_numpy(getattr(found, key)) for key in ("weights", "active")}
    return found._replace(**tensors)


def is_common_descent(gramian, weights, active):
    products, w = gramian.numpy(), weights.numpy()
    return certified(products, np.sqrt(products.diagonal()), w, active.numpy(), 0.0)[0]


def test_a_broken_promise_is_replaced_by_l2_normalised_mgda_and_reported():
    checked = weigh(CONFLICT * 4, Boastful(weights=(1.0, 0.0)))
    assert bool(checked.fell_back)
    assert bool(checked.descent)
    # symmetric conflict: equal weights, at the scale of the mean gradient norm (2)
    torch.testing.assert_close(checked.weights, torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_a_method_that_promised_nothing_is_never_replaced():
    checked = weigh(CONFLICT, Boastful(weights=(1.0, 0.0), claims=False))
    assert checked.weights.tolist() == [1.0, 0.0]
    assert not bool(checked.fell_back)
    assert not bool(checked.descent)


def test_fallbacks_are_counted_in_the_record():
    w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), Boastful(weights=(1.0, 0.0)))
    for _ in range(3):
        optimizer.zero_grad()
        optimizer.backward({"a": w[0], "b": -w[0] + 0.1 * w[1]})
        optimizer.step()
    assert int(optimizer.record.fallbacks) == 3
    assert "fell back" in str(optimizer.record)


def test_stationarity_is_zero_exactly_where_the_gradients_cancel():
    opposite = torch.tensor([[1.0, -2.0], [-2.0, 4.0]], dtype=torch.float64)
    checked = weigh(opposite, moopt.MGDA())
    assert float(checked.stationarity) <= 1e-7
    aligned = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    assert float(weigh(aligned, moopt.MGDA()).stationarity) == pytest.approx(1.0)


rows = st.integers(2, 6).flatmap(
    lambda m: st.lists(
        st.lists(st.floats(-1, 1, width=32), min_size=7, max_size=7), min_size=m, max_size=m
    )
)


def jacobian_of(values, exponents):
    scales = torch.tensor([10.0**e for e in exponents[: len(values)]], dtype=torch.float64)
    return torch.tensor(values, dtype=torch.float64) * scales[:, None]


def check_reported_descent(jacobian, checked):
    """What `descent` says is what the rows themselves say, in exact enough arithmetic."""
    direction = checked.weights @ jacobian
    norms = jacobian.norm(dim=1)
    bound = norms * (1e-9 * direction.norm() + 1e-13 * (checked.weights.abs() * norms).sum())
    truly = bool(((jacobian @ direction >= -4 * bound) | ~checked.active).all())
    assert truly or not bool(checked.descent)


exponents = st.lists(st.integers(-4, 4), min_size=6, max_size=6)


@settings(deadline=None, max_examples=60)
@given(values=rows, exponents=exponents)
@pytest.mark.parametrize(
    "weighting", [moopt.MGDA(), moopt.MGDA(normalize="l2"), moopt.DualSpaceMGDA(), moopt.Mean()]
)
def test_certificate_never_calls_an_ascent_a_descent(weighting, values, exponents):
    jacobian = jacobian_of(values, exponents)
    checked = weigh(jacobian @ jacobian.T, weighting)
    check_reported_descent(jacobian, checked)
    if weighting.claims_common_descent and not bool(checked.descent):
        assert checked.weights.abs().max() == 0
        assert int(checked.status) == moopt.SolverStatus.DEGENERATE


def test_the_check_above_catches_a_wrong_report():
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 0.1]], dtype=torch.float64)
    checked = weigh(jacobian @ jacobian.T, Boastful(weights=(1.0, 0.0), claims=False))
    check_reported_descent(jacobian, checked)
    with pytest.raises(AssertionError):
        check_reported_descent(jacobian, checked._replace(descent=True))


@settings(deadline=None, max_examples=50)
@given(values=rows, scale=st.integers(-30, 30))
def test_stationarity_agrees_with_the_unit_hull_and_ignores_scales(values, scale):
    jacobian = torch.tensor(values, dtype=torch.float64)
    if (jacobian.norm(dim=1) < 1e-3).any():
        return
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    w = min_norm_point(units @ units.T, solver="active_set").weights
    expected = float((w @ units).norm())
    scaled = jacobian * 10.0**scale
    got = float(weigh(scaled @ scaled.T, moopt.Mean(), inactive_tol=0.0).stationarity)
    # sqrt of a float64 rounding: 1e-7 absolute on a number in [0, 1]
    assert got == pytest.approx(expected, abs=1e-7)


def test_noise_floor():
    norms = torch.tensor([1.0, 1e-6, 0.0], dtype=torch.float64)

    def above_noise_floor(norms, tol):
        with np.errstate(all="ignore"):
            return above(norms.numpy(), None, tol)

    assert above_noise_floor(norms, 1e-5).tolist() == [True, False, False]
    assert above_noise_floor(norms, 0.0).tolist() == [True, True, True]
    assert above_noise_floor(norms[:1], 0.9).tolist() == [True]
    assert above_noise_floor(norms * 0, 1e-5).tolist() == [True, True, True]
    infinite = torch.tensor([float("inf"), 1.0, float("nan")], dtype=torch.float64)
    assert above_noise_floor(infinite, 1e-5).tolist() == [True, True, True]


def test_descent_check_is_componentwise():
    # a violation of 1e-4 of the norm, invisible in ||d||
    jacobian = torch.tensor([[1.0, 0.0], [-1e-4, 1.0]], dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    on = torch.ones(2, dtype=torch.bool)
    assert not bool(is_common_descent(gramian, torch.tensor([1.0, 0.0]).double(), on))
    assert bool(is_common_descent(gramian, torch.tensor([1.0, 1e-3]).double(), on))
    nan = torch.full((2, 2), float("nan"), dtype=torch.float64)
    assert not bool(is_common_descent(nan, torch.ones(2).double(), on))


def test_statistics_refuse_a_jacobian():
    with pytest.raises(ValueError, match="not the Jacobian"):
        moopt.StepStatistics(gramian=torch.zeros(3, 4))


@pytest.mark.parametrize(
    "weighting", [moopt.MGDA(), moopt.MGDA(normalize="l2"), moopt.DualSpaceMGDA()], ids=repr
)
def test_float32_gradients_that_cancel_give_no_step_instead_of_noise(weighting):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    w = torch.nn.Parameter(torch.zeros(1000))
    optimizer = moopt.CommonDescent(torch.optim.Adam([w], lr=1e-2), weighting)
    record = optimizer.backward({"a": (w * x).sum(), "b": -(w * x * 0.37).sum()})
    optimizer.step()
    assert record.status is moopt.SolverStatus.DEGENERATE
    assert not bool(record.descent)
    assert not bool(record.fell_back)
    assert "the gradients cancel" in str(record)
    assert str(record).endswith("DEGENERATE")
    assert w.abs().max() == 0
