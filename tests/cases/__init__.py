"""The library's cases (`moopt.testing`), and a hypothesis strategy of them."""

from moopt.testing.families import FAMILIES, Family
from moopt.testing.sampling import (
    DTYPES,
    NORM_RATIOS,
    SCALES,
    Case,
    all_cases,
    case,
)
from tests.cases.strategies import cases

__all__ = [
    "DTYPES",
    "FAMILIES",
    "NORM_RATIOS",
    "SCALES",
    "Case",
    "Family",
    "all_cases",
    "case",
    "cases",
]
