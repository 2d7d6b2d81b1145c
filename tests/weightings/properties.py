"""The library's own checks under one name, and a rule of its source code."""

from __future__ import annotations

import dataclasses

from moopt.testing.contract import CONTRACT
from moopt.testing.directions import DIRECTION_TOL
from moopt.testing.guarantees import GUARANTEES

__all__ = ["CONTRACT", "DIRECTION_TOL", "GUARANTEES", "dataclass_is_frozen"]


def dataclass_is_frozen(weighting_class: type) -> bool:
    """Whether the class follows the rule: a frozen dataclass, keyword-only but for one field.

    The wrapped weighting of a modifier, or the numbers of `Constant`, may come first.
    """
    if not dataclasses.is_dataclass(weighting_class):
        return False
    positional = [field for field in dataclasses.fields(weighting_class) if not field.kw_only]
    frozen = bool(weighting_class.__dataclass_params__.frozen)  # type: ignore[attr-defined]
    return frozen and [field.name for field in positional] in ([], ["weighting"], ["weights"])
