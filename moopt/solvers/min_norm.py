"""min_norm_point: the shortest vector in the convex hull of the gradients, certified."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moopt.kernels.min_norm import min_norm_reference
from moopt.kernels.min_norm.tolerances import CERTIFIED
from moopt.solvers.active_set import active_set
from moopt.solvers.closed_form import closed_form_three, closed_form_two
from moopt.solvers.equilibrated import certificate, equilibrated
from moopt.solvers.exhaustive import LARGEST, exhaustive
from moopt.solvers.frank_wolfe import DEFAULT_MAX_ITER, Variant, frank_wolfe
from moopt.solvers.result import SolverResult
from moopt.status import SolverStatus

# Each maps to the variant of `frank_wolfe` that it names.
FRANK_WOLFE: dict[str, Variant] = {
    "frank_wolfe": "vanilla",
    "away_step": "away_step",
    "pairwise": "pairwise",
}
SOLVERS = ("auto", "exhaustive", "active_set", *FRANK_WOLFE)

CONVERGED = int(SolverStatus.CONVERGED)
MAX_ITER = int(SolverStatus.MAX_ITER)
DEGENERATE = int(SolverStatus.DEGENERATE)
NON_FINITE = int(SolverStatus.NON_FINITE)

Rows = list[list[float]] | NDArray[np.float64]
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
    m = gramian.shape[-1]
    if gramian.ndim == 2:
        rows = gramian.tolist() if m <= 3 else gramian.to("cpu", torch.float64).numpy()
        mask = None if active is None else active.tolist()
        weights, status, gap, num_iter = _solved(rows, mask, solver, tol, max_iter)
        # By way of numpy: half the cost of `torch.tensor` for so few numbers.
        result = SolverResult(
            torch.from_numpy(np.array(weights)),
            torch.from_numpy(np.array(status)),
            torch.from_numpy(np.array(gap)),
            torch.from_numpy(np.array(num_iter)),
        )
    else:
        result = _batched(gramian, active, solver, tol, max_iter)
    return result if on_host else SolverResult(*(t.to(gramian.device) for t in result))


def min_norm_host(
    rows: Rows,
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
    weights, status, gap, num_iter = _solved(rows, active, solver, tol, max_iter)
    listed = weights if isinstance(weights, list) else weights.tolist()
    return listed, status, gap, num_iter


def _solved(
    rows: Rows, active: list[bool] | None, solver: str, tol: float, max_iter: int | None
) -> tuple[list[float] | NDArray[np.float64], int, float, int]:
    m = len(rows)
    if active is not None and not all(active) and any(active):
        index = [i for i in range(m) if active[i]]
        dropped = [[float(rows[i][j]) for j in index] for i in index]
        inner, status, gap, num_iter = _solved(dropped, None, solver, tol, max_iter)
        weights = np.zeros(m)
        weights[index] = inner
        return weights, status, gap, num_iter
    if m <= 3 and solver == "auto":
        small = _small(rows if isinstance(rows, list) else rows.tolist(), tol)
        if small is not None:
            return small
    gramian = np.asarray(rows, dtype=np.float64)
    if not np.isfinite(gramian).all():
        return [1.0 / m] * m, NON_FINITE, math.nan, 0
    squares = gramian.diagonal()
    if squares[squares.argmin()] <= 0.0:
        zeros = (squares <= 0.0).astype(np.float64)
        return zeros / zeros.sum(), DEGENERATE, 0.0, 0
    # Extreme norm ratios may underflow or overflow on the way; the certificate is the judge.
    with np.errstate(all="ignore"):
        return _iterated(*equilibrated(gramian, np.sqrt(squares)), solver, tol, max_iter)


def _small(rows: list[list[float]], tol: float) -> HostResult | None:
    """The closed forms; None for whatever is not regular, which the general path handles."""
    if len(rows) == 2:
        (g00, g01), (g10, g11) = rows
        if not (0.0 < g00 < math.inf and 0.0 < g11 < math.inf):
            return None
        g01 = 0.5 * g01 + 0.5 * g10
        if not math.isfinite(g01):
            return None
        solved = closed_form_two(g00, g01, g11)
    elif len(rows) == 3:
        (g00, g01, g02), (g10, g11, g12), (g20, g21, g22) = rows
        if not (0.0 < g00 < math.inf and 0.0 < g11 < math.inf and 0.0 < g22 < math.inf):
            return None
        g01, g02, g12 = 0.5 * g01 + 0.5 * g10, 0.5 * g02 + 0.5 * g20, 0.5 * g12 + 0.5 * g21
        if not math.isfinite(g01 + g02 + g12):
            return None
        solved = closed_form_three(g00, g01, g02, g11, g12, g22)
    else:
        return None
    if solved is None:
        return None
    weights, gap, stationary = solved
    status = DEGENERATE if stationary else CONVERGED if gap <= tol else MAX_ITER
    return weights, status, gap, 1


def _iterated(
    cosines: NDArray[np.float64],
    r: NDArray[np.float64],
    solver: str,
    tol: float,
    max_iter: int | None,
) -> tuple[NDArray[np.float64], int, float, int]:
    def solve(right: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        if solver in FRANK_WOLFE:
            limit = DEFAULT_MAX_ITER if max_iter is None else max_iter
            return frank_wolfe(cosines, right, FRANK_WOLFE[solver], tol, limit)
        if solver == "exhaustive":
            return exhaustive(cosines, right)
        return active_set(cosines, right, 10 * len(r) + 20 if max_iter is None else max_iter)

    v, num_iter = solve(r)
    judged = certificate(cosines, r, v)
    doubtful = judged.unresolved or judged.gap > CERTIFIED
    if doubtful and not judged.stationary and solver not in FRANK_WOLFE:
        # Where rows much longer than the shortest cancel, r is lost in the rounding of
        # C + r r^T; the hull of the unit rows, r = 1, finds the same weights without r.
        other, more = solve(np.ones_like(r))
        num_iter += more
        second = certificate(cosines, r, other)
        if judged.unresolved or second.unresolved:
            v, judged = other, second
    weights = r * v
    weights /= weights.sum()
    return weights, judged.status(tol), judged.gap, num_iter


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
    weights, status, gap, num_iter = zip(*results, strict=True) if results else ((), (), (), ())
    return SolverResult(
        torch.tensor(weights, dtype=torch.float64).reshape(*batch, m),
        torch.tensor(status, dtype=torch.int64).reshape(batch),
        torch.tensor(gap, dtype=torch.float64).reshape(batch),
        torch.tensor(num_iter, dtype=torch.int64).reshape(batch),
    )


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
