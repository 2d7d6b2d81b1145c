"""Jacobians built from mathematical definitions, for every test that needs a Gramian.

API
    FAMILIES: dict name -> `Family(sampler, stationarity, smallest_m)`. A sampler maps
        `(seed, m)` to a float64 Jacobian `[m, d]`; its docstring proves its property.
    case(family, m, seed=0, *, scale=1.0, norm_ratio=1.0, dtype=torch.float64) -> Case
        one deterministic case.
    all_cases(ms=(1, 2, 3, 5, 10), seeds=(0,), scales=(1.0,), norm_ratios=(1.0,), families=None)
        an iterator over the product; families that need more rows than `m` are left out.
    cases(...) -> a hypothesis strategy of `Case` (shrinks towards m = 1 and scale 1).
    Case: `.jacobian` (float64 `[m, d]`, the values that `dtype` can hold), `.gramian` (float64
        `[m, m]`), `.stationarity` ("none", "weak", "strong"), `.norms`, `.name`, `.m`.
    SCALES, NORM_RATIOS, SIZES, DTYPES: the values that the design asks for.

Stationarity, for a Jacobian J with rows g_i
    "strong": some w > 0 (all entries) has J^T w = 0; "weak": some w >= 0, w != 0, has
    J^T w = 0, but none with all entries > 0; "none": no such w, equivalently (Gordan's theorem)
    some e has g_i . e > 0 for all i.
    Positive rescaling of rows changes none of the three: w_i / a_i serves for rows a_i g_i.
"""

from tests.cases.families import FAMILIES, Family
from tests.cases.sampling import (
    DTYPES,
    NORM_RATIOS,
    SCALES,
    SIZES,
    Case,
    all_cases,
    case,
    cases,
)

__all__ = [
    "DTYPES",
    "FAMILIES",
    "NORM_RATIOS",
    "SCALES",
    "SIZES",
    "Case",
    "Family",
    "all_cases",
    "case",
    "cases",
]
