"""pseudo_inverse: of symmetric positive semi-definite matrices, without synchronising a device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NOISE = torch.finfo(torch.float64).eps / 8
"""Rounding of one entry after a round of rotations, per row, of a matrix with entries up to 1."""

DEFAULT_RTOL = 1e-12
"""Relative cut-off: on cosines, gradients that differ by 1e-6, about float32 rounding, are one."""


def pseudo_inverse(matrix: Tensor, *, rtol: float = DEFAULT_RTOL) -> Tensor:
    """Return the pseudo-inverse `V diag(1/lambda) V'` over the eigenvalues above a cut-off.

    Eigenvalues `lambda <= rtol * max(lambda)` count as zero.

    Args:
        matrix: float64 `[..., m, m]`, symmetric positive semi-definite up to rounding.
        rtol: relative cut-off, dimensionless, in [0, 1); default 1e-12.

    Returns:
        float64 `[..., m, m]`, symmetric; NaN where the matrix is not finite.

    Numerics: any scale that float64 holds. On the CPU, LAPACK's `eigh`; elsewhere a cyclic Jacobi
    method of a fixed number of sweeps in plain torch operations, because `torch.linalg.eigh`
    reads its error code back to the host. The latter takes about 25 (m - 1) sweeps launches.

    Example:
        >>> import torch
        >>> from moopt.solvers.pseudo_inverse import pseudo_inverse
        >>> pseudo_inverse(torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)).tolist()
        [[0.5, 0.0], [0.0, 0.0]]

    Source: G. H. Golub and C. F. Van Loan, "Matrix Computations", 4th ed., sections 5.5 and 8.5;
    the parallel order of rotations: R. P. Brent and F. T. Luk, "The solution of singular-value
    and symmetric eigenvalue problems on multiprocessor arrays", SIAM J. Sci. Stat. Comput. 1985.
    """
    finite = torch.isfinite(matrix).all(-1).all(-1)[..., None, None]
    clean = torch.where(finite, matrix, 0.0)
    if runs_on_host(clean):
        values, vectors = torch.linalg.eigh(clean)
        inverse = _spectral_inverse(values, vectors, rtol)
    else:
        inverse = jacobi_pseudo_inverse(clean, rtol)
    return torch.where(finite, inverse, float("nan"))


def runs_on_host(tensor: Tensor) -> bool:
    """Whether reading values costs nothing: a real CPU tensor outside of a trace."""
    return type(tensor) is Tensor and tensor.is_cpu and not torch.compiler.is_compiling()


def jacobi_pseudo_inverse(matrix: Tensor, rtol: float) -> Tensor:
    """`pseudo_inverse` of a finite tensor, branch-free: no value is read on the host."""
    m = matrix.shape[-1]
    if m == 1:
        return torch.where(matrix != 0, 1.0 / torch.where(matrix != 0, matrix, 1.0), 0.0)
    size = matrix.abs().amax((-1, -2), keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    values, vectors = jacobi_eigh(matrix / size)
    return _spectral_inverse(values, vectors, rtol) / size


def _spectral_inverse(values: Tensor, vectors: Tensor, rtol: float) -> Tensor:
    """`vectors diag(1 / values) vectors'` over the values above the cut-off."""
    kept = (values > rtol * values.amax(-1, keepdim=True)) & (values > 0)
    reciprocal = torch.where(kept, 1.0 / torch.where(kept, values, 1.0), 0.0)
    return (vectors * reciprocal[..., None, :]) @ vectors.mT


def jacobi_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues `[..., n]` and vectors `[..., m, n]`, unordered, with n = m rounded up to even.

    Each round rotates the n/2 disjoint pairs (i, n/2 + i) at once, then moves the indices one
    seat on, round-robin, so that n - 1 rounds (one sweep) visit every pair. For odd m the padded
    index has zero off-diagonals, so that it stays an eigenpair of value 0 with a zero vector.
    """
    m = matrix.shape[-1]
    half = (m + 1) // 2
    work = torch.nn.functional.pad(matrix, (0, m % 2, 0, m % 2))
    vectors = torch.eye(m, 2 * half, dtype=matrix.dtype, device=matrix.device).expand(
        *matrix.shape[:-2], m, 2 * half
    )
    # One to two sweeps more than the most that any family of tests/cases needed, m = 2 to 101.
    sweeps = 2 if m == 2 else 3 + math.ceil(1.6 * math.log2(m))
    for _ in range(sweeps * (2 * half - 1)):
        rotation = _seat_change(_rotations(work, half), half)
        work = rotation.mT @ work @ rotation
        vectors = vectors @ rotation
    return work.diagonal(dim1=-2, dim2=-1), vectors


def _rotations(work: Tensor, half: int) -> Tensor:
    """The orthogonal `[..., n, n]` matrix that zeroes the entries (i, n/2 + i)."""
    diagonal = work.diagonal(dim1=-2, dim2=-1)
    corner = work.diagonal(offset=half, dim1=-2, dim2=-1)
    difference = diagonal[..., half:] - diagonal[..., :half]
    # tan of the smaller angle: 2a / (d + sign(d) sqrt(d^2 + 4a^2)), and 0 for a = 0.
    root = torch.hypot(difference, 2.0 * corner)
    denominator = difference + torch.where(difference >= 0, root, -root)
    # Rotating rounding noise within a null space keeps stirring it: convergence then takes
    # hundreds of sweeps. Entries of the matrix are at most 1, so the bound is relative.
    still = corner.abs() <= NOISE * 2 * half
    tangent = torch.where(still, 0.0, 2.0 * corner / torch.where(still, 1.0, denominator))
    cosine = torch.rsqrt(1.0 + tangent * tangent)
    sine = tangent * cosine
    upper = torch.cat([torch.diag_embed(cosine), torch.diag_embed(sine)], -1)
    lower = torch.cat([torch.diag_embed(-sine), torch.diag_embed(cosine)], -1)
    return torch.cat([upper, lower], -2)


def _seat_change(rotation: Tensor, half: int) -> Tensor:
    """Permute columns to the next round: seat 0 stays, the others move on by one."""
    if half == 1:
        return rotation
    first, top, bottom = (
        rotation[..., :1],
        rotation[..., 1:half],
        rotation[..., half:],
    )
    return torch.cat([first, bottom[..., :1], top[..., :-1], bottom[..., 1:], top[..., -1:]], -1)
