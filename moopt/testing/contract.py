"""The contract: one check per rule that every weighting obeys, whatever it guarantees."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import Scalarization
from moopt.testing.directions import (
    DIRECTION_TOL,
    SIMPLEX_TOL,
    Build,
    Outcome,
    State,
    assert_same_direction,
    losses_of,
    pasts,
    statistics,
)
from moopt.testing.sampling import DTYPES, Case
from moopt.weightings import Weighting, WeightingOutput


def mask_of(case: Case) -> Tensor:
    """bool `[m]`: about two thirds of the objectives, the first one among them."""
    return torch.arange(case.m) % 3 != 1


def weigh(build: Build, case: Case, active: Tensor | None = None) -> WeightingOutput:
    """The output on a case, from the initial state."""
    weighting = build(range(case.m))
    return weighting(statistics(case.gramian, losses_of(case), active))


def form_of(state: State) -> dict[str, tuple[list[int], torch.dtype]]:
    """The shape and the dtype of each entry."""
    return {key: (list(value.shape), value.dtype) for key, value in state.items()}


def same_state(state: State, other: State) -> bool:
    """Bit for bit; NaN, which may mean "nothing yet", equals NaN."""
    if form_of(state) != form_of(other):
        return False
    pairs = [(state[key], other[key]) for key in other]
    return all(bool(((a == b) | (a != a) & (b != b)).all()) for a, b in pairs)


def check_output(build: Build, case: Case) -> None:
    """It returns a `WeightingOutput` of a tensor and a flat dictionary of tensors."""
    output = weigh(build, case)
    assert isinstance(output, WeightingOutput), (
        f"the call must return a WeightingOutput; got {type(output).__name__}. Return"
        " WeightingOutput(weights, state, result), with {} and None for no state and no solver"
    )
    weights, state, result = output
    assert isinstance(weights, Tensor), (
        f"weights must be a float64 tensor; got {type(weights).__name__}"
    )
    assert isinstance(state, dict), (
        f"the state must be a dict of tensors, {{}} for none; got {type(state).__name__}"
    )
    lost = result is not None and int(result.status) == SolverStatus.OUT_OF_DOMAIN
    assert not (lost and build(range(case.m)).reads_gradients), (
        "the weights of finite gradients are not finite; got NaN or infinity from `weigh`. Guard"
        " every division: a norm is > 0, a sum of cosines may be 0"
    )
    odd = [key for key, value in state.items() if not isinstance(value, Tensor)]
    assert not odd, f"the state must be flat, of tensors; {odd} are not"


def check_mask_equals_dropping(build: Build, case: Case) -> None:
    """Inactive rows get weight 0 and influence nothing, neither now nor later, not even as NaN."""
    weighting, active, losses = build(range(case.m)), mask_of(case), losses_of(case)
    poisoned = case.gramian.masked_fill(~active[:, None], math.nan).masked_fill(~active, math.inf)
    usual = statistics(case.gramian, losses, active)
    ruined = statistics(poisoned, losses.masked_fill(~active, math.nan), active)
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
    kept = active.nonzero().flatten()
    rows = case.jacobian[kept]
    masked = rows.T @ weighting(ruined).weights[kept]
    dropped = build(kept.tolist())(statistics(case.gramian[kept][:, kept], losses[kept]))
    alone = Outcome(rows, dropped)
    assert_same_direction(masked, alone.direction, alone.size, "without the inactive objectives")


def check_nothing_active(build: Build, case: Case) -> None:
    """Without an active objective every weight is 0."""
    weights = weigh(build, case, torch.zeros(case.m, dtype=torch.bool)).weights
    assert (weights == 0).all(), f"no objective is active, but the weights are {weights.tolist()}"


def check_types(build: Build, case: Case) -> None:
    """float64 weights on the Gramian's device, whatever its dtype; no graph."""
    weighting = build(range(case.m))
    weights, _, result = weigh(build, case)
    assert weights.shape == (case.m,), f"{case.m} objectives got weights {list(weights.shape)}"
    assert weights.device == case.gramian.device, "the weights must be on the Gramian's device"
    assert not weights.requires_grad, "the weights carry a graph: detach the Gramian"
    for dtype in DTYPES:
        # The same noise for both: a coarse Gramian alone would be taken for a less exact one.
        noise = float(torch.finfo(dtype).eps)
        coarse = statistics(case.gramian.to(dtype), losses_of(case), noise=noise)
        weights = weighting(coarse).weights
        assert weights.dtype == torch.float64, (
            f"weights must be float64 whatever the Gramian is; got {weights.dtype} for {dtype}."
            " Begin with `statistics.gramian.double()`"
        )
        exact = weighting(dataclasses.replace(coarse, gramian=coarse.gramian.double())).weights
        assert torch.equal(weights, exact), (
            f"a Gramian in {dtype} must be worked on in float64; the weights differ from those of"
            " `gramian.double()`"
        )
    if result is not None:
        assert result.status.dtype == torch.int64, "`result.status` must be int64"
        assert result.status.shape == result.gap.shape == (), (
            "`result.status` and `result.gap` must have the Gramian's leading dimensions"
        )


