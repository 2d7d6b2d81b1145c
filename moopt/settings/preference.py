"""Preferences: one number per objective, by position or by name, as a user passes them."""

import math
from collections.abc import Mapping, Sequence

from moopt.settings.numbers import frozen_numbers

Preference = Sequence[float] | Mapping[str, float]
"""One number per objective: in the order of the objectives, or by name."""


def checked_preference(
    preference: Preference | None, owner: str, field: str = "preference"
) -> Preference | None:
    """A frozen copy of a preference; None stays None, which means equal.

    Args:
        preference: finite numbers >= 0, not all zero; a sequence in the order of the objectives,
            or a mapping from name to number.
        owner: the class whose argument it is, for messages.
        field: the argument, for messages.

    Raises:
        TypeError: it is not made of numbers.
        ValueError: they break the rule.

    Example:
        >>> from moopt.settings.preference import checked_preference
        >>> checked_preference([1, 2], "Mine")
        (1.0, 2.0)
    """
    frozen = checked_vector(preference, owner, field)
    if frozen is not None and (min(entries(frozen)) < 0.0 or max(entries(frozen)) == 0.0):
        raise ValueError(
            f"`{field}` of `{owner}` must hold finite numbers >= 0, not all zero; got"
            f" {preference!r}. A larger number asks for more of that objective."
        )
    return frozen


def checked_vector(vector: Preference | None, owner: str, field: str) -> Preference | None:
    """A frozen copy of finite numbers of any sign, one per objective; None stays None.

    Raises:
        TypeError: it is not made of numbers.
        ValueError: it is empty, or an entry is not finite.
    """
    if vector is None:
        return None
    frozen = frozen_numbers(vector, f"`{field}` of `{owner}`")
    if not entries(frozen) or not all(map(math.isfinite, entries(frozen))):
        raise ValueError(
            f"`{field}` of `{owner}` must hold finite numbers, at least one; got {vector!r}. Pass"
            " one number per objective, by position or by name."
        )
    return frozen


def numbers_in_order(
    vector: Preference, names: Sequence[str] | None, count: int, owner: str, field: str
) -> list[float]:
    """The entries of the objectives of a step, in their order.

    Args:
        vector: as `checked_vector` returned it.
        names: the objectives' names, where the caller has them.
        count: how many objectives the step has.
        owner, field: for messages.

    Raises:
        ValueError: an objective has no entry, or the names are needed and missing.

    Example:
        >>> from moopt.settings.preference import numbers_in_order
        >>> numbers_in_order({"a": 1.0, "b": 2.0}, ("b", "a"), 2, "Mine", "preference")
        [2.0, 1.0]
    """
    if isinstance(vector, Mapping):
        if names is None:
            raise ValueError(
                f"`{field}` of `{owner}` goes by name and needs the objectives' names; got none."
                " Pass the losses as a mapping, or a sequence in their order."
            )
        missing = [name for name in names if name not in vector]
        if missing:
            raise ValueError(
                f"`{field}` of `{owner}` must name every objective; {missing} are missing from"
                f" {list(vector)}. Add a number for each."
            )
        return [vector[name] for name in names]
    if len(vector) != count:
        raise ValueError(
            f"`{field}` of `{owner}` must have one entry per objective; got {len(vector)} for"
            f" {count} objectives. Pass a mapping from name to number where they vary."
        )
    return list(vector)


def names_needed(*vectors: Preference | None) -> frozenset[str]:
    """What a method with these vectors needs of a step: the names, if one goes by name."""
    return frozenset({"names"} if any(isinstance(v, Mapping) for v in vectors) else ())


def entries(vector: Preference) -> tuple[float, ...]:
    """The numbers of a vector, without the names where it goes by name."""
    return tuple(vector.values() if isinstance(vector, Mapping) else vector)
