"""check_number and frozen_numbers: settings that are a number in a range, or one per objective."""

import math
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Literal, SupportsFloat

Range = Literal[
    "finite and > 0", "finite and >= 0", "in (0, 1)", "in [0, 1)", "in (0, 1]", "in [0, 1]",
    "in [-1, 0]",
]  # fmt: skip

_HOLDS: Mapping[Range, Callable[[Any], bool]] = {
    "finite and > 0": lambda value: 0.0 < value < math.inf,
    "finite and >= 0": lambda value: 0.0 <= value < math.inf,
    "in (0, 1)": lambda value: 0.0 < value < 1.0,
    "in [0, 1)": lambda value: 0.0 <= value < 1.0,
    "in (0, 1]": lambda value: 0.0 < value <= 1.0,
    "in [0, 1]": lambda value: 0.0 <= value <= 1.0,
    "in [-1, 0]": lambda value: -1.0 <= value <= 0.0,
}


def check_number(owner: str, name: str, value: object, allowed: Range, *, use: str) -> None:
    """Raise unless a setting is a number in its range.

    Args:
        owner: whose setting it is, for the message.
        name: of the setting.
        value: what the user gave: an int, a float, a number of numpy, or a tensor of no dimension.
        allowed: the range.
        use: what to give instead, for the message: it ends "Use ...".

    Raises:
        TypeError: `value` is not a real number.
        ValueError: it is out of range, or NaN.

    Example:
        >>> from moopt.settings.numbers import check_number
        >>> check_number("Mine", "tol", 0.5, "in (0, 1)", use="1e-6")
        >>> check_number("Mine", "tol", 1.5, "in (0, 1)", use="1e-6")
        Traceback (most recent call last):
        ...
        ValueError: `tol` of `Mine` must be in (0, 1); got 1.5. Use 1e-6.
    """
    if not isinstance(value, SupportsFloat) or getattr(value, "ndim", 0) != 0:
        raise TypeError(
            f"`{name}` of `{owner}` must be a number, {allowed}; got {value!r}. Use {use}."
        )
    if not _HOLDS[allowed](value):
        raise ValueError(f"`{name}` of `{owner}` must be {allowed}; got {value}. Use {use}.")


def frozen_numbers(
    given: Iterable[object] | Mapping[str, object], what: str
) -> tuple[float, ...] | dict[str, float]:
    """A copy, in floats, of one number per objective, in order or by name.

    Args:
        given: what the user gave.
        what: the setting and its owner, for the message.

    Raises:
        TypeError: it is not a sequence of real numbers, nor a mapping from name to number.

    Example:
        >>> from moopt.settings.numbers import frozen_numbers
        >>> frozen_numbers([1, 2], "`preference` of `Mine`")
        (1.0, 2.0)
        >>> frozen_numbers(5, "`preference` of `Mine`")
        Traceback (most recent call last):
        ...
        TypeError: `preference` of `Mine` must be a sequence of numbers, or a mapping from name to \
number; got 5. Pass one number per objective, such as [1.0, 2.0] or {'forget': 1.0, 'retain': 2.0}.
    """
    names, entries = (given, given.values()) if isinstance(given, Mapping) else ((), given)
    try:
        numbers: list[Any] = list(entries)
        odd = isinstance(given, str | bytes | Set) or not all(isinstance(n, str) for n in names)
        if odd or not all(map(_is_real, numbers)):
            raise TypeError("not a real number for each, in order or by name")
        values = tuple(map(float, numbers))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(
            f"{what} must be a sequence of numbers, or a mapping from name to number; got"
            f" {given!r}. Pass one number per objective, such as [1.0, 2.0] or"
            " {'forget': 1.0, 'retain': 2.0}."
        ) from error
    return dict(zip(given, values, strict=True)) if isinstance(given, Mapping) else values


def _is_real(entry: Any) -> bool:
    """A number of Python, numpy or torch, of no dimension and no imaginary part."""
    return (
        isinstance(entry, SupportsFloat)
        and not isinstance(entry, str | complex)
        and getattr(entry, "ndim", 0) == 0
        and not getattr(getattr(entry, "dtype", None), "is_complex", False)
    )


def check_seed(owner: str, seed: int) -> None:
    """Raise TypeError unless the seed is an int.

    Example:
        >>> from moopt.settings.numbers import check_seed
        >>> check_seed("Mine", 0)
    """
    if not isinstance(seed, int):
        raise TypeError(f"`seed` of `{owner}` must be an int; got {seed!r}. Use 0.")