def check_batch(build: Build, case: Case) -> None:
    """Leading dimensions are independent parameter groups, each with its own mask."""
    weighting, everyone = build(range(case.m)), mask_of(case) | True
    other = torch.eye(case.m, dtype=torch.float64) * float(case.norms.max().clamp_min(1.0)) ** 2
    groups = torch.stack([case.gramian, other, case.gramian])
    masks = torch.stack([everyone, everyone, mask_of(case)])
    batched = weighting(statistics(groups, losses_of(case), masks)).weights
    assert batched.shape == (3, case.m), (
        f"a Gramian {list(groups.shape)} must give weights {[3, case.m]}; got {list(batched.shape)}"
    )
    for gramian, mask, weights in zip(groups, masks, batched, strict=True):
        alone = weighting(statistics(gramian, losses_of(case), mask)).weights
        difference = weights - alone
        # Compared as directions: on dependent rows the weights themselves are not determined.
        length = float((difference @ gramian @ difference).clamp_min(0.0).sqrt())
        scale = float((alone.abs() * gramian.diagonal().sqrt()).sum())
        assert length <= DIRECTION_TOL * scale, (
            f"a group in a batch gets {weights.tolist()}, alone {alone.tolist()}: leading"
            " dimensions must not mix"
        )


def check_auxiliary_rows(build: Build, case: Case) -> None:
    """Extra rows get weight 0 and influence nothing."""
    expected = pad(weigh(build, case).weights, (0, 2))
    wide = pad(case.gramian, (0, 2, 0, 2), value=math.nan)
    plain = statistics(case.gramian, losses_of(case))
    given = dataclasses.replace(plain, gramian=wide, auxiliary=("a", "b"))
    weights = build(range(case.m))(given).weights
    assert torch.equal(weights, expected), (
        f"with two rows in `statistics.auxiliary` the weights must be {expected.tolist()}; got"
        f" {weights.tolist()}. Use the first `statistics.num_objectives` rows and append zeros"
    )


def check_determinism(build: Build, case: Case) -> None:
    """Bit for bit, and without writing to the input."""
    given = statistics(case.gramian, losses_of(case), mask_of(case))
    first, second = (build(range(case.m))(given).weights for _ in range(2))
    assert torch.equal(first, second), (
        f"the same input gives {first.tolist()} and then {second.tolist()}. Keep what changes in"
        " the state, random numbers as functions of a counter in it"
    )
    assert torch.equal(given.gramian, case.gramian), "the Gramian was written to"


def check_state_round_trip(build: Build, case: Case) -> None:
    """The state is complete, flat, shaped as declared, and not changed in place."""
    weighting, losses = build(range(case.m)), losses_of(case)
    initial, wider = weighting.initial_state(case.m), weighting.initial_state(case.m + 1)
    declared = set(weighting.state_axes)
    assert set(initial) == declared, (
        f"`initial_state` makes {sorted(initial)}, `state_axes` declares {sorted(declared)}"
    )
    for key, axes in weighting.state_axes.items():
        assert axes in (0, 1, 2), f"{axes} leading axes of {key!r} cannot index objectives"
        assert initial[key].shape[:axes] == (case.m,) * axes, (
            f"{key!r} must begin with {axes} axes of the number of objectives, as `state_axes`"
            f" says; got {list(initial[key].shape)} for {case.m}"
        )
        assert initial[key].shape[axes:] == wider[key].shape[axes:], (
            f"{key!r} has other axes that grow with the number of objectives"
        )
    first = statistics(case.gramian, losses)
    later = statistics(torch.eye(case.m, dtype=torch.float64), losses)
    weights, state, _ = weighting(first)
    given = weighting(first, initial).weights
    assert torch.equal(weights, given), "`state=None` must mean `initial_state`"
    assert set(state) == declared, (
        f"the state that is returned has {sorted(state)}, `state_axes` declares {sorted(declared)}"
    )

    def observe(past: State) -> WeightingOutput:
        next_state = weighting.observe(past, 0.9 * losses, names=first.names)
        return WeightingOutput(losses, next_state, None)

    _check_move("the step", functools.partial(weighting, first), initial)
    _check_move("the step", functools.partial(weighting, later), state)
    if weighting.observes:
        _check_move("`observe`", observe, state)


