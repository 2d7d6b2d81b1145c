"""Losses that leave the domain, or are huge or tiny: a status in that very step, and recovery."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from moopt import scalarizations
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import COSMOS, EUPMU, FAMO, IMTLL, PBI, PDU, STCH, UW
from tests.scalarizations.settings import SETTINGS

RTOL = 1e-12
"""Two float64 ways to one number of a few terms."""

ORDINARY = [2.0, 1.0, 3.0]

BROKEN = {
    "zero": [2.0, 0.0, 3.0],
    "negative": [2.0, -1.0, 3.0],
    "far below zero": [2.0, -1e6, 3.0],
    "all zero": [0.0, 0.0, 0.0],
    "all negative": [-2.0, -1.0, -3.0],
    "all tiny": [2e-310, 1e-310, 3e-310],
    "NaN": [2.0, float("nan"), 3.0],
    "infinite": [2.0, float("inf"), 3.0],
}

LARGEST_WEIGHT = 1e3
"""No method weighs ordinary losses by more than a few units."""


def weigh(weighting, losses, state=None):
    m = len(losses)
    names = tuple(f"objective {i}" for i in range(m))
    given = torch.as_tensor(losses, dtype=torch.float64)
    output = weighting(StepStatistics(gramian=torch.eye(m), losses=given, names=names), state)
    return output.weights, output.state, SolverStatus(int(output.result.status))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("name", SETTINGS)
def test_no_step_explodes_and_the_next_ordinary_one_is_an_ordinary_one(name, case) -> None:
    """Hundreds of broken steps between ordinary ones leave nothing behind."""
    weighting, state = SETTINGS[name](range(3)), None
    for losses in [ORDINARY, *[BROKEN[case]] * 300, ORDINARY]:
        weights, state, status = weigh(weighting, losses, state)
        assert torch.isfinite(weights).all()
        if status is SolverStatus.CONVERGED:
            assert float(weights.abs().max()) < LARGEST_WEIGHT
        else:
            assert status in (SolverStatus.OUT_OF_DOMAIN, SolverStatus.NON_FINITE)
            assert weights.tolist() == [1 / 3] * 3
    assert status is SolverStatus.CONVERGED


# ------------------------------------------------------------------------------------ UW and IMTLL

LEARNED = {"UW": (UW, 0.5, "log_variances"), "IMTLL": (IMTLL, 1.0, "log_scales")}
"""The class, weight times loss where it settles, and what it keeps."""


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("bad", [0.0, -1e-30, -1.0, -1e6])
def test_a_loss_that_is_not_positive_leaves_every_scale_as_it_was(name, bad) -> None:
    weighting = LEARNED[name][0](lr=0.3)
    _, before, _ = weigh(weighting, [2.0, 3.0])
    weights, after, status = weigh(weighting, [2.0, bad], before)
    assert status is SolverStatus.OUT_OF_DOMAIN
    assert weights.tolist() == [0.5, 0.5]
    assert same(after, before)
    again, _, status = weigh(weighting, [2.0, 3.0], after)
    assert status is SolverStatus.CONVERGED
    assert torch.equal(again, weigh(weighting, [2.0, 3.0], before)[0])


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("loss", [1e4, 1e8, 1e30, 1e300])
def test_a_huge_loss_is_weighed_by_its_reciprocal_and_not_silenced(name, loss) -> None:
    make, settled, _ = LEARNED[name]
    _, state, _ = weigh(make(), [1.0, loss])
    weights, _, status = weigh(make(), [1.0, loss], state)
    assert status is SolverStatus.CONVERGED
    assert float(weights[1]) * loss == pytest.approx(settled, rel=1e-9)
    assert float(weights[0]) == settled


@pytest.mark.parametrize("name", LEARNED)
def test_a_weight_that_is_far_too_large_is_corrected_in_one_step(name) -> None:
    """A loss that stayed near 1e-12, and is 1 now."""
    make, settled, key = LEARNED[name]
    logs = math.log(1e-12) if name == "UW" else -math.log(1e-12)
    _, state, _ = weigh(make(), [1.0], {key: torch.tensor([logs], dtype=torch.float64)})
    assert float(weigh(make(), [1.0], state)[0]) == pytest.approx(settled, rel=RTOL)


@pytest.mark.parametrize(("name", "largest"), [("UW", 1600.0), ("IMTLL", 700.0)])
def test_losses_up_to_hundreds_are_learned_as_published(name, largest) -> None:
    """The default rate, against plain gradient descent on the function itself."""
    make, _, key = LEARNED[name]
    function = {"UW": scalarizations.uw, "IMTLL": scalarizations.imtl_l}[name]
    learned = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    sgd, state = torch.optim.SGD([learned], lr=0.01), None
    for step in range(5):
        losses = torch.tensor([1e-3, 1.0 + step, largest], dtype=torch.float64)
        sgd.zero_grad()
        function(losses, learned).backward()
        _, state, _ = weigh(make(), losses, state)
        sgd.step()
        torch.testing.assert_close(state[key], learned.detach(), rtol=RTOL, atol=RTOL)


# -------------------------------------------------------------------------------------------- FAMO


@pytest.mark.parametrize(("bounds", "bad"), [(None, 0.0), ([0.5, 0.25], 0.25)])
def test_famo_at_the_bound_is_out_of_its_domain(bounds, bad) -> None:
    weighting = FAMO(min_losses=bounds, lr=0.1)
    _, state, _ = weigh(weighting, [2.0, 3.0])
    state = weighting.observe(state, torch.tensor([1.0, 3.0], dtype=torch.float64))
    weights, after, status = weigh(weighting, [2.0, bad], state)
    assert status is SolverStatus.OUT_OF_DOMAIN
    assert weights.tolist() == [0.5, 0.5]
    assert same(after, state)
    again, _, status = weigh(weighting, [2.0, 3.0], after)
    assert status is SolverStatus.CONVERGED
    assert torch.equal(again, weigh(weighting, [2.0, 3.0], state)[0])


def test_famo_learns_nothing_from_a_step_at_the_bound() -> None:
    weighting = FAMO(lr=0.1)
    _, fresh, _ = weigh(weighting, [2.0, 3.0])
    _, state, _ = weigh(weighting, [2.0, 0.0], fresh)  # those of the step before are out of date
    after = weighting.observe(state, torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert torch.equal(after["logits"], fresh["logits"])
    fallen = weighting.observe(fresh, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert fallen["num_updates"].tolist() == [1, 0]
    assert float(fallen["logits"][1]) == 0.0


def test_the_function_has_no_value_at_the_bound() -> None:
    losses = torch.tensor([1.0, 0.0], requires_grad=True)
    value = scalarizations.famo(losses, torch.zeros(2))
    assert math.isnan(value.item())
    value.backward()
    assert losses.grad.isnan().any()


# ------------------------------------------------------------------------------- preferences, signs


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_ray_does_not_depend_on_the_length_of_the_preference(size) -> None:
    plain, scaled = PBI(preference=[3.0, 4.0]), PBI(preference=[3.0 * size, 4.0 * size])
    expected, _, _ = weigh(plain, [1.0, 2.0])
    weights, _, status = weigh(scaled, [1.0, 2.0])
    assert status is SolverStatus.CONVERGED
    torch.testing.assert_close(weights, expected, rtol=RTOL, atol=0)


@pytest.mark.parametrize("size", [1e-20, 1e-200, 1e-320])
def test_cosmos_among_vanishing_losses_is_out_of_its_domain(size) -> None:
    weights, _, status = weigh(COSMOS(), [1.0 * size, 2.0 * size])
    assert status is SolverStatus.OUT_OF_DOMAIN
    assert weights.tolist() == [0.5, 0.5]
    scaled, _, status = weigh(COSMOS(penalty=1e-220), [1e-200, 2e-200])  # small beside them
    assert status is SolverStatus.CONVERGED
    torch.testing.assert_close(scaled, torch.tensor([0.5, 0.5]).double(), rtol=RTOL, atol=0)


@pytest.mark.parametrize("mu", [1e-320, 1e-12, 1e300])
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_stch_overflows_for_no_mu(mu, scale) -> None:
    weights, _, status = weigh(STCH(preference=[1.0, 1.0], mu=mu), [1.0 * scale, -2.0 * scale])
    assert status is SolverStatus.CONVERGED
    assert float(weights.sum()) == pytest.approx(1.0, rel=RTOL)


# ---------------------------------------------------------------------------------- the unlearners


def test_a_multiplier_that_would_overflow_stays() -> None:
    weighting = PDU(forget="objective 0", retain="objective 1", eps=0.5, step_size=100.0)
    weights, state, status = weigh(weighting, [1.0, 1e307])
    weights, state, status = weigh(weighting, [1.0, 0.4], state)
    assert status is SolverStatus.CONVERGED
    assert weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bad", [-float("inf"), float("inf"), float("nan")])
def test_eupmu_learns_nothing_from_a_loss_that_is_not_finite_after_the_step(bad) -> None:
    weighting = EUPMU(forget="objective 0", retain="objective 1", lr=0.1, initial=2.0)
    _, state, _ = weigh(weighting, [1.0, 1.0])
    after = weighting.observe(state, torch.tensor([1.0, bad], dtype=torch.float64))
    assert after["multipliers"].tolist() == [2.0, 2.0]
