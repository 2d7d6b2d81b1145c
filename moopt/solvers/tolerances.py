"""The tolerances that several solvers share, each with its reason."""

from moopt.kernels.tolerances import (
    CERTIFIED,
    DEPENDENT,
    EPS,
    RESIDUAL_ROUNDING,
    RESOLUTION,
    STATIONARY,
)

__all__ = [
    "CERTIFIED",
    "COARSE",
    "DEPENDENT",
    "EPS",
    "HIDDEN",
    "RESIDUAL_ROUNDING",
    "RESOLUTION",
    "STATIONARY",
]

# More noise than this is not that of sums in float64: the numbers were shorter.
COARSE = 1e-12
# Where noise times the terms of a direction is more than this of its length, noise may have made
# the weights.
HIDDEN = 1e-3
