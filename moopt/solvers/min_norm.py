"""min_norm_point: the shortest vector in the convex hull of the gradients, certified."""

import functools

import numpy as np
import torch
from torch import Tensor

from moopt.kernels.fused import fused_form
from moopt.kernels.native import min_norm_native, native_form
from moopt.kernels.tolerances import CERTIFIED, EPS, RESOLUTION
from moopt.records.result import Array, Solved, SolverResult
from moopt.records.status import SolverStatus
from moopt.solvers.active_set import active_set
from moopt.solvers.closed_form import closed_form_three, closed_form_two
from moopt.solvers.door import check_gramian, each_gramian, rounding_of
from moopt.solvers.equilibrated import certificate
from moopt.solvers.exhaustive import exhaustive
from moopt.solvers.frank_wolfe import DEFAULT_MAX_ITER, FRANK_WOLFE, frank_wolfe

LOST = 1e-3
"""A gap above this is a failure of the method, not rounding."""

RIDGE = 1e-14
"""Added to the diagonal of the cosines."""

LARGEST_FUSED = 64
"""Rows of a problem that fit into the registers of one program of a GPU."""

MANY = 16
"""Problems of a batch from which on the compiled form solves them, where it is built. Single ones
stay with numpy, whose answer has the same bits for every dtype and mask."""

SOLVERS = ("auto", "exhaustive", "active_set", *FRANK_WOLFE)
# 2^10 - 1 faces of a ten by ten matrix are a millisecond; each further row doubles it.
LARGEST_EXHAUSTIVE = 10


def min_norm(
    cosines: Array,
    norms: Array,
    *,
    solver: str = "auto",
    tol: float = 1e-10,
    max_iter: int | None = None,
    noise: float = EPS,
) -> Solved:
    """`min_norm_point` of one clean problem, split into cosines and norms; nothing is checked.

    Args:
        cosines: float64 `[m, m]`, symmetric with unit diagonal.
        norms: float64 `[m]`, > 0.
        solver, tol, max_iter: as for `min_norm_point`.
        noise: relative rounding of a cosine; it decides the status, not the weights.
    """
    solved = _small(cosines, norms, tol) if len(norms) <= 3 and solver == "auto" else None
    if solved is None:
        solved = _iterated(cosines, norms[norms.argmin()] / norms, solver, tol, max_iter)
    if noise > RESOLUTION:
        v = solved.weights * norms
        if float(v @ (cosines @ v)) <= noise * float(np.add.reduce(v)) ** 2:
            return solved._replace(status=SolverStatus.DEGENERATE)
    return solved


def _small(cosines: Array, norms: Array, tol: float) -> Solved | None:
    """The closed forms; None where rounding denies them their certificate."""
    if len(norms) == 1:
        return Solved(np.ones(1), SolverStatus.CONVERGED, 0.0, 1)
    if len(norms) == 2:
        solved = closed_form_two(float(cosines[0, 1]), *norms.tolist())
    else:
        (_, c01, c02), (_, _, c12), _ = cosines.tolist()
        solved = closed_form_three(c01, c02, c12, *norms.tolist())
    if solved is None:
        return None
    weights, gap, stationary = solved
    status = SolverStatus.CONVERGED if gap <= tol else SolverStatus.MAX_ITER
    return Solved(np.array(weights), SolverStatus.DEGENERATE if stationary else status, gap, 1)


