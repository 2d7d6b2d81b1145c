"""check_number: a setting that is a number in a range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
        TypeError: `value` is no real number.
        ValueError: it is out of range, or NaN.

    Example:
        >>> from moopt.check_number import check_number
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
