"""shown_noise: how wrong a matrix of cosines proves itself."""

import numpy as np

from moopt.records.result import Array


def shown_noise(cosines: Array, noise: float) -> float:
    """The rounding of the cosines: what the caller says, or more where they show more.

    Cosines of gradients have no negative eigenvalue. One of -e proves that rounding moved the
    matrix by e or more: a float64 copy of a float32 Gramian cannot hide what it is.

    Args:
        cosines: float64 `[m, m]`, symmetric, finite.
        noise: relative rounding of an entry, as the caller knows it.
    """
    return max(noise, -float(np.linalg.eigvalsh(cosines)[0]))
