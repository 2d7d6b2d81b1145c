"""cagrad_point: the best worst improvement in a ball around the mean gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.solvers.cagrad_on_device import cagrad_on_device
from moopt.solvers.pseudo_inverse import runs_on_host

HOST_TRIPS = 60
"""Limit of the root finder where it can stop early; at most 16 were seen."""


def cagrad_point(
    gramian: Tensor,
    *,
    c: float = 0.5,
    active: Tensor | None = None,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> SolverResult:
    """The weights of the direction that maximises the worst improvement near the mean gradient.

    Solves `max_d min_i g_i . d` subject to `||d - g0|| <= c ||g0||`, g0 the mean gradient. By
    duality `d = g0 + c ||g0|| g_w / ||g_w||` with g_w = J^T w and w the minimiser over the
    simplex of `F(w) = g0 . g_w + c ||g0|| ||g_w||`.

    With `||x|| = min_t (||x||^2 / t + t) / 2` the dual is one-dimensional: for a given t, w is
    the minimum-norm point of the rows `g_i + t / (c ||g0||) g0`, and the right t is `||g_w||`.
    On each face of the simplex ||g_w||^2 is affine in t^2, so secants find it in few trips.

    Args:
        gramian: real floating `[..., m, m]`, symmetric positive semi-definite up to rounding.
        c: the radius relative to ||g0||, finite, >= 0; 0 gives the mean. Default 0.5.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all.
        tol: positive, dimensionless; the `gap` up to which the status is CONVERGED.
        max_iter: limit on minimum-norm problems; default 60 (on a
            device, for m > 8, 16, all executed; up to m = 8 it tries every face instead).

    Returns:
        `SolverResult` with the weights of d, float64 `[..., m]`, >= 1/m. gap is the duality gap
        of each row, `max_i (F(w) - g_i . d) / (||g_i|| ||d||)`, at least 0. status is CONVERGED,
        MAX_ITER (gap above `tol`), NON_FINITE (weights uniform, gap NaN), or DEGENERATE where the
        point is Pareto stationary and so g_w = 0 can be the optimum: then any d of the ball with
        `g_i . d >= 0` for every i is a solution, and the one nearest to g0 is returned; also
        where g0 = 0, d = 0.

    Numerics: float64, positively homogeneous; equations of unlike norms are not equilibrated,
        because the problem itself depends on them. No synchronisation on a device.

    Example:
        >>> import torch
        >>> from moopt.solvers import cagrad_point
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> [round(w, 12) for w in cagrad_point(G, c=0.5).weights.tolist()]
        [0.75, 0.75]

    Source: B. Liu, X. Liu, X. Jin, P. Stone and Q. Liu, "Conflict-Averse Gradient Descent for
    Multi-task Learning", NeurIPS 2021. The reduction to minimum-norm points and the rule for
    g_w = 0, which the paper excludes, are ours.
    """
    _check(gramian, c, tol, max_iter)
    gramian = gramian.detach().to(torch.float64)
    if runs_on_host(gramian):
        return _on_host(gramian, active, c, tol, HOST_TRIPS if max_iter is None else max_iter)
    return cagrad_on_device(gramian, active, c, tol, max_iter)


def _check(gramian: Tensor, c: float, tol: float, max_iter: int | None) -> None:
    shape = gramian.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(
            "`gramian` of `cagrad_point` must have shape [..., m, m] with m >= 1; got"
            f" {list(shape)}. Pass the Gramian J @ J.T, not the Jacobian."
        )
    if not 0.0 <= c < math.inf:
        raise ValueError(
            f"`c` of `cagrad_point` must be finite and >= 0; got {c}. It is the radius relative"
            " to the mean gradient: use 0.5."
        )
    if not tol > 0.0 or (max_iter is not None and max_iter < 1):
        raise ValueError(
            f"`tol` of `cagrad_point` must be positive and `max_iter` at least 1; got {tol} and"
            f" {max_iter}. Use the defaults, 1e-10 and None."
        )


def _on_host(
    gramian: Tensor, active: Tensor | None, c: float, tol: float, max_iter: int
) -> SolverResult:
    # numpy, and with it every host solver, is loaded by the first solve, not by `import moopt`.
    import numpy as np

    from moopt.solvers.cagrad_on_host import cagrad_host

    m = gramian.shape[-1]
    if gramian.ndim == 2:
        flags = None if active is None else active.tolist()
        solved = cagrad_host(gramian.numpy(), flags, c, tol, max_iter)
        return SolverResult(*(torch.from_numpy(np.asarray(value)) for value in solved))
    batch = gramian.shape[:-2]
    masks = None if active is None else active.expand(*batch, m).reshape(-1, m)
    results = [
        _on_host(one, None if masks is None else masks[i], c, tol, max_iter)
        for i, one in enumerate(gramian.reshape(-1, m, m))
    ]
    stacked = SolverResult(*(torch.stack(column) for column in zip(*results, strict=True)))
    return SolverResult(
        stacked.weights.reshape(*batch, m), *(t.reshape(batch) for t in stacked[1:])
    )
