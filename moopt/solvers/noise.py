"""What the rounding of the cosines hides."""

import math

import numpy as np

from moopt.records.result import Array

# More noise than this is not that of sums in float64: the numbers were shorter.
COARSE = 1e-12
# Where noise times the terms of a direction is more than this of its length, noise may have made
# the weights.
HIDDEN = 1e-3


def shown_noise(cosines: Array, noise: float) -> float:
    """The rounding of the cosines: what the caller says, or more where they show more.

    Cosines of gradients have no negative eigenvalue. One of -e proves that rounding moved the
    matrix by e or more: a float64 copy of a float32 Gramian cannot hide what it is.

    Args:
        cosines: float64 `[m, m]`, symmetric, finite.
        noise: relative rounding of an entry, as the caller knows it.
    """
    return max(noise, -float(np.linalg.eigvalsh(cosines)[0]))


def hidden_gap(residual: float, squared: float, size: float, noise: float) -> float:
    """The gap of a point x that the rounding of the cosines hides: its direction is noise.

    Args:
        residual: how far the conditions are from being met.
        squared: ||x||^2, as computed.
        size: the length of the terms that sum to x.
        noise: relative rounding of a cosine.

    Returns:
        0 where x is zero up to the rounding of float64. Where the cosines are coarser, what is
        known of the residual relative to ||x||; infinity where they leave ||x||^2 <= 0.
    """
    if noise <= COARSE:
        return 0.0
    return (residual + noise * size) / math.sqrt(squared) if squared > 0.0 else math.inf
