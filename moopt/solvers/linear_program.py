"""linear_program: the best point of a simplex cut by half-spaces, certified."""

from __future__ import annotations

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.solvers.linear_program_on_device import linear_program_on_device
from moopt.solvers.pseudo_inverse import runs_on_host


def linear_program(
    cost: Tensor,
    matrix: Tensor,
    bound: Tensor,
    *,
    budget: Tensor | None = None,
    active: Tensor | None = None,
    tol: float = 1e-9,
    max_iter: int | None = None,
) -> SolverResult:
    """The point of a simplex, cut by half-spaces, that earns the most.

    Solves `max_x c . x` subject to `A x >= b`, `s . x = 1` and `x >= 0`.

    Args:
        cost: real floating `[..., n]`, c.
        matrix: real floating `[..., p, n]`, A, p >= 1. Rows may differ in scale; entries within a
            row should not: choose the unit of each x_i, with `budget`, so that they are comparable.
        bound: real floating `[..., p]`, b; -inf drops a row, whose entries then do not matter.
        budget: real floating `[..., n]`, s >= 0; None means all 1. Where an entry is 0 that
            variable must be bounded by the rows.
        active: bool `[..., n]`; the other variables are exactly 0 and have no influence, not even
            when they hold NaN. None means all.
        tol: positive, dimensionless; the `gap` up to which the status is CONVERGED. Default 1e-9.
        max_iter: limit on pivots; default `50 (n + p) + 100`, on a device `3 (n + p) / 2 + 4`, all
            of which are executed.

    Returns:
        `SolverResult`: weights x float64 `[..., n]`, x >= 0 with s . x = 1 up to rounding; status
        int64 `[...]`; gap float64 `[...]`; num_iter int64 `[...]`, pivots.
        gap is the largest residual of the conditions of optimality, with c, s and each row of A
        in units of its longest entry, x in units of 1 / max s, and prices y >= 0 of the rows and v
        of the budget: of `(b_j - A_j x) / (1 + |A_j| x + |b_j|)`, of
        `z_i / (1 + y . |A^i| + |v| s_i)` with `z = c + A'y - v s`, and of
        `(v - b . y - c . x) / (1 + |c| x + y . (1 + |A| x + |b|))`, each where positive. First
        each is lowered by what roundings of A, 2^-50 of the longest entry of a row, make of it,
        but by at most 1e-6: a row by 2^-50 times the sum of the x_i where A_ji is not 0, a column
        by that of such y_j, and the last by what the rows get, times y.
        status is INFEASIBLE where no point meets the rows, or no variable is active: x is then
        the point that violates them least, in units of the longest entry of each, and gap tells
        by how much; NON_FINITE, with equal weights and gap NaN, where an active entry is NaN or
        infinite; MAX_ITER where the gap exceeds `tol`; else CONVERGED.

    Raises:
        ValueError: if a shape or a setting is wrong.

    Numerics: float64 whatever the input; independent of the scales of c, of s and of each row.
        Entries of s below 1e-10 of the longest are too small to pivot on: MAX_ITER, or a point
        without that variable.
        The simplex method: the steepest column for three quarters of the pivots, then Bland's
        rule, which ends after finitely many; point and prices are refined once from the given
        numbers. Where several points are optimal, one of them. CPU tensors are solved on the
        host, one after the other; other devices, and `torch.compile`, use a branch-free form
        without synchronisation. The result carries no autograd graph.

    Example:
        >>> import torch
        >>> from moopt.solvers import linear_program
        >>> c, A = torch.tensor([2.0, 1.0]), torch.tensor([[0.0, 1.0]])
        >>> linear_program(c, A, torch.tensor([0.25])).weights.tolist()
        [0.75, 0.25]

    Source: G. B. Dantzig, "Maximization of a linear function of variables subject to linear
    inequalities", in Activity Analysis of Production and Allocation, 1951; R. G. Bland, "New
    finite pivoting rules for the simplex method", Mathematics of Operations Research 2, 1977. One
    artificial variable, the largest violation, serves the first phase.
    """
    n, p = _checked_sizes(cost, matrix, bound, budget, active, tol, max_iter)
    batch = torch.broadcast_shapes(
        cost.shape[:-1],
        matrix.shape[:-2],
        bound.shape[:-1],
        () if budget is None else budget.shape[:-1],
        () if active is None else active.shape[:-1],
    )
    device = matrix.device
    c, a, b = (v.detach().to(device, torch.float64) for v in (cost, matrix, bound))
    s = torch.ones_like(c) if budget is None else budget.detach().to(device, torch.float64)
    on = torch.ones(n, dtype=torch.bool, device=device) if active is None else active.to(device)
    shapes = ((*batch, n), (*batch, p, n), (*batch, p), (*batch, n), (*batch, n))
    c, a, b, s, on = (v.expand(shape) for v, shape in zip((c, a, b, s, on), shapes, strict=True))
    if runs_on_host(a):
        trips = 50 * (n + p) + 100 if max_iter is None else max_iter
        return _on_host((c, a, b, s, on), tol, trips)
    trips = 3 * (n + p) // 2 + 4 if max_iter is None else max_iter
    return linear_program_on_device(c, a, b, s, on, tol, trips)


def _on_host(problem: tuple[Tensor, ...], tol: float, max_iter: int) -> SolverResult:
    # numpy, and with it every host solver, is loaded by the first solve, not by `import moopt`.
    import numpy as np

    from moopt.solvers.linear_program_on_host import linear_program_host

    cost, matrix = problem[:2]
    if matrix.ndim == 2:
        c, a, b, s, on = (t.numpy() for t in problem)
        solved = linear_program_host(c, a, b, s, on, tol, max_iter)
        return SolverResult(*(torch.from_numpy(np.asarray(value)) for value in solved))
    batch = matrix.shape[:-2]
    flat = [t.reshape(-1, *t.shape[len(batch) :]) for t in problem]
    results = [_on_host(one, tol, max_iter) for one in zip(*flat, strict=True)]
    stacked = SolverResult(*(torch.stack(column) for column in zip(*results, strict=True)))
    return SolverResult(
        stacked.weights.reshape(cost.shape), *(value.reshape(batch) for value in stacked[1:])
    )


def _checked_sizes(
    cost: Tensor,
    matrix: Tensor,
    bound: Tensor,
    budget: Tensor | None,
    active: Tensor | None,
    tol: float,
    max_iter: int | None,
) -> tuple[int, int]:
    """(n, p), or ValueError."""
    shape = matrix.shape
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(
            "`matrix` of `linear_program` must have shape [..., p, n] with p, n >= 1; got"
            f" {list(shape)}. Pass one row for each half-space."
        )
    p, n = shape[-2:]
    named = {"cost": (cost, n), "bound": (bound, p), "budget": (budget, n), "active": (active, n)}
    for name, (given, size) in named.items():
        if given is not None and given.shape[-1:] != (size,):
            raise ValueError(
                f"`{name}` of `linear_program` must have shape [..., {size}] to fit a matrix of"
                f" {p} rows and {n} columns; got {list(given.shape)}. Pass {size} numbers."
            )
    if not tol > 0.0 or (max_iter is not None and max_iter < 1):
        raise ValueError(
            f"`tol` of `linear_program` must be positive and `max_iter` at least 1; got {tol} and"
            f" {max_iter}. Use the defaults, 1e-9 and None."
        )
    return n, p