def _check_move(told: str, move: Callable[[State], WeightingOutput], past: State) -> None:
    """What leads from a state to the next keeps its form, writes to none, and keeps nothing."""
    copy = {key: value.clone() for key, value in past.items()}
    once = move(past)
    assert same_state(copy, past), f"{told} changed the state in place: return new tensors"
    again = move(copy)
    same = torch.equal(once.weights, again.weights) and same_state(once.state, again.state)
    assert same, f"{told} differs on the same state and input: something is kept elsewhere"
    was, now = form_of(past), form_of(once.state)
    assert was == now, f"{told} changes the state from {was} to {now}"


def check_non_finite(build: Build, case: Case) -> None:
    """No exception; finite weights; uniform and NON_FINITE where there is a solver.

    The state stays as it was, but for a method that looks at no value: then all is as ever. So it
    is at the first step and after two, and the step after is a finite one again.
    """
    weighting, active = build(range(case.m)), mask_of(case)
    usual = statistics(case.gramian, losses_of(case), active)
    values = (math.nan, math.inf, -math.inf)
    for past, value in itertools.product(pasts(weighting, usual, steps=2), values):
        as_ever = weighting(usual, past)
        losses = losses_of(case)
        losses[0] = value
        next_states = []
        for told, given in _spoiled(weighting, usual, losses):
            output = weighting(given, past)
            weights = output.weights
            assert torch.isfinite(weights).all(), f"{told} gives weights {weights.tolist()}"
            next_states.append((told, output.state))
            if given.gramian is usual.gramian:
                continue  # of several losses a method may use those that are finite
            assert (weights[~active] == 0).all(), f"{told} gives inactive objectives a weight"
            if output.result is not None:
                status = SolverStatus(int(output.result.status))
                assert status == SolverStatus.NON_FINITE, f"{told} has the status {status.name}"
                equal = bool((weights[active] == weights[0]).all())
                uniform = equal and float(weights.sum()) > 1.0 - SIMPLEX_TOL
                assert uniform, f"{told} must give uniform weights; got {weights.tolist()}"
            assert same_state(output.state, past) or (
                torch.equal(weights, as_ever.weights) and same_state(output.state, as_ever.state)
            ), f"{told} moves the state: keep the old one"
        if weighting.observes:
            observed = weighting.observe(as_ever.state, losses, names=usual.names)
            next_states.append((f"observing {value}", observed))
        for told, state in next_states:
            after = weighting(usual, state).weights
            assert torch.isfinite(after).all(), f"{told} spoils the next step's weights"


def _spoiled(
    weighting: Weighting, usual: StepStatistics, losses: Tensor
) -> Iterator[tuple[str, StepStatistics]]:
    """Steps in which a Gramian, or a loss, holds what the first of `losses` is."""
    assert usual.active is not None
    value, last = float(losses[0]), int(usual.active.nonzero()[-1])
    # A scalarization never looks at gradients.
    beside = losses if isinstance(weighting, Scalarization) else usual.losses
    for other in (0, last):
        gramian = usual.gramian.clone()
        gramian[0, other] = gramian[other, 0] = value
        if value == -math.inf:
            # Both signs at once, whose sum is NaN: a gradient that overflowed, and a conflict.
            gramian[last, last] = math.inf
        given = dataclasses.replace(usual, gramian=gramian, losses=beside)
        yield f"{value} in an active row", given
    if "losses" in weighting.needs:
        yield f"an active loss of {value}", dataclasses.replace(usual, losses=losses)


def check_needs(build: Build, case: Case) -> None:
    """What `needs` does not declare is not looked at: several processes would drift apart."""
    weighting = build(range(case.m))
    whole = statistics(case.gramian, losses_of(case))
    hidden = [field for field in ("losses", "names") if field not in weighting.needs]
    told = f"`needs` does not declare {' and '.join(hidden)}, but"
    without: dict[str, Any] = dict.fromkeys(hidden)
    try:
        weights = weighting(dataclasses.replace(whole, **without)).weights
    except Exception as error:
        raise AssertionError(f"{told} without them it fails: {error}") from error
    assert torch.equal(weights, weighting(whole).weights), f"{told} the weights depend on them"


CONTRACT: dict[str, Callable[[Build, Case], None]] = {
    "output": check_output,
    "mask equals dropping": check_mask_equals_dropping,
    "nothing active": check_nothing_active,
    "types": check_types,
    "batch": check_batch,
    "auxiliary rows": check_auxiliary_rows,
    "determinism": check_determinism,
    "state round trip": check_state_round_trip,
    "non-finite": check_non_finite,
    "needs": check_needs,
}
"""Rule -> its check."""
