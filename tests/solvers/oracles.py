"""What the solver tests judge by: exact rational certificates, other solvers, planted violators."""

from __future__ import annotations

import itertools
import math
import warnings
from fractions import Fraction

import cvxpy
import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from moopt import SolverStatus
from moopt.solvers import SolverResult
from tests.cases import Case

# The requirement: this relative certificate, or this much of the shortest squared norm.
EXACT = 1e-10
ZERO = 1e-13
# Rounding of a sum of weights; dimensionless.
SUM_SLACK = 1e-14


def exact_measures(jacobian: Tensor, weights: Tensor) -> tuple[float, float]:
    """(max_i (||x||^2 - x . g_i) / (||x|| ||g_i||), ||x||^2 / min ||g_i||^2) in rationals.

    From the Jacobian, not from the Gramian; the float64 inputs are exact rationals, so the only
    rounding is that of the two results. 0 where x = 0 or a row is zero.
    """
    rows = [[Fraction(v) for v in row] for row in jacobian.tolist()]
    w = [Fraction(v) for v in weights.tolist()]
    x = [
        sum((a * b for a, b in zip(w, column, strict=True)), Fraction(0))
        for column in zip(*rows, strict=True)
    ]
    squared = sum((v * v for v in x), Fraction(0))
    squares = [sum((v * v for v in row), Fraction(0)) for row in rows]
    if squared == 0 or min(squares) == 0:
        return 0.0, 0.0 if squared == 0 else math.inf
    gap = 0.0
    for row, square in zip(rows, squares, strict=True):
        violation = squared - sum((a * b for a, b in zip(x, row, strict=True)), Fraction(0))
        if violation > 0:
            gap = max(gap, math.sqrt(float(violation**2 / (squared * square))))
    return gap, float(squared / min(squares))


def assert_simplex(weights: Tensor) -> None:
    assert weights.dtype == torch.float64
    assert bool((weights >= 0).all())
    assert bool(((weights.sum(-1) - 1).abs() <= SUM_SLACK * weights.shape[-1]).all())


def assert_exact(case: Case, result: SolverResult) -> None:
    """The requirement on every exact solver, judged from the Jacobian."""
    assert_simplex(result.weights)
    gap, squared = exact_measures(case.jacobian, result.weights)
    if int(result.status) == SolverStatus.DEGENERATE:
        assert squared <= ZERO, (case, squared)
        assert case.stationarity != "none", case
    else:
        assert int(result.status) == SolverStatus.CONVERGED, (case, int(result.status))
        assert gap <= EXACT, (case, gap)
        assert case.stationarity == "none", case
        assert float(result.gap) <= EXACT


def enumerated(gramian: Tensor) -> float:
    """min w^T G w by least squares on every face of the simplex: no code shared with moopt."""
    g = gramian.numpy() / gramian.diagonal().max().item()
    m = len(g)
    best = math.inf
    for size in range(1, m + 1):
        for face in itertools.combinations(range(m), size):
            inner = g[np.ix_(face, face)]
            bordered = np.block(
                [[inner, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]]
            )
            right = np.append(np.zeros(size), 1.0)
            w = np.linalg.lstsq(bordered, right, rcond=1e-13)[0][:size]
            if (w >= -1e-12).all() and abs(w.sum() - 1.0) <= 1e-9:
                w = np.maximum(w, 0.0) / np.maximum(w, 0.0).sum()
                best = min(best, float(w @ inner @ w))
    return best * gramian.diagonal().max().item()


def by_nnls(case: Case) -> np.ndarray:
    """Wolfe's reduction to non-negative least squares, min ||[J^T; 1^T] u - [0; 1]||, u >= 0."""
    if case.norms.max() == 0:
        return np.full(case.m, 1.0 / case.m)
    j = case.jacobian.numpy() / case.norms.max().item()
    system = np.vstack([j.T, np.ones(case.m)])
    u = scipy.optimize.nnls(system, np.append(np.zeros(j.shape[1]), 1.0))[0]
    return u / u.sum()


def by_cvxpy(case: Case) -> np.ndarray:
    """An interior-point method on the quadratic program, with tight tolerances."""
    j = case.jacobian.numpy() / case.norms.max().item()
    w = cvxpy.Variable(case.m, nonneg=True)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(j.T @ w)), [cvxpy.sum(w) == 1])
    with warnings.catch_warnings():
        # It stops short of these tolerances where rows are nearly parallel, and says so.
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        problem.solve(
            solver=cvxpy.CLARABEL,
            tol_gap_abs=1e-13,
            tol_gap_rel=1e-13,
            tol_feas=1e-13,
            max_iter=200,
        )
    solution = np.maximum(w.value, 0.0)
    return solution / solution.sum()


def converged(weights: np.ndarray) -> SolverResult:
    """A result that claims to have converged: what a planted violator returns."""
    return SolverResult(
        torch.from_numpy(weights),
        torch.tensor(int(SolverStatus.CONVERGED)),
        torch.tensor(0.0, dtype=torch.float64),
        torch.tensor(1),
    )


def truncated_frank_wolfe(gramian: Tensor) -> SolverResult:
    """A planted violator: at most 100 steps, and a stop when the *step* is below 1e-3."""
    g = gramian.numpy()
    w = np.full(len(g), 1.0 / len(g))
    for _ in range(100):
        q = g @ w
        t = int(q.argmin())
        towards, away = q[t], w @ q
        curvature = away - 2 * towards + g[t, t]
        step = min(max((away - towards) / curvature, 0.0), 1.0) if curvature > 0 else 0.0
        w = (1 - step) * w
        w[t] += step
        if step < 1e-3:
            break
    return converged(w)


def absolute_tolerance(gramian: Tensor) -> SolverResult:
    """A planted violator: stops when the absolute gap ||x||^2 - min x . g_i is below 1e-10."""
    g = gramian.numpy()
    w = np.full(len(g), 1.0 / len(g))
    for step in range(2000):
        q = g @ w
        if w @ q - q.min() <= 1e-10:
            break
        w *= 1 - 2 / (step + 3)
        w[int(q.argmin())] += 2 / (step + 3)
    return converged(w)


def uniform(gramian: Tensor) -> SolverResult:
    """A planted violator: the mean of the gradients."""
    return converged(np.full(len(gramian), 1.0 / len(gramian)))
