"""dual_combination: the direction with given slopes along the unit gradients, as near as can be."""

import numpy as np

from moopt.kernels.tolerances import CANCELLED
from moopt.records.result import Array, Solved
from moopt.records.status import SolverStatus
from moopt.solvers.pseudo_inverse import pseudo_inverse
from moopt.weightings.problem import EPS, Problem

RESIDUAL_TOL = 1e-3
"""Relative residual of the dual equations up to which they count as solved: rounding leaves about
1e-6 at the cut-off of the pseudo-inverse, dependent gradients leave about 1."""


def dual_combination(
    cosines: Array, inverse: Array, coefficients: Array, noise: float = EPS
) -> Solved:
    """The weights `v = C^+ c` of the unit gradients u_i, which make `u_i . d = c_i`.

    The dual vectors `sum_j C^+_ij u_j` have product 1 with u_i and 0 with the other unit
    gradients; `d = sum_i v_i u_i` is the sum of c_i times the i-th of them. Where the gradients
    are linearly dependent no d may have these slopes, and v is the least-squares solution.

    Args:
        cosines: float64 `[m, m]`, C.
        inverse: float64 `[m, m]`, C^+; see `moopt.solvers.pseudo_inverse`.
        coefficients: float64 `[m]`, c > 0.
        noise: relative rounding of a cosine.

    Returns:
        `gap` is the residual `max_i |u_i . d - c_i| / c_i`: a value below 1 proves `u_i . d > 0`.
        Status: CONVERGED; RANK_DEFICIENT where the residual exceeds 1e-3; DEGENERATE, with v = 0,
        where `sum_i c_i u_i = 0`: the point is Pareto stationary.

    Example:
        >>> import numpy as np
        >>> from moopt.weightings.dual_basis import dual_combination
        >>> cosines = np.array([[1.0, 0.5], [0.5, 1.0]])
        >>> v, status, gap, *_ = dual_combination(cosines, np.linalg.inv(cosines), np.ones(2))
        >>> [round(x, 12) for x in v.tolist()], str(status), gap < 1e-12
        ([0.666666666667, 0.666666666667], 'CONVERGED', True)
    """
    v = inverse @ coefficients
    # One refinement: the explicit inverse alone loses accuracy with the condition number.
    v += inverse @ (coefficients - cosines @ v)
    slopes = cosines @ v
    gap = float((np.abs(slopes - coefficients) / coefficients).max())
    # The slopes are the part of c that lies in the range of C.
    cancelled = max(CANCELLED, (len(v) * noise) ** 2)
    if slopes @ slopes <= cancelled * (coefficients @ coefficients):
        return Solved(np.zeros_like(v), SolverStatus.DEGENERATE, gap)
    solved = gap <= RESIDUAL_TOL
    return Solved(v, SolverStatus.CONVERGED if solved else SolverStatus.RANK_DEFICIENT, gap)


def equal_slopes(problem: Problem, rtol: float) -> Solved:
    """The `dual_combination` with slope 1 along every unit gradient of a problem.

    Args:
        problem: the step.
        rtol: relative cut-off of the pseudo-inverse.
    """
    inverse = pseudo_inverse(problem.cosines, rtol=rtol, noise=problem.noise)
    return dual_combination(problem.cosines, inverse, np.ones(problem.m), problem.noise)
