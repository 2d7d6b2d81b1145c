"""Transitional: the tensor forms of the small solvers, until their last user is converted."""
# mypy: ignore-errors

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus

NOISE = torch.finfo(torch.float64).eps / 8
"""Rounding of one entry after a round of rotations, per row, of a matrix with entries up to 1."""

DEFAULT_RTOL = 1e-12
"""Relative cut-off: on cosines, gradients that differ by 1e-6, about float32 rounding, are one."""


def tensor_pseudo_inverse(matrix: Tensor, *, rtol: float = DEFAULT_RTOL) -> Tensor:
    finite = torch.isfinite(matrix).all(-1).all(-1)[..., None, None]
    clean = torch.where(finite, matrix, 0.0)
    if runs_on_host(clean):
        values, vectors = torch.linalg.eigh(clean)
        inverse = _spectral_inverse(values, vectors, rtol)
    else:
        inverse = jacobi_pseudo_inverse(clean, rtol)
    return torch.where(finite, inverse, float("nan"))


def runs_on_host(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.is_cpu and not torch.compiler.is_compiling()


def jacobi_pseudo_inverse(matrix: Tensor, rtol: float) -> Tensor:
    m = matrix.shape[-1]
    if m == 1:
        return torch.where(matrix != 0, 1.0 / torch.where(matrix != 0, matrix, 1.0), 0.0)
    size = matrix.abs().amax((-1, -2), keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    values, vectors = jacobi_eigh(matrix / size)
    return _spectral_inverse(values, vectors, rtol) / size


def _spectral_inverse(values: Tensor, vectors: Tensor, rtol: float) -> Tensor:
    kept = (values > rtol * values.amax(-1, keepdim=True)) & (values > 0)
    reciprocal = torch.where(kept, 1.0 / torch.where(kept, values, 1.0), 0.0)
    return (vectors * reciprocal[..., None, :]) @ vectors.mT


def jacobi_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
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
    if half == 1:
        return rotation
    first, top, bottom = (
        rotation[..., :1],
        rotation[..., 1:half],
        rotation[..., half:],
    )
    return torch.cat([first, bottom[..., :1], top[..., :-1], bottom[..., 1:], top[..., -1:]], -1)


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


def tensor_principal_components(
    cosines: Tensor, norms: Tensor, *, rtol: float = DEFAULT_RTOL
) -> PrincipalComponents:
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


REFINEMENTS = 3
"""Rounds of projection: one solves, the others remove what the explicit inverse left."""


def tensor_off_span(
    cosines: Tensor, start: Tensor, walls: Tensor, *, rtol: float = DEFAULT_RTOL
) -> Tensor:
    pairs = walls[..., :, None] & walls[..., None, :]
    inverse = tensor_pseudo_inverse(torch.where(pairs, cosines, 0.0), rtol=rtol)
    moved = start
    for _ in range(REFINEMENTS):
        slopes = torch.where(walls, _apply(cosines, moved), 0.0)
        moved = moved - _apply(inverse, slopes)
    return moved


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


FARTHEST = 1e4
"""Distance, in units of the problem's lengths, from which quotas count as infeasible: gradients
opposite up to an angle of 1e-4 or so."""

RESIDUAL_TOL = 1e-9
"""Residual of the optimality conditions, in units of the problem's lengths, that is zero: the
rounding 2e-16, times `FARTHEST`, with two digits to spare."""


def tensor_quota_point(
    cosines: Tensor, start: Tensor, quotas: Tensor, walls: Tensor
) -> SolverResult:
    from moopt.solvers.dual_cone import dual_cone_point

    along = _apply(cosines, start)
    need = torch.where(walls, along - quotas, 0.0)
    unit = (start * along).sum(-1, keepdim=True).clamp_min(0.0).sqrt()
    unit = unit + torch.where(walls, quotas, 0.0).amax(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)
    pairs = walls[..., :, None] & walls[..., None, :]
    column = torch.cat([need, (FARTHEST * unit).square()], -1)
    cone = torch.nn.functional.pad(torch.where(pairs, cosines, 0.0), (0, 0, 0, 1))
    # The last row is that of x with the long coordinate.
    cone = torch.cat([cone, column[..., None]], -1)
    cone = torch.cat([cone[..., :-1, :], column[..., None, :]], -2)
    preference = torch.zeros_like(column)
    preference[..., -1].fill_(1.0)
    active = torch.nn.functional.pad(walls, (0, 1), value=True)
    solved = dual_cone_point(cone, preference, active=active)
    shift = torch.where(walls, solved.weights[..., :-1], 0.0).clamp_min(0.0)
    slack = need + torch.where(walls, _apply(cosines, shift), 0.0)
    gap = (torch.minimum(shift, slack).abs() / unit).amax(-1)
    status = torch.where(
        gap <= RESIDUAL_TOL, int(SolverStatus.CONVERGED), int(SolverStatus.INFEASIBLE)
    )
    return SolverResult(start + shift, status, gap, solved.num_iter)
