"""Fields of a dataclass that bring their own check, and `check_settings`, which runs it."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from moopt.settings.numbers import Range, check_number
from moopt.settings.preference import checked_preference

Check = Callable[[Any, str, str], Any]
"""From a value, its owner and its name to the value to keep; it raises where the value is wrong."""

_CHECK = "check"


def checked_by(check: Check) -> dict[str, Check]:
    """The metadata of a field with a check, for `dataclasses.field`."""
    return {_CHECK: check}


def number(default: float | None, allowed: Range, *, use: str | None = None) -> Any:
    """A field for a number in a range; None is allowed where it is the default.

    Args:
        default: of the setting.
        allowed: the range, see `moopt.settings.numbers.check_number`.
        use: what to give instead, for the message; None means the default.

    Example:
        >>> import dataclasses
        >>> from moopt.settings.fields import check_settings, number
        >>> @dataclasses.dataclass
        ... class Mine:
        ...     tol: float = number(1e-6, "in (0, 1)")
        >>> check_settings(Mine(tol=0.5))
        >>> check_settings(Mine(tol=1.5))
        Traceback (most recent call last):
        ...
        ValueError: `tol` of `Mine` must be in (0, 1); got 1.5. Use 1e-06.
    """

    def check(value: Any, owner: str, name: str) -> Any:
        if value is not None or default is not None:
            check_number(owner, name, value, allowed, use=use or str(default))
        return value

    return dataclasses.field(default=default, metadata=checked_by(check))


def integer(default: int | None, *, least: int | None = None) -> Any:
    """A field for an int of at least `least`; None is allowed where it is the default.

    Raises:
        TypeError: by the check, if the value is not an int.
        ValueError: by the check, if it is too small.
    """

    def check(value: Any, owner: str, name: str) -> Any:
        if value is None is default:
            return value
        if not isinstance(value, int):
            kind = "an int or None" if default is None else "an int"
            raise TypeError(f"`{name}` of `{owner}` must be {kind}; got {value!r}. Use {default}.")
        if least is not None and value < least:
            raise ValueError(
                f"`{name}` of `{owner}` must be at least {least}; got {value}. Use {default}."
            )
        return value

    return dataclasses.field(default=default, metadata=checked_by(check))


def one_of(default: str, values: Collection[str]) -> Any:
    """A field for one of several words."""

    def check(value: Any, owner: str, name: str) -> Any:
        if value not in values:
            raise ValueError(
                f"`{name}` of `{owner}` must be one of {list(values)}; got {value!r}. The default"
                f" is {default!r}."
            )
        return value

    return dataclasses.field(default=default, metadata=checked_by(check))


def per_objective(check: Check = checked_preference) -> Any:
    """A field for one number per objective, by position or by name; None is the default."""
    return dataclasses.field(default=None, metadata=checked_by(check))


def checked_fields(settings: object) -> list[dataclasses.Field[Any]]:
    """The fields of an instance that bring a check; none where it is not a dataclass."""
    fields = getattr(settings, "__dataclass_fields__", {}).values()
    return [field for field in fields if _CHECK in field.metadata]


def check_settings(settings: object) -> None:
    """Run the checks of an instance's fields, and keep what each returns: a copy, perhaps."""
    owner = type(settings).__name__
    for field in checked_fields(settings):
        value = getattr(settings, field.name)
        object.__setattr__(settings, field.name, field.metadata[_CHECK](value, owner, field.name))
