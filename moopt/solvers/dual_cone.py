"""dual_cone_point: the projection of a combination of gradients onto their dual cone."""

from __future__ import annotations

import torch
from torch import Tensor

from moopt.kernels.dual_cone import dual_cone_reference
from moopt.records.result import SolverResult
from moopt.solvers.pseudo_inverse import runs_on_host


def dual_cone_point(
    gramian: Tensor,
    preference: Tensor,
    *,
    active: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """The weights of the point of the dual cone that is nearest to `sum_i u_i g_i`.

    Solves `min_v v^T G v` subject to `v_i >= u_i` for every i, with G = J J^T. The point
    d = J^T v is the projection of J^T u onto the cone `{d : g_i . d >= 0 for every i}`: the
    nearest direction that raises no objective.

    Args:
        gramian: real floating `[..., m, m]`, symmetric positive semi-definite up to rounding; any
            scale from 1e-30 to 1e30 of the gradients and norm ratios to 1e8.
        preference: real floating `[m]` or `[..., m]`, the combination u to project.
        active: bool `[..., m]`; other rows get weight exactly 0 and have no influence, not even
            when they hold NaN. None means all; no active row gives weights 0.
        tol: positive, dimensionless; the `gap` up to which the status is CONVERGED. The solver
            goes as far as float64 lets it, whatever `tol` is. Default 1e-10.
        max_iter: limit on the pivots of one projection; default `10 m + 20` (on a device, for
            m > 8, `4 m + 4`). Enumeration, on a device for m <= 8, ignores it.

    Returns:
        `SolverResult`: weights v float64 `[..., m]`, v >= u; status int64 `[...]`; gap float64
        `[...]`; num_iter int64 `[...]`.
        With unit gradients g^_i = g_i / ||g_i|| and shifts s_i = ||g_i|| (v_i - u_i), gap is the
        residual of the optimality conditions `max_i |min(s_i, g^_i . d)| / ||d||`: a gap of
        1e-10 proves `g_i . d >= -1e-10 ||g_i|| ||d||` for every i.
        status is DEGENERATE, with gap 0, where float64 Gramians cannot tell d from zero,
        `||d|| <= 6e-8 sum_i |v_i| ||g_i||`; NON_FINITE, with uniform weights and gap NaN, where
        an active entry is NaN or infinite; MAX_ITER where the gap exceeds `tol`; else CONVERGED.

    Raises:
        ValueError: if a shape or a setting is wrong.

    Numerics: float64, from cosines and ratios of norms alone. d is unique; for linearly dependent
        gradients v is not. CPU tensors are solved on the host (block pivoting, and a finite
        active-set method where that does not certify); other devices, and `torch.compile`, use a
        branch-free form without synchronisation. The result carries no autograd graph.

    Example:
        >>> import torch
        >>> from moopt.solvers import dual_cone_point
        >>> G = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
        >>> dual_cone_point(G, torch.tensor([1.0, 0.0])).weights.tolist()
        [1.0, 0.25]

    Source: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory for Continual Learning",
    NeurIPS 2017, for the problem; P. Quinton and V. Rey, "Jacobian Descent For Multi-Objective
    Optimization", arXiv 2406.16232, 2024, Proposition 1, for this form. We solve it on unit
    gradients, so that no ridge and no absolute tolerance is needed, and certify each row.
    """
    return dual_cone_combination(
        gramian, preference, active=active, separate=False, tol=tol, max_iter=max_iter
    )


def dual_cone_combination(
    gramian: Tensor,
    preference: Tensor,
    *,
    active: Tensor | None = None,
    separate: bool,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """`dual_cone_point`, or with `separate` the sum of u_i times the projection of g_i itself.

    The gap of the sum is `sum_i u_i residual_i / ||d||` with the residual of each projection;
    since projections of gradients never conflict, ||d|| is at least as long as each of them.
    """
    shape = gramian.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(
            "`gramian` of `dual_cone_point` must have shape [..., m, m] with m >= 1; got"
            f" {list(shape)}. Pass the Gramian J @ J.T, not the Jacobian."
        )
    if preference.shape[-1:] != shape[-1:]:
        raise ValueError(
            f"`preference` of `dual_cone_point` must have shape [..., {shape[-1]}], one entry for"
            f" each row of the Gramian; got {list(preference.shape)}. Pass torch.ones(m) / m for"
            " the mean."
        )
    if not tol > 0.0 or (max_iter is not None and max_iter < 1):
        raise ValueError(
            f"`tol` of `dual_cone_point` must be positive and `max_iter` at least 1; got {tol}"
            f" and {max_iter}. Use the defaults, 1e-10 and None."
        )
    gramian = gramian.detach().to(torch.float64)
    preference = preference.detach().to(device=gramian.device, dtype=torch.float64)
    if runs_on_host(gramian):
        return _on_host(gramian, preference, active, separate, tol, max_iter)
    batch = torch.broadcast_shapes(shape[:-2], preference.shape[:-1])
    on = torch.ones(shape[-1], dtype=torch.bool, device=gramian.device)
    if active is not None:
        on = on & active.to(gramian.device)
    return SolverResult(
        *dual_cone_reference(
            gramian.expand(*batch, *shape[-2:]),
            preference.expand(*batch, shape[-1]),
            on.expand(*batch, shape[-1]),
            separate=separate,
            tol=tol,
            max_iter=max_iter,
        )
    )


def _on_host(
    gramian: Tensor,
    preference: Tensor,
    active: Tensor | None,
    separate: bool,
    tol: float,
    max_iter: int | None,
) -> SolverResult:
    # numpy, and with it every host solver, is loaded by the first solve, not by `import moopt`.
    import numpy as np

    from moopt.solvers.dual_cone_on_host import dual_cone_host

    m = gramian.shape[-1]
    if gramian.ndim == 2 and preference.ndim == 1:
        flags = None if active is None else active.tolist()
        solved = dual_cone_host(gramian.numpy(), preference.numpy(), flags, separate, tol, max_iter)
        return SolverResult(*(torch.from_numpy(np.asarray(value)) for value in solved))
    batch = torch.broadcast_shapes(gramian.shape[:-2], preference.shape[:-1])
    stack = gramian.expand(*batch, m, m).reshape(-1, m, m).numpy()
    preferences = preference.expand(*batch, m).reshape(-1, m).numpy()
    if active is None:
        masks = [None] * len(stack)
    else:
        masks = active.expand(*batch, m).reshape(-1, m).tolist()
    columns: list[list] = [[], [], [], []]
    for one, u, mask in zip(stack, preferences, masks, strict=True):
        solved = dual_cone_host(one, u, mask, separate, tol, max_iter)
        for column, value in zip(columns, solved, strict=True):
            column.append(value)
    shapes = ((*batch, m), batch, batch, batch)
    dtypes = (np.float64, np.int64, np.float64, np.int64)
    return SolverResult(
        *(
            torch.from_numpy(np.array(column, dtype=dtype).reshape(shape))
            for column, dtype, shape in zip(columns, dtypes, shapes, strict=True)
        )
    )
