"""Faces: what the solvers on a device share, all of it without a branch on values.

Both look for `v >= 0` with `y >= 0` and `v_i y_i = 0`, y being affine in v. The rows where v is
positive are its face: the equations `y_i = 0` on them give v.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from moopt.kernels.tolerances import DEPENDENT, RESIDUAL_ROUNDING
from moopt.records.status import SolverStatus

# Up to here 2^m faces at once are fewer kernel launches than one pivot after the other.
LARGEST_ENUMERATED = 8


def scale_free(gramian: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Gramian of the unit rows, as `moopt.solvers.equilibrated.cosines_of` on the host.

    Args:
        gramian: float64 `[..., m, m]`.
        active: bool `[..., m]`.

    Returns:
        cosines float64 `[..., m, m]`; norms float64 `[..., m]`; live bool `[..., m]`, the active
        rows that are not zero; finite bool `[...]`. A row that is not live is a unit row at right
        angles to all others, and no row of a problem that is not finite is live.
    """
    pairs = active[..., :, None] & active[..., None, :]
    finite = (gramian.isfinite() | ~pairs).all(-1).all(-1)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    live = active & (norms > 0.0) & finite[..., None]
    norms = torch.where(live, norms, 1.0)
    pairs = live[..., :, None] & live[..., None, :]
    cosines = torch.where(pairs, 0.5 * gramian + 0.5 * gramian.mT, 0.0)
    # Two divisions: the product of two norms can underflow where the entry does not.
    cosines = (cosines / norms[..., :, None] / norms[..., None, :]).clamp(-1.0, 1.0)
    eye = torch.eye(norms.shape[-1], dtype=torch.bool, device=gramian.device)
    return torch.where(eye, 1.0, cosines), norms, live, finite


