"""PDU and EUPMU: their duals by hand, the constraint they reach, and what moves no multiplier."""

from __future__ import annotations

import pytest
import torch

import moopt
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import EUPMU, PDU

RTOL = 1e-12
"""Two float64 ways to one number of a few terms."""

NAMES = ("kl", "forget", "retain")


def weigh(weighting, losses, state=None, names=NAMES, **fields):
    m = len(losses)
    given = torch.tensor(losses, dtype=torch.float64)
    return weighting(
        StepStatistics(gramian=torch.eye(m), losses=given, names=names[:m], **fields), state
    )


def pdu(**settings) -> PDU:
    return PDU(forget="forget", retain=("retain", "kl"), **settings)


def eupmu(**settings) -> EUPMU:
    return EUPMU(forget="forget", retain=("retain", "kl"), **({"lr": 0.1} | settings))


# --------------------------------------------------------------------------------------------- PDU


def test_pdu_is_dual_ascent_of_each_bound() -> None:
    """Against the recursion of one objective at a time, in plain numbers."""
    generator = torch.Generator().manual_seed(0)
    history = torch.rand(30, 3, generator=generator, dtype=torch.float64).tolist()
    weighting, state, by_hand = pdu(eps=0.5, step_size=0.7, initial=0.2), None, [0.2, 0.2]
    signs = set()
    for losses in history:
        weights, state, _ = weigh(weighting, losses, state)
        assert weights.tolist() == pytest.approx([by_hand[0], 1.0, by_hand[1]], rel=RTOL)
        for k, place in enumerate((0, 2)):
            by_hand[k] = max(0.0, by_hand[k] + 0.7 * (losses[place] - 0.5))
        signs |= {value > 0 for value in by_hand}
    assert signs == {True, False}  # the bound at 0 was met, and left


def test_pdu_weights_are_the_derivative_of_the_lagrangian() -> None:
    losses = torch.tensor([0.3, 2.0, 0.9], dtype=torch.float64, requires_grad=True)
    multipliers = torch.tensor([1.5, 9.0, 0.25], dtype=torch.float64, requires_grad=True)
    lagrangian = losses[1] + multipliers[0] * (losses[0] - 0.4) + multipliers[2] * (losses[2] - 0.4)
    by_losses, by_multipliers = torch.autograd.grad(lagrangian, (losses, multipliers))
    weighting = pdu(eps=0.4, step_size=1e-2)
    state = weighting.initial_state(3) | {"multipliers": multipliers.detach()}
    weights, next_state, _ = weigh(weighting, losses.tolist(), state)
    torch.testing.assert_close(weights, by_losses, rtol=RTOL, atol=0)
    ascended = multipliers.detach() + 1e-2 * by_multipliers
    torch.testing.assert_close(next_state["multipliers"], ascended, rtol=RTOL, atol=0)


def test_pdu_settles_at_the_solution_of_the_constrained_problem() -> None:
    """min (x - 3)^2 subject to x^2 <= 1: x = 1, and lambda = 2 by the stationarity condition."""
    x = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    method = PDU(forget="forget", retain="retain", eps=1.0, step_size=0.1)
    optimizer = moopt.CommonDescent(torch.optim.SGD([x], lr=0.05), method)
    for _ in range(2000):
        optimizer.zero_grad()
        optimizer.backward({"forget": (x - 3) ** 2, "retain": x**2})
        optimizer.step()
    assert x.item() == pytest.approx(1.0, abs=1e-6)
    assert float(optimizer.param_groups[0]["moopt_state_multipliers"][1]) == pytest.approx(
        2.0, abs=1e-6
    )


def test_a_bound_that_holds_costs_nothing() -> None:
    x = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    method = PDU(forget="forget", retain="retain", eps=100.0, step_size=0.1)
    optimizer = moopt.CommonDescent(torch.optim.SGD([x], lr=0.05), method)
    for _ in range(400):
        optimizer.zero_grad()
        optimizer.backward({"forget": (x - 3) ** 2, "retain": x**2})
        optimizer.step()
    assert optimizer.record.weights.tolist() == [1.0, 0.0]
    assert x.item() == pytest.approx(3.0, abs=1e-9)


def test_the_warm_up_counts_the_steps_of_each_objective() -> None:
    weighting, state = pdu(eps=0.0, step_size=1.0, warmup_steps=2), None
    masks = [[True, True, True], [False, True, True], [True, True, True], [True, True, True]]
    multipliers = []
    for mask in masks:
        _, state, _ = weigh(weighting, [1.0, 1.0, 1.0], state, active=torch.tensor(mask))
        multipliers.append(state["multipliers"].tolist())
    assert multipliers == [[1, 1, 1], [1, 1, 1], [1, 1, 2], [2, 1, 3]]


