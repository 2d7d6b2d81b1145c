"""principal_components: of gradients, small ones as accurately as large ones."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from moopt.solvers.pseudo_inverse import DEFAULT_RTOL, jacobi_eigh, runs_on_host

GRADED = 1e-6
"""Ratio of singular values down to which LAPACK resolves the smallest to ten digits."""


class PrincipalComponents(NamedTuple):
    """`G = V diag(sigma^2) V'` in the order of falling sigma.

    Attributes:
        singular_values: float64 `[..., m]`, sigma >= 0; 0 beyond the rank.
        vectors: float64 `[..., m, m]`, the columns of V; zero beyond the rank.
        rank: int64 `[...]`.
    """

    singular_values: Tensor
    vectors: Tensor
    rank: Tensor


def principal_components(
    cosines: Tensor, norms: Tensor, *, rtol: float = DEFAULT_RTOL
) -> PrincipalComponents:
    """Return the singular values and left vectors of gradients with given cosines and norms.

    An eigenvalue solver applied to G loses what is 1e-16 of the largest eigenvalue: gradients at
    1e-8 of the others. Here the rank is decided on the cosines C = Q L Q', on which no gradient is
    small, and `diag(norms) Q L^(1/2)` is then diagonalised by rotations of its rows, which keeps
    the relative accuracy of small rows.

    Args:
        cosines: float64 `[..., m, m]`, finite, symmetric positive semi-definite up to rounding;
            zero in the rows and columns of gradients to be left out.
        norms: float64 `[..., m]`, in [0, 1], relative to the largest; 0 for what is left out.
        rtol: relative cut-off of the eigenvalues of C, dimensionless, in [0, 1); default 1e-12.

    Numerics: on the CPU LAPACK, unless the singular values spread over more than six decades;
    elsewhere Jacobi methods of a fixed number of sweeps, with no value read on the host.

    Example:
        >>> import torch
        >>> from moopt.solvers.principal_components import principal_components
        >>> norms = torch.tensor([1e-8, 1.0], dtype=torch.float64)
        >>> parts = principal_components(torch.eye(2, dtype=torch.float64), norms)
        >>> parts.singular_values.tolist(), int(parts.rank)
        ([1.0, 1e-08], 2)

    Source: J. Demmel and K. Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix
    Anal. Appl. 1992, for the accuracy of the one-sided method on scaled rows.
    """
    host = runs_on_host(cosines)
    values, vectors = torch.linalg.eigh(cosines) if host else jacobi_eigh(cosines)
    kept = (values > rtol * values.amax(-1, keepdim=True)) & (values > 0)
    rank = kept.sum(-1)
    root = torch.where(kept, values, 0.0).sqrt()
    factor = norms[..., :, None] * vectors * root[..., None, :]
    if host:
        left, sigma, _ = torch.linalg.svd(factor, full_matrices=False)
        smallest = sigma.gather(-1, (rank - 1).clamp_min(0)[..., None])
        if bool((smallest <= GRADED * sigma[..., :1]).any()):
            left, sigma = _one_sided_jacobi(factor)
    else:
        left, sigma = _one_sided_jacobi(factor)
    within = torch.arange(sigma.shape[-1], device=sigma.device) < rank[..., None]
    within = within & (sigma > 0)
    sigma = torch.where(within, sigma, 0.0)
    return PrincipalComponents(sigma, torch.where(within[..., None, :], left, 0.0), within.sum(-1))


def _one_sided_jacobi(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Left vectors `[..., m, m]` and singular values `[..., m]`, falling, of `[..., m, n]`.

    Each round makes the m/2 disjoint pairs of rows (i, m/2 + i) orthogonal by a rotation, then
    moves the rows one seat on, round-robin: m - 1 rounds are a sweep. The rows of an identity,
    appended, become the left vectors.
    """
    m, n = factor.shape[-2:]
    if m == 1:
        return torch.ones_like(factor[..., :1]), factor.norm(dim=-1)
    half = (m + 1) // 2
    identity = torch.eye(m, dtype=factor.dtype, device=factor.device)
    work = torch.cat([factor, identity.expand(*factor.shape[:-1], m)], -1)
    work = torch.nn.functional.pad(work, (0, 0, 0, m % 2))
    # As many as the two-sided method takes, and one for rows of different lengths.
    sweeps = 3 if m == 2 else 4 + math.ceil(1.6 * math.log2(m))
    for _ in range(sweeps * (2 * half - 1)):
        top, bottom = work[..., :half, :], work[..., half:, :]
        inner = (top[..., :n] * bottom[..., :n]).sum(-1)
        difference = bottom[..., :n].square().sum(-1) - top[..., :n].square().sum(-1)
        # tan of the smaller angle: 2a / (d + sign(d) sqrt(d^2 + 4a^2)), and 0 for a = 0.
        root = torch.hypot(difference, 2.0 * inner)
        denominator = difference + torch.where(difference >= 0, root, -root)
        still = denominator == 0
        tangent = torch.where(still, 0.0, 2.0 * inner / torch.where(still, 1.0, denominator))
        cosine = torch.rsqrt(1.0 + tangent.square())[..., None]
        sine = tangent[..., None] * cosine
        top, bottom = cosine * top - sine * bottom, sine * top + cosine * bottom
        # Seat 0 stays, the others move on by one.
        rows = [top, bottom]
        if half > 1:
            rows = [top[..., :1, :], bottom[..., :1, :], top[..., 1:-1, :], bottom[..., 1:, :]]
            rows.append(top[..., -1:, :])
        work = torch.cat(rows, -2)
    sigma = work[..., :n].norm(dim=-1)
    sigma, order = sigma.sort(dim=-1, descending=True, stable=True)
    left = work[..., n:].take_along_dim(order[..., None], -2).mT
    return left[..., :m], sigma[..., :m]
