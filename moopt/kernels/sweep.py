"""swept: the symmetric sweep, by which the solvers pivot on a device."""

import torch
from torch import Tensor


def swept(table: Tensor, row: Tensor, diagonal: Tensor, at_row: Tensor, sign: Tensor) -> Tensor:
    """Sweep one row and column of each table in (sign 1) or out (sign -1).

    Sweeping in all rows of a matrix turns it into minus its inverse; sweeping in some, into the
    tableau of the equations on those rows. Sweeping out undoes it.

    Args:
        table: `[..., m, m]`, symmetric.
        row: `[..., m]`, the row to sweep.
        diagonal: `[...]`, its entry on the diagonal.
        at_row: bool `[..., m]`, True where that row is.
        sign: `[...]`, 1 or -1.

    Returns:
        `[..., m, m]`, symmetric; where the diagonal is zero, finite but meaningless.
    """
    diagonal = torch.where(diagonal == 0.0, 1.0, diagonal)[..., None]
    scaled = row / diagonal
    result = table - row[..., :, None] * scaled[..., None, :]
    signed = sign[..., None] * scaled
    result = torch.where(at_row[..., :, None], signed[..., None, :], result)
    result = torch.where(at_row[..., None, :], signed[..., :, None], result)
    both = at_row[..., :, None] & at_row[..., None, :]
    return torch.where(both, -1.0 / diagonal[..., None], result)