def test_multipliers_belong_to_names() -> None:
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    method = pdu(eps=0.0, step_size=1.0)
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), method)
    losses = {
        "kl": lambda: w[0] ** 2,
        "forget": lambda: w[1],
        "retain": lambda: 3 * w[0],
    }

    def weights(*names: str) -> list[float]:
        optimizer.zero_grad()
        record = optimizer.backward({name: losses[name]() for name in names})
        optimizer.step()
        return record.weights.tolist()

    assert weights("retain", "forget") == [1.0, 1.0]
    assert weights("forget", "kl") == [1.0, 1.0]
    assert weights("kl", "retain", "forget") == [2.0, 4.0, 1.0]
    again = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), method)
    again.load_state_dict(optimizer.state_dict())
    again.backward({name: losses[name]() for name in ("forget", "retain", "kl")})
    assert again.record.weights.tolist() == [1.0, 7.0, 3.0]


# ------------------------------------------------------------------------------------------- EUPMU


def test_eupmu_is_the_projected_recursion_of_each_retain_loss() -> None:
    """Against the rule of one objective at a time, in plain numbers."""
    generator = torch.Generator().manual_seed(0)
    weighting, state = eupmu(eps=0.3, step_size=0.05, initial=0.2), None
    by_hand, signs = [0.2, 0.2], set()
    for _ in range(40):
        before, after = torch.rand(2, 3, generator=generator, dtype=torch.float64).tolist()
        weights, state, _ = weigh(weighting, before, state)
        assert weights.tolist() == pytest.approx([by_hand[0], 1.0, by_hand[1]], rel=RTOL)
        state = weighting.observe(state, torch.tensor(after, dtype=torch.float64), names=NAMES)
        for k, place in enumerate((0, 2)):
            fall = (before[place] - after[place]) / 0.1
            by_hand[k] = max(0.0, by_hand[k] - 0.05 * (fall + 0.3))
        signs |= {value > 0 for value in by_hand}
    assert signs == {True, False}


@pytest.mark.parametrize(("eps", "conflict"), [(0.0, True), (0.25, True), (0.0, False)])
def test_eupmu_settles_at_the_surgery_of_the_gradients(eps: float, conflict: bool) -> None:
    """Linear losses, so that one step's loss is its slope: w solves the constrained projection."""
    forget = torch.tensor([1.0, -1.0], dtype=torch.float64)
    retain = torch.tensor([-1.0, 0.5], dtype=torch.float64) * (1 if conflict else -1)
    x = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    method = EUPMU(forget="forget", retain="retain", lr=0.2, eps=eps)
    optimizer = moopt.CommonDescent(torch.optim.SGD([x], lr=0.2), method)
    for _ in range(400):
        optimizer.zero_grad()
        optimizer.backward({"forget": forget @ x, "retain": retain @ x})
        optimizer.step()
        optimizer.observe({"forget": forget @ x, "retain": retain @ x})
    # min ||d - g_f||^2 subject to g_r . d >= -eps, by its closed form.
    lack = max(0.0, -eps - float(retain @ forget))
    expected = forget + lack / float(retain @ retain) * retain
    torch.testing.assert_close(x.grad, expected, rtol=1e-9, atol=1e-9)
    assert (lack > 0) == conflict
    if conflict:  # the retain loss rises by eps lr a step, no more
        assert float(retain @ x.grad) == pytest.approx(-eps, abs=1e-9)


def test_eupmu_learns_nothing_twice_nor_from_what_is_not_finite() -> None:
    weighting = eupmu(step_size=1.0)
    before = [1.0, 1.0, 1.0]
    _, state, _ = weigh(weighting, before)
    once = weighting.observe(state, torch.tensor([2.0, 2.0, 2.0]))
    assert once["multipliers"].tolist() == pytest.approx([10.0, 0.0, 10.0], rel=RTOL)
    twice = weighting.observe(once, torch.tensor([3.0, 3.0, 3.0]))
    assert torch.equal(twice["multipliers"], once["multipliers"])
    part = weighting.observe(state, torch.tensor([float("nan"), 2.0, 2.0]))
    assert part["multipliers"].tolist() == pytest.approx([0.0, 0.0, 10.0], rel=RTOL)
    # a broken step between does not leave the losses of an older one behind
    _, broken, _ = weigh(weighting, [1.0, float("inf"), 1.0], state)
    unchanged = weighting.observe(broken, torch.tensor([2.0, 2.0, 2.0]))
    assert torch.equal(unchanged["multipliers"], state["multipliers"])


