"""state_by_name: a weighting's state, kept by objective name while objectives come and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moopt.aggregators import TrackingAggregator
from moopt.aggregators.base import Method

NAMES_KEY = "moopt_names"
REACHED_KEY = "moopt_reached"  # positions of parameters that an objective ever reached
STEP_KEY = "moopt_step"
METHOD_KEY = "moopt_method"
_PREFIX = "moopt_state_"


def position_tensor(positions: Sequence[int], device: torch.device) -> Tensor:
    """int64 `[k]`, filled entry by entry: a list would be copied from the host, and waited for."""
    entries = [torch.full((), i, dtype=torch.int64, device=device) for i in positions]
    return torch.stack(entries)


def is_stateful(weighting: Method) -> bool:
    """Whether `weighting` keeps anything from step to step."""
    return bool(weighting.state_axes) or isinstance(weighting, TrackingAggregator)


def rows_key(aggregator: TrackingAggregator, position: int | str) -> str:
    """Where the tracked rows of a parameter lie in the bank."""
    return f"moopt_rows_{aggregator.tracked}_{position}"


def enrol(
    bank: MutableMapping[str, Any],
    weighting: Method,
    names: Sequence[str],
    device: torch.device | None = None,
) -> None:
    """Make room in `bank` for the state of every objective in `names`.

    The bank is any mutable mapping of plain values: the first parameter group of an optimizer (so
    that every kind of checkpoint keeps it) or a dictionary of the caller. Objectives already
    enrolled keep their state; new ones get the initial one.
    """
    known = list(bank.get(NAMES_KEY, []))
    refuse_other_state(bank, weighting)
    roster = known + [name for name in names if name not in known]
    if roster == known:
        return
    fresh = weighting.initial_state(len(roster), device)
    for key, axes in weighting.state_axes.items():
        former = bank.get(_PREFIX + key)
        value = fresh[key]
        if former is not None:
            block = tuple(slice(0, len(known)) for _ in range(axes))
            value = value.clone()
            value[block] = former.to(value.device)
        bank[_PREFIX + key] = value
    bank.setdefault(STEP_KEY, 0)
    bank[METHOD_KEY] = type(weighting).__name__
    bank[NAMES_KEY] = roster


def gather(
    bank: MutableMapping[str, Any],
    weighting: Method,
    names: Sequence[str],
    device: torch.device,
) -> dict[str, Tensor]:
    """The state of the objectives in `names`, in that order, on `device`."""
    enrol(bank, weighting, names, device)
    positions = [bank[NAMES_KEY].index(name) for name in names]
    if positions == list(range(len(bank[NAMES_KEY]))):
        return {key: bank[_PREFIX + key].to(device) for key in weighting.state_axes}
    state = {}
    for key, axes in weighting.state_axes.items():
        value = bank[_PREFIX + key].to(device)
        for axis in range(axes):
            value = value.index_select(axis, position_tensor(positions, device))
        state[key] = value
    return state


def scatter(
    bank: MutableMapping[str, Any],
    weighting: Method,
    names: Sequence[str],
    state: dict[str, Tensor],
    *,
    steps: int = 1,
) -> None:
    """Write the state of the objectives in `names` back; the others keep theirs.

    `steps` is how many the counter of steps advances: 0 where no step was combined.
    """
    positions = [bank[NAMES_KEY].index(name) for name in names]
    everything = positions == list(range(len(bank[NAMES_KEY])))
    for key, axes in weighting.state_axes.items():
        value = state[key].detach()
        if everything:
            bank[_PREFIX + key] = value.clone()
            continue
        whole = bank[_PREFIX + key].to(value.device).clone()
        index = position_tensor(positions, value.device)
        if axes == 0:
            whole = value.clone()
        elif axes == 1:
            whole[index] = value
        else:
            whole[index[:, None], index[None, :]] = value
        bank[_PREFIX + key] = whole
    bank[STEP_KEY] += steps


def refuse_unallocated(bank: MutableMapping[str, Any], weighting: Method) -> None:
    """Raise where a distributed checkpoint would drop a state that does not exist yet.

    Raises:
        RuntimeError: `weighting` is stateful and `bank` holds nothing of it.
    """
    if is_stateful(weighting) and NAMES_KEY not in bank:
        raise RuntimeError(
            f"the state of {type(weighting).__name__} does not exist before the first step, so a"
            " distributed checkpoint would drop it silently; pass objectives=(names) to"
            " CommonDescent."
        )


def refuse_other_state(bank: Mapping[str, Any], weighting: Method) -> None:
    """Raise where a checkpoint's state is of another weighting.

    Raises:
        ValueError: `bank` names objectives but another method, or lacks an entry of this
            weighting's state.
    """
    if bank.get(METHOD_KEY, type(weighting).__name__) != type(weighting).__name__:
        raise ValueError(
            f"the loaded state is of another weighting than {weighting}: it is that of"
            f" {bank[METHOD_KEY]}. Build CommonDescent with the weighting that was saved."
        )
    missing = [key for key in weighting.state_axes if _PREFIX + key not in bank]
    if isinstance(weighting, TrackingAggregator):
        prefix = rows_key(weighting, "")
        missing += [] if any(key.startswith(prefix) for key in bank) else [weighting.tracked]
    if bank.get(NAMES_KEY) and missing:
        raise ValueError(
            f"the loaded state is of another weighting than {weighting}: it lacks"
            f" {', '.join(missing)}. Build CommonDescent with the weighting that was saved."
        )


def roster_of(objectives: Iterable[str]) -> tuple[str, ...]:
    """The names given as `objectives`, checked.

    Raises:
        ValueError: a bare string, no name, or a name twice.
    """
    names = tuple(objectives)
    if isinstance(objectives, str) or not names or len(set(names)) != len(names):
        raise ValueError(
            f"`objectives` must be distinct names in a sequence; got {objectives!r}. Pass for"
            " instance ('forget', 'retain')."
        )
    return names


def refuse_unknown(names: Iterable[str], objectives: Sequence[str] | None) -> None:
    """Raise where a name is not among those given as `objectives`; None allows every name.

    Raises:
        ValueError: an unknown name, whose state a distributed checkpoint could not load.
    """
    unknown = [name for name in names if objectives is not None and name not in objectives]
    if unknown:
        raise ValueError(
            f"`objectives` of CommonDescent names {', '.join(objectives or ())}; got"
            f" {', '.join(unknown)}. Use the same names, or leave `objectives` out."
        )
