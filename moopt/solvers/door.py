"""Doors: what every public solver does around its core in numpy, for tensors of any shape."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moopt.kernels.tolerances import EPS
from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.equilibrated import cosines_of

ZeroRows = Literal["stop", "keep", "pass"]


def each_gramian(
    solve: Callable[..., Solved],
    gramian: Tensor,
    *more: Tensor,
    active: Tensor | None = None,
    zero_rows: ZeroRows = "stop",
) -> SolverResult:
    """Solve every problem of a batch of Gramians on the host, cleared of trouble.

    Rows that are not active are left out and get weight 0; where none is, the status is
    DEGENERATE and the gap 0. Where an active number is NaN or infinite the weights are uniform,
    the status is NON_FINITE and the gap NaN.

    Args:
        solve: of the cosines `[k, k]`, the norms `[k]`, and the entries `[k]` of `more`.
        gramian: `[..., m, m]`, on any device, which is read once.
        more: `[..., m]` each, further numbers per row; leading dimensions broadcast.
        active: bool `[..., m]`; None means all.
        zero_rows: "stop": where there are any they share the weight, and the status is DEGENERATE
            with gap 0. "keep": they are left out, and their weight is their entry of `more`.
            "pass": `solve` is given them.
    """

    def cleared(rows: Array, *entries: Array) -> Solved:
        squares = rows.diagonal()
        # A sum is finite only if its terms are; a large one may overflow.
        total = sum(np.add.reduce(array, axis=None) for array in (rows, *entries))
        if not math.isfinite(total) and not all(np.isfinite(a).all() for a in (rows, *entries)):
            return Solved(np.full(len(rows), 1.0 / len(rows)), SolverStatus.NON_FINITE)
        if zero_rows != "pass" and not squares[squares.argmin()] > 0.0:
            live = squares > 0.0
            if zero_rows == "keep":
                return restricted(live, entries[0], rows, *entries)
            return Solved(~live / np.count_nonzero(~live), SolverStatus.DEGENERATE, 0.0)
        norms = np.sqrt(np.maximum(squares, 0.0))
        return solve(cosines_of(rows, norms), norms, *entries)

    def restricted(kept: NDArray[Any], others: Array, rows: Array, *entries: Array) -> Solved:
        index = kept.nonzero()[0]
        if not index.size:
            return Solved(others, SolverStatus.DEGENERATE, 0.0)
        solved = cleared(rows[np.ix_(index, index)], *(entry[index] for entry in entries))
        return spread(solved, index, others)

    def masked(rows: Array, *others: Array) -> Solved:
        *entries, on = others
        return restricted(on, np.zeros(len(on)), rows, *entries)

    parts = [(gramian, 2), *((tensor, 1) for tensor in more)]
    if active is None:
        return each_problem(cleared, *parts)
    return each_problem(masked, *parts, (active, 1))


def spread(solved: Solved, index: NDArray[Any], others: Array) -> Solved:
    """The solution of some of the rows as one of all, with the weights of the others."""
    weights = others.copy()
    weights[index] = solved.weights
    return solved._replace(weights=weights)


def each_problem(solve: Callable[..., Solved], *parts: tuple[Tensor, int]) -> SolverResult:
    """Solve every problem of a batch in numpy; leading dimensions broadcast.

    Args:
        solve: of the parts of one problem: float64 arrays, or bool.
        parts: each with the number of its own dimensions, which come last. The first has as many
            columns as the weights are long.

    Returns:
        A `SolverResult` on the device of the first part.
    """
    first = parts[0][0]
    leading = [part.shape[: part.ndim - ndim] for part, ndim in parts]
    batch = np.broadcast_shapes(*leading) if any(leading) else ()
    columns = []
    for part, ndim in parts:
        dtype = torch.bool if part.dtype == torch.bool else torch.float64
        array = part.detach().to("cpu", dtype).numpy()
        if batch:
            own = array.shape[array.ndim - ndim :]
            array = np.broadcast_to(array, (*batch, *own)).reshape(-1, *own)
        columns.append(array if batch else [array])
    # Extreme ratios may overflow on the way; the certificate is the judge.
    with np.errstate(all="ignore"):
        solved = [solve(*one) for one in zip(*columns, strict=True)]

    def joined(values: list[object], dtype: type, *shape: int) -> Tensor:
        array: Array = np.array(values if batch else values[0], dtype=dtype)
        whole = torch.from_numpy(array.reshape((*batch, *shape)) if batch else array)
        return whole if first.is_cpu else whole.to(first.device)

    return SolverResult(
        joined([s.weights for s in solved], np.float64, first.shape[-1]),
        joined([int(s.status or 0) for s in solved], np.int64),
        joined([s.gap for s in solved], np.float64),
        joined([s.num_iter for s in solved], np.int64),
    )


def rounding_of(tensor: Tensor) -> float:
    """The relative rounding of the numbers of a tensor: that of its dtype, at least float64's."""
    return max(EPS, torch.finfo(tensor.dtype).eps)


def check_gramian(gramian: Tensor, owner: str) -> None:
    """Refuse what is not a real floating `[..., m, m]` with m >= 1.

    Raises:
        TypeError: not a tensor, or not of a real floating-point dtype.
        ValueError: a wrong shape.
    """
    if not isinstance(gramian, Tensor) or not gramian.dtype.is_floating_point:
        raise TypeError(
            f"`gramian` of `{owner}` must be a tensor of a real floating-point dtype; got"
            f" {getattr(gramian, 'dtype', type(gramian).__name__)}. Pass the real part of"
            " `torch.as_tensor(gramian)`, as torch.float64."
        )
    shape = gramian.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(
            f"`gramian` of `{owner}` must have shape [..., m, m] with m >= 1; got {list(shape)}."
            " Pass the Gramian J @ J.T, not the Jacobian."
        )


def check_limits(
    tol: float, max_iter: int | None, owner: str, default: str, largest: float = math.inf
) -> None:
    """Raise ValueError unless `0 < tol < largest` and `max_iter` is None or at least 1."""
    if not 0.0 < tol < largest or (max_iter is not None and max_iter < 1):
        rule = "be positive" if largest == math.inf else f"be in (0, {largest:g})"
        raise ValueError(
            f"`tol` of `{owner}` must {rule} and `max_iter` at least 1; got {tol} and {max_iter}."
            f" Use the defaults, {default} and None."
        )
