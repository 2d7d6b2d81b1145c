"""fixed_point: positive weights a with G a = a^(-1/alpha), certified."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.solvers.fixed_point_on_device import fixed_point_on_device
from moopt.solvers.pseudo_inverse import runs_on_host

HOST_TRIPS = 100
"""Limit of the Newton steps where the iteration can stop early; up to 25 were seen, alpha <= 2."""


def fixed_point(
    gramian: Tensor,
    *,
    alpha: float = 1.0,
    active: Tensor | None = None,
    tol: float = 1e-6,
    max_iter: int | None = None,
) -> SolverResult:
    """The positive solution of `(G a)_i = a_i^(-1/alpha)`.

    It is the minimiser of the strictly convex `1/2 a'Ga - sum_i h(a_i)` with
    `h(a) = log a` for alpha = 1 (the Nash bargaining solution) and
    `h(a) = a^(1 - 1/alpha) / (1 - 1/alpha)` otherwise (alpha-fair). With d = J'a the equations
    say `g_i . d = a_i^(-1/alpha) > 0`: a common descent direction. A solution exists unless the
    point is Pareto stationary.

    Args:
        gramian: real floating `[..., m, m]`, symmetric positive semi-definite up to rounding; any
            scale from 1e-30 to 1e30 of the gradients.
        alpha: finite, > 0; default 1.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all.
        tol: the `gap` up to which the status is CONVERGED, in (0, 1); default 1e-6. The solver
            goes as far as float64 lets it, whatever `tol` is.
        max_iter: limit on Newton steps; default 100 (on a device 20 for alpha = 1 and 32
            otherwise, all executed).

    Returns:
        `SolverResult`: weights a float64 `[..., m]`; gap is the relative residual
        `max_i |(G a)_i a_i^(1/alpha) - 1|`: a gap below 1 proves that every objective falls.
        status is CONVERGED; MAX_ITER where the gap exceeds `tol`; DEGENERATE where the point is
        Pareto stationary: no solution exists, and a combines the gradients to zero; NON_FINITE,
        with uniform weights and gap NaN, where an active entry is NaN or infinite.

    Numerics: damped Newton steps on unit gradients. For alpha = 1 the solution on unit gradients
        does not depend on any norm. For other values norm ratios enter with the power 1/alpha - 1:
        certified to 1e8 for alpha from 1 to 2; for alpha < 1, beyond 1e4, rounding limits the gap
        to about 1e-5; for alpha >> 1 weights below the range of float64 can end in MAX_ITER.
        No synchronisation on a device.

    Example:
        >>> import torch
        >>> from moopt.solvers import fixed_point
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> [round(a, 12) for a in fixed_point(G).weights.tolist()]
        [1.0, 0.5]

    Source: A. Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, for alpha = 1;
    H. Ban and K. Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024. The potential
    and the method are ours: the papers' codes solve a sequence of convex programs, and a
    non-linear least-squares problem.
    """
    shape = gramian.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(
            "`gramian` of `fixed_point` must have shape [..., m, m] with m >= 1; got"
            f" {list(shape)}. Pass the Gramian J @ J.T, not the Jacobian."
        )
    if not 0.0 < alpha < math.inf:
        raise ValueError(
            f"`alpha` of `fixed_point` must be finite and > 0; got {alpha}. Use 1 for the Nash"
            " solution; alpha = 0 is the sum."
        )
    if not 0.0 < tol < 1.0 or (max_iter is not None and max_iter < 1):
        raise ValueError(
            f"`tol` of `fixed_point` must be in (0, 1) and `max_iter` at least 1; got {tol} and"
            f" {max_iter}. Use the defaults, 1e-6 and None."
        )
    gramian = gramian.detach().to(torch.float64)
    if runs_on_host(gramian):
        return _on_host(gramian, active, alpha, tol, HOST_TRIPS if max_iter is None else max_iter)
    return fixed_point_on_device(gramian, active, alpha, tol, max_iter)


def _on_host(
    gramian: Tensor, active: Tensor | None, alpha: float, tol: float, max_iter: int
) -> SolverResult:
    # numpy, and with it every host solver, is loaded by the first solve, not by `import moopt`.
    import numpy as np

    from moopt.solvers.fixed_point_on_host import fixed_point_host

    m = gramian.shape[-1]
    if gramian.ndim == 2:
        flags = None if active is None else active.tolist()
        solved = fixed_point_host(gramian.numpy(), flags, alpha, tol, max_iter)
        return SolverResult(*(torch.from_numpy(np.asarray(value)) for value in solved))
    batch = gramian.shape[:-2]
    masks = None if active is None else active.expand(*batch, m).reshape(-1, m)
    results = [
        _on_host(one, None if masks is None else masks[i], alpha, tol, max_iter)
        for i, one in enumerate(gramian.reshape(-1, m, m))
    ]
    stacked = SolverResult(*(torch.stack(column) for column in zip(*results, strict=True)))
    return SolverResult(
        stacked.weights.reshape(*batch, m), *(t.reshape(batch) for t in stacked[1:])
    )
