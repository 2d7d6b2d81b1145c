"""The library's own checks under one name, and a rule of its source code."""

from __future__ import annotations

import dataclasses

from moopt.testing.contract import CONTRACT
from moopt.testing.directions import DIRECTION_TOL
from moopt.testing.guarantees import GUARANTEES

__all__ = ["CONTRACT", "DIRECTION_TOL", "GUARANTEES", "dataclass_is_frozen"]


def dataclass_is_frozen(weighting_class: type) -> bool:
    """Whether the class follows the rule: a frozen, keyword-only dataclass."""
    return dataclasses.is_dataclass(weighting_class) and bool(
        weighting_class.__dataclass_params__.frozen  # type: ignore[attr-defined]
    )
