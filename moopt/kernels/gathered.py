"""gathered: small rows in host memory as one float64 matrix, multiplied and combined in one call.

Below some size a call costs more than its arithmetic. One matrix holds all rows there: its product
with itself is the Gramian, and weights times the matrix the combination.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from operator import is_not
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moopt.kernels.dispatch import GATHERED, form_of
from moopt.kernels.pieces import Rows

Array = np.ndarray[Any, np.dtype[np.float64]]

# From here on numpy's symmetric product beats torch's general one.
_SYMMETRIC = 6
exists = partial(is_not, None)
"""Whether an entry is a tensor; `entry != None` would ask the tensor itself."""

_flatten = torch._C._nn.flatten_dense_tensors
_unflatten = torch._C._nn.unflatten_dense_tensors


def gathered(rows: Rows) -> Tensor | None:
    """The rows as one float64 matrix `[m, n]`; None where another form is faster.

    Args:
        rows: `m >= 1` sequences of dense tensors, as many in each and of one shape at each
            position; None is a zero gradient, and positions that no row has take no place. Nothing
            of this is checked.
    """
    entries: list[Any] = list(chain.from_iterable(rows))
    first: Sequence[Tensor | None] = rows[0]
    complete = all(map(exists, entries))
    if not complete:
        first = first_of(rows)
    tensors: Any = first if complete else list(filter(exists, first))
    if not tensors or form_of(tensors, len(rows)) is not GATHERED:
        return None
    if not complete:
        entries = _with_zeros(rows, first)
    matrix: Tensor = _flatten(entries).view(len(rows), -1).double().resolve_neg()
    return matrix


def first_of(rows: Rows) -> list[Tensor | None]:
    """The first tensor at each position; None where every row has None."""
    first = list(rows[0])
    for row in rows[1:]:
        if all(map(exists, first)):
            break
        first = [b if a is None else a for a, b in zip(first, row, strict=True)]
    return first


def _with_zeros(rows: Rows, first: Sequence[Tensor | None]) -> list[Tensor]:
    """Every entry, row by row, with zeros for None; nothing at positions that no row has."""
    zeros = [None if g is None else g.new_zeros(()).expand(g.shape) for g in first]
    filled = [z if g is None else g for row in rows for g, z in zip(row, zeros, strict=True)]
    return [g for g in filled if g is not None]


@np.errstate(all="ignore")  # infinity and NaN are the caller's to see
def inner_products(matrix: Tensor) -> tuple[Tensor, float]:
    """The Gramian of the rows of a matrix, and the rounding of its entries.

    Returns:
        float64 `[m, m]`, exactly symmetric, and `noise` such that
        `|G_ij - exact| <= noise ||g_i|| ||g_j||`.
    """
    m, n = matrix.shape
    noise = rounding(n, torch.float64)
    if m >= _SYMMETRIC:
        array = matrix.numpy()
        return torch.from_numpy(array.dot(array.T)), noise
    product = matrix @ matrix.T
    return torch.add(product, product.T).mul_(0.5), noise


@np.errstate(all="ignore")
def combine_gathered_(
    matrix: Tensor, weights: Sequence[float] | Array, targets: Sequence[Tensor | None]
) -> None:
    """Write `sum_i weights[i] matrix[i]`, rounded once, into `targets`; None takes no place."""
    tensors: Any = list(filter(exists, targets))
    direction = np.asarray(weights, dtype=np.float64).dot(matrix.numpy())
    torch._foreach_copy_(tensors, _unflatten(torch.from_numpy(direction), tensors))


def rounding(terms: float, dtype: torch.dtype) -> float:
    """The rounding of an inner product `x . y`, relative to `||x|| ||y||`.

    Each addition errs by at most `eps / 2` of the partial sum, which is half of the whole on
    average, and the first few count in full. Constant gradients come within a factor of two; with
    random signs the errors cancel, and `sqrt(terms)` takes the place of `terms`.

    Args:
        terms: how many products are added one after another.
        dtype: in which.
    """
    return (terms + 3) * torch.finfo(dtype).eps / 4