def concluded(
    weights: Tensor,
    gap: Tensor,
    zero: Tensor,
    active: Tensor,
    finite: Tensor,
    tol: float,
    sound: Tensor | bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, status and gap as a solver returns them.

    Args:
        weights: float64 `[..., m]`; uniform over the active rows in their place where not finite.
        gap: float64 `[...]`.
        zero: bool `[...]`, where the point is zero up to rounding.
        active: bool `[..., m]`.
        finite: bool `[...]`.
        tol: the gap up to which the status is CONVERGED.
        sound: bool `[...]`, where it is so too: what is left of the gap is rounding.
    """
    uniform = active / active.sum(-1, keepdim=True).clamp_min(1).to(weights.dtype)
    weights = torch.where(finite[..., None], weights, uniform)
    status = torch.where(
        (gap <= tol) | sound, int(SolverStatus.CONVERGED), int(SolverStatus.MAX_ITER)
    )
    status = torch.where(zero, int(SolverStatus.DEGENERATE), status)
    status = torch.where(finite, status, int(SolverStatus.NON_FINITE))
    return weights, status, torch.where(finite, gap, math.nan)


def solved_on_faces(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solve the equations of each face by itself, all faces at once.

    Args:
        matrix: float64 `[..., m, m]`, symmetric positive semi-definite.
        right: float64 `[..., m]`.

    Returns:
        x float64 `[..., 2^m, m]` with `(matrix x)_i = right_i` on the face and 0 elsewhere, the
        empty face first; and bool `[..., 2^m]`, whether the rows of the face are independent: x
        means nothing where not.
    """
    bits = torch.arange(right.shape[-1], device=right.device)
    faces = (torch.arange(2 ** len(bits), device=right.device)[:, None] >> bits) & 1 == 1
    eye = torch.eye(len(bits), dtype=right.dtype, device=right.device)
    a = torch.where(faces[:, :, None] & faces[:, None, :], matrix[..., None, :, :], eye)
    b = torch.where(faces, right[..., None, :], 0.0)[..., None]
    factor, failed = torch.linalg.cholesky_ex(a)
    x = torch.cholesky_solve(b, factor)
    x = x + torch.cholesky_solve(b - a @ x, factor)
    complements = factor.diagonal(dim1=-2, dim2=-1).square()
    return x[..., 0], (failed == 0) & (complements > DEPENDENT).all(-1)


class Pivots:
    """Rows enter the face one after another, each as far as the rows of the face allow.

    A row enters along the path on which the equations of the face stay solved. Where a weight of
    the face reaches zero on the way, that row leaves, and the row that was entering goes on.

    Args:
        table: float64 `[..., m, m]`, the matrix, on which the face is still empty.
        z: float64 `[..., m]`, -y at v = 0: what is positive wants to enter.
        size: the size of the terms of y at v = 0, which bounds its rounding.

    Attributes:
        table: the matrix with the rows of the face swept in.
        z: v on the face, -y elsewhere.
        face: bool `[..., m]`.
        driving: bool `[...]`, whether a row has entered in part.
        value: float64 `[...]`, the weight of the row that entered last.
        count: int64 `[...]`, how many pivots were made.
    """

    def __init__(self, table: Tensor, z: Tensor, size: float | Tensor) -> None:
        self.table, self.z, self._size = table, z, size
        self.face = torch.zeros_like(z, dtype=torch.bool)
        self.value = torch.zeros_like(z[..., 0])
        self.driving = torch.zeros_like(self.value, dtype=torch.bool)
        self.count = torch.zeros_like(self.value, dtype=torch.int64)
        self._enter = self.count
        self._rows = torch.arange(z.shape[-1], device=z.device)

    def pivot(self, left_out: Tensor) -> tuple[Tensor, Tensor]:
        """Make one pivot where one is to be made.

        Args:
            left_out: bool `[..., m]`, rows that must not enter.

        Returns:
            bool `[..., m]`, True at a row along whose path nothing blocks, and nothing moves then;
            and float64 `[..., m]`, how fast v falls on the face while the row enters.
        """
        level, candidate = torch.where(self.face | left_out, 0.0, self.z).max(-1)
        noise = RESIDUAL_ROUNDING * (self._size + torch.where(self.face, self.z, 0.0).sum(-1))
        busy = self.driving | (level > noise)
        enter = torch.where(self.driving, self._enter, candidate)[..., None]
        slope = self.table.take_along_dim(enter[..., None], -2)[..., 0, :]
        diagonal, level = slope.take_along_dim(enter, -1), self.z.take_along_dim(enter, -1)
        length = torch.where(diagonal > DEPENDENT, level / diagonal, math.inf)[..., 0]
        blocks = self.face & (slope > 0.0)
        ratio, first = torch.where(blocks, self.z.clamp_min(0.0) / slope, math.inf).min(-1)
        blocked = ratio < length
        length = torch.minimum(ratio, length)
        move = busy & ~length.isinf()
        length = torch.where(move, length, 0.0)
        self.value = torch.where(self.driving, self.value, 0.0) + length
        pivot = torch.where(blocked, first, enter[..., 0])
        moved = move[..., None] & (self._rows == pivot[..., None])
        arrived = torch.where(blocked, 0.0, self.value)[..., None]
        self.z = torch.where(moved, arrived, self.z - length[..., None] * slope)
        after = self._after_sweep(pivot, torch.where(blocked, -1.0, torch.ones_like(length)))
        self.table = torch.where(move[..., None, None], after, self.table)
        self.face = self.face ^ moved
        self.driving = move & blocked
        self.count = self.count + move
        self._enter = enter[..., 0]
        return (busy & ~move)[..., None] & (self._rows == enter), slope

    def _after_sweep(self, row: Tensor, sign: Tensor) -> Tensor:
        """The table with one row swept in (sign 1) or out (sign -1); it stays symmetric.

        Sweeping in all rows of a matrix turns it into minus its inverse; sweeping in some, into the
        tableau of the equations on those rows. Sweeping out undoes it.
        """
        at_row = self._rows == row[..., None]
        entries = self.table.take_along_dim(row[..., None, None], -2)[..., 0, :]
        diagonal = entries.take_along_dim(row[..., None], -1)
        rest = self.table - entries[..., :, None] * (entries / diagonal)[..., None, :]
        new = torch.where(at_row, -1.0, sign[..., None] * entries) / diagonal
        rest = torch.where(at_row[..., :, None], new[..., None, :], rest)
        return torch.where(at_row[..., None, :], new[..., :, None], rest)

    def refined(self, fixed: float | Tensor, residual: Callable[[Tensor], Tensor]) -> Tensor:
        """v after the last pivot, corrected once by the equations of the face.

        Args:
            fixed: weights that are known by now. A row that has entered in part joins them:
                it is feasible, and better than nothing.
            residual: from v to what is missing in each equation.
        """
        entering = (self._rows == self._enter[..., None]) & self.driving[..., None]
        fixed = fixed + torch.where(entering, self.value[..., None], 0.0)
        v = torch.where(self.face, self.z.clamp_min(0.0), 0.0)
        missing = torch.where(self.face, residual(v + fixed), 0.0)
        v = v - (self.table @ missing[..., None])[..., 0]
        return torch.where(self.face, v.clamp_min(0.0), 0.0) + fixed
