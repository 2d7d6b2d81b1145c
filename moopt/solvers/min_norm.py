"""min_norm_point: the shortest vector in the convex hull of the gradients, certified."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moopt.kernels.min_norm import min_norm_reference
from moopt.solvers.active_set import active_set
from moopt.solvers.closed_form import closed_form_three, closed_form_two
from moopt.solvers.equilibrated import (
    CONVERGED,
    DEGENERATE,
    NON_FINITE,
    certificate,
    certificate_lists,
    equilibrated,
    equilibrated_lists,
    status_code,
)
from moopt.solvers.exhaustive import LARGEST, exhaustive
from moopt.solvers.frank_wolfe import DEFAULT_MAX_ITER, frank_wolfe
from moopt.solvers.result import SolverResult

# Each maps to the variant of `frank_wolfe` that it names.
FRANK_WOLFE = {"frank_wolfe": "vanilla", "away_step": "away_step", "pairwise": "pairwise"}
SOLVERS = ("auto", "exhaustive", "active_set", *FRANK_WOLFE)

# The closed forms lose digits where rows are nearly dependent; a gap above this sends the
# problem to the active-set method, whatever `tol` is.
CLOSED_FORM_GAP = 1e-12

# (weights, status code, gap, number of iterations) of one Gramian.
HostResult = tuple[list[float], int, float, int]


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
        max_iter: limit on pivots (default `10 m + 20`; `3 m + 4` on a device) or on Frank-Wolfe
            steps (default 1000). Closed forms and enumeration ignore it.
        active: bool `[..., m]`; other rows get weight exactly 0 and have no influence, not even
            when they hold NaN. None, or no active row at all, means all.

    Returns:
        `SolverResult` on the Gramian's device: weights float64 `[..., m]` on the simplex, status
        int64 `[...]`, gap float64 `[...]`, num_iter int64 `[...]`.
        gap is `max_i (||x||^2 - x . g_i) / (||x|| ||g_i||)` over active rows, at least 0.
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
    if gramian.ndim == 2:
        rows = gramian.tolist() if len(gramian) <= 3 else gramian.to("cpu", torch.float64).numpy()
        mask = None if active is None else active.tolist()
        weights, status, gap, num_iter = min_norm_host(
            rows, mask, solver=solver, tol=tol, max_iter=max_iter
        )
        return _result((weights, status, gap, num_iter), (), gramian.device)
    return _batched(gramian, active, solver, tol, max_iter)


def min_norm_host(
    rows: list[list[float]] | np.ndarray,
    active: list[bool] | None = None,
    *,
    solver: str = "auto",
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> HostResult:
    """`min_norm_point` for one Gramian whose numbers are already on the host; nothing is checked.

    Args:
        rows: `[m, m]`, nested lists of floats or a float64 array.
        active: `m` booleans, or None for all.
        solver, tol, max_iter: as in `min_norm_point`.

    Returns:
        (weights, status code, gap, number of iterations) as a list of floats, int, float, int.
    """
    m = len(rows)
    if active is not None and not all(active) and any(active):
        index = [i for i in range(m) if active[i]]
        inner, *rest = min_norm_host(
            [[float(rows[i][j]) for j in index] for i in index],
            solver=solver,
            tol=tol,
            max_iter=max_iter,
        )
        weights = [0.0] * m
        for i, w in zip(index, inner, strict=True):
            weights[i] = w
        return weights, *rest
    if m <= 3:
        return _small(rows if isinstance(rows, list) else rows.tolist(), solver, tol, max_iter)
    return _general(np.asarray(rows, dtype=np.float64), solver, tol, max_iter)


def _small(rows: list[list[float]], solver: str, tol: float, max_iter: int | None) -> HostResult:
    """Up to three rows: Python floats, and the closed forms where they are accurate."""
    m = len(rows)
    # A difference with itself is 0 unless the sum overflowed or an entry is not finite.
    total = sum([sum(row) for row in rows])
    if total - total != 0.0 and not all(map(math.isfinite, itertools.chain(*rows))):
        return [1.0 / m] * m, NON_FINITE, math.nan, 0
    squares = [rows[i][i] for i in range(m)]
    if min(squares) <= 0.0:
        zeros = [float(s <= 0.0) for s in squares]
        return [z / sum(zeros) for z in zeros], DEGENERATE, 0.0, 0
    if m == 1:
        return [1.0], CONVERGED, 0.0, 0
    cosines, r = equilibrated_lists(rows, [math.sqrt(s) for s in squares])
    if solver == "auto":
        v: Any = (
            closed_form_two(cosines[0][1], r[0], r[1])
            if m == 2
            else closed_form_three(cosines[0][1], cosines[0][2], cosines[1][2], *r)
        )
        if v is not None:
            gap, stationary, unresolved = certificate_lists(cosines, r, v)
            if (gap <= CLOSED_FORM_GAP and not unresolved) or stationary:
                weights = [a * b for a, b in zip(r, v, strict=True)]
                s = sum(weights)
                status = DEGENERATE if stationary else status_code(gap, False, False, tol)
                return [w / s for w in weights], status, gap, 1
    return _iterative(np.array(cosines), np.array(r), solver, tol, max_iter)


def _general(gramian: np.ndarray, solver: str, tol: float, max_iter: int | None) -> HostResult:
    m = len(gramian)
    if not np.isfinite(gramian).all():
        return [1.0 / m] * m, NON_FINITE, math.nan, 0
    squares = gramian.diagonal()
    if float(squares.min()) <= 0.0:
        zeros = squares <= 0.0
        return (zeros / zeros.sum()).tolist(), DEGENERATE, 0.0, 0
    cosines, r = equilibrated(gramian, np.sqrt(squares))
    return _iterative(cosines, r, solver, tol, max_iter)


def _iterative(
    cosines: np.ndarray, r: np.ndarray, solver: str, tol: float, max_iter: int | None
) -> HostResult:
    m = len(r)
    if solver in FRANK_WOLFE:
        limit = DEFAULT_MAX_ITER if max_iter is None else max_iter
        v, num_iter = frank_wolfe(cosines, r, FRANK_WOLFE[solver], tol, limit)
        gap, stationary, unresolved = certificate(cosines, r, v)
    elif solver == "exhaustive":
        v, num_iter = exhaustive(cosines, r)
        gap, stationary, unresolved = certificate(cosines, r, v)
    else:
        limit = 10 * m + 20 if max_iter is None else max_iter
        v, num_iter = active_set(cosines, r, limit)
        gap, stationary, unresolved = certificate(cosines, r, v)
        if unresolved and not stationary:
            # Rows much longer than the shortest cancel, so r is lost in the rounding of
            # C + r r^T; the hull of the unit rows finds the same weights without r.
            v, more = active_set(cosines, np.ones_like(r), limit)
            num_iter += more
            gap, stationary, unresolved = certificate(cosines, r, v)
    weights = r * v
    weights /= weights.sum()
    return weights.tolist(), status_code(gap, stationary, unresolved, tol), gap, num_iter


def _batched(
    gramian: Tensor, active: Tensor | None, solver: str, tol: float, max_iter: int | None
) -> SolverResult:
    batch, m = gramian.shape[:-2], gramian.shape[-1]
    stack = gramian.reshape(-1, m, m).to("cpu", torch.float64).numpy()
    masks = None if active is None else active.expand(*batch, m).reshape(-1, m).tolist()
    results = [
        min_norm_host(
            one, None if masks is None else masks[i], solver=solver, tol=tol, max_iter=max_iter
        )
        for i, one in enumerate(stack)
    ]
    columns = zip(*results, strict=True) if results else ((), (), (), ())
    return _result(tuple(map(list, columns)), batch, gramian.device, m)


def _result(
    values: tuple[Any, ...], batch: tuple[int, ...], device: torch.device, m: int | None = None
) -> SolverResult:
    """Tensors by way of numpy: half the cost of `torch.tensor` for so few numbers."""
    dtypes = (np.float64, np.int64, np.float64, np.int64)
    tensors = [torch.from_numpy(np.array(v, dtype=d)) for v, d in zip(values, dtypes, strict=True)]
    if m is not None:
        tensors = [
            t.reshape(*batch, m) if i == 0 else t.reshape(batch) for i, t in enumerate(tensors)
        ]
    if device.type != "cpu":
        tensors = [t.to(device) for t in tensors]
    return SolverResult(*tensors)


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
    if solver == "exhaustive" and shape[-1] > LARGEST:
        raise ValueError(
            f"`solver='exhaustive'` of `min_norm_point` needs m <= {LARGEST}, because it tries"
            f" 2^m - 1 faces; got m = {shape[-1]}. Use solver='active_set', which is exact too."
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
    if active.dtype != torch.bool:
        raise TypeError(
            f"`active` of `min_norm_point` must have dtype torch.bool; got {active.dtype}. Pass"
            " `active.bool()`."
        )
    if active.ndim < 1 or active.shape[-1] != shape[-1] or active.ndim > len(shape) - 1:
        raise ValueError(
            f"`active` of `min_norm_point` must have shape [..., m] like {list(shape[:-1])}; got"
            f" {list(active.shape)}. Pass one boolean for each row of the Gramian."
        )
