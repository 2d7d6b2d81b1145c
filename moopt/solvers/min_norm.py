"""min_norm_point: the shortest vector in the convex hull of the gradients, certified."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moopt.kernels.min_norm import min_norm_reference
from moopt.records.result import SolverResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRANK_WOLFE = ("frank_wolfe", "away_step", "pairwise")
SOLVERS = ("auto", "exhaustive", "active_set", *FRANK_WOLFE)
# 2^10 - 1 faces of a ten by ten matrix are a millisecond; each further row doubles it.
LARGEST_EXHAUSTIVE = 10


def min_norm_point(
    gramian: Tensor,
    *,
    solver: str = "auto",
    tol: float = 1e-10,
    max_iter: int | None = None,
    active: Tensor | None = None,
) -> SolverResult:
    """The weights of the shortest vector in the convex hull of `m` gradients.

    Solves `min_w w^T G w` subject to `w >= 0, sum(w) = 1` with G = J J^T. The point x = J^T w
    lowers every objective to first order (`x . g_i >= ||x||^2`), and x = 0 exactly at Pareto
    stationary points.

    Args:
        gramian: real floating `[..., m, m]`, symmetric up to rounding, positive semi-definite up
            to rounding; any scale from 1e-30 to 1e30 of the gradients and norm ratios to 1e8.
        solver: "auto" (closed form for m <= 3, else "active_set"), "exhaustive" (m <= 10),
            "active_set" (exact, any m), or the Frank-Wolfe methods with exact line search, for
            reproducing papers: "frank_wolfe", "away_step", "pairwise". Default "auto".
        tol: positive, dimensionless; the `gap` up to which the status is CONVERGED. Exact
            solvers go as far as float64 lets them, whatever `tol` is. Default 1e-10.
        max_iter: limit on pivots (default `10 m + 20`; on a device `3 m + 4` for m > 8) or on
            Frank-Wolfe steps (default 1000). Closed forms and enumeration ignore it.
        active: bool `[..., m]`; other rows get weight exactly 0 and have no influence, not even
            when they hold NaN. None, or no active row at all, means all.

    Returns:
        `SolverResult` on the Gramian's device: weights float64 `[..., m]` on the simplex, status
        int64 `[...]`, gap float64 `[...]`, num_iter int64 `[...]`.
        gap is `max_i (||x||^2 - x . g_i) / (||x|| ||g_i||)` over active rows, at least 0; where
        rounding leaves ||x||^2 <= 0 it is 0 if no x . g_i is negative and infinite otherwise,
        because such an x is zero for all the Gramian tells, and noise as a direction.
        status is DEGENERATE where `||x||^2 <= 1e-13 min ||g_i||^2`, or where float64 Gramians
        cannot tell ||x|| from zero, `||x|| <= 6e-8 sum_i w_i ||g_i||` (zero rows share the
        weight, gap 0); NON_FINITE, with uniform weights and gap NaN, where an active entry is
        NaN or infinite; MAX_ITER where the gap exceeds `tol`; CONVERGED otherwise.

    Raises:
        TypeError: `gramian` is not a real floating-point tensor, or `active` is not boolean.
        ValueError: a wrong shape, solver, `tol`, `max_iter`, or too many rows for "exhaustive".

    Numerics: float64 whatever the input; scale-equivariant, because everything is computed from
        cosines and ratios of norms. The gap refers to the Gramian as given: its rounding moves
        the gap of the true gradients by about `eps (sum_i w_i ||g_i||)^2 / (||x|| min ||g_i||)`.
        CPU tensors are solved on the host, one after the other; other devices, and
        `torch.compile`, use a branch-free form without host synchronisation (except the
        Frank-Wolfe methods, which read the Gramian back). The result carries no autograd graph.

    Example:
        >>> import torch
        >>> from moopt.solvers import min_norm_point
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> result = min_norm_point(G)
        >>> [round(w, 6) for w in result.weights.tolist()], int(result.status)
        ([0.8, 0.2], 0)

    Source: J.-A. Desideri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization", Comptes Rendus Mathematique, 2012, for the problem; P. Wolfe, "Finding the
    nearest point in a polytope", Mathematical Programming, 1976, for the method. We solve it in
    equilibrated coordinates and certify each row relative to its own norm.
    """
    _check(gramian, solver, tol, max_iter, active)
    gramian = gramian.detach()
    traced = torch.compiler.is_compiling() or type(gramian) is not Tensor
    on_host = gramian.is_cpu and not traced
    if not on_host and solver not in FRANK_WOLFE:
        faces = {"auto": None, "exhaustive": True, "active_set": False}[solver]
        return SolverResult(
            *min_norm_reference(
                gramian.to(torch.float64),
                active,
                tol=tol,
                max_iter=max_iter,
                enumerate_faces=faces,
            )
        )
    if traced:
        raise ValueError(
            f"`solver` of `min_norm_point` must not be {solver!r} under `torch.compile` or a fake"
            " tensor: the Frank-Wolfe methods read the Gramian on the host. Use solver='auto'."
        )
    result = _on_host(gramian, active, solver, tol, max_iter)
    return result if on_host else SolverResult(*(t.to(gramian.device) for t in result))


@functools.cache
def _host_solvers() -> ModuleType:
    """numpy, and with it every host solver, is loaded by the first solve, not by `import moopt`.

    Once: an import statement in every call is a tenth of a small problem's time.
    """
    from moopt.solvers import host

    return host


def _on_host(
    gramian: Tensor, active: Tensor | None, solver: str, tol: float, max_iter: int | None
) -> SolverResult:
    host, m = _host_solvers(), gramian.shape[-1]
    np, min_norm_array = host.np, host.min_norm_array
    if gramian.ndim == 2:
        rows = gramian.tolist() if m <= 3 else _array(gramian)
        mask = None if active is None else active.tolist()
        weights, status, gap, num_iter = min_norm_array(rows, mask, solver, tol, max_iter)
        # By way of numpy: half the cost of `torch.tensor` for so few numbers.
        return SolverResult(
            torch.from_numpy(np.array(weights)),
            torch.from_numpy(np.array(status)),
            torch.from_numpy(np.array(gap)),
            torch.from_numpy(np.array(num_iter)),
        )
    batch = gramian.shape[:-2]
    stack = _array(gramian.reshape(-1, m, m))
    if active is None:
        masks = [None] * len(stack)
    else:
        masks = active.expand(*batch, m).reshape(-1, m).tolist()
    columns: list[list] = [[], [], [], []]
    for one, mask in zip(stack, masks, strict=True):
        solved = min_norm_array(one, mask, solver, tol, max_iter)
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


def _array(gramian: Tensor) -> NDArray[np.float64]:
    if gramian.dtype != torch.float64 or not gramian.is_cpu:
        gramian = gramian.to("cpu", torch.float64)
    return gramian.numpy()


def _check(
    gramian: Tensor, solver: str, tol: float, max_iter: int | None, active: Tensor | None
) -> None:
    if not isinstance(gramian, Tensor):
        raise TypeError(
            "`gramian` of `min_norm_point` must be a tensor; got"
            f" {type(gramian).__name__}. Pass `torch.as_tensor(gramian)`."
        )
    if not gramian.dtype.is_floating_point:
        raise TypeError(
            "`gramian` of `min_norm_point` must have a real floating-point dtype; got"
            f" {gramian.dtype}. Pass `gramian.to(torch.float64)`, or the real part."
        )
    shape = gramian.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(
            "`gramian` of `min_norm_point` must have shape [..., m, m] with m >= 1; got"
            f" {list(shape)}. Pass the Gramian J @ J.T, not the Jacobian."
        )
    if solver not in SOLVERS:
        raise ValueError(
            f"`solver` of `min_norm_point` must be one of {', '.join(SOLVERS)}; got {solver!r}."
            " Use 'auto'."
        )
    if solver == "exhaustive" and shape[-1] > LARGEST_EXHAUSTIVE:
        raise ValueError(
            f"`solver='exhaustive'` of `min_norm_point` needs m <= {LARGEST_EXHAUSTIVE}, because it"
            f" tries 2^m - 1 faces; got m = {shape[-1]}. Use solver='active_set', exact as well."
        )
    if not tol > 0.0:
        raise ValueError(
            f"`tol` of `min_norm_point` must be positive; got {tol}. Use the default, 1e-10."
        )
    if max_iter is not None and max_iter < 1:
        raise ValueError(
            f"`max_iter` of `min_norm_point` must be at least 1; got {max_iter}. Use None."
        )
    if active is not None:
        _check_active(active, shape)


def _check_active(active: Tensor, shape: torch.Size) -> None:
    if not isinstance(active, Tensor):
        raise TypeError(
            "`active` of `min_norm_point` must be a tensor; got"
            f" {type(active).__name__}. Pass `torch.tensor(active)`."
        )
    if active.dtype != torch.bool:
        raise TypeError(
            f"`active` of `min_norm_point` must have dtype torch.bool; got {active.dtype}. Pass"
            " `active.bool()`."
        )
    ours, full = active.shape, shape[:-1]
    fits = 1 <= len(ours) <= len(full) and ours[-1] == full[-1]
    if not fits or any(a not in (1, b) for a, b in zip(ours, full[-len(ours) :], strict=True)):
        raise ValueError(
            f"`active` of `min_norm_point` must have shape [..., m] like {list(shape[:-1])}; got"
            f" {list(active.shape)}. Pass one boolean for each row of the Gramian."
        )
