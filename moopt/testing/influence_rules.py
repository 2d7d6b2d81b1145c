"""Rules of what may influence the weights and the state, and what may not."""

import dataclasses
import itertools

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import Scalarization
from moopt.testing.directions import (
    SIMPLEX_TOL,
    Build,
    assert_same_direction,
    losses_of,
    mask_of,
    pasts,
    same_state,
    size,
    statistics,
    weigh,
)
from moopt.testing.sampling import Case
from moopt.weightings import Weighting


def check_nothing_active(build: Build, case: Case) -> None:
    """Without an active objective every weight is 0."""
    weights = weigh(build, case, torch.zeros(case.m, dtype=torch.bool)).weights
    assert (weights == 0).all(), f"no objective is active, but the weights are {weights.tolist()}"


def check_mask_equals_dropping(build: Build, case: Case) -> None:
    """Inactive rows get weight 0 and influence nothing, neither now nor later, not even as NaN."""
    weighting, active = build(range(case.m)), mask_of(case)
    kept = active.nonzero().flatten()
    poisoned = case.gramian.clone()
    poisoned[~active] = float("nan")
    poisoned[:, ~active] = float("inf")
    usual = statistics(case.gramian, losses_of(case), active)
    ruined = statistics(poisoned, losses_of(case).masked_fill(~active, float("nan")), active)
    for past in pasts(weighting, usual):
        first, second = weighting(usual, past), weighting(ruined, past)
        assert (second.weights[~active] == 0).all(), (
            f"inactive objectives must get weight exactly 0; got {second.weights.tolist()} where"
            f" `statistics.active` is {active.tolist()}"
        )
        assert torch.equal(first.weights, second.weights), (
            f"NaN in inactive rows changes the weights: {first.weights.tolist()} become"
            f" {second.weights.tolist()}. Mask the rows before any sum (torch.where, not a product)"
        )
        assert same_state(first.state, second.state), (
            "what inactive rows hold leaks into the state. Keep the old entries where inactive"
        )
    masked = weighting(ruined).weights
    dropped = build(kept.tolist())(statistics(case.gramian[kept][:, kept], losses_of(case)[kept]))
    rows = case.jacobian[kept]
    scale = size(rows, dropped.weights)
    alone = rows.T @ dropped.weights
    assert_same_direction(rows.T @ masked[kept], alone, scale, "without the inactive objectives")


def check_auxiliary_rows(build: Build, case: Case) -> None:
    """Extra rows get weight 0 and influence nothing."""
    m = case.m
    wide = torch.full((m + 2, m + 2), float("nan"), dtype=torch.float64)
    wide[:m, :m] = case.gramian
    plain = weigh(build, case).weights
    given = StepStatistics(
        gramian=wide,
        losses=losses_of(case),
        names=tuple(f"objective {i}" for i in range(m)),
        auxiliary=("a", "b"),
    )
    weights = build(range(m))(given).weights
    expected = torch.cat([plain, torch.zeros(2, dtype=torch.float64)])
    assert torch.equal(weights, expected), (
        f"with two rows in `statistics.auxiliary` the weights must be {expected.tolist()}; got"
        f" {weights.tolist()}. Use the first `statistics.num_objectives` rows and append zeros"
    )


def check_needs(build: Build, case: Case) -> None:
    """What `needs` does not declare is not looked at: several processes would drift apart."""
    weighting = build(range(case.m))
    whole = statistics(case.gramian, losses_of(case))
    hidden = [field for field in ("losses", "names") if field not in weighting.needs]
    given = dataclasses.replace(
        whole,
        losses=whole.losses if "losses" in weighting.needs else None,
        names=whole.names if "names" in weighting.needs else None,
    )
    told = f"`needs` does not declare {' and '.join(hidden)}, but"
    try:
        weights = weighting(given).weights
    except Exception as error:
        raise AssertionError(f"{told} without them it fails: {error}") from error
    assert torch.equal(weights, weighting(whole).weights), f"{told} the weights depend on them"


def check_non_finite(build: Build, case: Case) -> None:
    """No exception; finite weights; uniform and NON_FINITE where there is a solver.

    The state stays as it was, but for a method that looks at no value: then all is as ever. So it
    is at the first step and after two, and the step after is a finite one again.
    """
    active, weighting = mask_of(case), build(range(case.m))
    on = active.nonzero().flatten()
    usual = statistics(case.gramian, losses_of(case), active)
    infinity = float("inf")
    values = (float("nan"), infinity, -infinity)
    for past, value in itertools.product(pasts(weighting, usual, steps=2), values):
        as_ever = weighting(usual, past)
        for where in ((on[0], on[0]), (on[0], on[-1])):
            gramian = case.gramian.clone()
            gramian[where] = gramian[where[::-1]] = value
            # Both signs at once, whose sum is NaN: a gradient that overflowed, and a conflict.
            gramian[on[-1], on[-1]] = infinity if value == -infinity else gramian[on[-1], on[-1]]
            losses = losses_of(case)
            if isinstance(weighting, Scalarization):  # it never looks at gradients
                losses[on[0]] = value
            output = weighting(statistics(gramian, losses, active), past)
            weights, told = output.weights, f"{value} in an active row"
            assert torch.isfinite(weights).all(), f"{told} gives weights {weights.tolist()}"
            assert (weights[~active] == 0).all(), f"{told} gives inactive objectives a weight"
            if output.result is not None:
                status = SolverStatus(int(output.result.status))
                assert status == SolverStatus.NON_FINITE, f"{told} has the status {status.name}"
                equal = bool((weights[active] == weights[on[0]]).all())
                uniform = equal and float(weights.sum()) > 1.0 - SIMPLEX_TOL
                assert uniform, f"{told} must give uniform weights; got {weights.tolist()}"
            assert same_state(output.state, past) or (
                torch.equal(weights, as_ever.weights) and same_state(output.state, as_ever.state)
            ), f"{told} moves the state: keep the old one"
            after = weighting(usual, output.state).weights
            assert torch.isfinite(after).all(), f"{told} spoils the next step's weights"
        _check_loss(weighting, usual, past, value)


def _check_loss(
    weighting: Weighting, usual: StepStatistics, past: dict[str, Tensor], value: float
) -> None:
    """The same of one loss, before the step and after it, beside a Gramian that is finite."""
    assert usual.losses is not None
    assert usual.active is not None
    bad = usual.losses.clone()
    bad[usual.active.nonzero()[0]] = value
    states = []
    if "losses" in weighting.needs:
        output = weighting(dataclasses.replace(usual, losses=bad), past)
        told = f"an active loss of {value}"
        assert torch.isfinite(output.weights).all(), f"{told} gives {output.weights.tolist()}"
        states.append((told, output.state))
    if weighting.observes:
        later = weighting(usual, past).state
        states.append((f"observing {value}", weighting.observe(later, bad, names=usual.names)))
    for told, state in states:
        after = weighting(usual, state).weights
        assert torch.isfinite(after).all(), f"{told} spoils the next step's weights"
