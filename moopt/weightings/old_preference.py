"""Preferences: how much each objective counts, by position or by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import frozen_numbers

Preference = Sequence[float] | Mapping[str, float]


def _equal_shares(gramian: Tensor, active: Tensor | None) -> Tensor:
    on = torch.ones(gramian.shape[:-1], dtype=torch.float64, device=gramian.device)
    on = on if active is None else on * active.to(on)
    return on / on.sum(-1, keepdim=True).clamp_min(1.0)


def checked_preference(preference: Preference | None, owner: str) -> Preference | None:
    """Return a frozen copy of the preference of a weighting.

    Args:
        preference: finite numbers >= 0, not all zero; a sequence in the order of the objectives,
            or a mapping from name to number. None stays None, which means equal.
        owner: the class whose argument it is, for messages.

    Raises:
        TypeError: if it is not made of numbers.
        ValueError: if they break the rule.
    """
    if preference is None:
        return None
    frozen = frozen_numbers(preference, f"`preference` of `{owner}`")
    values = tuple(frozen.values()) if isinstance(frozen, dict) else frozen
    if not any(values) or not all(math.isfinite(value) and value >= 0.0 for value in values):
        raise ValueError(
            f"`preference` of `{owner}` must hold finite numbers >= 0, not all zero; got"
            f" {preference!r}. Pass one number per objective, by position or by name."
        )
    return frozen


def preference_shares(preference: Tensor | None, gramian: Tensor, active: Tensor | None) -> Tensor:
    """Return the preference divided by its sum over the active objectives, float64 `[..., m]`.

    Equal shares where there is none, or where every preferred objective is absent.
    """
    uniform = _equal_shares(gramian, active)
    if preference is None:
        return uniform
    u = torch.where(uniform > 0.0, preference, 0.0)
    total = u.sum(-1, keepdim=True)
    return torch.where(total > 0.0, u / torch.where(total > 0.0, total, 1.0), uniform)


def preference_needs(preference: Preference | None) -> frozenset[str]:
    """What a weighting with this preference needs: the names, if it is by name."""
    return frozenset({"names"}) if isinstance(preference, Mapping) else frozenset()


def preference_vector(
    preference: Preference | None, statistics: StepStatistics, owner: str
) -> Tensor:
    """Return the preference of one step's objectives, float64 `[m]`.

    Equal numbers `1 / (number of active objectives)`, `[..., m]`, for None.

    Raises:
        ValueError: if an objective has no entry, or the names are needed and missing.
    """
    m = statistics.num_objectives
    gramian = statistics.gramian
    if statistics.auxiliary:
        gramian = gramian[..., :m, :m]
    if preference is None:
        return _equal_shares(gramian, statistics.active)
    if isinstance(preference, Mapping):
        names = statistics.names or ()
        missing = [name for name in names if name not in preference]
        if missing or not names:
            raise ValueError(
                f"`preference` of `{owner}` must name every objective; {missing or 'the names'}"
                f" are missing, it holds {list(preference)}. Add a number for each, and pass the"
                " losses as a mapping."
            )
        values: Sequence[float] = [preference[name] for name in names]
    else:
        values = preference
    if len(values) != m:
        raise ValueError(
            f"`preference` of `{owner}` must have one entry per objective; got {len(values)} for"
            f" {m} objectives. Pass a mapping from name to number where they vary."
        )
    # Filling one scalar at a time needs no copy from the host, which would synchronise a device.
    return torch.stack(
        [torch.full((), v, dtype=torch.float64, device=gramian.device) for v in values]
    )
