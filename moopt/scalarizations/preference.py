"""Preference vectors: one number per objective, in order or by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moopt.settings.numbers import frozen_numbers

Vector = Sequence[float] | Mapping[str, float]
"""One number per objective: in the order of the objectives, or by name."""


def frozen_vector(given: Vector | None, field: str, *, preference: bool) -> Vector | None:
    """A copy of `given` that later changes by the caller cannot reach; None stays None.

    Args:
        given: a sequence, or a mapping from objective name.
        field: what to call it in an error, such as "`preference` of `STCH`".
        preference: whether entries must be >= 0 and one of them positive.

    Raises:
        TypeError: not a sequence or a mapping of numbers.
        ValueError: empty, not finite, or a preference with a negative entry or without a positive.
    """
    if given is None:
        return None
    frozen = frozen_numbers(given, field)
    values = tuple(frozen.values()) if isinstance(frozen, dict) else frozen
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(
            f"{field} must be finite and not empty; got {given!r}. Pass one finite number per"
            " objective."
        )
    if preference and (min(values) < 0 or max(values) == 0):
        raise ValueError(
            f"{field} must be >= 0 with a positive entry; got {given!r}. A larger number asks for"
            " more of that objective; leave out objectives that do not count."
        )
    return frozen


def vector_in_order(
    vector: Vector | None, names: Sequence[str] | None, losses: Tensor, field: str
) -> Tensor | None:
    """The entries for the objectives of a step, `[m]` in the dtype and on the device of `losses`.

    Raises:
        ValueError: an objective has no entry, or a mapping is given and the names are missing.
    """
    if vector is None:
        return None
    m = losses.shape[-1]
    if isinstance(vector, Mapping):
        if names is None:
            raise ValueError(
                f"{field} goes by name and needs the objectives' names; got none. Pass the losses"
                " as a mapping, or a sequence in their order."
            )
        missing = [name for name in names if name not in vector]
        if missing:
            raise ValueError(
                f"{field} must name every objective; {missing} are missing from {list(vector)}. Add"
                " a number for each."
            )
        entries = [vector[name] for name in names]
    else:
        entries = list(vector)
    if len(entries) != m:
        raise ValueError(
            f"{field} must have one entry per objective; got {len(entries)} for {m} objectives."
            " Pass a mapping from name to number where they vary."
        )
    # Filling one scalar at a time needs no copy from the host, which would synchronise a device.
    return torch.stack(
        [torch.full((), v, dtype=losses.dtype, device=losses.device) for v in entries]
    )


def preference_or_uniform(preference: Tensor | None, losses: Tensor, active: Tensor) -> Tensor:
    """The preference on the active objectives, 0 elsewhere; None means 1 / (number active)."""
    if preference is None:
        on = active.to(losses.dtype)
        return on / on.sum(-1, keepdim=True).clamp_min(1.0)
    return torch.where(active, torch.as_tensor(preference).to(losses), 0.0)


def shifted_losses(losses: Tensor, reference: Tensor | None, active: Tensor) -> Tensor:
    """The losses above a reference point (None: 0); exactly 0 where inactive."""
    values = torch.where(active, losses, 0.0)
    if reference is None:
        return values
    return torch.where(active, values - torch.as_tensor(reference).to(losses), 0.0)
