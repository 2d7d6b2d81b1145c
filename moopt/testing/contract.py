"""One check per rule that every weighting obeys, whatever it guarantees."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moopt.record import StepStatistics
from moopt.scalarizations import Scalarization
from moopt.status import SolverStatus
from moopt.testing.directions import (
    DIRECTION_TOL,
    SIMPLEX_TOL,
    Build,
    assert_same_direction,
    losses_of,
    size,
    statistics,
    weigh,
)
from moopt.testing.sampling import Case


def _mask(case: Case) -> Tensor:
    """About two thirds active, at least one."""
    active = torch.tensor([i % 3 != 1 for i in range(case.m)])
    return active


def _same(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(
        torch.equal(state[key], other[key]) for key in other
    )


def check_mask_equals_dropping(build: Build, case: Case) -> None:
    """Inactive rows get weight 0 and influence nothing, not even with NaN in them."""
    active = _mask(case)
    kept = active.nonzero().flatten()
    poisoned = case.gramian.clone()
    poisoned[~active] = float("nan")
    poisoned[:, ~active] = float("inf")
    losses = losses_of(case).masked_fill(~active, float("nan"))
    masked = build(range(case.m))(statistics(poisoned, losses, active)).weights
    assert (masked[~active] == 0).all()
    dropped = build(kept.tolist())(statistics(case.gramian[kept][:, kept], losses[kept])).weights
    rows = case.jacobian[kept]
    assert_same_direction(rows.T @ masked[kept], rows.T @ dropped, size(rows, dropped))


def check_nothing_active(build: Build, case: Case) -> None:
    """Without an active objective every weight is 0."""
    weights = weigh(build, case, torch.zeros(case.m, dtype=torch.bool)).weights
    assert (weights == 0).all()


def check_types(build: Build, case: Case) -> None:
    """float64 weights on the Gramian's device, whatever its dtype; no graph."""
    output = weigh(build, case)
    assert output.weights.dtype == torch.float64
    assert output.weights.shape == (case.m,)
    assert output.weights.device == case.gramian.device
    assert not output.weights.requires_grad
    single = statistics(case.gramian.float(), losses_of(case))
    assert build(range(case.m))(single).weights.dtype == torch.float64
    if output.result is not None:
        assert output.result.status.dtype == torch.int64
        assert output.result.status.shape == output.result.gap.shape == ()


def check_batch(build: Build, case: Case) -> None:
    """Leading dimensions are independent parameter groups, each with its own mask."""
    weighting = build(range(case.m))
    other = torch.eye(case.m, dtype=torch.float64) * float(case.norms.max().clamp_min(1.0)) ** 2
    groups = torch.stack([case.gramian, other, case.gramian])
    masks = torch.stack([_mask(case) | True, _mask(case) | True, _mask(case)])
    batched = weighting(statistics(groups, losses_of(case), masks))
    assert batched.weights.shape == (3, case.m)
    for gramian, mask, weights in zip(groups, masks, batched.weights, strict=True):
        alone = weighting(statistics(gramian, losses_of(case), mask)).weights
        difference = weights - alone
        # Compared as directions: on dependent rows the weights themselves are not determined.
        length = float((difference @ gramian @ difference).clamp_min(0.0).sqrt())
        scale = float((alone.abs() * gramian.diagonal().sqrt()).sum())
        assert length <= DIRECTION_TOL * scale


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
    assert torch.equal(weights, torch.cat([plain, torch.zeros(2, dtype=torch.float64)]))


def check_determinism(build: Build, case: Case) -> None:
    """Bit for bit, and without writing to the input."""
    gramian = case.gramian
    given = statistics(gramian, losses_of(case), _mask(case))
    first, second = (build(range(case.m))(given).weights for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(gramian, case.gramian)


def check_state_round_trip(build: Build, case: Case) -> None:
    """The state is complete, flat, shaped as declared, and not changed in place."""
    weighting = build(range(case.m))
    initial, wider = weighting.initial_state(case.m), weighting.initial_state(case.m + 1)
    assert set(initial) == set(weighting.state_axes)
    for key, axes in weighting.state_axes.items():
        assert axes in (0, 1, 2), f"{axes} leading axes of {key!r} cannot index objectives"
        assert initial[key].shape[:axes] == (case.m,) * axes
        assert initial[key].shape[axes:] == wider[key].shape[axes:]
    first = statistics(case.gramian, losses_of(case))
    later = statistics(torch.eye(case.m, dtype=torch.float64), losses_of(case))
    weights, state, _ = weighting(first)
    assert torch.equal(weights, weighting(first, initial).weights)
    assert set(state) == set(initial)
    assert all(
        state[k].shape == initial[k].shape and state[k].dtype == initial[k].dtype for k in state
    )
    copy = {key: value.clone() for key, value in state.items()}
    once = weighting(later, state)
    assert _same(copy, state)
    again = weighting(later, copy)
    assert torch.equal(once.weights, again.weights)
    assert _same(again.state, once.state)


def check_non_finite(build: Build, case: Case) -> None:
    """No exception; finite weights; uniform and NON_FINITE where there is a solver.

    The state stays as it was, but for a method that looks at no value: then all is as ever. So it
    is at the first step and after two, and the step after is a finite one again.
    """
    active, weighting = _mask(case), build(range(case.m))
    on = active.nonzero().flatten()
    usual = statistics(case.gramian, losses_of(case), active)
    past = weighting.initial_state(case.m)
    pasts = [past]
    if weighting.state_axes:
        for _ in range(2):
            past = weighting(usual, past).state
            if weighting.observes:
                past = weighting.observe(past, 0.9 * losses_of(case))
        pasts.append(past)
    infinity = float("inf")
    for past, value in itertools.product(pasts, (float("nan"), infinity, -infinity)):
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
            assert torch.isfinite(output.weights).all()
            assert (output.weights[~active] == 0).all()
            if output.result is not None:
                assert int(output.result.status) == SolverStatus.NON_FINITE
                assert (output.weights[active] == output.weights[on[0]]).all()
                assert float(output.weights.sum()) > 1.0 - SIMPLEX_TOL
            assert _same(output.state, past) or (
                torch.equal(output.weights, as_ever.weights) and _same(output.state, as_ever.state)
            )
            assert torch.isfinite(weighting(usual, output.state).weights).all()


def check_needs(build: Build, case: Case) -> None:
    """What `needs` does not declare is not looked at: several processes would drift apart."""
    weighting = build(range(case.m))
    whole = statistics(case.gramian, losses_of(case))
    given = dataclasses.replace(
        whole,
        losses=whole.losses if "losses" in weighting.needs else None,
        names=whole.names if "names" in weighting.needs else None,
    )
    assert torch.equal(weighting(given).weights, weighting(whole).weights)


CONTRACT: dict[str, Callable[[Build, Case], None]] = {
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
