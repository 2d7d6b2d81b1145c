"""Rules of the state: complete, flat, shaped as declared, and changed by nobody else."""

import torch
from torch import Tensor

from moopt.testing.directions import Build, losses_of, same_state, statistics
from moopt.testing.sampling import Case
from moopt.weightings import Weighting


def check_state_round_trip(build: Build, case: Case) -> None:
    """The state is complete, flat, shaped as declared, and not changed in place."""
    weighting = build(range(case.m))
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
    first = statistics(case.gramian, losses_of(case))
    later = statistics(torch.eye(case.m, dtype=torch.float64), losses_of(case))
    weights, state, _ = weighting(first)
    assert torch.equal(weights, weighting(first, initial).weights), (
        "`state=None` must mean `initial_state`"
    )
    assert set(state) == declared, (
        f"the state that is returned has {sorted(state)}, `state_axes` declares {sorted(declared)}"
    )
    for key, value in state.items():
        was, now = ((list(v.shape), v.dtype) for v in (initial[key], value))
        assert was == now, f"{key!r} changes from {was} to {now} in a step"
    copy = {key: value.clone() for key, value in state.items()}
    once = weighting(later, state)
    assert same_state(copy, state), "the state was changed in place: return new tensors"
    again = weighting(later, copy)
    same = torch.equal(once.weights, again.weights) and same_state(again.state, once.state)
    assert same, "the same state and input do not give the same step: something is kept elsewhere"
    if weighting.observes:
        _check_observing(weighting, state, losses_of(case))


def _check_observing(weighting: Weighting, state: dict[str, Tensor], losses: Tensor) -> None:
    """`observe` too returns a state of the same form, changes none, and keeps nothing elsewhere."""
    names = tuple(f"objective {i}" for i in range(len(losses)))
    copy = {key: value.clone() for key, value in state.items()}
    once = weighting.observe(state, 0.9 * losses, names=names)
    assert same_state(copy, state), "`observe` changed the state in place: return new tensors"
    assert same_state(once, weighting.observe(copy, 0.9 * losses, names=names)), (
        "the same state and losses do not give the same `observe`: something is kept elsewhere"
    )
    form = {key: (value.shape, value.dtype) for key, value in state.items()}
    now = {key: (value.shape, value.dtype) for key, value in once.items()}
    assert now == form, f"`observe` changes the state from {form} to {now}"
