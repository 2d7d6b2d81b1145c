"""each_problem: a solver of one Gramian in numpy, for tensors with leading dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus


def each_problem(
    solve: Callable[..., Solved],
    gramian: Tensor,
    *more: Tensor,
    active: Tensor | None = None,
    batch: torch.Size | None = None,
) -> SolverResult:
    """Solve every `[m, m]` problem of a batch on the host; rows that are not active are left out.

    Args:
        solve: of a float64 Gramian `[k, k]` of the active rows, and the entries `[k]` of `more`.
        gramian: `[..., m, m]`, on any device, which is read once.
        more: `[..., m]` each, further numbers per row.
        active: bool `[..., m]`; the others get weight 0. None means all. Where none is, weights
            are 0 and the status is DEGENERATE.
        batch: the leading dimensions of the result; by default the Gramian's.

    Returns:
        A `SolverResult` on the Gramian's device.
    """
    m, device = gramian.shape[-1], gramian.device
    batch = gramian.shape[:-2] if batch is None else batch
    count = batch.numel()

    def arrays(tensor: Tensor, *shape: int, dtype: torch.dtype = torch.float64) -> Array:
        whole: Array = tensor.detach().to("cpu", dtype).expand(*batch, *shape).numpy()
        return whole.reshape(count, *shape)

    stack = arrays(gramian, m, m)
    extras = [arrays(tensor, m) for tensor in more]
    masks = None if active is None else arrays(active, m, dtype=torch.bool)
    solved = []
    for i in range(count):
        row = [extra[i] for extra in extras]
        if masks is None or masks[i].all():
            solved.append(solve(stack[i], *row))
        else:
            solved.append(_on_active(solve, stack[i], row, masks[i].nonzero()[0]))

    def joined(values: list[object], dtype: type, *shape: int) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=dtype).reshape((*batch, *shape))).to(device)

    return SolverResult(
        joined([s.weights for s in solved], np.float64, m),
        joined([int(s.status or 0) for s in solved], np.int64),
        joined([s.gap for s in solved], np.float64),
        joined([s.num_iter for s in solved], np.int64),
    )


def _on_active(
    solve: Callable[..., Solved], gramian: Array, more: list[Array], index: Array
) -> Solved:
    weights = np.zeros(len(gramian))
    if not len(index):
        return Solved(weights, SolverStatus.DEGENERATE, 0.0)
    inner = solve(gramian[np.ix_(index, index)], *(extra[index] for extra in more))
    weights[index] = inner.weights
    return inner._replace(weights=weights)
