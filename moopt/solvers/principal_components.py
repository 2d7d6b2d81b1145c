"""principal_components: of gradients, small ones as accurately as large ones."""

import math

import numpy as np

from moopt.kernels.tolerances import EPS
from moopt.records.result import Array
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL, cut_off

GRADED = 1e-6
"""Ratio of singular values down to which LAPACK resolves the smallest to ten digits."""


def principal_components(
    cosines: Array, norms: Array, *, rtol: float = DEFAULT_RTOL, noise: float = EPS
) -> tuple[Array, Array]:
    """Return the singular values and left vectors of gradients with given cosines and norms.

    `G = V diag(sigma^2) V'`. An eigenvalue solver applied to G loses what is 1e-16 of the largest
    eigenvalue: gradients at 1e-8 of the others. Here the rank is decided on the cosines
    C = Q L Q', on which no gradient is small, and `diag(norms) Q L^(1/2)` is then diagonalised by
    rotations of its rows where it has to be, which keeps the relative accuracy of small rows.

    Args:
        cosines: float64 `[m, m]`, finite, symmetric positive semi-definite up to rounding, with
            unit diagonal.
        norms: float64 `[m]`, >= 0.
        rtol: relative cut-off of the eigenvalues of C, dimensionless, in [0, 1); default 1e-12.
        noise: relative rounding of a cosine, a floor of the cut-off; default that of float64.

    Returns:
        sigma, float64 `[k]`, falling and > 0, with k the rank; the columns of V, `[m, k]`.

    Numerics: LAPACK, unless the singular values spread over more than six decades: then
    Jacobi rotations.

    Example:
        >>> import numpy as np
        >>> from moopt.solvers.principal_components import principal_components
        >>> sigma, vectors = principal_components(np.eye(2), np.array([1e-8, 1.0]))
        >>> sigma.tolist(), np.abs(vectors).tolist()
        ([1.0, 1e-08], [[0.0, 1.0], [1.0, 0.0]])

    Source: J. Demmel and K. Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix
    Anal. Appl. 1992, https://doi.org/10.1137/0613074, for the accuracy of the one-sided method on
    scaled rows.
    """
    values, vectors = np.linalg.eigh(cosines)
    kept = values > max(cut_off(values, rtol, noise), 0.0)
    factor = norms[:, None] * (vectors[:, kept] * np.sqrt(values[kept]))
    left, sigma, _ = np.linalg.svd(factor, full_matrices=False)
    if sigma.size and sigma[-1] <= GRADED * sigma[0]:
        left, sigma = _one_sided_jacobi(factor)
    sigma = sigma[: np.count_nonzero(sigma > 0.0)]
    return sigma, left[:, : len(sigma)]


def _one_sided_jacobi(factor: Array) -> tuple[Array, Array]:
    """Left vectors `[m, k]` and singular values `[k]`, falling, of `[m, k]` of full rank k.

    Each round makes the m/2 disjoint pairs of rows (i, m/2 + i) orthogonal by a rotation, then
    moves the rows one seat on, round-robin: m - 1 rounds are a sweep. The rows of an identity,
    appended, become the left vectors.
    """
    m, k = factor.shape
    half = (m + 1) // 2
    work = np.zeros((2 * half, k + m))
    work[:m] = np.append(factor, np.eye(m), axis=1)
    # Seat 0 stays, the others move on by one.
    seats = [0, half, *range(1, half - 1), *range(half + 1, 2 * half), half - 1][: 2 * half]
    # As many as the two-sided method takes, and one for rows of different lengths.
    sweeps = 3 if m == 2 else 4 + math.ceil(1.6 * math.log2(m))
    for _ in range(sweeps * (2 * half - 1)):
        top, bottom = work[:half], work[half:]
        inner = np.add.reduce(top[:, :k] * bottom[:, :k], axis=1)
        difference = np.add.reduce(bottom[:, :k] ** 2 - top[:, :k] ** 2, axis=1)
        # tan of the smaller angle: 2a / (d + sign(d) sqrt(d^2 + 4a^2)), and 0 for a = 0.
        root = np.hypot(difference, 2.0 * inner)
        denominator = difference + np.where(difference >= 0, root, -root)
        still = denominator == 0
        tangent = np.where(still, 0.0, 2.0 * inner / np.where(still, 1.0, denominator))
        cosine = (1.0 / np.sqrt(1.0 + tangent * tangent))[:, None]
        sine = tangent[:, None] * cosine
        work = np.concatenate([cosine * top - sine * bottom, sine * top + cosine * bottom])[seats]
    sigma = np.sqrt(np.add.reduce(work[:, :k] ** 2, axis=1))
    order = np.argsort(-sigma, kind="stable")[:k]
    return work[order, k:].T, sigma[order]
