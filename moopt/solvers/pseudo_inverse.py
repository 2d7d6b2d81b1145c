"""pseudo_inverse: of symmetric positive semi-definite matrices, with a cut-off that noise sets."""

import numpy as np

from moopt.kernels.tolerances import EPS
from moopt.records.result import Array

DEFAULT_RTOL = 1e-12
"""Relative cut-off: on cosines, gradients that differ by 1e-6, about float32 rounding, are one."""


def pseudo_inverse(matrix: Array, *, rtol: float = DEFAULT_RTOL, noise: float = EPS) -> Array:
    """Return the pseudo-inverse `V diag(1/lambda) V'` over the eigenvalues above a cut-off.

    Eigenvalues `lambda <= max(rtol, m * noise) * max(lambda)` count as zero.

    Args:
        matrix: float64 `[m, m]`, finite, symmetric positive semi-definite up to rounding.
        rtol: relative cut-off, dimensionless, in [0, 1); default 1e-12.
        noise: relative rounding of an entry; default that of float64.

    Returns:
        float64 `[m, m]`, symmetric.

    Numerics: any scale that float64 holds; LAPACK's `eigh`.

    Example:
        >>> import numpy as np
        >>> from moopt.solvers.pseudo_inverse import pseudo_inverse
        >>> pseudo_inverse(np.array([[2.0, 0.0], [0.0, 0.0]])).tolist()
        [[0.5, 0.0], [0.0, 0.0]]

    Source: G. H. Golub and C. F. Van Loan, "Matrix Computations", 4th ed., section 5.5.
    """
    values, vectors = np.linalg.eigh(matrix)
    kept = values > max(cut_off(values, rtol, noise), 0.0)
    vectors = vectors[:, kept]
    return (vectors / values[kept]) @ vectors.T


def cut_off(values: Array, rtol: float, noise: float) -> float:
    """The largest eigenvalue that counts as zero, of rising eigenvalues."""
    return max(rtol, len(values) * noise) * float(values[-1])