def _iterated(cosines: Array, r: Array, solver: str, tol: float, max_iter: int | None) -> Solved:
    pivots = 10 * len(r) + 20 if max_iter is None else max_iter

    def solve(right: Array) -> tuple[Array, int]:
        if solver in FRANK_WOLFE:
            steps = DEFAULT_MAX_ITER if max_iter is None else max_iter
            return frank_wolfe(cosines, right, solver, tol, steps)
        if solver == "exhaustive":
            return exhaustive(cosines, right)
        return active_set(cosines, right, pivots)

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
        lost = judged.gap > LOST and not (judged.stationary or judged.unresolved)
        if lost and max_iter is None:
            # Pivots on dependent rows have gone astray: a ridge below what counts as zero parts
            # them.
            other, more = active_set(cosines + RIDGE * np.eye(len(r)), r, pivots)
            num_iter += more
            third = certificate(cosines, r, other)
            if third.stationary or third.gap < judged.gap:
                v, judged = other, third
    weights = r * v
    weights /= np.add.reduce(weights)
    return Solved(weights, judged.status(tol), judged.gap, num_iter)


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
        max_iter: limit on pivots (default `10 m + 20`) or on Frank-Wolfe steps (default 1000).
            Closed forms and enumeration ignore it.
        active: bool `[..., m]`; other rows get weight exactly 0 and have no influence, not even
            when they hold NaN. None, or no active row at all, means all.

    Returns:
        `SolverResult` on the Gramian's device: weights float64 `[..., m]` on the simplex, status
        int64 `[...]`, gap float64 `[...]`, num_iter int64 `[...]`.
        gap is `max_i (||x||^2 - x . g_i) / (||x|| ||g_i||)` over active rows, at least 0; where
        rounding leaves ||x||^2 <= 0 it is 0 if no x . g_i is negative and infinite otherwise,
        because such an x is zero for all the Gramian tells, and noise as a direction.
        status is DEGENERATE where `||x||^2 <= 1e-13 min ||g_i||^2`, or where the rounding of the
        Gramian hides whether x is zero: `||x|| <= 6e-8 sum_i w_i ||g_i||` in float64, 3e-4 in
        float32 (zero rows share the weight, gap 0); NON_FINITE, with uniform weights and gap NaN,
        where an active entry is NaN or infinite; MAX_ITER where the gap exceeds `tol`; CONVERGED
        otherwise.

    Raises:
        TypeError: `gramian` is not a real floating-point tensor, or `active` is not boolean.
        ValueError: a wrong shape, solver, `tol`, `max_iter`, or too many rows for "exhaustive".

    Numerics: float64 whatever the input; scale-equivariant, because everything is computed from
        cosines and ratios of norms. The gap refers to the Gramian as given: its rounding moves
        the gap of the true gradients by about `eps (sum_i w_i ||g_i||)^2 / (||x|| min ||g_i||)`.
        Solved on the host, and a Gramian on a device is read once; but for "auto" on a float64
        Gramian of up to 64 rows on a CUDA device, which is one launch there and reads nothing. A
        float64 batch of 16 problems and more in host memory is solved by the compiled form, where
        it is built (`moopt.kernels.backends`), at a fraction of the time.
        The result carries no autograd graph.

    Example:
        >>> import torch
        >>> from moopt.solvers import min_norm_point
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> result = min_norm_point(G)
        >>> [round(w, 6) for w in result.weights.tolist()], int(result.status)
        ([0.8, 0.2], 0)

    Source: J.-A. Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization", Comptes Rendus Mathématique, 2012, https://doi.org/10.1016/j.crma.2012.03.014,
    for the problem; P. Wolfe, "Finding the nearest point in a polytope", Mathematical Programming,
    1976, https://doi.org/10.1007/BF01580381, for the method. We solve it in equilibrated
    coordinates and certify each row relative to its own norm.
    """
    _check(gramian, solver, tol, max_iter, active)
    if active is not None:
        active = active | ~active.any(-1, keepdim=True)
    exact = solver == "auto" and gramian.dtype == torch.float64
    m = gramian.shape[-1]
    fits = exact and m <= LARGEST_FUSED
    if fits and fused_form("min_norm", gramian.device, width=m).name == "triton":
        from moopt.kernels.min_norm.triton import min_norm_triton

        return SolverResult(*min_norm_triton(gramian, active, tol=tol, max_iter=max_iter))
    solve = functools.partial(
        min_norm, solver=solver, tol=tol, max_iter=max_iter, noise=rounding_of(gramian)
    )
    many = gramian[..., 0, 0].numel() >= MANY and gramian.is_cpu and active is None
    if not (exact and many and native_form().name == "native"):
        return each_gramian(solve, gramian, active=active)
    pivots = 10 * m + 20 if max_iter is None else max_iter
    result = SolverResult(*min_norm_native(gramian.detach(), tol=tol, max_iter=pivots))
    unsure = result.status == SolverStatus.MAX_ITER
    if bool(unsure.any()):
        again = each_gramian(solve, gramian[unsure])
        for whole, part in zip(result, again, strict=True):
            whole[unsure] = part
    return result


def _check(
    gramian: Tensor, solver: str, tol: float, max_iter: int | None, active: Tensor | None
) -> None:
    owner = "`min_norm_point`"
    check_gramian(gramian, "min_norm_point")
    m = gramian.shape[-1]
    if solver not in SOLVERS:
        raise ValueError(f"`solver` of {owner} must be in {SOLVERS}; got {solver!r}. Use 'auto'.")
    if solver == "exhaustive" and m > LARGEST_EXHAUSTIVE:
        raise ValueError(
            f"`solver='exhaustive'` of {owner} tries 2^m - 1 faces and needs m <="
            f" {LARGEST_EXHAUSTIVE}; got m = {m}. Use solver='active_set', exact as well."
        )
    if not tol > 0.0:
        raise ValueError(f"`tol` of {owner} must be > 0; got {tol}. Use the default, 1e-10.")
    if max_iter is not None and max_iter < 1:
        raise ValueError(f"`max_iter` of {owner} must be >= 1; got {max_iter}. Use None.")
    if active is None:
        return
    if not isinstance(active, Tensor) or active.dtype != torch.bool:
        raise TypeError(
            f"`active` of {owner} must be a tensor of dtype torch.bool; got {active!r}. Pass"
            " `active.bool()`, or `torch.tensor(active)`."
        )
    ours, full = active.shape, gramian.shape[:-1]
    fits = 1 <= len(ours) <= len(full) and ours[-1] == m
    if not fits or any(a not in (1, b) for a, b in zip(ours[::-1], full[::-1], strict=False)):
        raise ValueError(
            f"`active` of {owner} must have shape [..., m] like {list(full)}; got {list(ours)}."
            " Pass one boolean for each row of the Gramian."
        )
