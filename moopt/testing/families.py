"""The families: `(seed, m) -> Jacobian [m, d]` with rows of norm about one, each with its proof.

Stationarity, for a Jacobian J with rows g_i
    "strong": some w > 0 (all entries) has J^T w = 0; "weak": some w >= 0, w != 0, has
    J^T w = 0, but none with all entries > 0; "none": no such w, equivalently (Gordan's theorem)
    some e has g_i . e > 0 for all i.
    Positive rescaling of rows changes none of the three: w_i / a_i serves for rows a_i g_i.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Stationarity = Literal["none", "weak", "strong"]


class Family(NamedTuple):
    """A sampler with the property that its docstring proves."""

    sampler: Callable[[int, int], Tensor]
    stationarity: Stationarity
    smallest_m: int


def _normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def _cone(cosine: float, directions: Tensor, flat: int = 0) -> Tensor:
    """Rows `c e + sqrt(1 - c^2) z_i` with `e` a new first axis: unit, and `g_i . e = c`.

    The first `flat` of them are z_i alone.
    """
    along = torch.full((len(directions), 1), cosine, dtype=torch.float64)
    along[:flat] = 0.0
    return torch.cat([along, (1 - along**2).sqrt() * _unit(directions)], -1)


def aligned(seed: int, m: int) -> Tensor:
    """Non-stationary, mild: g_i = 0.8 e + 0.6 z_i, so g_i . e = 0.8 > 0 for all i.

    Also g_i . g_j >= 0.64 - 0.36 > 0: no pair conflicts.
    """
    return _cone(0.8, _normal(seed, m, m + 3))


def conflicting(seed: int, m: int) -> Tensor:
    """Non-stationary with conflict: g_i . e = 0.05 > 0, and z_1 = -z_0 + t / 2 with t orthogonal.

    With unit z_0 and t the cosine of z_0 and z_1 is -1 / sqrt(1.25), hence
    g_0 . g_1 < 0.05^2 - 0.89 (1 - 0.05^2) < 0 although a common descent direction exists.
    """
    z = _unit(_normal(seed, m, m + 3))
    if m > 1:
        t = z[1] - (z[1] @ z[0]) * z[0]
        z[1] = -z[0] + 0.5 * _unit(t)
    return _cone(0.05, z)


def crowded(seed: int, m: int) -> Tensor:
    """Non-stationary with more conflict and few dimensions: z_i in R^2, g_i . e = 0.05 > 0.

    Rank at most 3, so the minimum-norm weights are not unique for m > 3; the point is.
    """
    return _cone(0.05, _normal(seed, m, 2))


def near_opposite(seed: int, m: int) -> Tensor:
    """Non-stationary but barely: g_0, g_1 = c e +- sqrt(1 - c^2) z with c = 0.01.

    g_i . e >= 0.01 for all i, so the point has norm at least 0.01 times the smallest row. The
    relative certificate of weights from a float64 Gramian is uncertain by about
    eps (sum_i w_i ||g_i||)^2 / (||x|| min ||g_i||) <= eps / c^2 = 2e-12, at any norm ratio;
    with c = 1e-4 and a norm ratio of 1e8 no solver that sees only the Gramian could reach 1e-10.
    """
    z = _normal(seed, m, m + 3)
    if m > 1:
        z[1] = -z[0]
    return _cone(0.01, z)


def orthogonal(seed: int, m: int) -> Tensor:
    """Non-stationary: orthonormal rows; e = sum_i g_i has g_i . e = 1.

    With row norms n_i the solution is known: w_i proportional to 1 / n_i^2.
    """
    return torch.linalg.qr(_normal(seed, m + 1, m + 1)).Q[:m]


def near_parallel(seed: int, m: int) -> Tensor:
    """Non-stationary: g_i = e + delta_i z_i with delta_i from 1e-8 to 1e-2 and z_i orthogonal to e.

    g_i . e = 1 > 0. The cosines differ from one by as little as 1e-16.
    """
    delta = torch.logspace(-8, -2, m, dtype=torch.float64)[:, None]
    e = torch.ones(m, 1, dtype=torch.float64)
    return torch.cat([e, delta * _unit(_normal(seed, m, m + 3))], -1)


def rank_deficient(seed: int, m: int) -> Tensor:
    """Non-stationary of rank at most ceil(m / 2) < m: rows of `aligned` kind in few dimensions.

    g_i = 0.6 e + 0.8 z_i with z_i in R^(ceil(m/2) - 1), so g_i . e = 0.6 > 0 and the rank is at
    most the dimension, ceil(m / 2).
    """
    return _cone(0.6, _normal(seed, m, max((m + 1) // 2 - 1, 1)))


def duplicate(seed: int, m: int) -> Tensor:
    """Non-stationary (g_i . e = 0.3 > 0); rows 0 and m-1 are equal, so w is not unique."""
    z = _normal(seed, m, m + 3)
    z[-1] = z[0]
    return _cone(0.3, z)


def all_equal(seed: int, m: int) -> Tensor:
    """Non-stationary: every row is the same g != 0, so g_i . g = ||g||^2 > 0. Rank one."""
    return _unit(_normal(seed, 1, 4)).repeat(m, 1)


def strongly_stationary(seed: int, m: int) -> Tensor:
    """Strong: g_{m-1} = -(sum_{i<m-1} w_i g_i) / w_{m-1} with all w_i > 0, so J^T w = 0.

    Exact up to the rounding of the last row.
    """
    if m == 1:
        return torch.zeros(1, 4, dtype=torch.float64)
    rows = _unit(_normal(seed, m - 1, m + 2))
    w = 0.5 + _normal(seed + 1, m - 1).abs()
    last = -(w[:, None] * rows).sum(0, keepdim=True)
    return torch.cat([rows, _unit(last)])


def opposite(seed: int, m: int) -> Tensor:
    """Weak for m > 2: g_1 = -g_0, and the other rows have g_i . e = 0.5 with e orthogonal to g_0.

    J^T w = 0 needs w_i = 0 for i >= 2 (take the inner product with e), and w = (1, 1, 0, ...)
    does it. For m = 2 it is strong.
    """
    z = _normal(seed, m, m + 3)
    z[1] = -z[0]
    return _cone(0.5, z, flat=2)


def weakly_stationary(seed: int, m: int) -> Tensor:
    """Weak: the first three rows are strongly stationary, the rest have g_i . e = 0.5.

    The three lie in the complement of e, so J^T w = 0 forces w_i = 0 for i >= 3 (inner product
    with e), and the three have positive weights of their own.
    """
    z = _normal(seed, m, m + 3)
    z[:2] = _normal(seed + 1, 2, m + 3)
    z[2] = -_unit(z[:2]).sum(0)
    return _cone(0.5, z, flat=3)


def zero_row(seed: int, m: int) -> Tensor:
    """Weak for m > 1: row 0 is zero (w = e_0 gives J^T w = 0), the others have g_i . e = 0.3 > 0.

    J^T w = 0 forces w_i = 0 for i > 0. For m = 1 it is strong.
    """
    rows = _cone(0.3, _normal(seed, m, m + 3))
    rows[0] = 0.0
    return rows


def several_zero_rows(seed: int, m: int) -> Tensor:
    """Strong for m = 2, else weak: rows 0 and m-1 are zero; the others have g_i . e = 0.3 > 0."""
    rows = zero_row(seed, m)
    rows[-1] = 0.0
    return rows


def full_stationary(seed: int, m: int) -> Tensor:
    """Strong: 2 k rows +-z_j and, for odd m, one zero row: w uniform gives J^T w = 0.

    In floor(m / 2) dimensions or fewer the weights are far from unique.
    """
    half = _unit(_normal(seed, max(m // 2, 1), 3))
    zero = torch.zeros(m % 2, 3, dtype=torch.float64)
    return torch.cat([half[: m // 2], -half[: m // 2], zero])


FAMILIES: dict[str, Family] = {
    "aligned": Family(aligned, "none", 1),
    "conflicting": Family(conflicting, "none", 1),
    "crowded": Family(crowded, "none", 1),
    "near_opposite": Family(near_opposite, "none", 2),
    "orthogonal": Family(orthogonal, "none", 1),
    "near_parallel": Family(near_parallel, "none", 2),
    "rank_deficient": Family(rank_deficient, "none", 3),
    "duplicate": Family(duplicate, "none", 2),
    "all_equal": Family(all_equal, "none", 2),
    "strongly_stationary": Family(strongly_stationary, "strong", 1),
    "opposite": Family(opposite, "weak", 3),
    "weakly_stationary": Family(weakly_stationary, "weak", 4),
    "zero_row": Family(zero_row, "weak", 2),
    "several_zero_rows": Family(several_zero_rows, "weak", 3),
    "full_stationary": Family(full_stationary, "strong", 2),
}