def test_eupmu_leaves_absent_objectives_alone() -> None:
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), eupmu(step_size=1.0))
    optimizer.backward({"retain": w[0] ** 2, "forget": w[0] * w[1]})
    optimizer.step()
    optimizer.observe({"retain": torch.tensor(1.5), "forget": torch.tensor(0.0)})
    optimizer.zero_grad()
    optimizer.backward({"kl": w[1] ** 2, "forget": w[0] * w[1]})
    optimizer.step()
    optimizer.observe({"kl": w[1].detach() ** 2 * 0.0 + 10.0})
    optimizer.zero_grad()
    record = optimizer.backward({"forget": w[0] * w[1], "kl": w[1] ** 2, "retain": w[0] ** 2})
    kl_before = 0.9**2  # w[1] after the first step, whose only weight was that of `forget`
    expected = [1.0, (10.0 - kl_before) / 0.1, 0.5 / 0.1]
    assert record.weights.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_moves_no_multiplier(bad: float) -> None:
    weighting = pdu(eps=0.1)
    _, state, _ = weigh(weighting, [1.0, 1.0, 1.0])
    _, next_state, _ = weigh(weighting, [1.0, bad, 1.0], state)
    assert all(torch.equal(next_state[key], state[key]) for key in state)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: pdu(eps=-0.1), ValueError, "`eps` of `PDU`"),
        (lambda: pdu(eps=1.0, step_size=-1.0), ValueError, "`step_size` of `PDU`"),
        (lambda: pdu(eps=1.0, initial=-1.0), ValueError, "`initial` of `PDU`.*Use 1"),
        (lambda: eupmu(lr=0.0), ValueError, "`lr` of `EUPMU`"),
        (lambda: eupmu(eps=-0.1), ValueError, "`eps` of `EUPMU`"),
        (lambda: eupmu(step_size=-0.1), ValueError, "`step_size` of `EUPMU`"),
        (lambda: eupmu(initial=-0.1), ValueError, "`initial` of `EUPMU`.*Use 0"),
        (lambda: EUPMU(forget="a", retain="b"), TypeError, "lr"),
        (lambda: pdu(eps=1.0, warmup_steps=-1), ValueError, "`warmup_steps` of `PDU`"),
        (lambda: pdu(eps=1.0, warmup_steps=1.5), ValueError, "`warmup_steps` of `PDU`"),
        (lambda: PDU(forget="a", retain="a", eps=1.0), ValueError, "`retain` of `PDU` must not"),
        (lambda: PDU(forget=(), retain="a", eps=1.0), ValueError, "`forget` of `PDU`"),
        (lambda: PDU(forget="a", retain="b"), TypeError, "eps"),
        (lambda: weigh(pdu(eps=1.0), [1.0], names=("b",)), ValueError, "the role of every"),
        (
            lambda: pdu(eps=1.0)(StepStatistics(gramian=torch.eye(2), losses=torch.ones(2))),
            ValueError,
            "needs the objectives' names",
        ),
    ],
)
def test_errors_name_the_rule_and_the_remedy(build, error, match) -> None:
    with pytest.raises(error, match=match):
        build()


def test_a_step_with_one_objective_teaches_nothing():
    """Nothing was weighed in it; the losses of an older step are not those before it."""
    x = torch.nn.Parameter(torch.tensor(1.0))
    method = EUPMU(forget="f", retain="r", lr=0.1)
    optimizer = moopt.CommonDescent(torch.optim.SGD([x], lr=0.1), method)
    optimizer.backward({"f": -x, "r": 5 * x})
    optimizer.step()
    optimizer.observe({"f": -x, "r": 5 * x})
    kept = {k: v.clone() for k, v in optimizer.param_groups[0].items() if torch.is_tensor(v)}
    optimizer.backward({"f": -x, "r": 5 * x})
    optimizer.step()
    with pytest.warns(UserWarning, match="EUPMU learns from the losses after the step"):
        optimizer.backward({"r": 30 * x})
    optimizer.step()
    optimizer.observe({"r": torch.tensor(20.0)})
    key = next(key for key in kept if "multipliers" in key)
    assert torch.equal(optimizer.param_groups[0][key], kept[key])
